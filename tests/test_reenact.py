"""The program from the outside: what it writes, and what it says when an input is wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from flat_avatar import FlatAvatar, FlatState, TinyHead
from PIL import Image

from gpavatar import methods, pipeline
from gpavatar.avatars.base import Reference
from gpavatar.camera import Camera
from gpavatar.config import run_program
from gpavatar.media.files import sha256_of
from gpavatar.media.image import write_image
from gpavatar.media.provenance import Ingredient
from gpavatar.reenact import default_output, reenact
from gpavatar.tracking.track_file import TrackSource, save_track
from gpavatar.types import FaceStatus, HeadParams, Track
from gpavatar.verify import examine

VIEW = Camera.frontal(distance=10.0, focal=3.0)


HEAD = TinyHead()


@pytest.fixture
def flat_avatar(tmp_path: Path, monkeypatch) -> Path:
    """A saved avatar of the method that needs neither photo nor network."""
    monkeypatch.setitem(methods.METHODS, "flat", "flat_avatar:FlatAvatar")
    path = tmp_path / "flat.safetensors"
    reference = Reference(HeadParams.neutral(HEAD.n_shape, HEAD.n_expression), VIEW, torch.full((3, 64, 64), 0.5))
    FlatAvatar(torch.device("cpu")).save(FlatState(reference), str(path))
    return path


@pytest.fixture
def make_track(tmp_path: Path, monkeypatch):
    """Writes a saved track of so many frames at 25 frames/s, some without a face."""

    def make(num_frames: int, missing: tuple[int, ...] = ()) -> Path:
        monkeypatch.setattr(pipeline, "default_head", lambda: HEAD)
        status = torch.full((num_frames,), int(FaceStatus.TRACKED), dtype=torch.uint8)
        status[list(missing)] = int(FaceStatus.MISSING)
        track = Track(
            times_s=torch.arange(num_frames, dtype=torch.float64) / 25,
            status=status,
            params=HeadParams.neutral(HEAD.n_shape, HEAD.n_expression, (num_frames,)),
            camera=Camera(VIEW.c2w.expand(num_frames, 4, 4), VIEW.intrinsics.expand(num_frames, 4)),
            landmarks_px=torch.zeros(num_frames, 478, 2),
            width_px=512,
            height_px=512,
            head=HEAD.name,
            head_sha256=HEAD.sha256,
        )
        save_track(tmp_path / f"track_{num_frames}.npz", track, TrackSource("clip.mp4", "2" * 64))
        return tmp_path / f"track_{num_frames}.npz"

    return make


def run(*arguments: object) -> int:
    return run_program(reenact, [str(argument) for argument in arguments], prog="reenact")


def decoded(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def test_a_track_drives_an_avatar(flat_avatar: Path, make_track, tmp_path: Path) -> None:
    out, track = tmp_path / "new" / "folder" / "out.mp4", make_track(12, missing=(3, 4))
    assert run(flat_avatar, track, "-o", out, "--size", 64) == 0
    frames = decoded(out)
    assert len(frames) == 12 and (frames[0].width, frames[0].height) == (64, 64)
    assert [frame.time for frame in frames] == pytest.approx([index / 25 for index in range(12)], abs=1e-4)
    sidecar = json.loads(out.with_suffix(".json").read_text())
    assert (sidecar["frames"], sidecar["frames_tracked"], sidecar["partial"]) == (12, 10, False)
    assert (sidecar["model"], sidecar["model_sha256"], sidecar["label"]) == ("flat", "0" * 64, "AI-generated")
    assert sidecar["research_only"] is False
    assert sidecar["inputs"] == [{"path": str(path), "sha256": sha256_of(path)} for path in (flat_avatar, track)]
    assert {"setup", "render", "compose", "write", "total"} <= set(sidecar["seconds"])
    assert sidecar["fps"] == pytest.approx(12 / sidecar["seconds"]["total"], rel=0.02)
    assert sidecar["peak_memory_mb"] > 50 and len(sidecar["commit"]) >= 5
    assert sorted(path.name for path in out.parent.iterdir()) == ["out.json", "out.mp4"]


def test_the_label_is_there_unless_refused(flat_avatar: Path, make_track, tmp_path: Path) -> None:
    track, consent = make_track(1), ("--consent", "me, to a test")
    assert run(flat_avatar, track, "-o", tmp_path / "with.png", "--size", 128) == 0
    assert run(flat_avatar, track, "-o", tmp_path / "without.png", "--size", 128, "--no-label", *consent) == 0
    labelled, plain = (np.asarray(Image.open(tmp_path / name)) for name in ("with.png", "without.png"))
    assert plain.max() < 10 and labelled.max() > 200  # what is left is the watermark
    sidecar = json.loads((tmp_path / "without.json").read_text())
    assert (sidecar["label"], sidecar["consent"]) == (None, "me, to a test")


def test_the_label_is_left_out_only_with_a_consent(flat_avatar: Path, make_track, tmp_path: Path, capfd) -> None:
    track = make_track(1)
    for consent in ((), ("--consent", " ")):
        assert run(flat_avatar, track, "-o", tmp_path / "new" / "o.png", "--size", 128, "--no-label", *consent) == 2
        message = capfd.readouterr().err.strip()
        assert message.startswith("error: ") and "consent" in message and "\n" not in message
    assert not (tmp_path / "new").exists()


def test_start_and_end_choose_the_frames(flat_avatar: Path, make_track, tmp_path: Path) -> None:
    assert run(flat_avatar, make_track(50), "-o", tmp_path / "o.mp4", "--size", 64, "--start", 0.4, "--end", 0.8) == 0
    assert len(decoded(tmp_path / "o.mp4")) == 10


@pytest.mark.parametrize("pose", ["driving", "relative", "fixed", "orbit"])
def test_every_pose_and_expression_mode_runs(flat_avatar: Path, make_track, tmp_path: Path, pose: str) -> None:
    modes = ("--pose", pose, "--expression", "relative", "--background", "#204060")
    assert run(flat_avatar, make_track(3), "-o", tmp_path / "out.mp4", "--size", 64, *modes) == 0


def test_a_still_driver_gives_a_turntable_under_orbit(flat_avatar: Path, make_track, tmp_path: Path) -> None:
    assert run(flat_avatar, make_track(1), "-o", tmp_path / "out.mp4", "--size", 64, "--pose", "orbit") == 0
    assert len(decoded(tmp_path / "out.mp4")) == 100


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_a_playable_file_named_as_partial(number, flat_avatar: Path, make_track, tmp_path: Path) -> None:
    program = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs in its background without one
sys.path.insert(0, {str(Path(__file__).parent)!r})
import flat_avatar
from gpavatar import methods, pipeline, reenact
from gpavatar.config import run_program
flat_avatar.FlatAvatar.delay_s = 0.02
methods.METHODS["flat"] = "flat_avatar:FlatAvatar"
pipeline.default_head = flat_avatar.TinyHead
sys.exit(run_program(reenact.reenact, sys.argv[1:]))
"""
    out = tmp_path / "out.mp4"
    arguments = [str(flat_avatar), str(make_track(3000)), "-o", str(out), "--size", "128"]
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE, text=True)
    deadline_s = time.monotonic() + 60
    while not any(path.stat().st_size > 0 for path in tmp_path.glob(".out.*.tmp.mp4")):
        assert time.monotonic() < deadline_s and process.poll() is None
        time.sleep(0.05)
    time.sleep(1.0)
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130, errors
    assert "out.partial.mp4" in errors
    partial = tmp_path / "out.partial.mp4"
    sidecar = json.loads(partial.with_suffix(".json").read_text())
    assert examine(partial).marked
    assert sidecar["partial"] and 0 < len(decoded(partial)) == sidecar["frames"] < 3000
    assert not out.exists() and not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize("name", ["out.mp4", "out.png", "frames"])
def test_results_of_every_kind_carry_their_marks(flat_avatar: Path, make_track, tmp_path: Path, name: str) -> None:
    track, out = make_track(1 if name == "out.png" else 8), tmp_path / name
    assert run(flat_avatar, track, "-o", out, "--size", 128) == 0
    report = examine(out)
    assert report.marked and report.label
    assert report.c2pa.inputs == tuple(Ingredient(path.name, sha256_of(path)) for path in (flat_avatar, track))
    sidecar = json.loads(out.with_suffix(".json").read_text())
    assert (sidecar["watermark"], sidecar["consent"]) == (report.watermark.producer, None)


@pytest.mark.download
def test_a_real_photo_driven_by_a_real_clip(photo: Path, clip: Path, tmp_path: Path) -> None:
    out, saved = tmp_path / "out.mp4", tmp_path / "me.safetensors"
    assert run(photo, clip, "-o", out, "--size", 128, "--compare", "--save-avatar", saved, "--device", "cpu") == 0
    with av.open(str(out)) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert video.width > 3 * video.height * 0.9
        assert len(list(container.decode(video))) == 10
        assert sound.codec_context.name == "aac"
    sidecar = json.loads(out.with_suffix(".json").read_text())
    assert sidecar["frames_tracked"] == 10
    assert (sidecar["model"], sidecar["research_only"]) == ("gpavatar_lite", True)
    assert {"setup", "encode", "decode", "track", "render", "compose", "write", "total"} == set(sidecar["seconds"])

    assert run(saved, photo, "-o", tmp_path / "still.png", "--size", 128, "--device", "cpu") == 0
    assert Image.open(tmp_path / "still.png").size == (128, 128)


@pytest.mark.download
@pytest.mark.parametrize("place", ["source", "driving"])
@pytest.mark.parametrize("kind", ["missing", "empty", "truncated", "faceless"])
def test_a_bad_input_gives_one_line_and_nothing_else(
    place: str, kind: str, flat_avatar: Path, clip: Path, tmp_path: Path, capfd
) -> None:
    bad = tmp_path / f"{kind}.{'mp4' if kind == 'truncated' else 'png'}"
    if kind == "empty":
        bad.touch()
    elif kind == "truncated":
        bad.write_bytes(clip.read_bytes()[:2000])
    elif kind == "faceless":
        write_image(bad, np.full((64, 64, 3), 128, np.uint8))
    inputs = (bad, clip) if place == "source" else (flat_avatar, bad)
    out = tmp_path / "outputs" / "out.mp4"
    assert run(*inputs, "-o", out, "--size", 64, "--device", "cpu") == 2
    message = capfd.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("error: ") and str(bad) in message
    assert not out.parent.exists() or not list(out.parent.iterdir())


def test_options_that_make_no_sense_are_refused_before_any_work(
    flat_avatar: Path, make_track, tmp_path: Path, capfd
) -> None:
    track = make_track(3)
    cases = {
        ("--size", "65"): "even",
        ("--background", "blakc"): "blakc",
        ("--model", "flatt"): "flat",
        ("--face", "middle"): "middle",
        ("--device", "tpu"): "tpu",
        ("--start", "2", "--end", "1"): "start",
        ("-o", str(track)): "cannot write .npz files",
        ("--save-avatar", str(flat_avatar)): "is an input",
        ("-o", str(tmp_path / "out.xyz")): ".xyz",
        ("-o", "/proc/nowhere/out.mp4"): "/proc/nowhere",
        ("-o", str(tmp_path)): "directory",
        ("-o", "."): "name a file",
        ("--save-avatar", str(tmp_path / "me.npz")): "is a .safetensors file",
    }
    before = sorted(tmp_path.iterdir())
    for arguments, word in cases.items():
        output = () if "-o" in arguments else ("-o", tmp_path / "out.mp4")
        assert run(flat_avatar, track, *output, *arguments) == 2, arguments
        message = capfd.readouterr().err.strip().splitlines()[-1]
        assert message.startswith("error: ") and word in message, message
    assert run(flat_avatar) == 2 and "SOURCE... DRIVING" in capfd.readouterr().err
    assert run(flat_avatar, flat_avatar, track) == 2 and "must be the first source" in capfd.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_an_unknown_option_is_refused_with_the_nearest(capfd) -> None:
    assert run("a.png", "b.mp4", "--backgruond", "black") == 2
    said = "error: unknown option --backgruond; did you mean --background?; see reenact --help\n"
    assert capfd.readouterr().err == said


def test_the_default_output_is_named_after_the_inputs() -> None:
    assert default_output(Path("a/me.jpg"), Path("b/talk.mov"), still=False) == Path("outputs/me_talk.mp4")
    assert default_output(Path("a/me.jpg"), Path("b/smile.png"), still=True) == Path("outputs/me_smile.png")
