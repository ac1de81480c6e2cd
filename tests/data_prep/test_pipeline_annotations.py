"""VFHQ's and HDTF's lists, and the videos they name: read as published, downloaded, prepared."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from data_prep.fetch import fetch
from data_prep.footage import Footage, Region, frames_of, full_size
from data_prep.hdtf import find_hdtf
from data_prep.run import run
from data_prep.vfhq import find_vfhq
from gpavatar.data.shards import ShardSet
from gpavatar.data.synthetic import SyntheticPerson, synthetic_clip
from gpavatar.media.image import to_u8
from gpavatar.types import InputError
from tests.awkward_files import marked_frame
from tests.data_prep.conftest import FPS, SMALL, write

HEIGHT, WIDTH, SIDE = 240, 480, 200
LEFT, RIGHT, TOP = 20, 260, 30  # where the two people stand
SILENCE = 10  # frames before somebody is to be seen


@pytest.fixture(scope="module")
def two_people() -> list[np.ndarray]:
    """Two synthetic people side by side, one after the other's motion; before them an empty picture."""
    clips = [
        list(synthetic_clip(seed, 28, SIDE, yaw_deg=15.0, person=SyntheticPerson.random(seed), supersample=1))
        for seed in (3, 11)
    ]
    pictures = []
    for left, right in zip(*clips, strict=True):
        picture = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
        picture[TOP : TOP + SIDE, LEFT : LEFT + SIDE] = to_u8(left.image)
        picture[TOP : TOP + SIDE, RIGHT : RIGHT + SIDE] = to_u8(right.image)
        pictures.append(picture)
    return [np.full_like(pictures[0], 90)] * SILENCE + pictures


@pytest.fixture
def vfhq_tree(two_people, tmp_path) -> Path:
    write(tmp_path / "videos" / "-a_B9.mp4", two_people)
    for person, x in ((0, LEFT), (1, RIGHT)):
        lines = [
            "Video: -a_B9", f"H {HEIGHT * 2}", f"W {WIDTH * 2}", f"FPS {FPS:.2f}", "FRAMES 28",
            f"CROP {2 * x + 40} {2 * TOP + 40} {2 * (x + SIDE) - 40} {2 * (TOP + SIDE) - 40}", "",
            f"{SILENCE:06d} 0 {2 * x} 60 200 200 1.0 2.0",
        ]  # fmt: skip
        first, last = SILENCE, SILENCE + 28
        (tmp_path / f"Clip+-a_B9+P{person}+C0+F{first}-{last}.txt").write_text("\n".join(lines))
    (tmp_path / "Clip+gone+P0+C0+F0-9.txt").write_text("H 1\nFPS 25\nCROP 0 0 1 1")
    (tmp_path / "Clip+-a_B9+P0+C1+F5-5.txt").write_text("H 480\nFPS 25\nCROP 0 0 9 9")
    (tmp_path / "Clip+-a_B9+P0+C2+F5-9.txt").write_text("H 480\nFPS 25\nCROP 0 0 9")
    (tmp_path / "Clip+no_name.txt").write_text("")
    return tmp_path


def test_vfhq_clips_are_the_people_in_their_boxes(vfhq_tree, tmp_path) -> None:
    found = find_vfhq(vfhq_tree)
    assert [one.identity for one in found.footage] == ["x-a_B9_P0", "x-a_B9_P1"]
    assert {one.file: one.why.split()[0] for one in found.refused} == {
        "Clip+gone+P0+C0+F0-9.txt": "its", "Clip+-a_B9+P0+C1+F5-5.txt": "encloses",
        "Clip+-a_B9+P0+C2+F5-9.txt": "its", "Clip+no_name.txt": "not",
    }  # fmt: skip
    outcome = run(found, tmp_path / "set", SMALL)
    assert [clip.dropped for clip in outcome.clips] == ["", ""], [clip.why for clip in outcome.clips]
    left, right = (clip.cut for clip in outcome.clips)
    assert left.num_frames == right.num_frames == 28 and left.start_s == pytest.approx(SILENCE / FPS, abs=0.01)
    looks = [sample.image_u8.mean((0, 1)) for sample in ShardSet.open(tmp_path / "set").samples()]
    assert np.abs(looks[0] - looks[-1]).max() > 10  # two people, not one twice
    assert len((tmp_path / "set" / "manifest.jsonl").read_text().splitlines()) == 6


def test_vfhq_clips_that_come_as_frames(tmp_path, talking) -> None:
    from gpavatar.media.image import write_image

    clip = tmp_path / "Clip+id+P0+C3+F100-126"
    clip.mkdir()
    for number, picture in enumerate(talking[:26]):
        write_image(clip / f"{number + 100:08d}.png", picture)
    clip.with_suffix(".txt").write_text("")
    (one,) = find_vfhq(tmp_path).footage
    assert one.path == clip and one.region is None and len(list(frames_of(one))) == 26


def test_hdtf_clips_are_stretches_with_a_crop(two_people, tmp_path) -> None:
    write(tmp_path / "videos" / "WDA_Anna_000.mp4", two_people)
    start, end = f"00:{SILENCE / FPS:05.2f}", f"00:0{(SILENCE + 28) / FPS:.2f}"
    (tmp_path / "WDA_video_url.txt").write_text(
        "WDA_Anna_000 https://example.org/1\nWDA_Ben_000 https://example.org/2\n"
    )
    (tmp_path / "WDA_annotion_time.txt").write_text(
        f"WDA_Anna_000.mp4 {start}-{end} 00:09-00:05\nWDA_Ben_000.mp4 00:05-00:09\nWDA_Cid_000.mp4 soon\n"
    )
    (tmp_path / "WDA_crop_wh.txt").write_text(f"WDA_Anna_000_0.mp4 {3 * RIGHT} {3 * SIDE} {3 * TOP} {3 * SIDE}\n")
    (tmp_path / "WDA_resolution.txt").write_text(f"WDA_Anna_000.mp4 {3 * HEIGHT}\n")
    found = find_hdtf(tmp_path)
    (one,) = found.footage
    assert one.identity == "WDA_Anna" and one.region == Region(780, 90, 1380, 690, 720)
    assert [one.file for one in found.refused] == ["WDA_Anna_000_1", "WDA_Ben_000_0", "WDA_Cid_000_0"]
    outcome = run(found, tmp_path / "set", SMALL)
    (clip,) = outcome.clips
    assert clip.dropped == "" and clip.cut.num_frames == 28, clip.why
    assert clip.cut.width_px == WIDTH - RIGHT + 50  # a quarter of room to the left, none to the right


def test_a_region_is_the_same_part_in_every_size(tmp_path) -> None:
    """The lower right quarter, with room: the mark's grey corner and half of its neighbours."""
    path = write(tmp_path / "marks.mp4", [marked_frame(320, 240, index) for index in range(6)])
    region = Region(320, 240, 640, 480, of_height_px=480)
    whole = Footage("marks", path, "nobody", region=region)
    assert full_size(whole) == (160 + 40, 120 + 40, FPS)
    small = next(frames_of(whole, max_side_px=100)).image_u8
    large = next(frames_of(whole)).image_u8
    assert small.shape == (80, 100, 3) and large.shape == (160, 200, 3)
    assert np.abs(large[::2, ::2].astype(int) - small).mean() < 6
    with pytest.raises(InputError, match="outside"):
        full_size(Footage("marks", path, "nobody", region=Region(900, 0, 990, 9, 240)))


FAKE = """
import pathlib, sys
if sys.argv[1:] == ["--version"]: sys.exit()
*options, dashes, address = sys.argv[1:]
assert dashes == "--" and "--ignore-config" in options
with open({log!r}, "a") as log: log.write(address + "\\n")
if "dead" in address: sys.exit("ERROR: Video unavailable")
path = options[options.index("--output") + 1]
assert path.endswith(".%(ext)s")
pathlib.Path(path.replace("%(ext)s", "webm").replace("%%", "%")).write_text("video")
"""


def test_fetch_goes_past_dead_videos_and_asks_for_each_once(tmp_path) -> None:
    (tmp_path / "RD_video_url.txt").write_text(
        "Radio1 https://example.org/1\nRadio2 https://example.org/dead\nRadio3 --exec=x\n../x https://example.org/4\n"
    )
    (tmp_path / "Clip+-vid+P0+C0+F0-9.txt").write_text("")
    program, out = (sys.executable, "-c", FAKE.format(log=str(tmp_path / "log"))), tmp_path / "videos 100%"
    results = {one.name: one for one in fetch(tmp_path, out, program)}
    assert {name: one.file for name, one in results.items()} == {
        "-vid": "-vid.webm", "Radio1": "Radio1.webm", "Radio2": "", "Radio3": "", "../x": "",
    }  # fmt: skip
    assert "unavailable" in results["Radio2"].why and "not a name" in results["../x"].why
    assert len([json.loads(line) for line in (out / "fetch.jsonl").read_text().splitlines()]) == 5
    fetch(tmp_path, out, program)
    asked = (tmp_path / "log").read_text().splitlines()
    assert sorted(asked) == [
        *["https://example.org/1", "https://example.org/dead", "https://example.org/dead"],
        "https://www.youtube.com/watch?v=-vid",
    ]


def test_lists_that_are_not_there_are_asked_for(tmp_path) -> None:
    for find, match in ((find_vfhq, "Clip"), (find_hdtf, "annotion_time")):
        with pytest.raises(InputError, match=match):
            find(tmp_path)
    with pytest.raises(InputError, match="no lists"):
        fetch(tmp_path, tmp_path / "out")
    (tmp_path / "RD_video_url.txt").write_text("Radio1 https://example.org/1")
    with pytest.raises(InputError, match="not installed"):
        fetch(tmp_path, tmp_path / "out", (sys.executable, "-c", "raise SystemExit(1)"))
