"""Laws of the volume renderer, on fields whose pictures are known."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from gpavatar.camera import Camera, axis_angle_to_matrix
from gpavatar.field.radiance import FieldSamples
from gpavatar.render.rays import camera_rays
from gpavatar.render.volume import VolumeConfig, VolumeOutput, render_volume

CONFIG = VolumeConfig(size_px=12, num_coarse=24, num_fine=24)


@dataclass(frozen=True)
class Ball:
    """A soft ball of one colour gradient, turned about the origin."""

    density: Tensor
    turn: Tensor
    seen: list[int]

    def over_pass(self, points):
        return self

    def __call__(self, points, dirs):
        self.seen.append(points.shape[1])
        local = points @ self.turn
        sigma = self.density * torch.sigmoid(20 * (0.6 - local.norm(dim=-1)))
        return FieldSamples(sigma, torch.cat([local, dirs @ self.turn], -1))


def ball(density: float = 5.0, turn: Tensor | None = None) -> Ball:
    turn = torch.eye(3, dtype=torch.float64) if turn is None else turn
    return Ball(torch.tensor(density, dtype=torch.float64, requires_grad=True), turn, [])


def frontal() -> Camera:
    camera = Camera.frontal(10.0, 4.0)
    return Camera(camera.c2w[None].double(), camera.intrinsics[None].double())


def both(output: VolumeOutput) -> list[Tensor]:
    return [one for side in (output.coarse, output.fine) for one in (side.feats, side.opacity, side.depth)]


def test_chunking_changes_nothing():
    rays = camera_rays(frontal(), 12)
    whole, pieces = ball(), ball()
    with torch.no_grad():
        wanted = render_volume(whole, rays, CONFIG)
        found = render_volume(pieces, rays, replace(CONFIG, max_samples=1000))
    assert max(pieces.seen) == 1000 < max(whole.seen)
    torch.testing.assert_close(both(found), both(wanted), rtol=0, atol=0)
    by_rays = [render_volume(ball(), piece, CONFIG) for piece in rays.split(50)]
    torch.testing.assert_close(torch.cat([one.fine.feats for one in by_rays], 1), wanted.fine.feats)


def test_turning_camera_and_scene_together_changes_nothing():
    """By quarter turns, which keep the cube."""
    for axis_angle in torch.eye(3, dtype=torch.float64) * torch.pi / 2:
        turn = axis_angle_to_matrix(axis_angle)
        rigid = torch.eye(4, dtype=torch.float64)
        rigid[:3, :3] = turn
        camera = frontal()
        turned = Camera(rigid @ camera.c2w, camera.intrinsics)
        wanted = render_volume(ball(), camera_rays(camera, 12), CONFIG)
        found = render_volume(ball(turn=turn), camera_rays(turned, 12), CONFIG)
        torch.testing.assert_close(both(found), both(wanted))
        assert wanted.fine.opacity.max() > 0.9


def test_opacity_is_that_of_the_chord():
    """Constant density through the cube: 1 − exp(−σ L), whatever the samples."""

    class Fog(Ball):
        def __call__(self, points, dirs):
            return FieldSamples(torch.full_like(points[..., 0], 0.7), points)

    rays = camera_rays(frontal(), 12)
    fog = Fog(torch.tensor(0.0), torch.eye(3), [])
    out = render_volume(fog, rays, CONFIG, jitter=True)
    torch.testing.assert_close(out.fine.opacity, 1 - torch.exp(-0.7 * (rays.far - rays.near)))
    torch.testing.assert_close(out.coarse.opacity, out.fine.opacity)
    # Without the step length every sample counts the same: 48 of them make more fog than 24.
    released = render_volume(fog, rays, replace(CONFIG, step_length=False))
    torch.testing.assert_close(released.fine.opacity, 1 - torch.exp(-0.7 * 48 * rays.hit.double()))


def test_a_wall_is_where_it_stands_and_an_empty_ray_is_black():
    class Wall(Ball):
        def __call__(self, points, dirs):
            return FieldSamples(1e6 * (points[..., 2] < 0.25).double(), torch.ones_like(points))

    rays = camera_rays(Camera(frontal().c2w, torch.tensor([[1.0, 1.0, 0.5, 0.5]]).double()), 12)
    out = render_volume(Wall(torch.tensor(0.0), torch.eye(3), []), rays, CONFIG)
    hit = rays.hit
    depth = (rays.origins[..., 2] - 0.25) / -rays.dirs[..., 2]
    assert hit.any() and not hit.all()
    straight = hit & ((rays.at(depth[..., None])[..., 0, :2].abs() < 0.95).all(-1))
    assert (out.fine.depth - depth)[straight].abs().max() < 2 / 24
    assert (out.fine.depth - depth)[straight].abs().max() <= (out.coarse.depth - depth)[straight].abs().max() + 1e-9
    assert not out.fine.opacity[~hit].any() and not out.fine.feats[~hit].any()


def test_gradient_reaches_the_field():
    rays = camera_rays(frontal(), 4)
    config = replace(CONFIG, num_coarse=6, num_fine=6)

    def mean_opacity(density):
        field = ball()
        out = render_volume(Ball(density, field.turn, []), rays, config)
        return out.coarse.opacity.mean() + out.coarse.feats.square().mean()

    assert torch.autograd.gradcheck(mean_opacity, torch.tensor(3.0, dtype=torch.float64, requires_grad=True))
    field = ball()
    render_volume(field, rays, config).fine.feats.sum().backward()
    assert field.density.grad.isfinite() and field.density.grad != 0


@pytest.mark.parametrize("importance", ["pdf", "released"])
def test_fine_samples_gather_at_the_surface(importance):
    seen = []

    class Shell(Ball):
        def __call__(self, points, dirs):
            seen.append(points)
            return FieldSamples(80 * torch.exp(-(((points.norm(dim=-1) - 0.5) / 0.02) ** 2)), points)

    rays = camera_rays(frontal(), 4)
    render_volume(Shell(torch.tensor(0.0), torch.eye(3), []), rays, replace(CONFIG, importance=importance))
    middle = slice(5 * 24, 6 * 24)  # one of the rays through the ball
    coarse, fine = ((one[0, middle].norm(dim=-1) - 0.5).abs() < 0.1 for one in seen)
    assert fine.sum() >= 2 * coarse.sum()
