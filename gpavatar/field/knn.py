"""The K points of a cloud that are nearest to each query, exactly, anywhere in space.

Backends build an index per cloud (per frame) and answer queries with point numbers, the nearest first. All agree to
the last number, also between points that are equally far: nearest means smallest (d², number), with

    d² = (dx·dx + dy·dy) + dz·dz    in the precision of the query

whatever a backend computes inside. Indices have no gradient: distances are taken anew from the points found.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gpavatar.field.twin import choose_twin

Backend = Literal["auto", "torch", "numba", "scipy", "faiss", "brute", "triton"]


@runtime_checkable
class NearestIndex(Protocol):
    """A cloud, prepared to be asked."""

    def query(self, points: Float[Tensor, "batch sample 3"]) -> Int[Tensor, "batch sample k"]: ...


TREE_QUERIES = 25_000  # per cloud; up to here a k-d tree is done before the voxels' lists stand (decision 0084)


def nearest_index(
    cloud: Float[Tensor, "batch vert 3"], k: int, backend: Backend = "auto", num_queries: int = TREE_QUERIES
) -> NearestIndex:
    """Prepare `cloud` for queries of `k` neighbours.

    "torch" keeps candidate lists per voxel and runs on any device; "numba" is the same for a CPU, float32. "scipy" (a
    k-d tree, CPU), "faiss" (when installed) and "brute" (every distance; the readable twin) serve where they are faster
    or as a check. "auto" on a CPU: scipy for few queries (`num_queries` per cloud, in all) and float64, else numba;
    elsewhere "triton" (the same lists, no wait for the device; CUDA, float32) where it is installed, else torch.
    Raises ValueError for fewer than `k` points.
    """
    if cloud.shape[1] < k:
        raise ValueError(f"{k} neighbours were asked of a cloud of {cloud.shape[1]} points")
    if backend == "auto":
        on_cpu, few = cloud.device.type == "cpu", num_queries <= TREE_QUERIES or cloud.dtype == torch.float64
        compiled = choose_twin("fast", cloud.device, gradient=False) == "triton" and cloud.dtype == torch.float32
        backend = ("scipy" if few else "numba") if on_cpu else "triton" if compiled else "torch"
    return _builder(backend)(cloud.detach(), k)


def _builder(backend: Backend) -> Callable[[Tensor, int], NearestIndex]:
    if backend == "torch":
        from gpavatar.field.knn_voxel import VoxelIndex

        return VoxelIndex
    if backend == "numba":
        from gpavatar.field.knn_numba import NumbaIndex

        return NumbaIndex
    if backend == "triton":
        from gpavatar.field.knn_triton import TritonIndex

        return TritonIndex
    if backend == "brute":
        return BruteIndex
    from gpavatar.field import knn_trees

    return {"scipy": knn_trees.ScipyIndex, "faiss": knn_trees.FaissIndex}[backend]


class BruteIndex:
    """Every distance, then the smallest."""

    CHUNK = 2**24  # distances held at once

    def __init__(self, cloud: Float[Tensor, "batch vert 3"], k: int):
        self.cloud, self.k = cloud, k

    def query(self, points: Float[Tensor, "batch sample 3"]) -> Int[Tensor, "batch sample k"]:
        """See `NearestIndex`."""
        step = max(1, self.CHUNK // self.cloud.shape[1])
        every = torch.arange(self.cloud.shape[1], device=points.device)
        found = [
            torch.cat([smallest(squared_distance(piece[:, None], cloud), every, self.k) for piece in one.split(step)])
            for one, cloud in zip(points.detach(), self.cloud, strict=True)
        ]
        return torch.stack(found)


def squared_distance(a: Float[Tensor, "*#batch 3"], b: Float[Tensor, "*#batch 3"]) -> Float[Tensor, "*batch"]:
    """|a − b|² in the order of operations that decides ties."""
    dx, dy, dz = (a[..., axis] - b[..., axis] for axis in range(3))
    return (dx * dx + dy * dy) + dz * dz


def smallest(
    squared: Float[Tensor, "row column"], numbers: Int[Tensor, "*#row column"], k: int
) -> Int[Tensor, "row k"]:
    """Of each row the `k` entries with the smallest (d², number), in that order; `numbers` names the columns.

    The bits of a float >= 0 are in the order of its value, so that d² and number pack into one integer to be compared.
    """
    numbers = numbers.expand(squared.shape)
    if squared.dtype == torch.float32:
        keys = (squared.contiguous().view(torch.int32).long() << 32) | numbers
        return keys.topk(k, dim=-1, largest=False).values & 0xFFFFFFFF
    by_number = numbers.argsort(dim=-1, stable=True)
    order = by_number.gather(-1, squared.gather(-1, by_number).argsort(dim=-1, stable=True))
    return numbers.gather(-1, order[..., :k])
