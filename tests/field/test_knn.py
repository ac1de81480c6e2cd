"""The K nearest points: every backend against the definition, ties, duplicates and far away places included."""

from __future__ import annotations

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpavatar.field.knn import nearest_index, smallest
from gpavatar.field.knn_lanes_numba import LANES, kept_places, search_lanes, search_lanes_slowly
from gpavatar.field.knn_numba import NumbaIndex
from gpavatar.field.knn_voxel import VoxelIndex

VOXELS = {"torch": VoxelIndex, "numba": NumbaIndex}

BACKENDS = ["torch", "numba", "scipy", "brute"]
try:
    import faiss  # noqa: F401

    BACKENDS.append("faiss")
except ImportError:  # an extra
    pass


def by_definition(cloud: torch.Tensor, points: torch.Tensor, k: int) -> torch.Tensor:
    """Sorted by (d², number), one query after the other, in numpy."""
    found = []
    for p in points.numpy():
        dx, dy, dz = (p - cloud.numpy()).T
        squared = (dx * dx + dy * dy) + dz * dz
        found.append(np.lexsort((np.arange(len(cloud)), squared))[:k])
    return torch.from_numpy(np.stack(found))


def check(cloud: torch.Tensor, points: torch.Tensor, k: int, backend: str, levels: tuple[int, ...] = ()) -> None:
    """`levels`: fewer voxels than usual, which are built in no time."""
    coarse = levels and backend in VOXELS
    index = VOXELS[backend](cloud[None], k, levels) if coarse else nearest_index(cloud[None], k, backend)
    found = index.query(points[None])[0]
    wanted = by_definition(cloud, points, k)
    assert torch.equal(found, wanted), (found != wanted).nonzero()[:5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_head_like_cloud(backend, dtype, generator):
    """Points on a shell with a dense spot, asked on it, off it, and at its very points."""
    if backend == "numba" and dtype == torch.float64:
        pytest.skip("float32 only")
    shell = torch.nn.functional.normalize(torch.randn(700, 3, generator=generator), dim=-1) * 0.6
    spot = shell[:1] + 0.01 * torch.randn(80, 3, generator=generator)
    cloud = torch.cat([shell, spot]).to(dtype)
    anywhere = torch.rand(200, 3, generator=generator).to(dtype) * 2 - 1
    near = cloud[:200] + 0.02 * torch.randn(200, 3, generator=generator).to(dtype)
    check(cloud, torch.cat([anywhere, near, cloud[::9]]), 8, backend, levels=(4, 12))


@pytest.mark.parametrize("backend", BACKENDS)
def test_far_outside_the_cube_and_on_its_faces(backend, generator):
    cloud = torch.randn(300, 3, generator=generator) * 0.5  # some of it outside too
    far = torch.randn(40, 3, generator=generator) * torch.tensor([[3.0], [100.0]]).repeat(20, 1)
    corners = torch.cartesian_prod(*3 * [torch.tensor([-1.0, 0.0, 0.25, 1.0])])
    check(cloud, torch.cat([far, corners]), 5, backend, levels=(4, 8))


@pytest.mark.parametrize("backend", BACKENDS)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_ties_go_to_the_lowest_number(backend, data):
    """Points and queries on a coarse grid: many equal distances and equal points."""
    grid = st.lists(st.integers(-2, 2), min_size=3, max_size=3)
    cloud = torch.tensor(data.draw(st.lists(grid, min_size=4, max_size=60))) / 2.5
    points = torch.tensor(data.draw(st.lists(grid, min_size=1, max_size=10))) / 2.5
    k = data.draw(st.integers(1, min(8, len(cloud))))
    check(cloud, points, k, backend, levels=(2, 6))


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_ties_than_a_library_is_asked_for(backend, generator):
    """Sixty-four points equally far, in any order: a library may return whichever it likes."""
    corners = torch.cartesian_prod(*3 * [torch.tensor([-0.5, 0.5])]).repeat(8, 1)
    cloud = torch.cat([corners[torch.randperm(64, generator=generator)], corners * 0.9])[torch.arange(127, -1, -1)]
    check(cloud * torch.tensor([1.0, -1, 1]), torch.zeros(1, 3), 70, backend, levels=(2,))
    check(torch.cat([corners * 0.9, corners])[64:], torch.zeros(1, 3), 3, backend, levels=(2,))


@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_entries_do_not_mix(backend, generator):
    clouds, points = torch.rand(3, 90, 3, generator=generator), torch.rand(3, 50, 3, generator=generator)
    index = VOXELS[backend](clouds, 4, (4,)) if backend in VOXELS else nearest_index(clouds, 4, backend)
    found = index.query(points)
    for one, cloud, asked in zip(found, clouds, points, strict=True):
        assert torch.equal(one, by_definition(cloud, asked, 4))


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_point_of_a_small_cloud(backend):
    check(torch.zeros(5, 3), torch.ones(2, 3), 5, backend, levels=(2,))


def test_too_small_a_cloud_is_refused():
    with pytest.raises(ValueError, match="8 neighbours were asked of a cloud of 5"):
        nearest_index(torch.zeros(1, 5, 3), 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_smallest_by_value_then_number(dtype):
    values = torch.tensor([[2.0, 0.0, 1.0, 0.0, torch.inf]], dtype=dtype)
    numbers = torch.tensor([[0, 7, 3, 5, 1]])
    assert smallest(values, numbers, 4).tolist() == [[5, 7, 3, 0]]


def test_lists_of_voxels_are_short(generator):
    """What the voxels are for: a fraction of the cloud per query, near and far."""
    cloud = torch.randn(1, 1000, 3, generator=generator) * torch.tensor([0.25, 0.35, 0.3])
    index = VoxelIndex(cloud, 8, (4, 8, 16))
    inside = index._lists.count[:-1]
    assert inside.float().mean() < 80 and int(inside.min()) >= 8
    assert int(index._lists.count[-1]) == 1000
    points = torch.rand(1, 3000, 3, generator=generator) * 2 - 1
    wanted = nearest_index(cloud, 8, "scipy").query(points)
    assert torch.equal(index.query(points), wanted)
    compiled = NumbaIndex(cloud, 8, (4, 8, 16))
    assert torch.equal(compiled.query(points), wanted)
    count = compiled.clouds[0].lists.count
    assert 8 <= count[count >= 0].mean() < 150 and 0.1 < (count >= 0).mean() < 0.6


@pytest.mark.parametrize("k", [1, 4, 5, 9])
def test_lanes_find_what_one_place_after_the_other_finds(k):
    """On a coarse grid, where many points are equally near."""
    rng, places = np.random.default_rng(k), kept_places(k)
    x, y, z = rng.integers(-3, 4, (3, 200)).astype(np.float32)
    lanes, numbers = rng.integers(-3, 4, (3, LANES)).astype(np.float32), 3 * np.arange(200, dtype=np.int32)
    found = []
    for search in (search_lanes_slowly, numba.njit(lambda *args: search_lanes(*args, places))):
        squared, names = np.empty((len(places), LANES), np.float32), np.empty((len(places), LANES), np.int32)
        search(x, y, z, numbers, 20, 170, lanes, squared, names)
        found.append((squared, names))
    for slow, fast in zip(*found, strict=True):
        assert np.array_equal(slow, fast)


def test_a_cpu_is_asked_in_the_way_that_is_fastest_there():
    cloud = torch.rand(1, 50, 3)
    assert type(nearest_index(cloud, 4, num_queries=10)).__name__ == "ScipyIndex"
    assert type(nearest_index(cloud, 4, num_queries=10**6)).__name__ == "NumbaIndex"
    assert type(nearest_index(cloud.double(), 4, num_queries=10**6)).__name__ == "ScipyIndex"
