"""The protocols of papers from end to end: footage in the layouts of VFHQ and HDTF, made into sets by the command that
each protocol names, measured, reported. Of synthetic people, small."""

from __future__ import annotations

import csv
import dataclasses
import json
import shlex
from pathlib import Path

import pytest
import torch
from optional_assets import needs
from PIL import Image
from small_evaluation import CONFIGS, SMALL, quick_meshes

from data_prep.__main__ import main
from data_prep.crop import SIDE, SKULL
from gpavatar.config import load_config
from gpavatar.data.shards import ShardSet
from gpavatar.data.synthetic import SyntheticPerson, synthetic_clip
from gpavatar.eval import evaluate
from gpavatar.evaluation.metrics import FRAME, REGIONS, fid
from gpavatar.evaluation.protocols import ProtocolConfig, plan_clips
from gpavatar.face.open_head import OpenHead
from gpavatar.media.image import to_u8
from gpavatar.media.writer import VideoWriter
from gpavatar.pretrained.inception import Inception

pytestmark = pytest.mark.download

FRAMES, SIDE_PX = 12, 192
PEOPLE = {"WRA_GeoffDavis_000": 3, "WRA_ReneeEllmers_000": 11}  # two of HDTF's 19 videos, and the seeds that play them


@pytest.fixture(scope="module")
def footage(tmp_path_factory) -> Path:
    """A video of each of two people, between the lists of both data sets."""
    folder = tmp_path_factory.mktemp("footage")
    for name, seed in PEOPLE.items():
        person = SyntheticPerson.random(seed, texture_size=384)
        with VideoWriter(folder / f"{name}.mp4", SIDE_PX, SIDE_PX, fps=25.0) as writer:
            for frame in synthetic_clip(seed, FRAMES, SIDE_PX, yaw_deg=20.0, person=person, supersample=1):
                writer.write(to_u8(frame.image))
        box = f"H {SIDE_PX}\nFPS 25\nCROP 20 20 170 170\n"
        (folder / f"Clip+{name}+P0+C0+F0-{FRAMES}.txt").write_text(box)
    stretches = [f"{name}.mp4 00:00-00:0{FRAMES / 25}" for name in PEOPLE]
    (folder / "WRA_annotion_time.txt").write_text("\n".join(stretches))
    return folder


def made(name: str, footage: Path, out: Path, frames: int) -> Path:
    """The set of a protocol, by its own command but for the places, the size and the number of frames."""
    words = shlex.split(load_config(ProtocolConfig, CONFIGS / name).made_by)
    assert words[:2] == ["make", "data"]
    verb = shlex.split(words[2].removeprefix("ARGS="))
    for option, place in (("--in", footage), ("--out", out)):
        verb[verb.index(option) + 1] = str(place)
    small = ["size_px=128", "matte_px=64", f"choose.frames={frames}", f"choose.even={frames}", "filters.min_s=0.3"]
    assert main([*verb, *small]) == 0
    return out


def measured(name: str, shards: Path, out: Path, *changes: str, **asked) -> dict:
    """metrics.json of a protocol on a set."""
    settings = (f"set={shards}", "fid=false", "targets=2", *SMALL, *changes)
    with quick_meshes():
        assert evaluate(CONFIGS / name, set=settings, out=out, device="cpu", **asked) == 0
    return json.loads((out / "metrics.json").read_text())


@pytest.fixture(scope="module")
def vfhq(footage, tmp_path_factory) -> Path:
    return made("eval_vfhq.yaml", footage, tmp_path_factory.mktemp("vfhq") / "set", FRAMES)


def test_gpavatars_protocol_on_vfhq_with_blind_pairs(vfhq, tmp_path, capsys):
    asked = {"model": ("again=source_copy",), "blind": ("source_copy", "again"), "blind_seed": 1}
    found = measured("eval_vfhq.yaml", vfhq, tmp_path, "baselines=[source_copy]", "measured=[1,4]", **asked)
    assert found["header"]["sources"] == [1, 4] and len(found["header"]["clips"]) == 2
    assert set(found["methods"]["source_copy"]["self"]["4"]) == {*REGIONS, FRAME}
    cross = found["methods"]["source_copy"]["cross"]["1"]
    assert set(cross) == {FRAME} and cross[FRAME]["csim"] == pytest.approx(1.0)  # real people: no truth; itself
    assert cross[FRAME]["apd"] > 2 and "akd_mediapipe" not in cross[FRAME]
    with (tmp_path / "blind" / "key.csv").open(newline="") as file:
        key = list(csv.DictReader(file))
    assert {(row["left"], row["right"]) for row in key} == {("source_copy", "again"), ("again", "source_copy")}
    with Image.open(tmp_path / "blind" / f"pair-{key[0]['pair']}.png") as pair:
        assert pair.size == (4 * 128 + 3 * 8, 128)
    assert evaluate(compare=(f"{tmp_path}:source_copy", f"{tmp_path}:again")) == 0
    assert "B − A" in capsys.readouterr().out
    assert "GPAvatar, 4 sources" in (tmp_path / "report.html").read_text()


def test_invertavatars_few_shot_split(vfhq, tmp_path):
    """Scored frames follow each other, so they are judged over time as well."""
    split = (f"frames={FRAMES}", "sources_within=8", "targets_last=4", "targets=0", "measured=[1,2]")
    found = measured("eval_vfhq_few_shot.yaml", vfhq, tmp_path, "baselines=[source_copy]", *split)
    assert list(found["methods"]["source_copy"]) == ["self"]
    scores = found["methods"]["source_copy"]["self"]["2"][FRAME]
    assert scores["jitter"] > 1.0  # the target moves, the copy does not
    assert scores["jitter_undefined"] == 4  # of each clip's four frames the inner two count
    assert -1 < scores["identity_drift"] < 1


def test_hdtf_is_the_clips_of_the_videos_that_can_be_had(footage, tmp_path):
    shards = made("eval_hdtf.yaml", footage, tmp_path / "set", 4)
    found = measured("eval_hdtf.yaml", shards, tmp_path / "eval", "baselines=[source_copy]")
    assert found["header"]["clips"] == [f"{name}_0_0" for name in PEOPLE]
    assert len(found["header"]["absent"]) == 17 and "WDA_MikeDoyle_000" in found["header"]["absent"]
    assert {task: set(of) for task, of in found["methods"]["source_copy"].items()} == {
        "self": {"1", "2"}, "cross": {"1", "2"},
    }  # fmt: skip
    page = (tmp_path / "eval" / "report.html").read_text()
    assert "videos that the set lacks" in page and "OTAvatar&#x27;s split" in page


def test_gagavatars_crop_follows_the_head_on_black(footage, tmp_path):
    shards = ShardSet.open(made("eval_vfhq_gagavatar.yaml", footage, tmp_path / "set", 4))
    head = OpenHead.load()
    skull = torch.stack([head.topology.regions[name] for name in SKULL]).any(0)
    first = [shards.sample(row) for row in range(len(shards.table)) if int(shards.table.frame_index[row]) == 0]
    assert len(first) == 2
    for sample in first:  # nothing is smoothed yet
        points_px = sample.camera.project_px(head.verts(sample.params)[skull], 128, 128)
        low, high = points_px.amin(0), points_px.amax(0)
        assert float((high - low).prod().sqrt()) == pytest.approx(128 / SIDE, rel=1e-3)
        assert ((low + high) / 2).tolist() == pytest.approx([64, 64], abs=0.1)
    for sample in shards.samples():
        behind = sample.alpha_u8[..., 0] < 32
        assert behind.mean() > 0.2 and sample.image_u8[behind].mean() < 12  # in the footage 88 and more
    found = measured("eval_vfhq_gagavatar.yaml", shards.root, tmp_path / "eval")
    assert "1.65" in found["header"]["crop"] and found["header"]["sources"] == [1]
    mesh, copy = (found["methods"][name]["self"]["1"]["full"] for name in ("textured_mesh", "source_copy"))
    assert mesh["psnr"] > copy["psnr"]
    assert "LAM-80K" in (tmp_path / "eval" / "report.html").read_text()


@needs("inception")
def test_fid_is_of_all_scored_pictures_and_their_truth(vfhq, tmp_path):
    """With the network's own weights: from pictures to the number in the table."""
    changes = ("fid=true", "tasks=[self]", "measured=[1]", "baselines=[source_copy]")
    found = measured("eval_vfhq.yaml", vfhq, tmp_path, *changes)["methods"]["source_copy"]["self"]["1"]["full"]
    shards, config = ShardSet.open(vfhq), load_config(ProtocolConfig, CONFIGS / "eval_vfhq.yaml")
    plans = plan_clips(shards, dataclasses.replace(config, targets=2))
    rows = [(plan.sources[0][0], row) for plan in plans for row in plan.takes[0].rows]
    copies, truths = (torch.stack([shards.sample(pair[side]).image for pair in rows]) for side in (0, 1))
    network = Inception()
    assert found["fid"] == pytest.approx(fid(network(copies), network(truths)), rel=1e-4)
    assert found["fid"] > 1.0 and found["fid_ci"] == [None, None]
