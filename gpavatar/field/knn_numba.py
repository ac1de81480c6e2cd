"""The candidate lists of `knn_voxel.py` on the CPU, compiled by numba. Imported by `knn.py` only, when asked for.

The lists are the same but for two things. The K points that are nearest to the voxel's centre stand first, so that a
query soon knows how near a point must be to matter; and a list is made when a query first needs it, in a cube of three
units, since what the shoulders' rays meet lies outside that of the head. Clouds and queries are float32. Bands of
voxels and queries run on plain threads (`gpavatar.bands`); nothing depends on their number. Kernels are marked
`no_type_check`: numba must see the bare function.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gpavatar.bands import in_bands
from gpavatar.field.knn_voxel import SLACK

EXTENT = 1.5  # half a side of the cube that is cut into voxels
LEVELS = (6, 12, 24, 48)  # voxels per side, coarse to fine; as large as those of `knn_voxel`
RANKED = 24  # so many candidates are sorted by counting smaller ones, which has no branches; more by insertion


@dataclass(frozen=True)
class VoxelLists:
    """Candidates of voxels of one cloud, as arrays that kernels take; see `knn_voxel._Lists`."""

    side: int
    start: np.ndarray  # per voxel
    count: np.ndarray  # -1: not made yet
    numbers: np.ndarray  # int32


class NumbaIndex:
    """See the head of this file. Any number of threads may ask."""

    def __init__(self, cloud: Float[Tensor, "batch vert 3"], k: int, levels: tuple[int, ...] = LEVELS):
        assert cloud.dtype == torch.float32
        self.k = k
        self.clouds = [CloudIndex(one.contiguous().numpy(), k, levels) for one in cloud]

    def query(self, points: Float[Tensor, "batch sample 3"]) -> Int[Tensor, "batch sample k"]:
        """See `gpavatar.field.knn.NearestIndex`."""
        found = torch.from_numpy(np.empty((*points.shape[:2], self.k), np.int32))
        for cloud, one, into in zip(self.clouds, points.detach().contiguous().numpy(), found.numpy(), strict=True):
            cloud.prepare(one)
            in_bands(len(one), lambda a, b, cloud=cloud, one=one, into=into: cloud.query(one[a:b], into[a:b]))
        return found.long()


class CloudIndex:
    """One cloud."""

    def __init__(self, cloud: np.ndarray, k: int, levels: tuple[int, ...] = LEVELS):
        self.cloud, self.k = cloud, k
        every = VoxelLists(
            1, np.zeros(1, np.int64), np.full(1, len(cloud), np.int64), np.arange(len(cloud), dtype=np.int32)
        )
        self._levels = [every]
        for side in levels:
            assert side % self._levels[-1].side == 0, "a voxel must lie in one coarser voxel"
            self._levels.append(
                VoxelLists(side, np.zeros(side**3, np.int64), np.full(side**3, -1), np.empty(0, np.int32))
            )
        self._lock = threading.Lock()

    @property
    def lists(self) -> VoxelLists:
        """Those of the smallest voxels, as far as they stand."""
        return self._levels[-1]

    def prepare(self, points: np.ndarray) -> None:
        """Make the lists that queries at `points` (sample 3) need."""
        marked = np.zeros(self.lists.side**3, np.bool_)
        _mark(points, self.lists.side, self.lists.count, marked)
        self._make(marked)

    def prepare_cube(self) -> None:
        """Make the lists of all voxels in [-1, 1]³."""
        side = self.lists.side
        centres = (np.arange(side) + 0.5) * (2 * EXTENT / side) - EXTENT
        inside = np.abs(centres) <= 1
        marked = inside[:, None, None] & inside[:, None] & inside & (self.lists.count.reshape(side, side, side) < 0)
        self._make(marked.reshape(-1))

    def query(self, points: np.ndarray, found: np.ndarray) -> None:
        """Write the numbers of the nearest points, (sample k) int32, into `found`; slow where no list stands."""
        lists = self.lists
        _query(self.cloud, lists.side, lists.start, lists.count, lists.numbers, points, found)

    def _make(self, marked: np.ndarray) -> None:
        """The lists of the marked voxels and those of the coarser ones around them, coarse to fine."""
        if not marked.any():
            return
        with self._lock:
            wanted = [marked]
            for fine, coarse in zip(self._levels[:0:-1], self._levels[-2:0:-1], strict=False):
                shrink = fine.side // coarse.side
                blocks = wanted[0].reshape(*(coarse.side, shrink) * 3)
                wanted.insert(0, blocks.any((1, 3, 5)).reshape(-1) & (coarse.count < 0))
            for level, voxels in enumerate(wanted):
                self._levels[level + 1] = self._refined(self._levels[level], self._levels[level + 1], voxels)

    def _refined(self, coarse: VoxelLists, fine: VoxelLists, marked: np.ndarray) -> VoxelLists:
        voxels = np.flatnonzero(marked & (fine.count < 0))
        start, count = fine.start.copy(), fine.count.copy()
        made: dict[int, np.ndarray] = {}

        def band(first: int, end: int) -> None:
            old = (self.cloud, coarse.side, coarse.start, coarse.count, coarse.numbers)
            slack = SLACK[torch.float32]
            made[first] = _refine(*old, fine.side, self.k, slack, voxels[first:end], start, count)

        in_bands(len(voxels), band)
        joined = [fine.numbers]
        offset = len(fine.numbers)
        firsts = sorted(made)
        for first, end in zip(firsts, [*firsts[1:], len(voxels)], strict=True):
            start[voxels[first:end]] += offset
            offset += len(made[first])
            joined.append(made[first])
        return VoxelLists(fine.side, start, count, np.concatenate(joined))


@numba.njit(cache=True, nogil=True, inline="always")
@no_type_check
def _voxel_of(x, y, z, side):
    """The number of the voxel around a point; -1 outside."""
    extent = np.float32(EXTENT)
    if not (abs(x) <= extent and abs(y) <= extent and abs(z) <= extent):
        return -1
    scale = np.float32(side / (2 * EXTENT))
    vx = min(int((x + extent) * scale), side - 1)
    vy = min(int((y + extent) * scale), side - 1)
    vz = min(int((z + extent) * scale), side - 1)
    return (vx * side + vy) * side + vz


@numba.njit(cache=True, nogil=True)
@no_type_check
def _mark(points, side, count, marked):
    """Mark the voxels around points that have no list yet."""
    for i in range(points.shape[0]):
        voxel = _voxel_of(points[i, 0], points[i, 1], points[i, 2], side)
        if voxel >= 0 and count[voxel] < 0:
            marked[voxel] = True


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
    for i in range(points.shape[0]):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        voxel = _voxel_of(x, y, z, side)
        candidates = every
        if voxel >= 0 and count[voxel] >= 0:
            candidates = numbers[start[voxel] : start[voxel] + count[voxel]]
        _select(cloud, candidates, x, y, z, k, squared, keys)
        for j in range(k):
            found[i, j] = np.int32(keys[j])


@numba.njit(cache=True, nogil=True)
@no_type_check
def _refine(cloud, old_side, old_start, old_count, old_numbers, side, k, slack, voxels, start, count):
    """The lists of the voxels of these numbers, each from the list of the coarser voxel around it.

    `start` is counted from the first entry of what is returned.
    """
    extent, width = np.float32(EXTENT), np.float32(2 * EXTENT / side)
    slack, half, one = np.float32(slack), np.float32(0.5), np.float32(1)
    squared, keys = np.empty(cloud.shape[0], np.float32), np.empty(cloud.shape[0] + 2 * RANKED, np.int64)
    nearest, nearest_squared = np.empty((k, 3), np.float32), np.empty(k, np.float32)
    kept, used = np.empty(1 << 14, np.int32), 0
    shrink = side // old_side
    for voxel in voxels:
        vx, vy, vz = voxel // (side * side), voxel // side % side, voxel % side
        x, y, z = (vx + half) * width - extent, (vy + half) * width - extent, (vz + half) * width - extent
        old = ((vx // shrink) * old_side + vy // shrink) * old_side + vz // shrink
        candidates = old_numbers[old_start[old] : old_start[old] + old_count[old]]
        while used + len(candidates) > len(kept):
            larger = np.empty(2 * len(kept), np.int32)
            larger[:used] = kept[:used]
            kept = larger
        _select(cloud, candidates, x, y, z, k, squared, keys)
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
