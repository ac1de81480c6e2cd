"""The way down of the encoders: a residual network with squeeze and excitation, as face recognition has them.

Of the plan of IR-SE-50 (Deng et al. 2019; Hu et al. 2018), with the norm taken over groups of channels of one picture
instead of the batch: what a picture gives does not depend on the pictures beside it, nor on whether the network learns.
Nobody's weights are needed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor, nn

from gpavatar.synthesis.style_layers import leaky

LEVELS = 4
GROUP_DIM = 8  # channels that share a norm
SQUEEZE = 4


@dataclass(frozen=True)
class Pyramid:
    """Feature maps of a picture, from a sixteenth of its size to a half."""

    sixteenth: Float[Tensor, "batch _ _ _"]
    eighth: Float[Tensor, "batch _ _ _"]
    quarter: Float[Tensor, "batch _ _ _"]
    half: Float[Tensor, "batch _ _ _"]

    @property
    def maps(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """From the coarsest to the finest."""
        return self.sixteenth, self.eighth, self.quarter, self.half


@dataclass(frozen=True)
class TrunkConfig:
    """Numbers of units, and of channels, of the four stages from the finest to the coarsest; IR-SE-50."""

    units: list[int] = field(default_factory=lambda: [3, 4, 14, 3])
    width: int = 64
    """Channels of the finest stage, a multiple of 8; they double from stage to stage."""

    @property
    def dims(self) -> tuple[int, ...]:
        """Channels of the maps, from the coarsest to the finest."""
        return tuple(self.width * 2**level for level in reversed(range(LEVELS)))


class ResidualTrunk(nn.Module):
    """A picture -> a pyramid."""

    def __init__(self, in_dim: int, config: TrunkConfig):
        super().__init__()
        if config.width % GROUP_DIM or len(config.units) != LEVELS or min(config.units) < 1:
            raise ValueError(f"a trunk has {LEVELS} stages of at least one unit, and a width that 8 divides: {config}")
        self.stem = nn.Sequential(
            nn.Conv2d(in_dim, config.width, 3, padding=1), _norm(config.width), nn.PReLU(config.width)
        )
        before, stages = config.width, []
        for dim, count in zip(reversed(config.dims), config.units, strict=True):
            stages.append(nn.Sequential(Unit(before, dim, 2), *(Unit(dim, dim, 1) for _ in range(count - 1))))
            before = dim
        self.stages = nn.ModuleList(stages)

    def forward(self, picture: Float[Tensor, "batch channel size size"]) -> Pyramid:
        """`size` is a multiple of 16."""
        x, maps = self.stem(picture), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return Pyramid(*reversed(maps))


class Unit(nn.Module):
    """x -> skip(x) + excite(f(x)), f two convolutions, the second of which may halve the size."""

    def __init__(self, in_dim: int, out_dim: int, stride: int):
        super().__init__()
        self.inner = nn.Sequential(
            _norm(in_dim),
            nn.Conv2d(in_dim, out_dim, 3, padding=1, bias=False),
            _norm(out_dim),
            nn.PReLU(out_dim),
            nn.Conv2d(out_dim, out_dim, 3, stride, padding=1, bias=False),
            _norm(out_dim),
        )
        self.squeeze = nn.Linear(out_dim, out_dim // SQUEEZE)
        self.excite = nn.Linear(out_dim // SQUEEZE, out_dim)
        self.skip = nn.Conv2d(in_dim, out_dim, 1, bias=False) if in_dim != out_dim else nn.Identity()
        self.stride = stride

    def forward(self, x: Float[Tensor, "batch in height width"]) -> Float[Tensor, "batch out height2 width2"]:
        """Excitation: each channel times what all channels' means say of it, in (0, 1)."""
        inner = self.inner(x)
        share = self.excite(leaky(self.squeeze(inner.mean((2, 3))))).sigmoid()
        skip = self.skip(functional.avg_pool2d(x, 2) if self.stride == 2 else x)
        return skip + inner * share[..., None, None]


def _norm(dim: int) -> nn.GroupNorm:
    return nn.GroupNorm(dim // GROUP_DIM, dim)
