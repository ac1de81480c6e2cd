"""From an avatar and tracked frames to pictures, with a method that only paints the expression's first weight."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flat_avatar import FlatAvatar, FlatState

from gpavatar import methods
from gpavatar.avatars.base import Reference
from gpavatar.camera import Camera
from gpavatar.methods import choose_device, load_model
from gpavatar.pipeline import DrivingFrame, PersonAvatar, load_avatar, parse_face
from gpavatar.types import FaceStatus, HeadParams, InputError, TrackedFrame

VIEW = Camera.frontal(distance=10.0, focal=3.0)


@pytest.fixture(autouse=True)
def flat_method(monkeypatch) -> None:
    monkeypatch.setitem(methods.METHODS, "flat", "flat_avatar:FlatAvatar")


@pytest.fixture
def avatar() -> PersonAvatar:
    reference = Reference(HeadParams.neutral(4, 52), VIEW, torch.full((3, 64, 64), 0.5))
    return PersonAvatar(load_model("flat", "cpu"), FlatState(reference))


def driver(num_frames: int, missing: tuple[int, ...] = (), side_px: int = 16) -> Iterator[DrivingFrame]:
    for index in range(num_frames):
        status = FaceStatus.MISSING if index in missing else FaceStatus.TRACKED
        neutral = HeadParams.neutral(4, 52)
        params = replace(neutral, expression=torch.full((52,), (index % 101) / 100))
        tracked = TrackedFrame(index, index / 25, status, params, VIEW, torch.zeros(478, 2))
        yield DrivingFrame(tracked, np.zeros((side_px, side_px, 3), np.uint8))


def grey(frame) -> float:
    return float(frame.image[0, 32, 32])


def test_each_driving_frame_gives_one_frame_with_its_expression(avatar: PersonAvatar) -> None:
    frames = list(avatar.drive(driver(5), size_px=64))
    assert [grey(frame) for frame in frames] == pytest.approx([0, 0.01, 0.02, 0.03, 0.04])
    assert [frame.driving.tracked.time_s for frame in frames] == [index / 25 for index in range(5)]


def test_a_frame_without_a_face_repeats_the_last_and_is_not_drawn_again(avatar: PersonAvatar) -> None:
    before = FlatAvatar.num_rendered
    frames = list(avatar.drive(driver(5, missing=(2, 3)), size_px=64))
    assert [grey(frame) for frame in frames] == pytest.approx([0, 0.01, 0.01, 0.01, 0.04])
    assert FlatAvatar.num_rendered - before == 3


def test_the_background_is_the_asked_one(avatar: PersonAvatar) -> None:
    frame = next(avatar.drive(driver(1), size_px=64, background="#ff8000"))
    torch.testing.assert_close(frame.image[:, 0, 0], torch.tensor([255, 128, 0]) / 255)
    with pytest.raises(InputError, match="blakc"):
        avatar.drive(driver(1), background="blakc")


def test_memory_does_not_grow_with_the_clip(avatar: PersonAvatar) -> None:
    """A frame of the driver has 3 MB here: the 40 frames that the longer clip has more would be 120 MB if kept."""
    tracemalloc.start()
    peaks = []
    for num_frames in (20, 60):
        tracemalloc.reset_peak()
        for _ in avatar.drive(driver(num_frames, side_px=1000), size_px=64):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert peaks[0] > 5e6 and peaks[1] < peaks[0] + 6e6


def test_closing_early_stops_the_threads(avatar: PersonAvatar) -> None:
    before = threading.active_count()
    frames = avatar.drive(driver(10**9), size_px=64)
    next(frames)
    frames.close()
    assert threading.active_count() == before


def test_a_saved_avatar_comes_back_by_its_own_method(avatar: PersonAvatar, tmp_path: Path) -> None:
    avatar.save(tmp_path / "me.safetensors")
    again = load_avatar(tmp_path / "me.safetensors", "cpu")
    assert again.model.name == "flat"
    torch.testing.assert_close(again.reference.camera.c2w, avatar.reference.camera.c2w)


def test_a_file_that_is_no_avatar_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "me.safetensors"
    with pytest.raises(InputError, match="no such file"):
        load_avatar(path)
    path.write_bytes(b"\x00" * 100)
    with pytest.raises(InputError, match="not a safetensors file"):
        load_avatar(path)
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="not an avatar"):
        load_avatar(path)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean textured_mesh"):
        load_model("texture_mesh")
    with pytest.raises(InputError, match="cuba"):
        choose_device("cuba")
    with pytest.raises(InputError, match="middle"):
        parse_face("middle")
    assert parse_face("2") == 2 and parse_face("left") == "left"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="no CUDA"):
        choose_device("cuda")
