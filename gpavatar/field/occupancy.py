"""Which parts of the cube [-1, 1]³ a person can be in, whatever the face does: elsewhere nobody needs to look.

The density is taken at the corners of voxels for a number of fields of one person, one per expression. A voxel with a
corner of more than `LEAST` is filled, and so are its neighbours: between two expressions, and between two corners,
nothing moves or is smaller than a voxel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from jaxtyping import Bool, Float
from torch import Tensor

SIDE = 24  # voxels, of 1.7 cm
LEAST = 1e-3  # density per unit that counts: through the whole cube it adds up to less than half a step of 8 bits

Density = Callable[[Float[Tensor, "point 3"]], Float[Tensor, " point"]]


@dataclass(frozen=True)
class Occupancy:
    """Voxels that may hold something."""

    filled: Bool[Tensor, "side side side"]  # by x, y, z

    def at(self, points: Float[Tensor, "*batch 3"]) -> Bool[Tensor, "*batch"]:
        """Whether there can be something; False outside the cube."""
        side = len(self.filled)
        x, y, z = ((points + 1) * (side / 2)).long().clamp(0, side - 1).unbind(-1)
        return self.filled[x, y, z] & (points.abs() <= 1).all(-1)

    def places(self) -> Float[Tensor, "place 3"]:
        """The centres of the eighths of the filled voxels."""
        fine = self.filled.repeat_interleave(2, 0).repeat_interleave(2, 1).repeat_interleave(2, 2)
        return (fine.nonzero() + 0.5) / len(self.filled) - 1


def find_occupancy(densities: Iterable[Density], device: torch.device, side: int = SIDE) -> Occupancy:
    """See the head of this file; `densities` are those of one person, one per expression."""
    steps = torch.linspace(-1, 1, side + 1, device=device)
    corners = torch.cartesian_prod(steps, steps, steps)
    most = torch.zeros(len(corners), device=device)
    for density in densities:
        most = torch.maximum(most, density(corners))
    there = (most > LEAST).float().reshape(1, 1, side + 1, side + 1, side + 1)
    voxels = functional.max_pool3d(there, 2, stride=1)
    return Occupancy(functional.max_pool3d(voxels, 3, stride=1, padding=1)[0, 0] > 0)
