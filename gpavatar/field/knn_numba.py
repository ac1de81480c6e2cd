"""The candidate lists of `knn_voxel.py` on the CPU, compiled by numba. Imported by `knn.py` only, when asked for.

Lists are the same but for their order: the K points that are nearest to the voxel's centre stand first, so that a query
soon knows how near a point must be to matter. Bands of voxels and of queries run on plain threads (`gpavatar.bands`);
nothing depends on their number. Clouds and queries are float32. Kernels are marked `no_type_check`: numba must see the
bare function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gpavatar.bands import in_bands
from gpavatar.field.knn_voxel import LEVELS, SLACK

RANKED = 24  # so many candidates are sorted by counting smaller ones, which has no branches; more by insertion


@dataclass(frozen=True)
class VoxelLists:
    """Candidates of every voxel of one cloud, as arrays that kernels take; see `knn_voxel._Lists`."""

    cloud: np.ndarray  # vert 3, float32
    side: int
    start: np.ndarray  # per voxel
    count: np.ndarray
    numbers: np.ndarray  # int32


class NumbaIndex:
    """See the head of this file."""

    def __init__(self, cloud: Float[Tensor, "batch vert 3"], k: int, levels: tuple[int, ...] = LEVELS):
        self.cloud, self.k = cloud, k
        assert cloud.dtype == torch.float32
        self.lists = [_build(one.contiguous().numpy(), k, levels, SLACK[cloud.dtype]) for one in cloud]

    def query(self, points: Float[Tensor, "batch sample 3"]) -> Int[Tensor, "batch sample k"]:
        """See `gpavatar.field.knn.NearestIndex`."""
        found = torch.from_numpy(np.empty((*points.shape[:2], self.k), np.int32))
        for lists, one, into in zip(self.lists, points.detach().contiguous().numpy(), found.numpy(), strict=True):
            in_bands(len(one), lambda a, b, lists=lists, one=one, into=into: query_lists(lists, one[a:b], into[a:b]))
        return found.long()


def query_lists(lists: VoxelLists, points: np.ndarray, found: np.ndarray) -> None:
    """Write the numbers of the nearest points, (sample k) int32, into `found`; holds no lock."""
    _query(lists.cloud, lists.side, lists.start, lists.count, lists.numbers, points, found)


def _build(cloud: np.ndarray, k: int, levels: tuple[int, ...], slack: float) -> VoxelLists:
    every = np.arange(len(cloud), dtype=np.int32)
    lists = VoxelLists(cloud, 1, np.zeros(1, np.int64), np.full(1, len(cloud), np.int64), every)
    for side in levels:
        assert side % lists.side == 0, "a voxel must lie in one coarser voxel"
        lists = _refined(lists, side, k, slack)
    return lists


def _refined(lists: VoxelLists, side: int, k: int, slack: float) -> VoxelLists:
    start, count = np.zeros(side**3, np.int64), np.zeros(side**3, np.int64)
    bands: dict[int, np.ndarray] = {}

    def band(first: int, end: int) -> None:
        old = (lists.cloud, lists.side, lists.start, lists.count, lists.numbers)
        bands[first] = _refine_band(*old, side, k, slack, first, end, start, count)

    in_bands(side**2, band)
    offset, joined = 0, []
    for first, end in zip(sorted(bands), [*sorted(bands)[1:], side**2], strict=True):
        start[first * side : end * side] += offset
        offset += len(bands[first])
        joined.append(bands[first])
    return VoxelLists(lists.cloud, side, start, count, np.concatenate(joined))


@numba.njit(cache=True, nogil=True)
@no_type_check
def _select(cloud, numbers, x, y, z, k, squared, keys):
    """Put the keys of the k candidates with the smallest (d², number) in front, in order; returns nothing else.

    A key is d² (whose bits are in the order of its value) above the number. `squared` is left with every candidate's
    d², in the order of operations that decides ties. The first k candidates bound how far the k-th can be.
    """
    for entry in range(len(numbers)):
        number = numbers[entry]
        dx, dy, dz = x - cloud[number, 0], y - cloud[number, 1], z - cloud[number, 2]
        squared[entry] = (dx * dx + dy * dy) + dz * dz
    bits = squared.view(np.int32)
    bound = bits[:k].max()
    few = 0
    for entry in range(len(numbers)):
        keys[few] = (np.int64(bits[entry]) << 32) | np.int64(numbers[entry])
        few += bits[entry] <= bound
    if few <= RANKED:
        other = keys[RANKED:]
        other[:few] = keys[:few]
        for i in range(few):
            rank = 0
            for j in range(few):
                rank += other[j] < other[i]
            keys[rank] = other[i]
        return
    for i in range(1, few):
        key, at = keys[i], min(i, k)
        if at == k and key >= keys[k - 1]:
            continue
        at -= at == k
        while at > 0 and key < keys[at - 1]:
            keys[at] = keys[at - 1]
            at -= 1
        keys[at] = key


@numba.njit(cache=True, nogil=True)
@no_type_check
def _query(cloud, side, start, count, numbers, points, found):
    k = found.shape[1]
    every = np.arange(cloud.shape[0]).astype(np.int32)
    squared, keys = np.empty(cloud.shape[0], np.float32), np.empty(cloud.shape[0] + 2 * RANKED, np.int64)
    one, scale = np.float32(1), np.float32(side / 2)
    for i in range(points.shape[0]):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        candidates = every
        if abs(x) <= one and abs(y) <= one and abs(z) <= one:
            vx = min(int((x + one) * scale), side - 1)
            vy = min(int((y + one) * scale), side - 1)
            vz = min(int((z + one) * scale), side - 1)
            voxel = (vx * side + vy) * side + vz
            candidates = numbers[start[voxel] : start[voxel] + count[voxel]]
        _select(cloud, candidates, x, y, z, k, squared, keys)
        for j in range(k):
            found[i, j] = np.int32(keys[j])


@numba.njit(cache=True, nogil=True)
@no_type_check
def _refine_band(cloud, old_side, old_start, old_count, old_numbers, side, k, slack, first, end, start, count):
    """The lists of the voxels of rows [first, end) of side², each from the list of the coarser voxel around it.

    `start` is counted from the first entry of this band.
    """
    width, slack, half, one = np.float32(2 / side), np.float32(slack), np.float32(0.5), np.float32(1)
    squared, keys = np.empty(cloud.shape[0], np.float32), np.empty(cloud.shape[0] + 2 * RANKED, np.int64)
    nearest, nearest_squared = np.empty((k, 3), np.float32), np.empty(k, np.float32)
    kept, used = np.empty(1 << 14, np.int32), 0
    shrink = side // old_side
    for row in range(first, end):
        vx, vy = row // side, row % side
        x, y = (vx + half) * width - one, (vy + half) * width - one
        for vz in range(side):
            z = (vz + half) * width - one
            old = ((vx // shrink) * old_side + vy // shrink) * old_side + vz // shrink
            candidates = old_numbers[old_start[old] : old_start[old] + old_count[old]]
            while used + len(candidates) > len(kept):
                larger = np.empty(2 * len(kept), np.int32)
                larger[:used] = kept[:used]
                kept = larger
            _select(cloud, candidates, x, y, z, k, squared, keys)
            voxel = row * side + vz
            start[voxel] = used
            for j in range(k):
                kept[used + j] = np.int32(keys[j])
                nearest[j] = cloud[kept[used + j]]
                dx, dy, dz = x - nearest[j, 0], y - nearest[j, 1], z - nearest[j, 2]
                nearest_squared[j] = (dx * dx + dy * dy) + dz * dz
            last = nearest_squared[k - 1]
            # Whatever is farther from the centre than the K nearest by a whole diagonal is farther everywhere.
            limit = (np.sqrt(last) + width * np.float32(1.7321)) ** 2
            limit += slack * max(limit, one)
            # The candidates that are left, named by their place; `keys` is free from its k-th on.
            left, doubtful = keys[k:], 0
            for entry in range(len(candidates)):
                left[doubtful] = entry
                doubtful += (squared[entry] >= last) & (squared[entry] <= limit)
            references = kept[used : used + k].copy()
            used += k
            for place in range(doubtful):
                entry = left[place]
                number, own = candidates[entry], squared[entry]
                if own == last and number in references:
                    continue
                rounding = slack * max(own, one)
                for j in range(k):
                    apart = abs(cloud[number, 0] - nearest[j, 0])
                    apart += abs(cloud[number, 1] - nearest[j, 1]) + abs(cloud[number, 2] - nearest[j, 2])
                    if own - nearest_squared[j] <= width * apart + rounding:
                        kept[used] = number
                        used += 1
                        break
            count[voxel] = used - start[voxel]
    return kept[:used].copy()
