"""Nearest neighbours by other people's libraries: scipy's k-d tree, FAISS.

Both compute distances in their own way and say nothing about ties, so each is asked for a few points more than wanted;
these are ranked anew by the rule of `gpavatar.field.knn`. A row whose ranking a point further off could still change,
by a tie or within the library's rounding, is done by brute force.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from gpavatar.field.knn import BruteIndex, smallest, squared_distance

SPARE = 4  # points asked for beyond k
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-12}  # of d², times the scale of the coordinates squared


class ScipyIndex:
    """A k-d tree per cloud; CPU."""

    def __init__(self, cloud: Float[Tensor, "batch vert 3"], k: int):
        self.cloud, self.k = cloud, k
        self._ask = min(k + SPARE, cloud.shape[1])
        self._trees = [cKDTree(one.double().cpu().numpy()) for one in cloud]

    def query(self, points: Float[Tensor, "batch sample 3"]) -> Int[Tensor, "batch sample k"]:
        """See `gpavatar.field.knn.NearestIndex`."""
        found = []
        for one, tree, cloud in zip(points.detach(), self._trees, self.cloud, strict=True):
            _, numbers = tree.query(one.double().cpu().numpy(), self._ask, workers=-1)
            numbers = torch.from_numpy(numbers.reshape(-1, self._ask)).to(cloud.device)
            found.append(_ranked(one, cloud, numbers, self.k))
        return torch.stack(found)


class FaissIndex:
    """FAISS's exhaustive search by inner products, one index per cloud; on the CPU."""

    def __init__(self, cloud: Float[Tensor, "batch vert 3"], k: int):
        import faiss

        self.cloud, self.k = cloud, k
        self._ask = min(k + SPARE, cloud.shape[1])
        self._indices = []
        for one in cloud:
            index = faiss.IndexFlatL2(3)
            index.add(np.ascontiguousarray(one.float().cpu().numpy()))
            self._indices.append(index)

    def query(self, points: Float[Tensor, "batch sample 3"]) -> Int[Tensor, "batch sample k"]:
        """See `gpavatar.field.knn.NearestIndex`."""
        found = []
        for one, index, cloud in zip(points.detach(), self._indices, self.cloud, strict=True):
            _, numbers = index.search(np.ascontiguousarray(one.float().cpu().numpy()), self._ask)
            found.append(_ranked(one, cloud, torch.from_numpy(numbers).to(cloud.device), self.k))
        return torch.stack(found)


def _ranked(
    points: Float[Tensor, "sample 3"], cloud: Float[Tensor, "vert 3"], numbers: Int[Tensor, "sample ask"], k: int
) -> Int[Tensor, "sample k"]:
    """The first k of the points asked for by (d², number); rows in doubt by brute force."""
    squared = squared_distance(points[:, None], cloud[numbers])
    first = smallest(squared, numbers, k)
    if numbers.shape[1] == cloud.shape[0]:
        return first
    scale = torch.maximum(points.square().sum(-1), cloud.square().sum(-1).max())
    kth = squared_distance(points, cloud[first[:, -1]])
    doubtful = (squared.amax(-1) - kth <= ROUNDING[points.dtype] * scale).nonzero()[:, 0]
    if len(doubtful):
        first[doubtful] = BruteIndex(cloud[None], k).query(points[None, doubtful])[0]
    return first
