"""Which views of a source clip are taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gpavatar.camera import Camera, axis_angle_to_matrix
from gpavatar.tracking.sources import (
    ALIKE_DEG,
    FRONTAL,
    VIEWS_PER_CLIP,
    ViewQuality,
    choose_views,
    eye_opening,
    sharpness,
    yaw_pitch_deg,
)


def turned(pitch_deg: float, yaw_deg: float) -> Camera:
    w2c = torch.eye(4)
    w2c[:3, :3] = FRONTAL @ axis_angle_to_matrix(torch.tensor([pitch_deg, yaw_deg, 0.0]).deg2rad())
    w2c[2, 3] = 10.0
    return Camera.from_w2c(w2c, torch.tensor([2.0, 2.0, 0.5, 0.5]))


def test_yaw_and_pitch_are_those_of_the_head() -> None:
    assert yaw_pitch_deg(turned(0, 25)) == pytest.approx((25, 0), abs=1e-3)
    assert yaw_pitch_deg(turned(-12, 0)) == pytest.approx((0, -12), abs=1e-3)


def test_the_most_frontal_view_is_first_and_the_others_are_spread(generator: torch.Generator) -> None:
    angles = torch.rand(40, 2, generator=generator) * 60 - 30
    chosen = choose_views(ViewQuality(angles, torch.ones(40), torch.ones(40)))
    assert len(chosen) == len(set(chosen)) == VIEWS_PER_CLIP
    assert chosen[0] == int(angles.norm(dim=-1).argmin())
    picked = angles[chosen]
    gaps = torch.cdist(picked, picked) + torch.eye(len(chosen)) * 1e3
    random_gaps = [torch.pdist(angles[torch.randperm(40, generator=generator)[:8]]).min() for _ in range(50)]
    assert gaps.min() > max(random_gaps)


def test_a_still_head_gives_one_view() -> None:
    angles = torch.tensor([[5.0, 1.0]]) + torch.linspace(0, ALIKE_DEG * 0.9, 20)[:, None] * torch.tensor([1.0, 0.0])
    assert choose_views(ViewQuality(angles, torch.ones(20), torch.ones(20))) == [0]


def test_a_blurred_view_is_left_out_even_if_it_is_the_most_frontal() -> None:
    angles = torch.tensor([[0.0, 0.0], [10.0, 0.0], [-20.0, 0.0], [30.0, 0.0]])
    assert choose_views(ViewQuality(angles, torch.tensor([0.1, 1.0, 1.0, 1.0]), torch.ones(4))) == [1, 2, 3]


def test_a_view_with_closed_eyes_is_left_out_unless_they_all_are() -> None:
    angles = torch.tensor([[0.0, 0.0], [10.0, 0.0], [-20.0, 0.0], [30.0, 0.0]])
    assert choose_views(ViewQuality(angles, torch.ones(4), torch.tensor([0.1, 0.3, 0.3, 0.3]))) == [1, 2, 3]
    asleep = ViewQuality(angles, torch.ones(4), torch.full((4,), 0.02))
    assert choose_views(asleep)[0] == 0


def test_eye_opening_is_the_lids_distance_over_the_corners() -> None:
    landmarks = torch.zeros(478, 2)
    for lid, corner in ((159, 33), (386, 263)):
        landmarks[lid], landmarks[corner] = torch.tensor([0.0, -3.0]), torch.tensor([10.0, 0.0])
    assert float(eye_opening(landmarks)) == pytest.approx(0.3)


def test_sharpness_falls_with_blur_and_does_not_depend_on_the_size(generator: torch.Generator) -> None:
    from gpavatar.media.image import resize_u8

    landmarks = torch.rand(478, 2, generator=generator) * 100 + 78
    noise = (torch.rand(32, 32, 3, generator=generator) * 255).to(torch.uint8).numpy()
    picture = resize_u8(noise, 256, 256)
    blurred = resize_u8(resize_u8(picture, 24, 24), 256, 256)
    assert sharpness(blurred, landmarks) < 0.5 * sharpness(picture, landmarks)
    near = np.repeat(np.repeat(picture, 2, 0), 2, 1)
    assert sharpness(near, landmarks * 2) == pytest.approx(sharpness(picture, landmarks), rel=0.1)
