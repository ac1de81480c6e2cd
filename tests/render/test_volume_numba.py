"""The compiled renderer against the readable one in float64: every switch, odd sizes, ties, empty rays, pieces."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from gpavatar.camera import Camera
from gpavatar.field import head_field_numba
from gpavatar.field.head_field import HeadField
from gpavatar.field.head_field_numba import FusedField, array
from gpavatar.field.point_field import BoundPointField, PointField, PointFieldConfig
from gpavatar.field.radiance import RadianceConfig, RadianceHead
from gpavatar.field.twin import has_bfloat16
from gpavatar.render import volume_numba
from gpavatar.render.rays import Rays, camera_rays
from gpavatar.render.volume import VolumeConfig, VolumeOutput, render_volume
from gpavatar.types import map_tensors

VOLUME = VolumeConfig(size_px=9, num_coarse=7, num_fine=6)
POINTS = PointFieldConfig(point_dim=4, hidden_dim=11, out_dim=6, num_neighbours=3, octaves=2)
RADIANCE = RadianceConfig(hidden_dim=13, colour_hidden_dim=9, out_dim=5, view_octaves=1)
NUM_VERTS = 70


def made(points: PointFieldConfig | None = POINTS, radiance: RadianceConfig = RADIANCE, **changed) -> HeadField:
    """A field of two batch entries in float64, thin in places and opaque in others, on a cloud with double points."""
    torch.manual_seed(1)
    verts = (torch.rand(2, NUM_VERTS, 3) - 0.5).double()
    verts[:, 1::9] = verts[:, ::9]
    net = None if points is None else PointField(NUM_VERTS, points).double()
    head = RadianceHead(5 + (4 if points is None else points.out_dim), radiance).double()
    head.density.weight.data *= 60
    head.density.bias.data += 2 if points else 8
    planes, params = torch.randn(2, 3, 5, 17, 17).double(), torch.randn(2, 4).double()
    with torch.no_grad():
        return HeadField(planes, head, None if net is None else net(verts), params, **changed)


def in_float32(field: HeadField) -> HeadField:
    """The same field for the compiled renderer."""
    points = field.points
    if points is not None:
        verts = torch.zeros(2, NUM_VERTS, 3).index_copy(1, points_used(points), points.cloud.float())
        points = deepcopy(points.net).float()(verts)
    radiance = deepcopy(field.radiance).float()
    return HeadField(field.planes.float(), radiance, points, field.params.float(), field.plane_names)


def points_used(points: BoundPointField) -> torch.Tensor:
    return torch.arange(NUM_VERTS) if points.net.used is None else points.net.used


def views(config: VolumeConfig = VOLUME) -> Rays:
    """Two cameras, of which one sees only part of the cube."""
    cameras = [Camera.frontal(3.0, 0.6), Camera.frontal(3.0, 1.2)]
    camera = Camera(*(torch.stack([getattr(one, name) for one in cameras]) for name in ("c2w", "intrinsics")))
    return camera_rays(map_tensors(camera, torch.Tensor.double), config.size_px, config.pixel_grid)


@torch.no_grad()
def pair(field: HeadField, rays: Rays, config: VolumeConfig = VOLUME, **options) -> tuple[VolumeOutput, VolumeOutput]:
    """What the compiled renderer finds, and the reference in float64."""
    wanted = render_volume(field, rays, config)
    compiled = map_tensors(rays, lambda value: value.float() if value.is_floating_point() else value)
    return render_volume(in_float32(field), compiled, config, **({"precision": "exact"} | options)), wanted


def difference(found: VolumeOutput, wanted: VolumeOutput) -> float:
    """‖found − wanted‖ / ‖wanted‖ of the worst of all outputs."""
    worst = 0.0
    for mine, theirs in ((found.coarse, wanted.coarse), (found.fine, wanted.fine)):
        for name in ("feats", "opacity", "depth", "alpha"):
            one, other = getattr(mine, name).double(), getattr(theirs, name)
            other = other * (one > 0) if name == "alpha" else other  # behind what is opaque nobody looks
            assert one.shape == other.shape and other.norm() > 0.1, name
            worst = max(worst, float((one - other).norm() / other.norm()))
    return worst


SWITCHES = {
    "the paper's": {},
    "one neighbour": {"points": replace(POINTS, num_neighbours=1)},
    "some vertices": {"points": replace(POINTS, num_points=31)},
    "near ones only": {"points": replace(POINTS, max_distance=0.3)},
    "released code": {
        "points": replace(POINTS, code_of="direction", code_base=1.0, weight="inverse_square"),
        "radiance": replace(RADIANCE, softplus_beta=10.0, widened_sigmoid=True),
        "volume": replace(VOLUME, step_length=False, importance="released", pixel_grid="corners"),
    },
    "no points": {"points": None},
    "no directions": {"radiance": replace(RADIANCE, view_octaves=-1)},
    "other planes": {"plane_names": ("yx", "xz", "zy")},
    "two channels": {"radiance": replace(RADIANCE, out_dim=2)},
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_compiled_is_the_reference(switch):
    """Measured: 1.8e-6 at most. Some rays miss."""
    changed = dict(SWITCHES[switch])
    config = changed.pop("volume", VOLUME)
    rays = views(config)
    assert 0.1 < rays.hit.double().mean() < 0.9
    assert difference(*pair(made(**changed), rays, config)) < 4e-6


def test_a_weight_that_is_one_percent_off_is_seen():
    """What the test above compares is sensitive to every layer."""
    for name in (
        "points.net.features",
        "points.net.first.weight",
        "radiance.shared.2.weight",
        "radiance.colour.0.bias",
    ):
        field, rays = made(), views()
        with torch.no_grad():
            wanted = render_volume(field, rays, VOLUME)
            field.radiance.get_parameter(name[9:]).mul_(1.01) if name.startswith("r") else None
            if name.startswith("p"):
                field.points.net.get_parameter(name[11:]).mul_(1.01)
        found, _ = pair(field, rays)
        assert difference(found, wanted) > 5e-5, name


def test_a_ray_that_misses_finds_nothing():
    rays = views()
    found, _ = pair(made(), rays)
    for seen in (found.coarse, found.fine):
        for value in (seen.feats, seen.opacity, seen.depth, seen.alpha):
            assert not value[~rays.hit].any()


def test_rays_in_any_pieces_on_any_threads(monkeypatch):
    """Rays of no picture, tiles that do not divide: no number changes but for what a product of matrices rounds."""
    field, rays = made(), views()
    found, _ = pair(field, rays)
    some = map_tensors(rays, lambda value: value[:, 20:57])
    part, _ = pair(field, some)
    torch.testing.assert_close(part.fine.feats, found.fine.feats[:, 20:57], rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(head_field_numba, "TILE", 37)
    monkeypatch.setattr(head_field_numba, "NEAR_TILE", 5)
    monkeypatch.setattr(volume_numba, "BLOCK_PX", 3)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        pieces, _ = pair(field, rays)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(pieces.fine.feats, found.fine.feats, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(pieces.coarse.depth, found.coarse.depth, rtol=1e-5, atol=1e-6)


def test_blocks_of_pixels_are_all_pixels():
    assert sorted(volume_numba.pixel_blocks(32 * 32)) == list(range(1024))
    first = volume_numba.pixel_blocks(32 * 32)[: volume_numba.BLOCK_PX**2]
    assert first.max() == 15 * 32 + 15
    assert volume_numba.pixel_blocks(37).tolist() == list(range(37))


@pytest.mark.parametrize("importance", ["pdf", "released"])
def test_jitter_is_that_of_the_reference(importance):
    config, rays, field = replace(VOLUME, importance=importance), views(), in_float32(made())
    rays = map_tensors(rays, lambda value: value.float() if value.is_floating_point() else value)
    with torch.no_grad():
        wanted, found = (
            render_volume(field, rays, config, jitter=True, rng=torch.Generator().manual_seed(5), precision=precision)
            for precision in ("reference", "exact")
        )
    torch.testing.assert_close(found.fine.feats, wanted.fine.feats, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.coarse.depth, wanted.coarse.depth, rtol=1e-4, atol=1e-5)


def test_field_outside_the_cube_and_on_vertices(generator):
    """σ is 0 outside; beside it stand the features of the nearest place inside. On a vertex all is finite."""
    field, rays = made(), views()
    points = torch.cat([torch.randn(40, 3, generator=generator) * 1.5, field.points.cloud[1, :9].float()])
    points = torch.cat([points, torch.tensor([[1.0, -1, 1], [-1, 0, 0.999]])]).double()
    ray_of = torch.randint(0, rays.dirs.shape[1], (len(points),), generator=generator)
    with torch.no_grad():
        wanted = field(points.expand(2, -1, -1), rays.dirs[:, ray_of])
        look = FusedField(in_float32(field), 1, rays.dirs.float(), "exact")
    sigma, feats = np.empty(len(points), np.float32), np.empty((len(points), 5), np.float32)
    look.look(points.float().numpy(), ray_of.numpy(), sigma, feats)
    assert (wanted.sigma[1] == 0).sum() > 5
    torch.testing.assert_close(torch.from_numpy(sigma).double(), wanted.sigma[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.from_numpy(feats).double(), wanted.feats[1], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not has_bfloat16(torch.device("cpu")), reason="this processor has no bfloat16 products")
def test_fast_is_close():
    """Products of numbers of 8 bits, sums of 24. Measured 2e-3."""
    found, wanted = pair(made(), views(), precision="fast")
    assert 1e-4 < difference(found, wanted) < 1e-2


def test_fast_is_exact_where_there_is_no_bfloat16(monkeypatch):
    monkeypatch.setattr(head_field_numba, "has_bfloat16", lambda _: False)
    assert difference(*pair(made(), views(), precision="fast")) < 5e-6
    assert array(torch.ones(2)).dtype == np.float32


def test_gradients_are_asked_of_the_reference():
    field = in_float32(made())
    rays = map_tensors(views(), lambda value: value.float() if value.is_floating_point() else value)
    render_volume(field, rays, VOLUME, precision="exact").fine.feats.sum().backward()
    assert field.radiance.shared[0].weight.grad.norm() > 0


def test_the_released_weighting_has_no_twin():
    """Its samples influence each other; asked for by any precision it is the reference."""
    field = in_float32(made(points=replace(POINTS, normalised_over="pass")))
    rays = map_tensors(views(), lambda value: value.float() if value.is_floating_point() else value)
    with torch.no_grad():
        wanted, found = (render_volume(field, rays, VOLUME, precision=one) for one in ("reference", "exact"))
    torch.testing.assert_close(found.fine.feats, wanted.fine.feats, rtol=0, atol=0)
