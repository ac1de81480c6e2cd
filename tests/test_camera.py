"""The laws of the camera convention, and the examples of docs/conventions.md."""

from __future__ import annotations

import doctest
import math
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import gpavatar
from gpavatar.camera import (
    Camera,
    axis_angle_to_matrix,
    invert_rigid,
    matrix_to_axis_angle,
    rotation_angle_deg,
)


@pytest.fixture
def scene(generator) -> tuple[Camera, torch.Tensor]:
    """Five cameras in double precision around a cloud of points in the head's cube."""
    turned = torch.rand(5, 3, generator=generator, dtype=torch.float64) - 0.5
    c2w = Camera.frontal(5.0, 2.0).c2w.double().expand(5, 4, 4).clone()
    c2w[:, :3, :3] = axis_angle_to_matrix(turned) @ c2w[:, :3, :3]
    c2w[:, :3, 3] += torch.rand(5, 3, generator=generator, dtype=torch.float64)
    intrinsics = torch.tensor([2.0, 1.5, 0.45, 0.55], dtype=torch.float64).expand(5, 4)
    return Camera(c2w, intrinsics), 2 * torch.rand(5, 40, 3, generator=generator, dtype=torch.float64) - 1


def skew(vector: torch.Tensor) -> torch.Tensor:
    """[v]× by its definition: [v]× w = v × w."""
    return torch.stack([torch.linalg.cross(vector, axis.expand_as(vector)) for axis in torch.eye(3).to(vector)], -1)


def test_the_examples_of_the_conventions_page():
    results = doctest.testfile(str(Path(gpavatar.__file__).parents[1] / "docs/conventions.md"), module_relative=False)
    assert results.attempted == 8 and results.failed == 0


def test_right_is_right_up_is_up_and_the_nose_is_nearest():
    camera = Camera.frontal(distance=5.0, focal=2.0)
    right, up, nose = camera.project(torch.eye(3)) - 0.5
    assert right[0] > 0 and right[1] == 0
    assert up[1] < 0 and up[0] == 0  # image rows count downwards
    assert nose.abs().max() == 0
    assert camera.to_view(torch.eye(3))[2, 2] < camera.to_view(torch.zeros(1, 3))[0, 2]


def test_w2c_undoes_c2w(scene):
    camera, points = scene
    assert_close(camera.w2c @ camera.c2w, torch.eye(4).double().expand(5, 4, 4))
    assert_close(invert_rigid(invert_rigid(camera.c2w)), camera.c2w)
    assert_close(invert_rigid(camera.c2w), torch.linalg.inv(camera.c2w))
    again = Camera.from_w2c(camera.w2c, camera.intrinsics)
    assert_close(again.project(points), camera.project(points))


def test_a_point_survives_projection_and_its_inverse(scene):
    camera, points = scene
    view, pixel = camera.to_view(points), camera.project(points)
    focal, centre = camera.intrinsics[:, None, :2], camera.intrinsics[:, None, 2:]
    ray = torch.cat([(pixel - centre) / focal, torch.ones_like(pixel[..., :1])], -1)
    back = (ray * view[..., 2:]) @ camera.c2w[:, :3, :3].transpose(-1, -2) + camera.c2w[:, None, :3, 3]
    assert_close(back, points)


def test_turning_camera_and_scene_together_changes_nothing(scene):
    camera, points = scene
    motion = torch.eye(4, dtype=torch.float64)
    motion[:3, :3] = axis_angle_to_matrix(torch.tensor([0.3, -1.2, 0.7], dtype=torch.float64))
    motion[:3, 3] = torch.tensor([0.4, -0.1, 2.0])
    moved = Camera(motion @ camera.c2w, camera.intrinsics)
    assert_close(moved.project(points @ motion[:3, :3].T + motion[:3, 3]), camera.project(points))
    assert not torch.allclose(moved.project(points), camera.project(points), atol=0.1)  # the motion was worth the test


def test_indexing_a_batch_equals_the_single_camera(scene):
    camera, points = scene
    assert_close(camera[3].project(points[3]), camera.project(points)[3])
    assert_close(camera[1:3].project(points[1:3]), camera.project(points)[1:3])


def test_crop_maps_its_corners_to_the_unit_square(scene):
    camera, points = scene
    x0, y0, x1, y1 = 0.2, -0.1, 0.7, 0.4  # reaches outside the image
    whole, part = camera.project(points), camera.crop(x0, y0, x1, y1).project(points)
    assert_close(part, (whole - whole.new_tensor([x0, y0])) / whole.new_tensor([x1 - x0, y1 - y0]))


def test_crop_of_a_crop_is_one_crop_and_the_whole_is_no_crop(scene):
    camera, _ = scene
    twice = camera.crop(0.2, 0.1, 0.8, 0.9).crop(0.25, 0.5, 0.75, 1.0)
    assert_close(twice.intrinsics, camera.crop(0.35, 0.5, 0.65, 0.9).intrinsics)
    assert_close(camera.crop(0.0, 0.0, 1.0, 1.0).intrinsics, camera.intrinsics)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-4, 9.9e-4, 1.01e-3, 0.5, 3.0, 7.0])
def test_rodrigues_is_the_matrix_exponential(angle, generator):
    axis = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    vector = angle * axis / axis.norm(dim=-1, keepdim=True)
    # Measured: 4e-16 up to angle 0.5, where the series ends, 5e-15 at angle 7.
    assert_close(axis_angle_to_matrix(vector), torch.linalg.matrix_exp(skew(vector)), rtol=0, atol=1e-14)


@pytest.mark.parametrize("vector", [[0.0, 0.0, 0.0], [1e-5, 0.0, -2e-5], [0.4, -0.3, 0.2], [2.0, 1.0, -1.5]])
def test_rodrigues_has_the_right_gradient_at_zero_too(vector):
    vector = torch.tensor(vector, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(axis_angle_to_matrix, vector)
    jacobian = torch.autograd.functional.jacobian(axis_angle_to_matrix, torch.zeros(3, dtype=torch.float64))
    assert_close(jacobian.permute(2, 0, 1), skew(torch.eye(3, dtype=torch.float64)), rtol=0, atol=0)


@pytest.mark.parametrize("angle_deg", [0.0, 1e-5, 0.01, 1.0, 89.9, 90.1, 179.0, 179.9999])
def test_axis_angle_round_trip(angle_deg, generator):
    axis = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    vector = math.radians(angle_deg) * axis / axis.norm(dim=-1, keepdim=True)
    assert_close(matrix_to_axis_angle(axis_angle_to_matrix(vector)), vector, rtol=0, atol=2e-15)  # measured 7e-16


def test_a_half_turn_has_its_axis_or_the_opposite():
    frontal = Camera.frontal(5.0, 2.0).c2w[:3, :3]  # half a turn about x
    assert_close(matrix_to_axis_angle(frontal).abs(), torch.tensor([math.pi, 0.0, 0.0]))
    assert_close(rotation_angle_deg(frontal, torch.eye(3)), torch.tensor(180.0))


def test_axis_angle_is_differentiable_below_and_above_a_quarter_turn():
    for vector in ([0.2, -0.1, 0.3], [1.5, -1.0, 1.2]):
        leaf = torch.tensor(vector, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda v: matrix_to_axis_angle(axis_angle_to_matrix(v)), leaf)
    at_zero = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(matrix_to_axis_angle(axis_angle_to_matrix(at_zero)).sum(), at_zero)
    assert_close(gradient, torch.ones(3, dtype=torch.float64))


def test_rotation_angle_is_that_between_the_two(generator):
    start = axis_angle_to_matrix(torch.randn(3, generator=generator, dtype=torch.float64))
    turned = start @ axis_angle_to_matrix(torch.tensor([0.0, math.radians(25.0), 0.0], dtype=torch.float64))
    assert_close(rotation_angle_deg(start, turned), torch.tensor(25.0, dtype=torch.float64))
    assert_close(rotation_angle_deg(turned, start), torch.tensor(25.0, dtype=torch.float64))
    assert_close(rotation_angle_deg(start, start), torch.tensor(0.0, dtype=torch.float64), rtol=0, atol=1e-12)
