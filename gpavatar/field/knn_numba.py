"""The candidate lists of `knn_voxel.py` on the CPU, compiled by numba. Imported by `knn.py` only, when asked for.

The lists are the same, but a list is made when a query first needs it, in a cube of three units, since what the
shoulders' rays meet lies outside that of the head; and with the numbers of its points it has their places, so that a
search reads one after the other. Queries are sorted by voxel, and those of a voxel searched together, each in one lane
of a vector (`knn_lanes_numba.py`); centres of voxels likewise, when lists are made. Clouds and queries are float32.
Bands of voxels and queries run on plain threads (`gpavatar.bands`); nothing depends on their number. Kernels are marked
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
from gpavatar.field.knn_lanes_numba import LANES, kept_places, search_lanes
from gpavatar.field.knn_voxel import SLACK

EXTENT = 1.5  # half a side of the cube that is cut into voxels
LEVELS = (6, 12, 24)  # voxels per side, coarse to fine; finer lists cost more than they save
ROUND = {"contract", "nnan", "nsz"}  # where `SLACK` has room for how it rounds


@dataclass(frozen=True)
class VoxelLists:
    """Candidates of voxels of one cloud, as arrays that kernels take; see `knn_voxel._Lists`."""

    side: int
    start: np.ndarray  # per voxel
    count: np.ndarray  # -1: not made yet
    numbers: np.ndarray  # int32, ascending in each list
    x: np.ndarray  # where they are
    y: np.ndarray
    z: np.ndarray


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
        self.cloud, self.k, self._places = cloud, k, kept_places(k)
        every, (x, y, z) = np.arange(len(cloud), dtype=np.int32), np.ascontiguousarray(cloud.T)
        self._every = VoxelLists(1, np.zeros(1, np.int64), np.full(1, len(cloud)), every, x, y, z)
        self._levels = [self._every]
        for side in levels:
            assert side % self._levels[-1].side == 0, "a voxel must lie in one coarser voxel"
            none, nowhere = np.empty(0, np.int32), np.empty(0, np.float32)
            self._levels.append(
                VoxelLists(side, np.zeros(side**3, np.int64), np.full(side**3, -1), none, *3 * [nowhere])
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
        """Write the numbers of the nearest points, (sample k) int32, into `found`; slow where no list stands. The
        more points are asked for at once, the more of them share a voxel."""
        lists, every = self.lists, self._every
        _query(
            lists.side, lists.start, lists.count, lists.numbers, lists.x, lists.y, lists.z,
            every.numbers, every.x, every.y, every.z, self._places, points, found,
        )  # fmt: skip

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
        around = _around(voxels, fine.side, coarse.side)
        order = np.argsort(around, kind="stable")
        voxels, around = voxels[order], around[order]
        start, count = fine.start.copy(), fine.count.copy()
        made: dict[int, tuple[np.ndarray, ...]] = {}

        def band(first: int, end: int) -> None:
            made[first] = _refine(
                self.cloud, coarse.start, coarse.count, coarse.numbers, coarse.x, coarse.y, coarse.z, fine.side, self.k,
                self._places, SLACK[torch.float32], voxels[first:end], around[first:end], start, count,
            )  # fmt: skip

        in_bands(len(voxels), band)
        parts = [(fine.numbers, fine.x, fine.y, fine.z)] if len(fine.numbers) else []
        offset = len(fine.numbers)
        firsts = sorted(made)
        for first, end in zip(firsts, [*firsts[1:], len(voxels)], strict=True):
            start[voxels[first:end]] += offset
            offset += len(made[first][0])
            parts.append(made[first])
        joined = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
        return VoxelLists(fine.side, start, count, *joined)


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
def _around(voxels, side, coarse_side):
    """The coarser voxels around voxels."""
    around, shrink = np.empty(len(voxels), np.int64), side // coarse_side
    for i in range(len(voxels)):
        vx, vy, vz = voxels[i] // (side * side), voxels[i] // side % side, voxels[i] % side
        around[i] = ((vx // shrink) * coarse_side + vy // shrink) * coarse_side + vz // shrink
    return around


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
def _by_list(points, side, count):
    """The list that each point is searched on, as the number of a voxel or -1 for that of all points; and the points
    in the order of their lists."""
    of, ends = np.empty(points.shape[0], np.int32), np.zeros(side**3 + 2, np.int32)
    for i in range(points.shape[0]):
        voxel = _voxel_of(points[i, 0], points[i, 1], points[i, 2], side)
        of[i] = voxel if voxel >= 0 and count[voxel] >= 0 else -1
        ends[of[i] + 2] += 1
    for i in range(1, len(ends)):
        ends[i] += ends[i - 1]
    order = np.empty(points.shape[0], np.int32)
    for i in range(points.shape[0]):
        order[ends[of[i] + 1]] = i
        ends[of[i] + 1] += 1
    return of, order


@numba.njit(cache=True, nogil=True)
@no_type_check
def _query(
    side, start, count, numbers, x, y, z, every, every_x, every_y, every_z, places, points, found
):  # fmt: skip
    """See `CloudIndex.query`."""
    k, num = found.shape[1], points.shape[0]
    lanes = np.zeros((3, LANES), np.float32)
    squared, nearest = np.empty((len(places), LANES), np.float32), np.empty((len(places), LANES), np.int32)
    of, order = _by_list(points, side, count)
    first = 0
    while first < num:
        voxel, end = of[order[first]], first
        while end < num and end < first + LANES and of[order[end]] == voxel:
            for axis in range(3):
                lanes[axis, end - first] = points[order[end], axis]
            end += 1
        if voxel >= 0:
            last = start[voxel] + count[voxel]
            search_lanes(x, y, z, numbers, start[voxel], last, lanes, squared, nearest, places)
        else:
            search_lanes(every_x, every_y, every_z, every, 0, len(every), lanes, squared, nearest, places)
        for lane in range(end - first):
            for j in range(k):
                found[order[first + lane], j] = nearest[j, lane]
        first = end


@numba.njit(cache=True, nogil=True)
@no_type_check
def _refine(
    cloud, old_start, old_count, old_numbers, old_x, old_y, old_z, side, k, places, slack, voxels, around, start, count
):  # fmt: skip
    """The lists of `voxels`, each from the list of the coarser voxel `around` it, by which they are sorted.

    `start` is counted from the first entry of what is returned.
    """
    extent, width, half = np.float32(EXTENT), np.float32(2 * EXTENT / side), np.float32(0.5)
    lanes = np.zeros((3, LANES), np.float32)
    squared, nearest = np.empty((len(places), LANES), np.float32), np.empty((len(places), LANES), np.int32)
    spare, references = np.empty(cloud.shape[0], np.float32), np.empty((4, k), np.float32)
    kept = np.empty(cloud.shape[0], np.int32)
    numbers, used = np.empty(1 << 15, np.int32), 0
    x, y, z = np.empty(1 << 15, np.float32), np.empty(1 << 15, np.float32), np.empty(1 << 15, np.float32)
    first = 0
    while first < len(voxels):
        end = first
        while end < len(voxels) and end < first + LANES and around[end] == around[first]:
            voxel = voxels[end]
            lanes[0, end - first] = (voxel // (side * side) + half) * width - extent
            lanes[1, end - first] = (voxel // side % side + half) * width - extent
            lanes[2, end - first] = (voxel % side + half) * width - extent
            end += 1
        old, size = old_start[around[first]], old_count[around[first]]
        search_lanes(old_x, old_y, old_z, old_numbers, old, old + size, lanes, squared, nearest, places)
        cx, cy, cz = old_x[old : old + size], old_y[old : old + size], old_z[old : old + size]
        while used + LANES * size > len(numbers):
            numbers, x, y, z = _longer(numbers), _longer(x), _longer(y), _longer(z)
        for lane in range(end - first):
            voxel = voxels[first + lane]
            for j in range(k):
                number, references[3, j] = nearest[j, lane], squared[j, lane]
                for axis in range(3):
                    references[axis, j] = cloud[number, axis]
            _room(cx, cy, cz, lanes[0, lane], lanes[1, lane], lanes[2, lane], references, width, slack, spare)
            left = 0
            for entry in range(size):
                kept[left] = entry
                left += spare[entry] >= 0
            for place in range(left):
                entry = kept[place]
                numbers[used + place] = old_numbers[old + entry]
                x[used + place], y[used + place], z[used + place] = cx[entry], cy[entry], cz[entry]
            start[voxel], count[voxel] = used, left
            used += left
        first = end
    return numbers[:used], x[:used], y[:used], z[:used]


@numba.njit(cache=True, nogil=True)
@no_type_check
def _longer(values):
    longer = np.empty(2 * len(values), values.dtype)
    longer[: len(values)] = values
    return longer


@numba.njit(cache=True, nogil=True, fastmath=ROUND)
@no_type_check
def _room(cx, cy, cz, x, y, z, references, width, slack, spare):
    """By how much each candidate may be nearer than the K points nearest to a voxel's centre (x, y, z), somewhere in
    the voxel, into `spare`; below 0 it cannot. Of each of these the plane halfway between decides."""
    one, slack = np.float32(1), np.float32(slack)
    for i in range(len(cx)):
        spare[i] = np.float32(-np.inf)
    for j in range(references.shape[1]):
        rx, ry, rz, own = references[0, j], references[1, j], references[2, j], references[3, j]
        for i in range(len(cx)):
            px, py, pz = cx[i], cy[i], cz[i]
            dx, dy, dz = x - px, y - py, z - pz
            squared = (dx * dx + dy * dy) + dz * dz
            apart = abs(px - rx) + abs(py - ry) + abs(pz - rz)
            spare[i] = max(spare[i], (width * apart + slack * max(squared, one)) - (squared - own))
