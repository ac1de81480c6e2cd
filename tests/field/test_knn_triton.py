"""Nearest neighbours in Triton: to the last number what brute force finds. Without a GPU in the interpreter, slowly."""

from __future__ import annotations

import pytest
import torch
from triton_interpreter import DEVICE

from gpavatar.face.open_head import OpenHead
from gpavatar.field import knn_triton
from gpavatar.field.knn import BruteIndex, _builder, nearest_index
from gpavatar.field.knn_triton import TIERS, Tier, TritonIndex

SMALL = (Tier(1, 128), Tier(3, 64))


def check(cloud: torch.Tensor, points: torch.Tensor, k: int, tiers=SMALL, **blocks) -> TritonIndex:
    """One batch entry or more against every distance."""
    cloud, points = cloud.to(DEVICE), points.to(DEVICE)
    if cloud.ndim == 2:
        cloud, points = cloud[None], points[None]
    index = TritonIndex(cloud, k, tiers, **blocks)
    found, wanted = index.query(points), BruteIndex(cloud, k).query(points)
    assert found.dtype == torch.long and torch.equal(found, wanted), (found != wanted).nonzero()[:5]
    return index


def full(index: TritonIndex, tier: int) -> torch.Tensor:
    """Which voxels of a tier have more candidates than room."""
    return index.counts[tier] > index.tiers[tier].capacity


def test_head_like_clouds_of_a_batch(generator):
    """On, off and at the points of a shell with a dense spot; the number of samples is no multiple of the block."""
    shell = torch.nn.functional.normalize(torch.randn(2, 150, 3, generator=generator), dim=-1) * 0.6
    cloud = torch.cat([shell, shell[:, :1] + 0.01 * torch.randn(2, 40, 3, generator=generator)], 1)
    near = cloud[:, :20] + 0.02 * torch.randn(2, 20, 3, generator=generator)
    points = torch.cat([torch.rand(2, 23, 3, generator=generator) * 2 - 1, near, cloud[:, ::19]], 1)
    index = check(cloud, points, 6)
    assert full(index, 0).any() and not full(index, 1).all()


def test_crowded_voxels_go_to_the_coarse_tier_and_then_to_all_points(generator):
    cloud = torch.cat([torch.rand(150, 3, generator=generator) * 0.2, torch.randn(30, 3, generator=generator)])
    points = torch.cat([cloud[:40] + 0.01, torch.rand(30, 3, generator=generator) * 2 - 1])
    index = check(cloud, points, 3, (Tier(1, 256), Tier(3, 100)))
    assert full(index, 1).any() and not full(index, 0).any()
    index = check(cloud, points, 3, (Tier(1, 1), Tier(3, 100)))
    assert full(index, 0).all() and not full(index, 1).all()


def test_far_outside_and_on_the_faces_of_the_cube(generator):
    cloud = torch.randn(100, 3, generator=generator) * 0.5  # some of it outside too
    far = torch.randn(12, 3, generator=generator) * torch.tensor([[3.0], [1e4]]).repeat(6, 1)
    corners = torch.cartesian_prod(*3 * [torch.tensor([-1.0, 0.0, 1.0])])
    check(cloud, torch.cat([far, corners]), 5)


def test_ties_go_to_the_lowest_number(generator):
    """Points and queries on a coarse grid, points more than once."""
    grid = torch.cartesian_prod(*3 * [torch.arange(-1, 2) / 2.5])
    cloud = grid.repeat(4, 1)[torch.randperm(108, generator=generator)]
    check(cloud, torch.cat([grid, grid + 0.2]), 7)


@pytest.mark.parametrize(("verts", "k", "samples"), [(1, 1, 1), (3, 3, 1), (25, 18, 5)])
def test_one_point_one_sample_and_more_neighbours_than_a_block(verts, k, samples, generator):
    cloud = torch.rand(verts, 3, generator=generator) - 0.5
    check(cloud, torch.rand(samples, 3, generator=generator) * 2 - 1, k, build_block=16, query_block=16)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type != "cuda", reason="no CUDA device")
def test_the_open_head_on_the_device(generator):
    """As it is used: two frames, tiers of the usual size, all through the cube and close to the skin."""
    verts = OpenHead.load().mean
    cloud = torch.stack([verts, verts * 0.9])
    near = cloud[:, ::3] + 0.02 * torch.randn(2, len(verts[::3]), 3, generator=generator)
    check(cloud, torch.cat([torch.rand(2, 50_000, 3, generator=generator) * 2 - 1, near], 1), 8, TIERS)


@pytest.mark.skipif(DEVICE.type == "cuda", reason="a compiled kernel keeps the constants it was compiled with")
def test_a_build_that_strikes_off_too_much_is_found_out(generator, monkeypatch):
    monkeypatch.setattr(knn_triton, "SLACK", -0.3)
    cloud = torch.rand(60, 3, generator=generator) - 0.5
    with pytest.raises(AssertionError):
        check(cloud, torch.rand(64, 3, generator=generator) * 2 - 1, 3)


def test_it_is_a_backend_which_auto_takes_on_a_gpu_only(generator):
    assert _builder("triton") is TritonIndex
    cloud = torch.rand(1, 20, 3, generator=generator)
    assert not isinstance(nearest_index(cloud, 3), TritonIndex)
