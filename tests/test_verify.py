"""The program that reads the marks back: what it says, and its exit code, for all that may have happened to a file."""

from __future__ import annotations

import json
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from gpavatar.config import run_program
from gpavatar.media.compose import LABEL, add_label
from gpavatar.media.image import read_image
from gpavatar.media.image import write_image as write_plain
from gpavatar.media.label_reader import label_likeness, label_seen
from gpavatar.media.producer import this_producer
from gpavatar.media.provenance import Ingredient, Marks
from gpavatar.media.writer import open_writer, write_image
from gpavatar.verify import verify

SIZE = 256
PHOTO = cv2.resize(astronaut(), (SIZE, SIZE), interpolation=cv2.INTER_AREA)
FRAMES = [np.roll(PHOTO, shift, 1) for shift in (0, 1, 1, 2, 2, 1, 0, 0, 0, 1)]
CONSENT = "Jane Doe, to this test"
MARKS = Marks()


def write(path: Path, marks: Marks | None = MARKS, count: int = 10) -> Path:
    with open_writer(path, SIZE, SIZE, marks=marks) as writer:
        for frame in FRAMES[:count]:
            writer.write(frame)
    return path


def run(capfd, path: Path) -> tuple[int, dict]:
    """Exit code and report."""
    capfd.readouterr()
    code = run_program(verify, [str(path), "--json"], prog="verify")
    out = capfd.readouterr().out
    return code, json.loads(out) if out else {}


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.png", "a.jpg", "a.webp", "frames"])
def test_what_the_program_writes_carries_all_marks(tmp_path, capfd, name):
    marks = Marks(inputs=(Ingredient("me.jpg", "ab" * 32),))
    code, report = run(capfd, write(tmp_path / name, marks, 10 if name in ("a.mp4", "a.mov", "frames") else 1))
    assert code == 0 and report["marked"]
    assert report["watermark"]["payload"] == this_producer().id
    assert report["watermark"]["producer"] == f"{this_producer().id:08x}"
    assert 0 <= report["watermark"]["bit_error"] < 0.2
    assert report["c2pa"]["valid"] and report["c2pa"]["ai_generated"] and not report["c2pa"]["trusted"]
    assert report["c2pa"]["inputs"] == [{"name": "me.jpg", "sha256": "ab" * 32}]
    assert report["label"] is True


def test_without_label_but_with_consent_it_is_marked(tmp_path, capfd):
    code, report = run(capfd, write(tmp_path / "a.mp4", Marks(label=False, consent=CONSENT)))
    assert code == 0 and report["label"] is False and report["c2pa"]["consent"] == CONSENT


def test_what_was_never_marked_is_not(tmp_path, capfd):
    code, report = run(capfd, write(tmp_path / "a.mp4", None))
    assert code == 1 and not report["marked"]
    assert report["watermark"] == {"payload": None, "producer": None, "bit_error": None, "scale": None}
    assert not report["c2pa"]["valid"] and not report["c2pa"]["ai_generated"] and report["label"] is False


def test_encoded_again_only_what_is_in_the_picture_is_left(tmp_path, capfd):
    """Somebody else's tool drops the credentials; the watermark and the label stay."""
    with av.open(str(write(tmp_path / "a.mp4"))) as source:
        frames = [frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)]
    with open_writer(tmp_path / "b.mp4", SIZE, SIZE, marks=None) as writer:
        for frame in frames:
            writer.write(frame)
    code, report = run(capfd, tmp_path / "b.mp4")
    assert code == 1 and not report["c2pa"]["valid"] and report["c2pa"]["problems"] == ["none"]
    assert report["watermark"]["payload"] == this_producer().id and report["label"] is True


@pytest.mark.parametrize("name", ["a.mp4", "frames"])
def test_a_changed_file_is_not_valid(tmp_path, capfd, name):
    path = write(tmp_path / name, count=4)
    changed = path / "000002.png" if path.is_dir() else path
    content = bytearray(changed.read_bytes())
    position = len(content) - 9 if path.is_dir() else content.index(b"mdat") + 900  # in the last checksum of a png
    content[position] ^= 4
    changed.write_bytes(content)
    code, report = run(capfd, path)
    if path.is_dir() and code == 2:  # Pillow may refuse what has no checksum
        return
    assert code == 1 and not report["c2pa"]["valid"] and report["c2pa"]["problems"]


def test_a_picture_put_among_the_frames_is_found(tmp_path, capfd):
    path = write(tmp_path / "frames", count=4)
    write_plain(path / "000001.png", FRAMES[1])
    code, report = run(capfd, path)
    assert code == 1 and report["c2pa"]["problems"] == ["000001.png: none"]


def test_in_words(tmp_path, capfd):
    assert run_program(verify, [str(write(tmp_path / "a.png", count=1))], prog="verify") == 0
    said = capfd.readouterr().out
    assert f"producer {this_producer().id:08x}" in said and "all marks are there" in said and "AI-generated" in said
    write_plain(tmp_path / "b.png", PHOTO)
    assert run_program(verify, [str(tmp_path / "b.png")], prog="verify") == 1
    assert "none found" in capfd.readouterr().out


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "truncated", "no pictures"])
def test_what_cannot_be_read_is_one_line(tmp_path, capfd, kind):
    path = tmp_path / "a.mp4"
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("not a video")
    elif kind == "truncated":
        path.write_bytes(write(tmp_path / "b.mp4").read_bytes()[:3000])
    elif kind == "no pictures":
        path.mkdir()
    assert run_program(verify, [str(path)], prog="verify") == 2
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1


def test_looking_makes_no_producer(tmp_path, monkeypatch):
    """A computer that only checks files does not get a key."""
    path = write(tmp_path / "a.png", count=1)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert run_program(verify, [str(path)], prog="verify") == 0
    assert not (tmp_path / "config").exists()


@pytest.mark.parametrize("size", [(64, 64), (96, 128), (256, 256), (512, 512), (512, 1536), (720, 1280)])
@pytest.mark.parametrize("ground", ["photo", "black", "white", "noise"])
def test_the_label_is_seen_where_it_is_and_only_there(size, ground, rng):
    height, width = size
    if ground == "photo":
        image = cv2.resize(astronaut(), (width, height), interpolation=cv2.INTER_AREA)
    elif ground == "noise":
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
    else:
        image = np.full((height, width, 3), 255 if ground == "white" else 0, np.uint8)
    assert label_seen(add_label(image)) and not label_seen(image)
    assert not label_seen(add_label(image, "Not a label!"))
    assert LABEL == "AI-generated"


@pytest.mark.parametrize(("side", "likeness"), [(512, 0.95), (384, 0.72)])
def test_the_label_of_a_scaled_compressed_picture_is_seen(side, likeness):
    image = cv2.resize(add_label(astronaut()), (side, side), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 50])
    assert label_likeness(cv2.imdecode(data, cv2.IMREAD_COLOR)) == pytest.approx(likeness, abs=0.05)


def test_a_picture_written_through_the_python_api_is_marked(tmp_path, capfd):
    write_image(tmp_path / "a.png", PHOTO)
    assert run(capfd, tmp_path / "a.png")[0] == 0
    assert np.abs(read_image(tmp_path / "a.png")[:200].astype(int) - PHOTO[:200]).max() <= 8


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
