"""The square that follows the head: its box, its slowness, and what lies outside of the picture."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch

from data_prep.crop import SKULL, cut, following_crops, on_black
from data_prep.settings import CropConfig, PrepConfig
from gpavatar.camera import Camera
from gpavatar.face.open_head import OpenHead
from gpavatar.media.align import CropBox, resample_u8
from gpavatar.types import FaceStatus, HeadParams, Track

WIDTH, HEIGHT = 400, 300


@pytest.fixture(scope="module")
def head() -> OpenHead:
    return OpenHead.load()


def track_of(head: OpenHead, shifts: list[float], lost: tuple[int, ...] = ()) -> Track:
    """The mean head before cameras that are so far to the left."""
    c2w = torch.diag(torch.tensor([1.0, -1, -1, 1])).repeat(len(shifts), 1, 1)
    c2w[:, 0, 3] = -torch.tensor(shifts)
    c2w[:, 2, 3] = 8.0
    intrinsics = torch.tensor([2.0, 2.0 * WIDTH / HEIGHT, 0.5, 0.5]).repeat(len(shifts), 1)
    neutral = HeadParams.neutral(head.n_shape, head.n_expression)
    fields = {name: value.expand(len(shifts), *value.shape) for name, value in vars(neutral).items()}
    status = torch.full((len(shifts),), int(FaceStatus.TRACKED), dtype=torch.uint8)
    status[list(lost)] = next(int(one) for one in FaceStatus if one != FaceStatus.TRACKED)
    points = torch.zeros(len(shifts), 478, 2)
    times_s = torch.arange(len(shifts), dtype=torch.float64)
    params, camera = HeadParams(**fields), Camera(c2w, intrinsics)
    return Track(times_s, status, params, camera, points, WIDTH, HEIGHT, head.name, head.sha256)


def box_of(head: OpenHead, track: Track, frame: int) -> torch.Tensor:
    """x0, y0, x1, y1 of the skull in px: the slow way."""
    named = zip(*(head.topology.regions[name].tolist() for name in SKULL), strict=True)
    skull = [number for number, regions in enumerate(named) if any(regions)]
    points_px = track.camera[frame].project_px(head.verts(track.params[frame])[skull], WIDTH, HEIGHT)
    return torch.cat([points_px.amin(0), points_px.amax(0)])


def test_the_first_square_is_around_the_skull_and_the_others_follow_slowly(head):
    track = track_of(head, [0.0, 0.4, 0.4, 0.4])
    smooth = box_of(head, track, 0)
    for frame, square in enumerate(following_crops(track, head, 3.0)):
        smooth = 0.03 * box_of(head, track, frame) + 0.97 * smooth
        width, height = (smooth[2:] - smooth[:2]).tolist()
        assert square.side_px == pytest.approx(3 * 1.65 * (width * height) ** 0.5, rel=1e-4)
        assert square.x_px + square.side_px / 2 == pytest.approx(3 * float(smooth[0] + smooth[2]) / 2, abs=1e-2)
        assert square.y_px + square.side_px / 2 == pytest.approx(3 * float(smooth[1] + smooth[3]) / 2, abs=1e-2)


def test_frames_without_a_face_do_not_move_the_square(head):
    squares = following_crops(track_of(head, [0.9, 0.0, 0.0, 0.9, 0.5], lost=(0, 3)), head, 1.0)
    assert squares[0] == squares[1] == squares[2] == squares[3] != squares[4]


def test_what_the_detector_would_not_see_of_a_head_is_not_in_its_box(head):
    whole, half = (following_crops(track_of(head, [shift]), head, 1.0)[0] for shift in (0.0, 1.95))
    assert half.side_px < 0.95 * whole.side_px


def test_a_square_inside_the_picture_is_as_ever_and_outside_is_black(generator):
    picture = torch.randint(1, 256, (60, 80, 3), generator=generator, dtype=torch.uint8).numpy()
    inside = cut(picture, CropBox(10.3, 5.1, 50.5), 32)
    assert inside.inside.all()
    assert np.array_equal(inside.image_u8, resample_u8(picture, 10.3, 5.1, 60.8, 55.6, 32, 32))
    beyond = cut(picture, CropBox(-20.0, 10.0, 40.0), 40)
    assert not beyond.inside[:, :20].any() and beyond.inside[:, 20:].all()
    assert not beyond.image_u8[:, :20].any() and beyond.image_u8[:, 20:].all()


def test_on_black():
    picture = np.full((1, 3, 3), 200, np.uint8)
    alpha = np.array([[[0], [51], [255]]], np.uint8)
    assert on_black(picture, alpha)[0, :, 0].tolist() == [0, 40, 200]


def test_work_that_was_begun_before_there_were_crops_goes_on():
    before = {name: value for name, value in dataclasses.asdict(PrepConfig()).items() if name != "crop"}
    assert PrepConfig().sha256 == hashlib.sha256(json.dumps(before, sort_keys=True).encode()).hexdigest()
    black = dataclasses.replace(PrepConfig(), crop=CropConfig(background="black"))
    assert black.sha256 != PrepConfig().sha256
