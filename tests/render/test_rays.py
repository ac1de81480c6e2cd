"""Rays against the camera that they belong to."""

from __future__ import annotations

import pytest
import torch

from gpavatar.camera import Camera, axis_angle_to_matrix
from gpavatar.render.rays import camera_rays, cube_span


def turned(batch: int, generator: torch.Generator) -> Camera:
    """Cameras around the head that see all of it."""
    rotation = axis_angle_to_matrix(torch.randn(batch, 3, generator=generator, dtype=torch.float64))
    c2w = torch.eye(4, dtype=torch.float64).repeat(batch, 1, 1)
    c2w[:, :3, :3] = rotation
    c2w[:, :3, 3] = -9 * rotation[:, :, 2]
    return Camera(c2w, torch.tensor([3.0, 2.5, 0.5, 0.45], dtype=torch.float64).expand(batch, 4))


def test_each_ray_is_seen_in_its_own_pixel(generator):
    camera = turned(3, generator)
    rays = camera_rays(camera, 6)
    seen = camera.project(rays.at(torch.full((3, 36, 1), 7.0, dtype=torch.float64))[:, :, 0])
    steps = (torch.arange(6, dtype=torch.float64) + 0.5) / 6
    wanted = torch.cartesian_prod(steps, steps).flip(-1)
    torch.testing.assert_close(seen, wanted.expand(3, -1, -1))
    torch.testing.assert_close(rays.dirs.norm(dim=-1), torch.ones(3, 36, dtype=torch.float64))


def test_corner_grid_puts_the_outermost_rays_on_the_edge(generator):
    camera = turned(1, generator)
    rays = camera_rays(camera, 5, "corners")
    seen = camera.project(rays.at(torch.ones(1, 25, 1, dtype=torch.float64))[:, :, 0])[0]
    torch.testing.assert_close(seen[[0, 4, 20, 24]], torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1.0]]).double())


def test_span_ends_on_the_cube(generator):
    origins, dirs = 3 * torch.randn(2, 500, 3, generator=generator), torch.randn(2, 500, 3, generator=generator)
    dirs = torch.nn.functional.normalize(dirs, dim=-1)
    near, far, hit = cube_span(origins, dirs)
    assert 0.05 < hit.float().mean() < 0.95
    ends = origins[..., None, :] + torch.stack([near, far], -1)[..., None] * dirs[..., None, :]
    outside = ends.abs().amax(-1) - 1
    assert outside[hit][:, 1].abs().max() < 1e-5
    starts_inside = (origins.abs() < 1).all(-1)
    assert outside[hit & ~starts_inside][:, 0].abs().max() < 1e-5
    assert (near[starts_inside] == 0).all()
    # No point of a ray that misses is inside.
    t = torch.linspace(0, 12, 400)
    missed = (origins[~hit][:, None] + t[:, None] * dirs[~hit][:, None]).abs().amax(-1)
    assert missed.min() >= 1
    assert not near[~hit].any() and not far[~hit].any()


@pytest.mark.parametrize("start", [-3.0, -1.0, 0.0])
def test_rays_along_an_axis_and_on_a_face_are_finite(start):
    origins = torch.tensor([[[start, 0.0, 0.0], [start, 1.0, 0.0]]])
    dirs = torch.tensor([[[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]])
    near, far, hit = cube_span(origins, dirs)
    assert hit[0, 0] and near.isfinite().all() and far.isfinite().all()
    assert float(far[0, 0] - near[0, 0]) == pytest.approx(1 - max(start, -1.0))


def test_split_keeps_every_ray(generator):
    rays = camera_rays(turned(2, generator), 5)
    pieces = rays.split(7)
    assert [piece.dirs.shape[1] for piece in pieces] == [7, 7, 7, 4]
    torch.testing.assert_close(torch.cat([piece.dirs for piece in pieces], 1), rays.dirs)
