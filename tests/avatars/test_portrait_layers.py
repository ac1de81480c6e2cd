"""The layers of a portrait: where their vertices lie, and how they move."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gpavatar.avatars.portrait_layers import (
    GRID_PX,
    MARGIN,
    Layer,
    blur,
    dilate,
    lift,
    relief_grid,
    smoothstep,
    tie,
)
from gpavatar.camera import Camera, axis_angle_to_matrix, invert_rigid

CAMERA = Camera.frontal(6.0, 2.2)
NECK = torch.tensor([0.05, -0.7, -0.2])


def turned(yaw_deg: float, about: Tensor = NECK, shift: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Camera:
    """The camera seen from a head that turned about a point and was moved, while the camera stood still."""
    to_world = torch.eye(4)
    to_world[:3, :3] = axis_angle_to_matrix(torch.tensor([0.1, yaw_deg, 0.0]).deg2rad())
    to_world[:3, 3] = about - to_world[:3, :3] @ about + torch.tensor(shift)
    return Camera(invert_rigid(to_world) @ CAMERA.c2w, CAMERA.intrinsics)


@pytest.fixture
def layer(generator) -> Layer:
    alpha = torch.ones(1, 64, 64)
    uv, faces = relief_grid(alpha)
    verts = lift(uv, 5.5 + torch.rand(1, 64, 64, generator=generator), CAMERA)
    count = len(verts)
    return Layer(verts, faces, uv, alpha.expand(4, -1, -1), torch.ones(count), torch.zeros(count).long(),
                 torch.zeros(count))  # fmt: skip


def test_the_grid_covers_the_alpha_and_little_more():
    alpha = torch.zeros(1, 512, 512)
    alpha[:, 100:300, 200:260] = 1
    uv, faces = relief_grid(alpha)
    px = uv * 512
    low, high = px.amin(0), px.amax(0)
    assert (low <= torch.tensor([200, 100])).all() and (high >= torch.tensor([260, 300])).all()
    assert (low >= torch.tensor([200, 100]) - 2 * GRID_PX).all() and (
        high <= torch.tensor([260, 300]) + 2 * GRID_PX
    ).all()
    corners = uv[faces]
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = (first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]) / 2
    assert (area < 0).all() or (area > 0).all()  # all triangles are wound alike
    assert float(area.abs().sum()) == pytest.approx(float((high - low).prod()) / 512**2, rel=1e-4)
    assert len(faces.unique()) == len(uv)


def test_the_grid_reaches_over_the_border_where_the_person_does():
    alpha = torch.zeros(1, 256, 256)
    alpha[:, 128:, :] = 1
    uv, _ = relief_grid(alpha)
    margin = MARGIN * GRID_PX / 512
    assert torch.allclose(uv.amax(0), torch.tensor([1 + margin, 1 + margin]), atol=1e-5)
    assert float(uv[:, 0].min()) == pytest.approx(-margin, abs=1e-5)
    assert float(uv[:, 1].min()) > 0.45


def test_an_empty_alpha_has_no_triangles():
    uv, faces = relief_grid(torch.zeros(1, 64, 64))
    assert uv.shape == (0, 2) and faces.shape == (0, 3)


def test_lifted_points_project_to_where_they_came_from(generator):
    uv, _ = relief_grid(torch.ones(1, 64, 64))
    depth = torch.full((1, 64, 64), 5.0) + torch.arange(64) / 64
    camera = turned(25.0)
    verts = lift(uv, depth, camera)
    assert torch.allclose(camera.project(verts), uv, atol=1e-5)
    inside = ((uv > 0.5 / 64) & (uv < 1 - 0.5 / 64)).all(-1)
    at = 5.0 + (uv[inside, 0] * 64 - 0.5) / 64
    assert torch.allclose(camera.to_view(verts)[inside, 2], at, atol=1e-4)


def test_ties_go_to_the_nearest_vertex(generator):
    head = torch.randn(40, 3, generator=generator)
    points = torch.cat([head[:5], head[5:6] + torch.tensor([0.15, 0.0, 0.0]), torch.full((1, 3), 50.0)])
    anchor, weight = tie(points, head, reach=0.15)
    assert anchor[:5].tolist() == [0, 1, 2, 3, 4]
    assert torch.allclose(weight[:5], torch.ones(5), atol=1e-4)
    assert weight[5] >= torch.tensor(-1.0).exp() - 1e-5 and weight[6] == 0


def test_what_follows_the_head_moves_rigidly_with_it(layer):
    camera = turned(20.0, shift=(0.1, 0.05, -0.2))
    still = torch.zeros(1, 3)
    assert torch.allclose(layer.view(CAMERA, camera, NECK, still), camera.to_view(layer.verts), atol=1e-6)


def test_what_stays_with_the_body_shifts_with_the_neck_and_does_not_turn(layer):
    body = replace(layer, follow=torch.zeros_like(layer.follow))
    before = CAMERA.to_view(body.verts)
    still = torch.zeros(1, 3)
    moved = body.view(CAMERA, turned(20.0), NECK, still) - before
    assert moved.abs().max() < 1e-5  # the head turned about the neck joint
    moved = body.view(CAMERA, turned(20.0, shift=(0.1, 0.05, -0.2)), NECK, still) - before
    assert torch.allclose(moved, torch.tensor([0.1, -0.05, 0.2]).expand_as(moved), atol=1e-5)


def test_between_head_and_body_is_between(layer):
    camera, still = turned(15.0), torch.zeros(1, 3)
    views = [
        replace(layer, follow=torch.full_like(layer.follow, share)).view(CAMERA, camera, NECK, still)
        for share in (0.0, 0.3, 1.0)
    ]
    assert torch.allclose(views[1], 0.7 * views[0] + 0.3 * views[2], atol=1e-5)


def test_expressions_carry_what_is_tied_to_them(layer):
    count = len(layer.verts)
    tied = replace(layer, anchor=torch.arange(count) % 2, anchor_weight=torch.full((count,), 0.5))
    motion = torch.tensor([[0.0, 0.2, 0.0], [0.0, 0.0, 0.0]])
    moved = tied.view(CAMERA, CAMERA, NECK, motion) - CAMERA.to_view(tied.verts)
    assert torch.allclose(moved[::2], torch.tensor([0.0, -0.1, 0.0]).expand_as(moved[::2]), atol=1e-5)
    assert moved[1::2].abs().max() < 1e-5


def test_blur_keeps_constants_and_the_mean(generator):
    assert torch.allclose(blur(torch.full((2, 20, 30), 0.4), 3), torch.tensor(0.4), atol=1e-6)
    dot = torch.zeros(1, 41, 41)
    dot[0, 20, 20] = 1
    out = blur(dot, 2)
    offset = torch.arange(41.0) - 20
    assert float(out.sum()) == pytest.approx(1, abs=1e-4)
    # Three boxes of width 5 have variance 3 (5² − 1) / 12.
    assert float((out[0].sum(0) * offset**2).sum()) == pytest.approx(6, abs=1e-2)


def test_dilate_and_erode_are_duals(generator):
    mask = (torch.rand(1, 40, 40, generator=generator) > 0.9).float()
    grown = dilate(mask, 2)
    assert torch.equal(dilate(1 - mask, -2), 1 - grown)
    assert (dilate(grown, -2) >= mask).all()
    dot = torch.zeros(1, 9, 9)
    dot[0, 4, 4] = 1
    assert dilate(dot, 3).sum() == 49


def test_smoothstep():
    x = torch.linspace(-1, 3, 401, requires_grad=True)
    y = smoothstep(x, 0.0, 2.0)
    assert (y[x <= 0] == 0).all() and (y[x >= 2] == 1).all()
    assert float(y[200]) == pytest.approx(0.5, abs=1e-5)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert (slope >= 0).all() and slope[100].abs() < 1e-5 and slope[300].abs() < 1e-5
    assert torch.allclose(smoothstep(x, 2.0, 0.0), 1 - y, atol=1e-6)
