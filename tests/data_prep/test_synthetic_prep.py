"""Synthetic people as a set: the truth in the samples, the same bytes after an interruption, people apart."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep import landmark_errors, synthetic
from data_prep.manifest import OutputError
from data_prep.synthetic import SYNTHETIC_TRAIN, SYNTHETIC_VAL, SyntheticConfig, clip_name, rig
from gpavatar.camera import Camera
from gpavatar.config import run_program
from gpavatar.data.shards import Sample, ShardSet

CONFIG = SyntheticConfig(people=2, instants=3, views=3, size_px=48, first_seed=50, texture=1.5, supersample=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("synthetic")
    synthetic.synthetic(out, CONFIG, workers=1)
    return out


@pytest.fixture(scope="module")
def samples(made) -> list[Sample]:
    return list(ShardSet.open(made, verify=True).samples())


def sums(out: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.iterdir()) if path.is_file()
    }


def test_every_person_instant_and_view_is_there(made, samples):
    assert len(samples) == 2 * 3 * 3
    assert {(one.clip, one.instant, one.view) for one in samples} == set(
        itertools.product((clip_name(50), clip_name(51)), range(3), range(3))
    )
    for clip in ShardSet.open(made).index.clips:
        assert (clip.kind, clip.tier, clip.split, clip.num_frames) == ("synthetic", "open", "train", 9)


def test_views_of_an_instant_show_the_same_head(samples):
    """Head space is the head's: the same parameters, and depth of all views meets in the same points."""
    for _, group in itertools.groupby(samples, lambda one: (one.clip, one.instant)):
        front, *others = group
        for other in others:
            torch.testing.assert_close(other.params.expression, front.params.expression)
            torch.testing.assert_close(other.params.neck_pose, front.params.neck_pose)
            assert not torch.equal(other.camera.c2w, front.camera.c2w)
    instants = [one.params.expression for one in samples if one.view == 0]
    assert not torch.equal(instants[0], instants[1])


def test_depth_and_landmarks_agree(samples):
    """The tip of the nose, unprojected by the depth stored at its landmark, is in every view the same point."""
    for one in samples[:9]:
        x, y = one.landmarks_px[1]
        depth = one.depth[0, int(y), int(x)]
        focal, centre = one.camera.intrinsics[:2], one.camera.intrinsics[2:]
        ray = (torch.stack([x, y]) / 48 - centre) / focal
        seen = torch.cat([ray * depth, depth[None]])
        point = one.camera.c2w[:3, :3] @ seen + one.camera.c2w[:3, 3]
        nose = point if one.view == 0 else nose
        assert (point - nose).norm() < 0.06  # measured up to 0.03: a pixel is 0.04 wide
        assert one.alpha_u8[int(y), int(x)] == 255


def test_depth_can_be_left_out(samples):
    bare = next(synthetic.person_samples(50, replace(CONFIG, depth=False)))
    assert bare.depth is None and samples[0].depth is not None


def test_an_interrupted_run_ends_in_the_same_bytes(made, tmp_path):
    """As if it had been killed after the first person, with a half-written file left."""
    work = tmp_path / "work" / "clips"
    work.mkdir(parents=True)
    first = made / "work" / "clips" / f"{clip_name(50)}.safetensors"
    (work / first.name).write_bytes(first.read_bytes())
    (work / f".{clip_name(51)}.host.1.tmp.safetensors").write_bytes(b"half")
    synthetic.synthetic(tmp_path, CONFIG, workers=1)
    assert sums(tmp_path) == sums(made)
    assert not list(work.glob(".*"))


def test_other_settings_do_not_mix(made):
    with pytest.raises(OutputError, match="other settings"):
        synthetic.synthetic(made, replace(CONFIG, glasses=1.0), workers=1)


def test_cameras_stand_around_the_head():
    front = Camera.frontal(5.0, 2.2)
    config = SyntheticConfig(views=6)
    cameras = rig(front, config, np.random.default_rng(1))
    assert len(cameras) == 6 and torch.equal(cameras[0].c2w, front.c2w)
    pivot = torch.tensor([[0.0, 0.0, -0.1]])
    yaws = []
    for camera in cameras:
        torch.testing.assert_close(camera.project(pivot), front.project(pivot), atol=1e-5, rtol=0)
        x, y, z = (camera.c2w[:3, 3] - pivot[0]).tolist()
        yaws.append(np.rad2deg(np.arctan2(x, z)))
        assert abs(np.rad2deg(np.arctan2(y, np.hypot(x, z)))) <= config.view_pitch_deg + 0.1
    assert max(np.abs(yaws)) <= config.view_yaw_deg + 0.1 and min(yaws) < -10 and max(yaws) > 10


def test_nobody_is_in_two_sets():
    ranges = [
        synthetic.TEST_SEEDS, synthetic.BENCHMARK_SEEDS, synthetic.CALIBRATION_SEEDS, synthetic.VAL_SEEDS,
        synthetic.TRAIN_SEEDS,
    ]  # fmt: skip
    assert all(a.stop <= b.start for a, b in itertools.pairwise(ranges))
    assert landmark_errors.FIRST_SEED in synthetic.CALIBRATION_SEEDS
    for config, seeds in ((SYNTHETIC_TRAIN, synthetic.TRAIN_SEEDS), (SYNTHETIC_VAL, synthetic.VAL_SEEDS)):
        assert config.first_seed in seeds and config.first_seed + config.people in seeds
    assert (SYNTHETIC_VAL.people, SYNTHETIC_VAL.instants, SYNTHETIC_VAL.views) == (20, 12, 5)


def test_command_line(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(synthetic, "synthetic", lambda out, config, workers: asked.append((out, config, workers)))
    argv = ["--out", str(tmp_path), "--preset", "val", "--set", "size_px=64", "encoding.image=webp", "--workers", "1"]
    assert run_program(synthetic.command, argv) == 0
    encoding = replace(SYNTHETIC_VAL.encoding, image="webp")
    assert asked == [(tmp_path, replace(SYNTHETIC_VAL, size_px=64, encoding=encoding), 1)]
    assert run_program(synthetic.command, ["--out", str(tmp_path), "--set", "peple=3"]) == 2
    assert "people" in capsys.readouterr().err
