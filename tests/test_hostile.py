"""Bad files given to the programs: one line, code 2, nothing left, soon and in little memory.

The readers' own tests look at each kind of damage; here the same few kinds go through the programs as a user runs them.
"""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import awkward_files as awkward
import numpy as np
import pytest
import torch
from fuzz.targets import method, plain_state, track_seeds
from PIL import Image
from safetensors.torch import load_file, save_file

from gpavatar import pipeline
from gpavatar.avatars.state_file import read_metadata
from gpavatar.config import run_program
from gpavatar.limits import MAX_TRACK_BYTES
from gpavatar.media.writer import VideoWriter
from gpavatar.reenact import reenact
from gpavatar.track import track
from gpavatar.verify import verify


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A folder with a small avatar, track and video that are as they should be."""
    folder = tmp_path_factory.mktemp("good")
    method().save(plain_state(), folder / "avatar.safetensors")
    track_seeds(folder)
    (folder / "a.npz").rename(folder / "track.npz")
    frames = [awkward.marked_frame(96, 64, index) for index in range(20)]
    awkward.write_clip(folder / "clip.mp4", frames, container_options={"movflags": "faststart"})
    return folder


@pytest.fixture(autouse=True)
def small_head(monkeypatch):
    """The head of the avatar above, loaded once."""
    monkeypatch.setattr(pipeline, "default_head", lambda: method().head)


def refused(program, *arguments: object, capfd, names: Path | str) -> str:
    """What a program says that must refuse: one line that names the file."""
    assert run_program(program, [str(argument) for argument in arguments], prog="tool") == 2
    said = capfd.readouterr().err.strip()
    assert said.startswith("error: ") and said.count("\n") == 0 and str(names) in said, said
    return said


def rewritten_track(source: Path, to: Path, **changes: np.ndarray) -> Path:
    """The track with arrays replaced."""
    with np.load(source) as file:
        np.savez(to, **(dict(file) | changes))
    return to


def with_value(source: Path, name: str, value: float) -> np.ndarray:
    """An array of the track with one value changed."""
    with np.load(source) as file:
        array = file[name].copy()
    array.reshape(-1)[-1] = value
    return array


def png(width: int, height: int) -> bytes:
    """A black picture in 8 bits of grey, small however large it is."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    squeeze, row = zlib.compressobj(1), bytes(width + 1)
    content = b"".join(squeeze.compress(row) for _ in range(height)) + squeeze.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def damaged_header(path: Path) -> Path:
    """A video whose header says that its frames have 60,000 x 60,000 px."""
    frame = np.zeros((64, 96, 3), np.uint8)
    awkward.write_clip(path, [frame] * 2, codec="rawvideo", pix_fmt="yuv420p")
    path.write_bytes(path.read_bytes().replace(struct.pack("<II", 96, 64), struct.pack("<II", 60_000, 60_000)))
    return path


PICTURES = {
    "text": lambda path, good: path.write_text("no picture\n" * 50),
    "empty": lambda path, good: path.touch(),
    "noise": lambda path, good: path.write_bytes(np.random.default_rng(0).bytes(5000)),
    "cut before its index": lambda path, good: path.write_bytes(
        awkward.write_clip(path.with_suffix(".mp4"), [awkward.marked_frame(96, 64)] * 9).read_bytes()[:700]
    ),
    "no frame": lambda path, good: awkward.write_clip(path.with_suffix(".mp4"), []).rename(path),
    "only sound": lambda path, good: awkward.write_sound(path.with_suffix(".m4a"), awkward.clicks(0.5, [0.2])).rename(
        path
    ),
    "half a photo": lambda path, good: (
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path, "JPEG"),
        path.write_bytes(path.read_bytes()[:1500]),
    ),
    "absurd photo": lambda path, good: path.write_bytes(png(10, 10).replace(struct.pack(">II", 10, 10), b"\x7f" * 8)),
    "absurd video": lambda path, good: damaged_header(path.with_suffix(".avi")).rename(path),
    "an avatar": lambda path, good: path.write_bytes((good / "avatar.safetensors").read_bytes()),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_what_is_no_picture(kind, good, tmp_path, capfd):
    bad, out = tmp_path / "given", tmp_path / "out"
    PICTURES[kind](bad, good)
    for other in tmp_path.glob("given.*"):
        other.unlink()
    refused(reenact, bad, good / "track.npz", "-o", out / "a.mp4", capfd=capfd, names=bad)
    refused(reenact, good / "avatar.safetensors", bad, "-o", out / "a.mp4", capfd=capfd, names=bad)
    refused(track, bad, "-o", out / "a.npz", capfd=capfd, names=bad)
    refused(verify, bad, capfd=capfd, names=bad)
    assert not out.exists() or os.listdir(out) == []


TRACKS = {
    "text": (lambda path, good: path.write_text("no track"), "not a track"),
    "cut": (lambda path, good: path.write_bytes((good / "track.npz").read_bytes()[:-300]), "not a track"),
    "not a number": (lambda path, good: rewritten_track(
        good / "track.npz", path, jaw_pose=with_value(good / "track.npz", "jaw_pose", np.nan)), "not numbers"),
    "infinite": (lambda path, good: rewritten_track(
        good / "track.npz", path, expression=with_value(good / "track.npz", "expression", np.inf)), "not numbers"),
    "absurd": (lambda path, good: rewritten_track(
        good / "track.npz", path, c2w=with_value(good / "track.npz", "c2w", 1e20)), "beyond"),
    "other head": (lambda path, good: rewritten_meta(good / "track.npz", path, head_sha256="f" * 64), "ffffffff"),
    "other version": (lambda path, good: rewritten_meta(good / "track.npz", path, version=99), "99"),
    "a picture": (lambda path, good: Image.new("RGB", (8, 8)).save(path, "PNG"), "not a track"),
}  # fmt: skip


def rewritten_meta(source: Path, to: Path, **changes: object) -> Path:
    """The track with other metadata."""
    with np.load(source) as file:
        meta = json.loads(str(file["meta"])) | changes
    return rewritten_track(source, to, meta=np.array(json.dumps(meta)))


@pytest.mark.parametrize("kind", TRACKS)
def test_tracks_that_cannot_drive(kind, good, tmp_path, capfd):
    make, word = TRACKS[kind]
    bad, out = tmp_path / "given.npz", tmp_path / "out"
    make(bad, good)
    said = refused(reenact, good / "avatar.safetensors", bad, "-o", out / "a.mp4", capfd=capfd, names=bad)
    assert word in said and (not out.exists() or os.listdir(out) == [])


def rewritten_avatar(source: Path, to: Path, metadata: dict[str, str], **tensors: torch.Tensor) -> Path:
    """The avatar with other metadata or tensors."""
    save_file(load_file(source) | tensors, to, read_metadata(source) | metadata)
    return to


AVATARS = {
    "text": (lambda good, to: to.write_text("no avatar"), "safetensors"),
    "cut": (lambda good, to: to.write_bytes((good / "avatar.safetensors").read_bytes()[:-50]), "safetensors"),
    "not a number": (lambda good, to: rewritten_avatar(
        good / "avatar.safetensors", to, {}, offsets=torch.full((len(method().head.mean), 3), torch.nan)), "finite"),
    "other head": (
        lambda good, to: rewritten_avatar(good / "avatar.safetensors", to, {"head_sha256": "0" * 64}), "head_sha256"),
    "other version": (lambda good, to: rewritten_avatar(good / "avatar.safetensors", to, {"version": "99"}), "99"),
    "other method": (lambda good, to: rewritten_avatar(good / "avatar.safetensors", to, {"method": "textured"}),
        "textured_mesh"),
    "other size": (lambda good, to: rewritten_avatar(
        good / "avatar.safetensors", to, {}, offsets=torch.zeros(7, 3)), "head"),
}  # fmt: skip


@pytest.mark.parametrize("kind", AVATARS)
def test_avatars_that_do_not_fit(kind, good, tmp_path, capfd):
    make, word = AVATARS[kind]
    bad, out = tmp_path / "given.safetensors", tmp_path / "out"
    make(good, bad)
    said = refused(reenact, bad, good / "track.npz", "-o", out / "a.mp4", capfd=capfd, names="")
    assert word in said and (not out.exists() or os.listdir(out) == [])


def test_a_full_disk_leaves_nothing(good, tmp_path, capfd, monkeypatch):
    """The disk is full when the video is closed, for then its index is written."""
    whole = VideoWriter._close

    def full(self, discard):
        whole(self, discard)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(VideoWriter, "_close", full)
    arguments = (good / "avatar.safetensors", good / "track.npz", "-o", tmp_path / "a.mp4", "--size", 64)
    assert "No space left" in refused(reenact, *arguments, capfd=capfd, names=tmp_path / "a.mp4")
    assert os.listdir(tmp_path) == []


def test_places_that_cannot_be_written(good, tmp_path, capfd):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "a.mp4", Path("/proc/a.mp4"), Path("/dev/full/a.mp4")):
        refused(reenact, good / "avatar.safetensors", good / "track.npz", "-o", place, capfd=capfd, names=place)
        place = place.with_suffix(".npz")
        refused(track, good / "clip.mp4", "-o", place, capfd=capfd, names="")
    assert os.listdir(tmp_path) == ["file"]


BOMBS = """
import json, sys, time
from pathlib import Path
from fuzz.runner import peak_mb, reset_peak
from gpavatar.config import run_program
from gpavatar.reenact import reenact
from gpavatar.track import track
folder, good = Path(sys.argv[1]), Path(sys.argv[2])
codes, start_s = {}, time.monotonic()
reset_peak()
for bomb in sorted(folder.iterdir()):
    runs = {"source": (reenact, [bomb, good / "track.npz"]), "driving": (reenact, [good / "avatar.safetensors", bomb])}
    for place, (program, inputs) in runs.items():
        begun_s = time.monotonic()
        code = run_program(program, [*map(str, inputs), "-o", str(folder / "out" / "a.mp4"), "--size", "64"])
        codes[f"{bomb.name} as {place}"] = (code, time.monotonic() - begun_s)
print(json.dumps({"codes": codes, "peak_mb": peak_mb()}))
"""


def test_bombs_neither_fill_memory_nor_take_long(good, tmp_path):
    """Small files that unpack to what no machine holds, or just to what is allowed."""
    (tmp_path / "just_allowed.png").write_bytes(png(10_900, 10_900))
    (tmp_path / "too_large.png").write_bytes(png(40_000, 40_000)[:10_000])
    with zipfile.ZipFile(tmp_path / "track.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with np.load(good / "track.npz") as file:
            for name in file.files:
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, file[name])
        head = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (300000000,), }"
        with archive.open("zeros.npy", "w", force_zip64=True) as member:
            member.write(head.ljust(127) + b"\n")
            for _ in range(8):
                member.write(bytes(MAX_TRACK_BYTES // 8))
    for name in ("huge.mp4", "huge.safetensors", "huge.npz"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(50 << 30)
    roots = os.pathsep.join(str(path) for path in (Path(__file__).parent, Path(__file__).parents[1]))
    command = [sys.executable, "-c", BOMBS, str(tmp_path), str(good)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": roots})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert all(code == 2 and seconds < 10 for code, seconds in found["codes"].values()), found
    assert len(found["codes"]) == 12 and found["peak_mb"] < 2048, found
    lines = [line for line in done.stderr.splitlines() if "gpavatar" in line or "error" in line.lower()]
    assert sum(line.startswith("error: ") for line in lines) == 12 and "Traceback" not in done.stderr
    assert sum("unpacks to" in line for line in lines) == 1 and sum("million pixels" in line for line in lines) == 2


@pytest.mark.download
def test_a_driver_that_breaks_off_is_used_up_to_there(good, clip, tmp_path, capfd):
    """A film whose index promises 60 frames, of which the second half is not there."""
    import av

    with av.open(str(clip)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    whole = awkward.write_clip(
        tmp_path / "driver.mp4",
        frames * 6,
        options={"preset": "ultrafast"},
        container_options={"movflags": "faststart"},
    )
    data = whole.read_bytes()
    whole.write_bytes(data[: len(data) // 2])
    out = tmp_path / "out.mp4"
    arguments = [good / "avatar.safetensors", whole, "-o", out, "--size", 64]
    assert run_program(reenact, [str(argument) for argument in arguments], prog="reenact") == 0
    sidecar = json.loads(out.with_suffix(".json").read_text())
    assert 20 <= sidecar["frames"] <= 40 and 0.8 < sidecar["driving_broken_at_s"] < 1.6
    assert [str(whole) in line and "breaks off" in line for line in sidecar["warnings"]] == [True]
    said = [line for line in capfd.readouterr().err.splitlines() if "breaks off" in line]
    assert len(said) == 1 and said[0].startswith("warning: ")
