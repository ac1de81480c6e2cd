"""Avatars that grow frame by frame: from the frames, from photos and a saved avatar, and as a picture of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import pytest
import torch
from flat_avatar import FlatAvatar
from PIL import Image

from gpavatar import methods
from gpavatar.building import Stage, grown
from gpavatar.camera import Camera
from gpavatar.config import run_program
from gpavatar.media.image import read_image, write_image
from gpavatar.reenact import reenact
from gpavatar.types import HeadParams, RenderOutput, SourceFrame


class GreyByNumber(FlatAvatar):
    """As bright as it has seen frames."""

    def update(self, state, frame: SourceFrame):
        """The reference's camera counts the frames."""
        intrinsics = state.reference.camera.intrinsics.clone()
        intrinsics[3] += 0.1
        camera = type(state.reference.camera)(state.reference.camera.c2w, intrinsics)
        return type(state)(type(state.reference)(state.reference.params, camera, state.reference.image))

    def encode(self, frames: Sequence[SourceFrame]):
        """One frame is worth 0.1."""
        state = super().encode(frames)
        state.reference.camera.intrinsics[3] = 0.1
        for frame in frames[1:]:
            state = self.update(state, frame)
        return state

    def render(self, state, params: HeadParams, camera, size_px: int, background=None) -> RenderOutput:
        """A plain picture."""
        picture = torch.full((3, size_px, size_px), float(state.reference.camera.intrinsics[3]))
        return RenderOutput(picture, picture[:1])


def plain() -> SourceFrame:
    """A grey picture of nobody."""
    zero = torch.zeros(1, 8, 8)
    camera = Camera.frontal(10.0, 3.0)
    params = HeadParams.neutral(4, 52)
    return SourceFrame(zero.expand(3, 8, 8), zero, zero, zero, zero, params, camera, torch.zeros(478, 2))


def seen(stage: Stage) -> int:
    """How many frames its avatar has seen."""
    return round(10 * float(stage.state.reference.camera.intrinsics[3]))


@pytest.mark.parametrize(("count", "numbers"), [(1, [1]), (2, [1, 2]), (7, [1, 2, 4, 7]), (8, [1, 2, 4, 8])])
def test_stages_are_powers_of_two_and_all(count, numbers):
    stages = grown(GreyByNumber(torch.device("cpu")), [plain() for _ in range(count)])
    assert [stage.num_frames for stage in stages] == [seen(stage) for stage in stages] == numbers


def test_what_was_saved_is_built_upon():
    model = GreyByNumber(torch.device("cpu"))
    first = grown(model, [plain(), plain()])[-1]
    later = grown(model, [plain(), plain()], first.state)[-1]
    assert (later.num_frames, seen(later), seen(first)) == (2, 4, 2)


@pytest.mark.download
def test_photos_build_an_avatar_that_another_day_adds_to(photo: Path, tmp_path: Path, monkeypatch, capfd):
    """Of three photos a blurred one is left out and counted; the others are seen to be added; a saved avatar takes one
    more."""
    monkeypatch.setitem(methods.METHODS, "flat", "test_building:GreyByNumber")
    monkeypatch.setitem(sys.modules, "test_building", sys.modules[__name__])
    picture = read_image(photo)
    blurred = tmp_path / "blurred.png"
    write_image(blurred, cv2.GaussianBlur(picture, (0, 0), 2.5))

    def run(*arguments: object) -> int:
        plain = ("--size", 64, "--no-label", "--consent", "the test", "--device", "cpu")
        return run_program(reenact, [str(argument) for argument in (*arguments, *plain)], prog="reenact")

    out, avatar = tmp_path / "out.png", tmp_path / "avatar.safetensors"
    made = ("--model", "flat", "--watch-build", "--save-avatar", avatar)
    assert run(photo, blurred, photo, photo, "-o", out, *made) == 0
    assert "1 of 3 source frames left out: 1 blurred" in capfd.readouterr().out
    with Image.open(out) as image:
        assert image.size == (2 * 64, 64)
        grey = [image.getpixel((64 * stage + 40, 40))[0] / 255 for stage in range(2)]
    assert grey == pytest.approx([0.1, 0.2], abs=0.02)
    told = json.loads(out.with_suffix(".json").read_text())
    assert told["source_frames"] == 3 and told["source_frames_left_out"] == {"blurred": 1}

    assert run(avatar, photo, photo, "-o", out) == 0
    with Image.open(out) as image:
        assert image.size == (64, 64) and image.getpixel((40, 40))[0] / 255 == pytest.approx(0.3, abs=0.02)
