"""Moving the mesh's landmarks to where the detector saw them, and drawing parts of the mesh flat."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from gpavatar.camera import Camera
from gpavatar.face.open_head import PARTS, OpenHead
from gpavatar.face.refine import flattened, landmark_offsets, triangle_areas

CAMERA = Camera.frontal(6.0, 2.2)


@cache
def head() -> OpenHead:
    return OpenHead.load()


def seen(verts: Tensor) -> Tensor:
    return CAMERA.project(head().topology.mediapipe.on(verts, head().faces))


def nudged(scale: float = 0.01) -> Tensor:
    """Landmarks a smooth, face-wide wave away from the mean head's (1 % of the picture: a tenth of an eye's width)."""
    marks = seen(head().mean)
    return marks + scale * torch.stack([(9 * marks[:, 1]).sin(), (7 * marks[:, 0]).cos()], -1)


def missing(verts: Tensor, wanted: Tensor) -> Tensor:
    trusted = head().topology.mediapipe_weights > 0.5
    return (seen(verts) - wanted).norm(dim=-1)[trusted]


def vertices(*names: str) -> Tensor:
    chosen = torch.isin(head().face_parts, torch.tensor([PARTS.index(name) for name in names]))
    return head().faces[chosen].unique()


def test_landmarks_come_where_they_are_wanted():
    verts, wanted = head().mean, nudged()
    offsets = landmark_offsets(head(), verts, CAMERA, wanted)
    before, after = missing(verts, wanted).mean(), missing(verts + offsets, wanted).mean()
    assert after < 0.12 * before  # measured: see the factor below
    assert missing(verts + offsets, wanted).quantile(0.95) < 0.3 * before


def test_nothing_missing_moves_nothing():
    offsets = landmark_offsets(head(), head().mean, CAMERA, seen(head().mean))
    assert offsets.abs().max() < 1e-5


def test_points_that_were_not_seen_pull_nowhere():
    wanted = nudged()
    lost = wanted.clone()
    lost[::2] = torch.nan
    offsets = landmark_offsets(head(), head().mean, CAMERA, lost)
    assert offsets.isfinite().all()
    assert missing(head().mean + offsets, wanted).mean() < 0.4 * missing(head().mean, wanted).mean()
    assert landmark_offsets(head(), head().mean, CAMERA, torch.full((478, 2), torch.nan)).abs().max() == 0


def test_offsets_lie_in_the_image_plane():
    """The depth of no vertex changes: the picture says nothing about it."""
    turned = CAMERA.c2w.clone()
    turned[:3, :3] = (
        torch.linalg.matrix_exp(torch.tensor([[0, -0.1, 0.4], [0.1, 0, 0.2], [-0.4, -0.2, 0]])) @ (turned[:3, :3])
    )
    camera = Camera(turned, CAMERA.intrinsics)
    wanted = camera.project(head().topology.mediapipe.on(head().mean, head().faces)) + 0.01
    offsets = landmark_offsets(head(), head().mean, camera, wanted)
    assert offsets.norm(dim=-1).max() > 0.01
    assert (offsets @ camera.c2w[:3, 2]).abs().max() < 1e-5


def test_rigid_parts_stay_rigid():
    """An eyeball moves as a whole; teeth and tongue, which no landmark shows, stay."""
    offsets = landmark_offsets(head(), head().mean, CAMERA, nudged(0.02))
    for eye in ("eye_left", "eye_right"):
        moved = offsets[vertices(eye)]
        assert moved.norm(dim=-1).min() > 1e-3
        assert torch.allclose(moved, moved[:1].expand_as(moved), atol=1e-7)
    assert offsets[vertices("teeth_upper", "teeth_lower", "tongue")].abs().max() == 0


def test_lips_move_apart_from_each_other():
    """The lips touch in space but not in the atlas: pulling on the lower one leaves the upper one where it is."""
    lower, upper = [17, 84, 314, 16, 15, 14], [0, 37, 267, 11, 12, 13]
    wanted = seen(head().mean)
    wanted[lower] += torch.tensor([0.0, 0.02])
    moved = seen(head().mean + landmark_offsets(head(), head().mean, CAMERA, wanted)) - seen(head().mean)
    assert moved[lower, 1].mean() > 0.01
    assert moved[upper, 1].abs().mean() < 0.25 * moved[lower, 1].mean()


def grid(side: int = 7) -> tuple[Tensor, Tensor]:
    """A square sheet of triangles with bumps."""
    index = torch.arange(side * side).reshape(side, side)
    a, b, c, d = (part.flatten() for part in (index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]))
    xy = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="xy"), -1).reshape(-1, 2).float()
    z = torch.rand(side * side, 1, generator=torch.Generator().manual_seed(0))
    return torch.cat([xy, z], -1), torch.cat([torch.stack([a, b, c], -1), torch.stack([b, d, c], -1)])


def test_flattened_vertices_are_the_mean_of_their_neighbours():
    verts, faces = grid()
    where = ((verts[:, :2] - 3).abs() < 1.5).all(-1)
    out = flattened(verts, faces, where)
    assert torch.equal(out[~where], verts[~where])
    for vertex in where.nonzero()[:, 0]:
        neighbours = faces[(faces == vertex).any(-1)].unique()
        neighbours = neighbours[neighbours != vertex]
        assert torch.allclose(out[vertex], out[neighbours].mean(0), atol=1e-5)
    assert (out - verts)[where].abs().max() > 0.1


def test_flattening_nothing_changes_nothing():
    verts, faces = grid()
    assert torch.equal(flattened(verts, faces, torch.zeros(len(verts), dtype=torch.bool)), verts)


@pytest.mark.parametrize("axes", [2, 3])
def test_triangle_areas(axes: int):
    points = torch.tensor([[0.0, 0, 0], [3, 0, 0], [0, 4, 0], [6, 0, 0]])[:, :axes]
    faces = torch.tensor([[0, 1, 2], [2, 1, 0], [0, 1, 3]])
    assert torch.allclose(triangle_areas(points, faces), torch.tensor([6.0, 6.0, 0.0]))
    turned = points @ torch.linalg.qr(torch.randn(axes, axes, generator=torch.Generator().manual_seed(0)))[0] + 2
    assert torch.allclose(triangle_areas(turned, faces), torch.tensor([6.0, 6.0, 0.0]), atol=1e-2)
