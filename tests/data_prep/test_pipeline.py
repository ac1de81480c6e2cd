"""The whole pipeline on a folder of everything: what is kept, what is dropped, and why."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_prep.__main__ import main
from data_prep.find import find_folder
from data_prep.manifest import OutputError, Workplace
from data_prep.outcome import Outcome
from data_prep.run import run
from gpavatar.data.shards import ShardSet
from gpavatar.face.open_head import OpenHead
from gpavatar.media.image import resize_u8, write_image
from gpavatar.types import InputError
from tests.data_prep.conftest import NUM_FRAMES, SMALL, write


def smaller(picture: np.ndarray, share: float) -> np.ndarray:
    """The picture reduced, on a plain ground."""
    height, width = picture.shape[:2]
    result = np.full_like(picture, 120)
    inner = resize_u8(picture, round(width * share), round(height * share))
    result[20 : 20 + inner.shape[0], 20 : 20 + inner.shape[1]] = inner
    return result


@pytest.fixture(scope="module")
def footage(tmp_path_factory, talking, hiding, astronaut) -> Path:
    folder = tmp_path_factory.mktemp("everything")
    still = [astronaut] * NUM_FRAMES
    write(folder / "anna" / "good.mp4", talking)
    write(folder / "hard_cut.mp4", [*talking, *still])
    write(folder / "flash.mp4", [*talking, *still[:8]])
    write(folder / "hiding.mp4", hiding)
    write(folder / "short.mp4", talking[:12])
    write(folder / "far away.mp4", [smaller(picture, 0.3) for picture in talking])
    write(folder / "soft.mp4", [cv2.GaussianBlur(picture, (0, 0), 4) for picture in talking])
    write(folder / "nobody.mp4", [np.repeat(picture[-30:], 6, 0) for picture in talking])
    pair = [np.concatenate([picture[:, 160:], astronaut[:, 80:240]], 1) for picture in talking]
    write(folder / "pair.mp4", pair)
    for number, picture in enumerate(talking[:26]):
        path = folder / "as_frames" / f"{number:06d}.png"
        path.parent.mkdir(exist_ok=True)
        write_image(path, picture)
    write_image(folder / "photo.jpg", astronaut)
    (folder / "notes.txt").write_text("not footage")
    (folder / "cut_off.mp4").write_bytes((folder / "anna" / "good.mp4").read_bytes()[:2000])
    return folder


@pytest.fixture(scope="module")
def result(footage, tmp_path_factory) -> tuple[Outcome, Path]:
    out = tmp_path_factory.mktemp("set")
    return run(find_folder(footage, out / "work" / "unpacked"), out, SMALL), out


@pytest.mark.parametrize(
    ("clip", "dropped"),
    [
        ("anna_good_0", ""), ("hard_cut_0", ""), ("hard_cut_1", ""), ("flash_0", ""), ("flash_1", "cuts"),
        ("short_0", "too short"), ("far_away_0", "too small"), ("soft_0", "blurred"), ("nobody_0", "no face"),
        ("pair_0", "several faces"), ("hiding_0", "occluded"), ("as_frames_0", ""), ("photo_0", ""),
    ],
)  # fmt: skip
def test_verdicts(result, clip, dropped) -> None:
    records = {record.clip: record for record in result[0].clips}
    assert records[clip].dropped == dropped, records[clip].why
    assert bool(records[clip].why) == bool(dropped)


def test_every_file_is_accounted_for_once(result) -> None:
    outcome, _ = result
    assert len({clip.clip for clip in outcome.clips}) == len(outcome.clips) == 13
    assert [source.source for source in outcome.sources if source.quarantined] == ["cut_off"]
    seen = [clip.cut.num_frames for clip in outcome.clips if clip.source == "hard_cut"]
    assert seen == [NUM_FRAMES, NUM_FRAMES]  # the cut is found to the frame


def test_a_subfolder_is_a_person_and_two_shots_of_a_file_may_be_two(result) -> None:
    people = {clip.clip: clip.identity for clip in result[0].clips}
    assert people["anna_good_0"] == "anna"
    assert people["hard_cut_0"] != people["hard_cut_1"]


def test_the_set_holds_what_the_manifest_says(result) -> None:
    outcome, out = result
    shards = ShardSet.open(out, verify=True)
    assert {clip.clip: clip.num_frames for clip in shards.index.clips} == {
        clip.clip: len(clip.choose.frames) for clip in outcome.kept
    }
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert {line["clip"] for line in lines if line["verdict"] == "kept"} == {c.clip for c in outcome.kept}
    assert {line["verdict"] for line in lines} == {"kept", "dropped", "quarantined"}


def test_parameters_and_landmarks_belong_to_the_picture_that_is_kept(result) -> None:
    """The fitted head's landmarks, through the crop's camera, lie on the crop's landmarks."""
    head = OpenHead.load()
    for sample in ShardSet.open(result[1]).samples():
        points = head.topology.mediapipe.on(head.verts(sample.params), head.faces)
        error = (sample.camera.project_px(points, 128, 128) - sample.landmarks_px).norm(dim=-1).median()
        eyes = (sample.landmarks_px[33] - sample.landmarks_px[263]).norm()
        assert error < 0.09 * eyes  # 0.055 at most: the detector's known errors are not followed
        assert ((sample.landmarks_px > 0) & (sample.landmarks_px < 128)).all()
        # the matte: the person's face is in front, an upper corner is not
        x, y = sample.landmarks_px[4].int().tolist()
        assert sample.alpha_u8[y, x, 0] > 200


def test_begun_again_nothing_is_done_twice(result, footage) -> None:
    outcome, out = result
    before = {path: path.stat().st_mtime_ns for path in (out / "work").rglob("*.safetensors")}
    shards = (out / "shards.json").stat().st_mtime_ns
    again = run(find_folder(footage, out / "work" / "unpacked"), out, SMALL)
    assert again == outcome
    assert {path: path.stat().st_mtime_ns for path in (out / "work").rglob("*.safetensors")} == before
    assert (out / "shards.json").stat().st_mtime_ns == shards


def test_the_report_counts_draws_and_needs_no_network(result) -> None:
    outcome, out = result
    page = (out / "report.html").read_text()
    assert all(address.startswith("data:") for address in re.findall(r"<[^>]*(?:src|href)=[\"']?([^\"'>]{9})", page))
    assert f"<td>kept<td>{len(outcome.kept)}<" in page and "<td>blurred<td>1<" in page
    assert page.count("<svg") == 8 and "data:image/jpeg;base64," in page and "cut_off.mp4" in page


def test_a_file_that_was_replaced_is_looked_at_anew(astronaut, tmp_path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    write_image(folder / "a.png", astronaut)
    write_image(folder / "b.png", astronaut[:, ::-1])
    first = run(find_folder(folder, out / "unpacked"), out, SMALL)
    shutil.copy(folder / "a.png", folder / "b.png")
    second = run(find_folder(folder, out / "unpacked"), out, SMALL)
    assert len(first.kept) == len(second.kept) == 2
    assert first.clips[0] == second.clips[0] and first.clips[1] != second.clips[1]
    left, right = ShardSet.open(out, verify=True).samples()
    assert np.array_equal(left.image_u8, right.image_u8)


def test_other_settings_and_other_runs_are_refused(tmp_path) -> None:
    place = Workplace(tmp_path)
    with place.held("a"), pytest.raises(OutputError, match="another run"), place.held("a"):
        pass
    with pytest.raises(OutputError, match="other settings"), place.held("b"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"), Workplace(tmp_path / "file").held("a"):
        pass


def test_nothing_to_do_is_said(tmp_path) -> None:
    with pytest.raises(InputError, match="no videos or photos"):
        run(find_folder(tmp_path, tmp_path / "unpacked"), tmp_path / "out")
    with pytest.raises(InputError, match="no such folder"):
        find_folder(tmp_path / "absent", tmp_path / "unpacked")


def test_the_command_line(tmp_path, capsys) -> None:
    assert main(["--help"]) == 0 and "hdtf" in capsys.readouterr().out
    assert main(["folders"]) == 2 and "folder" in capsys.readouterr().err
    assert main(["folder", "--in", str(tmp_path / "absent"), "--out", str(tmp_path / "out")]) == 2
    assert "no such folder" in capsys.readouterr().err
    wrong = ["folder", "--in", str(tmp_path), "--out", str(tmp_path / "out"), "--set", "choose.frame=3"]
    assert main(wrong) == 2 and "frame" in capsys.readouterr().err
