"""The shape check bites, and values are what they say they are."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from jaxtyping import TypeCheckError

from gpavatar.camera import Camera, axis_angle_to_matrix, rotation_angle_deg
from gpavatar.types import AssetError, FaceStatus, GpavatarError, HeadParams, InputError, Track, map_tensors


@pytest.fixture
def track() -> Track:
    """Three frames; the middle one was not seen."""
    params = HeadParams.neutral(4, 52, (3,))
    camera = Camera(torch.eye(4).expand(3, 4, 4), torch.tensor([2.0, 2.0, 0.5, 0.5]).expand(3, 4))
    status = torch.tensor([FaceStatus.TRACKED, FaceStatus.INTERPOLATED, FaceStatus.TRACKED], dtype=torch.uint8)
    times_s = torch.arange(3, dtype=torch.float64) / 25
    return Track(times_s, status, params, camera, torch.zeros(3, 478, 2), 640, 360, "open_head", "0" * 64)


def test_a_function_refuses_a_wrong_shape():
    with pytest.raises(TypeCheckError):
        axis_angle_to_matrix(torch.zeros(5, 4))


def test_a_function_refuses_axes_that_disagree():
    with pytest.raises(TypeCheckError):
        rotation_angle_deg(torch.eye(3).expand(2, 3, 3), torch.eye(3).expand(1, 3, 3))  # torch would broadcast these


def test_a_value_refuses_axes_that_disagree():
    with pytest.raises(TypeCheckError):
        Camera(torch.eye(4).expand(2, 4, 4), torch.zeros(3, 4))


def test_a_value_refuses_a_wrong_shape_and_a_wrong_dtype():
    with pytest.raises(TypeCheckError):
        Camera(torch.eye(4), torch.eye(3))  # 3 x 3 intrinsics where four numbers belong
    with pytest.raises(TypeCheckError):
        Camera(torch.eye(4, dtype=torch.int64), torch.zeros(4))


def test_values_are_frozen(track):
    with pytest.raises(dataclasses.FrozenInstanceError):
        track.width_px = 1


def test_neutral_parameters_are_zero_and_have_their_sizes():
    params = HeadParams.neutral(10, 52, (7,))
    assert params.expression.shape == (7, 52) and params.eye_pose.shape == (7, 2, 3)
    assert all(not getattr(params, field.name).any() for field in dataclasses.fields(params))
    assert params[2].shape.shape == (10,)


def test_map_tensors_reaches_nested_values_and_keeps_the_rest(track):
    shorter = map_tensors(track, lambda tensor: tensor[:2])
    assert shorter.params.eye_pose.shape == (2, 2, 3) and shorter.camera.c2w.shape == (2, 4, 4) and len(shorter) == 2
    assert shorter.head == "open_head" and len(track) == 3


def test_a_frame_of_a_track_is_that_frame(track):
    assert len(track) == 3
    frame = track.frame(1)
    assert frame.index == 1 and frame.status is FaceStatus.INTERPOLATED and frame.time_s == pytest.approx(0.04)
    assert frame.camera.c2w.shape == (4, 4) and frame.params.expression.shape == (52,)


def test_only_a_detection_counts_as_tracked(track):
    assert track.tracked.tolist() == [True, False, True]


def test_every_error_of_the_users_is_one_kind():
    assert issubclass(InputError, GpavatarError) and issubclass(AssetError, GpavatarError)
