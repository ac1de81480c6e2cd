"""Nearest neighbours through candidate lists per voxel, in plain torch on any device.

The cube [-1, 1]³ is cut into voxels. A voxel's list holds every point that is among the K nearest of some place in it.
With centre c, side h and any K reference points r_j,

    p stays on the list  unless  for all j:  |c − p|² − |c − r_j|²  >  h · ‖p − r_j‖₁ ,

for |q − p|² − |q − r_j|² is linear in q and changes by at most h · ‖p − r_j‖₁ between the centre and a corner: a point
that is struck off is farther than K others everywhere in the voxel. Lists are built from coarse to fine, each voxel
from the list of the one around it, with the K nearest points of its centre as references. Places outside the cube have
the list of all points.

Lists differ in length; queries are grouped by the length of their list, and each group is one dense search.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gpavatar.field.knn import smallest, squared_distance

LEVELS = (4, 8, 16, 32)  # voxels per side, coarse to fine
CHUNK_CPU, CHUNK_GPU = 2**17, 2**23  # candidate distances held at once; on a CPU what fits its cache
SLACK = {torch.float32: 2e-5, torch.float64: 1e-12}  # more than d² is rounded by, per unit of d² (and at least 1)


@dataclass(frozen=True)
class _Lists:
    """Candidates of every voxel of every batch entry; the last list of an entry is that of all its points."""

    side: int  # voxels per side; 0: only the list of all points
    start: Int[Tensor, " lists"]
    count: Int[Tensor, " lists"]
    numbers: Int[Tensor, " entries"]  # of points, counted through the batch

    def of(self, points: Float[Tensor, "sample 3"], entry: Int[Tensor, " sample"]) -> Int[Tensor, " sample"]:
        """The list that holds all neighbours of each point."""
        voxels = self.side**3
        at = ((points + 1) * (self.side / 2)).floor().clamp(0, max(self.side - 1, 0)).long()
        inside = (points.abs() <= 1).all(-1)
        voxel = (at[:, 0] * self.side + at[:, 1]) * self.side + at[:, 2]
        return entry * (voxels + 1) + torch.where(inside & (voxels > 0), voxel, voxels)


class VoxelIndex:
    """See the head of this file. Building takes about as long as a million queries on a CPU: one index per frame."""

    def __init__(self, cloud: Float[Tensor, "batch vert 3"], k: int, levels: tuple[int, ...] = LEVELS):
        batch, num = cloud.shape[:2]
        self.cloud, self.k = cloud, k
        self._points = cloud.flatten(0, 1)
        self._chunk = CHUNK_CPU if cloud.device.type == "cpu" else CHUNK_GPU
        every = torch.arange(batch * num, device=cloud.device)
        start = torch.arange(batch, device=cloud.device) * num
        self._lists = _Lists(0, start, torch.full_like(start, num), every)
        for side in levels:
            self._lists = self._refined(side)

    def query(self, points: Float[Tensor, "batch sample 3"]) -> Int[Tensor, "batch sample k"]:
        """See `gpavatar.field.knn.NearestIndex`."""
        batch, num = points.shape[:2]
        entry = torch.arange(batch, device=points.device).repeat_interleave(num, output_size=batch * num)
        found = self._query(points.detach().flatten(0, 1), entry)
        return (found - (entry * self.cloud.shape[1])[:, None]).unflatten(0, (batch, num))

    def _query(self, points: Float[Tensor, "sample 3"], entry: Int[Tensor, " sample"]) -> Int[Tensor, "sample k"]:
        lists = self._lists
        of = lists.of(points, entry)
        count = lists.count[of]
        # Groups by length: up to 16 √2^g candidates. The one wait of a query for the device is for their sizes.
        group = (2 * (count.float() / 16).log2()).ceil().clamp_min(0).long()
        order = group.argsort()
        sizes = group.bincount().tolist()
        found = points.new_empty(points.shape[0], self.k, dtype=torch.long)
        begin = 0
        for size, width in zip(sizes, (int(16 * 2 ** (g / 2)) for g in range(len(sizes))), strict=True):
            width = max(width, self.k)
            for rows in order[begin : begin + size].split(max(1, self._chunk // width)):
                found[rows] = self._search(points[rows], of[rows], width)
            begin += size
        return found

    def _search(self, points: Tensor, of: Int[Tensor, " row"], width: int) -> Int[Tensor, "row k"]:
        """The nearest on lists of at most `width` candidates."""
        lists = self._lists
        place = torch.arange(width, device=points.device)
        there = place < lists.count[of][:, None]
        at = (lists.start[of][:, None] + place).clamp_max(len(lists.numbers) - 1)
        numbers = lists.numbers[at]
        squared = squared_distance(points[:, None], self._points[numbers])
        return smallest(torch.where(there, squared, torch.inf), numbers, self.k)

    def _refined(self, side: int) -> _Lists:
        """Lists for `side` voxels per side, from those that stand."""
        lists, (batch, num) = self._lists, self.cloud.shape[:2]
        assert side % max(lists.side, 1) == 0, "a voxel must lie in one coarser voxel"
        device, dtype = self.cloud.device, self.cloud.dtype
        steps = (torch.arange(side, dtype=dtype, device=device) + 0.5) * (2 / side) - 1
        centres = torch.cartesian_prod(steps, steps, steps).repeat(batch, 1)
        entry = torch.arange(batch, device=device).repeat_interleave(side**3, output_size=len(centres))
        references = self._points[self._query(centres, entry)]

        parent = lists.of(centres, entry)
        count = lists.count[parent]
        total = int(count.sum())
        voxel = torch.arange(len(centres), device=device).repeat_interleave(count, output_size=total)
        first = (count.cumsum(0) - count)[voxel]
        numbers = lists.numbers[lists.start[parent][voxel] + torch.arange(total, device=device) - first]
        kept = torch.cat(
            [
                self._stays(self._points[number], centres[one], references[one], 2 / side)
                for number, one in zip(numbers.split(self._chunk), voxel.split(self._chunk), strict=True)
            ]
        )
        numbers, voxel = numbers[kept], voxel[kept]
        # Behind the voxels of each batch entry, the list of all its points.
        count = torch.bincount(voxel, minlength=len(centres)).reshape(batch, -1)
        start = (count.flatten().cumsum(0) - count.flatten()).reshape(batch, -1)
        every = torch.arange(batch * num, device=device)
        outside = len(numbers) + torch.arange(batch, device=device)[:, None] * num
        start = torch.cat([start, outside], 1).flatten()
        count = torch.cat([count, torch.full_like(outside, num)], 1).flatten()
        return _Lists(side, start, count, torch.cat([numbers, every]))

    def _stays(self, points: Tensor, centres: Tensor, references: Tensor, side: float) -> Tensor:
        squared = squared_distance(centres, points)
        slack = SLACK[points.dtype] * squared.clamp_min(1)
        stays = torch.zeros_like(squared, dtype=torch.bool)
        for reference in references.unbind(1):
            nearer = squared - squared_distance(centres, reference)
            stays |= nearer <= side * (points - reference).abs().sum(-1) + slack
        return stays
