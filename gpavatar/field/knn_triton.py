"""Nearest neighbours in Triton: voxel lists of fixed size, built by two launches, asked by one; the host never waits.

The lists are those of `knn_voxel.py` (its head has the bound and why it is exact), with two differences that make
their size known beforehand. A voxel of a tier has room for `capacity` points; one that would need more is marked, and
its queries go to the coarser tier around it, and from there, or from outside the cube, to all points. And the K
reference points of a voxel need not be its nearest for the bound to hold: each lane of a block keeps the nearest of
its share of the candidates, and the K nearest of those serve.

Ties are broken by keys: the bits of d² (of a float >= 0 they are in its order) above the number of the point. d² must
round as in `squared_distance`, so that products and sums may not be contracted: `enable_fp_fusion=False`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

SLACK = tl.constexpr(2e-5)  # as in `knn_voxel.py`, for float32
EMPTY = tl.constexpr(0x7FFFFFFFFFFFFFFF)  # a key that is behind every other


@dataclass(frozen=True)
class Tier:
    """A cut of the cube into side³ voxels with room for so many points each."""

    side: int
    capacity: int


# The open head has 32 points in a voxel of the fine tier in the mean; crowded ones (eyes, mouth) use the coarse tier.
TIERS = (Tier(8, 2048), Tier(32, 256))


class TritonIndex:
    """See `gpavatar.field.knn.NearestIndex`; float32. Memory: 4 B times the room of both tiers (38 MB) per cloud."""

    def __init__(
        self,
        cloud: Float[Tensor, "batch vert 3"],
        k: int,
        tiers: tuple[Tier, Tier] = TIERS,
        build_block: int = 256,
        query_block: int = 64,
    ):
        self.cloud, self.k, self.tiers, self.block = cloud.contiguous(), k, tiers, query_block
        batch, num = cloud.shape[:2]
        self.lists, self.counts = [], []
        parent, block = Tier(1, 1), max(build_block, triton.next_power_of_2(k))
        numbers = counts = torch.empty(0, dtype=torch.int32, device=cloud.device)
        for tier in tiers:
            above, above_counts, voxels = numbers, counts, tier.side**3
            numbers = torch.empty(batch, voxels, tier.capacity, dtype=torch.int32, device=cloud.device)
            counts = torch.empty(batch, voxels, dtype=torch.int32, device=cloud.device)
            with torch.cuda.device_of(cloud):
                _build[(voxels, batch)](
                    self.cloud, above, above_counts, numbers, counts, num,
                    FIRST=tier is tiers[0], K=k, SIDE=tier.side, CAPACITY=tier.capacity,
                    PARENT_SIDE=parent.side, PARENT_CAPACITY=parent.capacity, BLOCK=block,
                    num_warps=4, enable_fp_fusion=False,
                )  # fmt: skip
            self.lists.append(numbers)
            self.counts.append(counts)
            parent = tier

    def query(self, points: Float[Tensor, "batch sample 3"]) -> Int[Tensor, "batch sample k"]:
        """See `gpavatar.field.knn.NearestIndex`."""
        return self.numbers(points).long()

    def numbers(self, points: Float[Tensor, "batch sample 3"]) -> Int[Tensor, "batch sample k"]:
        """The same as int32, which the fused kernels read."""
        points = points.detach().contiguous()
        batch, num = points.shape[:2]
        found = torch.empty(batch, num, self.k, dtype=torch.int32, device=points.device)
        coarse, fine = self.tiers
        with torch.cuda.device_of(points):
            _query[(triton.cdiv(num, self.block), batch)](
                points, self.cloud, *self.lists, *self.counts, found, num, self.cloud.shape[1],
                K=self.k, COARSE_SIDE=coarse.side, COARSE_CAPACITY=coarse.capacity, FINE_SIDE=fine.side,
                FINE_CAPACITY=fine.capacity, BLOCK=self.block,
                num_warps=max(1, self.block // 32), enable_fp_fusion=False,
            )  # fmt: skip
        return found


@triton.jit
@no_type_check
def _squared(ax, ay, az, bx, by, bz):
    """|a − b|² in the order of operations that decides ties."""
    dx, dy, dz = ax - bx, ay - by, az - bz
    return (dx * dx + dy * dy) + dz * dz


@triton.jit
@no_type_check
def _point(cloud, number, there, elsewhere=0.0):
    """Coordinates of the points with these numbers."""
    at = cloud + number * 3
    x = tl.load(at, mask=there, other=elsewhere)
    y = tl.load(at + 1, mask=there, other=elsewhere)
    z = tl.load(at + 2, mask=there, other=elsewhere)
    return x, y, z


@triton.jit
@no_type_check
def _key(squared, number):
    """(d², number) as one integer."""
    return (squared.to(tl.int32, bitcast=True).to(tl.int64) << 32) | number.to(tl.int64)


@triton.jit
@no_type_check
def _build(
    cloud, parent_lists, parent_counts, lists, counts, num_verts,
    FIRST: tl.constexpr, K: tl.constexpr, SIDE: tl.constexpr, CAPACITY: tl.constexpr,
    PARENT_SIDE: tl.constexpr, PARENT_CAPACITY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One voxel per program: which points can be among the K nearest somewhere in it."""
    voxel, entry = tl.program_id(0), tl.program_id(1).to(tl.int64)
    cloud += entry * num_verts * 3
    slot = entry * SIDE * SIDE * SIDE + voxel
    i, j, k = voxel // (SIDE * SIDE), voxel // SIDE % SIDE, voxel % SIDE
    cx, cy, cz = (i + 0.5) * (2.0 / SIDE) - 1, (j + 0.5) * (2.0 / SIDE) - 1, (k + 0.5) * (2.0 / SIDE) - 1

    total, listed = num_verts, False
    if not FIRST:
        step: tl.constexpr = SIDE // PARENT_SIDE
        parent = (i // step * PARENT_SIDE + j // step) * PARENT_SIDE + k // step
        parent_slot = entry * PARENT_SIDE * PARENT_SIDE * PARENT_SIDE + parent
        above = tl.load(parent_counts + parent_slot)
        listed = above <= PARENT_CAPACITY
        total = tl.where(listed, above, num_verts)
        parent_lists += parent_slot * PARENT_CAPACITY

    lane = tl.arange(0, BLOCK)
    nearest = tl.full((BLOCK,), EMPTY, tl.int64)
    for begin in range(0, total, BLOCK):
        at = begin + lane
        number = at
        if not FIRST:
            number = tl.where(listed, tl.load(parent_lists + at, mask=listed & (at < total), other=0), at)
        x, y, z = _point(cloud, number, at < total)
        key = _key(_squared(cx, cy, cz, x, y, z), number)
        nearest = tl.minimum(nearest, tl.where(at < total, key, EMPTY))

    xs, ys, zs = (), (), ()
    for _ in tl.static_range(K):
        first = tl.min(nearest, 0)
        nearest = tl.where(nearest == first, EMPTY, nearest)
        # Fewer candidates than K: a reference at infinity strikes nothing off.
        rx, ry, rz = _point(cloud, (first & 0xFFFFFFFF).to(tl.int32), first != EMPTY, float("inf"))
        xs, ys, zs = xs + (rx,), ys + (ry,), zs + (rz,)

    kept = 0
    lists += slot * CAPACITY
    for begin in range(0, total, BLOCK):
        at = begin + lane
        number = at
        if not FIRST:
            number = tl.where(listed, tl.load(parent_lists + at, mask=listed & (at < total), other=0), at)
        x, y, z = _point(cloud, number, at < total)
        squared = _squared(cx, cy, cz, x, y, z)
        slack = SLACK * tl.maximum(squared, 1.0)
        stays = lane < 0
        for r in tl.static_range(K):
            nearer = squared - _squared(cx, cy, cz, xs[r], ys[r], zs[r])
            reach = (2.0 / SIDE) * (tl.abs(x - xs[r]) + tl.abs(y - ys[r]) + tl.abs(z - zs[r]))
            stays |= nearer <= reach + slack
        stays &= at < total
        place = kept + tl.cumsum(stays.to(tl.int32), 0) - 1
        tl.store(lists + place, number, mask=stays & (place < CAPACITY))
        kept += tl.sum(stays.to(tl.int32), 0)
    tl.store(counts + slot, kept)


@triton.jit
@no_type_check
def _voxel(x, y, z, SIDE: tl.constexpr):
    """The voxel around a point of the cube."""
    half: tl.constexpr = SIDE * 0.5
    i = tl.minimum(tl.maximum(tl.floor((x + 1) * half), 0.0), SIDE - 1.0).to(tl.int32)
    j = tl.minimum(tl.maximum(tl.floor((y + 1) * half), 0.0), SIDE - 1.0).to(tl.int32)
    k = tl.minimum(tl.maximum(tl.floor((z + 1) * half), 0.0), SIDE - 1.0).to(tl.int32)
    return (i * SIDE + j) * SIDE + k


@triton.jit
@no_type_check
def _query(
    points, cloud, coarse_lists, fine_lists, coarse_counts, fine_counts, found, num, num_verts,
    K: tl.constexpr, COARSE_SIDE: tl.constexpr, COARSE_CAPACITY: tl.constexpr,
    FINE_SIDE: tl.constexpr, FINE_CAPACITY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One sample per lane, which keeps its K smallest keys in order, in registers."""
    entry = tl.program_id(1).to(tl.int64)
    sample = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = sample < num
    cloud += entry * num_verts * 3
    x, y, z = _point(points + entry * num * 3, sample, there)
    inside = (tl.abs(x) <= 1) & (tl.abs(y) <= 1) & (tl.abs(z) <= 1)

    fine = entry * FINE_SIDE * FINE_SIDE * FINE_SIDE + _voxel(x, y, z, FINE_SIDE)
    coarse = entry * COARSE_SIDE * COARSE_SIDE * COARSE_SIDE + _voxel(x, y, z, COARSE_SIDE)
    of_fine = tl.load(fine_counts + fine, mask=there & inside, other=FINE_CAPACITY + 1)
    in_fine = of_fine <= FINE_CAPACITY
    of_coarse = tl.load(coarse_counts + coarse, mask=there & inside & ~in_fine, other=COARSE_CAPACITY + 1)
    in_coarse = ~in_fine & (of_coarse <= COARSE_CAPACITY)
    count = tl.where(in_fine, of_fine, tl.where(in_coarse, of_coarse, num_verts))
    count = tl.where(there, count, 0)
    fine_lists += fine * FINE_CAPACITY
    coarse_lists += coarse * COARSE_CAPACITY

    best = ()
    for _ in tl.static_range(K):
        best = best + (tl.full((BLOCK,), EMPTY, tl.int64),)
    for candidate in range(tl.max(count, 0)):
        asked = candidate < count
        number = tl.load(fine_lists + candidate, mask=asked & in_fine, other=0)
        number += tl.load(coarse_lists + candidate, mask=asked & in_coarse, other=0)
        number = tl.where(in_fine | in_coarse, number, candidate)
        px, py, pz = _point(cloud, number, asked)
        key = tl.where(asked, _key(_squared(x, y, z, px, py, pz), number), EMPTY)
        better = ()
        for rank in tl.static_range(K):
            better = better + (tl.minimum(best[rank], key),)
            key = tl.maximum(best[rank], key)
        best = better
    found += entry * num * K
    for rank in tl.static_range(K):
        tl.store(found + sample * K + rank, (best[rank] & 0xFFFFFFFF).to(tl.int32), mask=there)
