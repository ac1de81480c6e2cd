"""A U-Net whose way up can gather what many pictures show (InvertAvatar section 3.3 and supplementary 6.3).

    x_l = f_l(shuffle(h_{l+1}), trunk_l(picture)),     h_l = fuse_l(x_l)        l from coarsest to finest

with fuse_l one of

    none       h_l = tanh(x_l): one picture, one answer
    recurrent  h_l = ConvGRU(x_l, h_l of the frame before); the maps that come out are all that is kept
    window     h_l = tanh(conv(x_l of the last `WINDOW` frames)), the baseline "ConvFusion"

The two that remember begin close to what they are made from, a U-Net that has learned to answer to one picture: the
memory takes a good half of every frame, and the window the mean of its frames.
A level hears of the coarser level as it is after this very frame, so frames one by one and frames at once are the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as functional
from jaxtyping import Bool
from torch import Tensor, nn

from gpavatar.synthesis.conv_gru import ConvGRU, Gate
from gpavatar.synthesis.residual_trunk import LEVELS, Pyramid, ResidualTrunk, TrunkConfig

Fusion = Literal["none", "recurrent", "window"]
WINDOW = 4  # frames


@dataclass(frozen=True)
class FusionUNetConfig:
    """The way down, and how frames are brought together on the way up."""

    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    fusion: Fusion = "recurrent"
    gate: Gate = "keeps"

    @property
    def dims(self) -> tuple[int, ...]:
        """Channels of the maps on the way up, from the coarsest to the finest: 512, 384, 256 and 96 at width 64."""
        return tuple(self.trunk.width * share // 2 for share in (16, 12, 8, 3))


class FusionUNet(nn.Module):
    """See the head of this file."""

    def __init__(self, in_dim: int, config: FusionUNetConfig):
        super().__init__()
        self.config = config
        self.trunk = ResidualTrunk(in_dim, config.trunk)
        coarser = (0, *(dim // 4 for dim in config.dims))
        pairs = zip(coarser, config.trunk.dims, config.dims, strict=False)
        self.levels = nn.ModuleList(_double_conv(above + skip, dim) for above, skip, dim in pairs)
        self.fusions = nn.ModuleList(_fusion(config, dim) for dim in config.dims)

    def begin(self, taps: Pyramid) -> Pyramid:
        """h_0 = 0 for the maps of this size."""
        pairs = zip(taps.maps, self.config.dims, strict=True)
        return Pyramid(*(m.new_zeros(len(m), dim, *m.shape[2:]) for m, dim in pairs))

    def single(self, taps: Pyramid) -> Pyramid:
        """The answer to one frame by itself (fusion "none")."""
        return self._up(taps, lambda level, x: x.tanh())

    def step(self, taps: Pyramid, state: Pyramid, present: Bool[Tensor, " batch"] | None = None) -> Pyramid:
        """The state after one more frame (fusion "recurrent"); as it was where the frame is not `present`."""

        def remember(level: int, x: Tensor) -> Tensor:
            before = state.maps[level]
            after = self.fusions[level](x, before)
            return after if present is None else torch.where(present[:, None, None, None], after, before)

        return self._up(taps, remember)

    def window(self, taps: list[Pyramid]) -> Pyramid:
        """The answer to up to `WINDOW` frames (fusion "window"), the last of which fills what is left of it."""
        assert 1 <= len(taps) <= WINDOW
        taps = taps + [taps[-1]] * (WINDOW - len(taps))
        stacked = Pyramid(*(torch.stack(maps, 1).flatten(0, 1) for maps in zip(*(t.maps for t in taps), strict=True)))

        def compress(level: int, x: Tensor) -> Tensor:
            fused = self.fusions[level](x.unflatten(0, (-1, WINDOW)).flatten(1, 2)).tanh()
            return fused.repeat_interleave(WINDOW, 0)  # every frame's next level goes on from it

        fused = self._up(stacked, compress)
        return Pyramid(*(m[::WINDOW] for m in fused.maps))

    def _up(self, taps: Pyramid, fuse) -> Pyramid:
        states: list[Tensor] = []
        for level in range(LEVELS):
            x = taps.maps[level]
            if states:
                x = torch.cat([functional.pixel_shuffle(states[-1], 2), x], 1)
            states.append(fuse(level, self.levels[level](x)))
        return Pyramid(*states)


def _double_conv(in_dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_dim, out_dim, 3, padding=1),
        nn.PReLU(out_dim),
        nn.Conv2d(out_dim, out_dim, 3, padding=1),
        nn.PReLU(out_dim),
    )


def _fusion(config: FusionUNetConfig, dim: int) -> nn.Module:
    if config.fusion == "recurrent":
        return ConvGRU(dim, config.gate)
    if config.fusion == "window":
        return _mean_at_first(nn.Conv2d(WINDOW * dim, dim, 3, padding=1), dim)
    return nn.Identity()


def _mean_at_first(conv: nn.Conv2d, dim: int) -> nn.Conv2d:
    """The mean of the window's frames, until something better is learned."""
    nn.init.zeros_(conv.bias)
    nn.init.zeros_(conv.weight)
    with torch.no_grad():
        for frame in range(WINDOW):
            conv.weight[range(dim), range(frame * dim, (frame + 1) * dim), 1, 1] = 1 / WINDOW
    return conv
