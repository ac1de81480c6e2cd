"""The three encoders of InvertAvatar (section 3.2, supplementary 6.3): what of a picture goes where in the prior.

    E_latent  picture                          -> W+ styles, on top of the mean style
    E_tex     atlas: picture, residual, seen   -> offsets of the neural texture
    E_tri     picture, residual                -> scale and shift inside the static generator

Pictures enter as 2 I − 1, residuals as I − Î (the paper's sign; the released code has Î − I), both 0 where there is
nothing to see. The last layers begin at zero: an untrained encoder leaves the coarse avatar as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor, nn

from gpavatar.avatars.face_generator import NeuralTexture
from gpavatar.synthesis.fusion_unet import FusionUNet, FusionUNetConfig
from gpavatar.synthesis.residual_trunk import Pyramid, ResidualTrunk, TrunkConfig
from gpavatar.synthesis.style_generator import FeatureTransform
from gpavatar.synthesis.style_layers import SLOPE, leaky

COARSE_STYLES, MIDDLE_STYLES = 3, 4  # layers that are read from the coarsest map and from the next; then the rest


class LatentEncoder(nn.Module):
    """E_latent: e4e's plan (Tov et al. 2021), coarse styles from coarse maps, on a trunk of our own."""

    def __init__(self, config: TrunkConfig, num_styles: int, style_dim: int):
        super().__init__()
        self.trunk = ResidualTrunk(3, config)
        dim = config.dims[0]
        self.laterals = nn.ModuleList(nn.Conv2d(below, dim, 1) for below in config.dims[1:3])
        middle = min(MIDDLE_STYLES, num_styles - COARSE_STYLES)
        counts = [COARSE_STYLES, middle, num_styles - COARSE_STYLES - middle]
        self.heads = nn.ModuleList(StyleHead(dim, count, style_dim) for count in counts if count)

    def forward(self, picture: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch layer style"]:
        """[0, 1], the person on black -> what is to be added to the mean style."""
        pyramid = self.trunk(2 * picture - 1)
        maps = [pyramid.sixteenth]
        for lateral, finer in zip(self.laterals, (pyramid.eighth, pyramid.quarter), strict=True):
            enlarged = functional.interpolate(maps[-1], finer.shape[-2:], mode="bilinear", align_corners=False)
            maps.append(enlarged + lateral(finer))
        return torch.cat([head(level) for head, level in zip(self.heads, maps, strict=False)], 1)


class StyleHead(nn.Module):
    """A map -> some layers of styles: halved down to 4 × 4, then linear."""

    SIDE = 4

    def __init__(self, dim: int, count: int, style_dim: int):
        super().__init__()
        self.down = nn.Conv2d(dim, dim, 3, stride=2, padding=1)
        self.out = nn.Linear(dim * self.SIDE**2, count * style_dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.count = count

    def forward(self, x: Float[Tensor, "batch channel size size"]) -> Float[Tensor, "batch layer style"]:
        """The same kernel at every halving."""
        while x.shape[-1] > self.SIDE:
            x = leaky(self.down(x))
        x = functional.adaptive_avg_pool2d(x, self.SIDE)
        return self.out(x.flatten(1)).unflatten(1, (self.count, -1))


class TextureEncoder(nn.Module):
    """E_tex, and E_tex_rec with a memory: in the atlas a texel of the input is the texel of the output."""

    IN_DIM = 7

    def __init__(self, config: FusionUNetConfig, shapes: tuple[tuple[int, int], ...], size_px: int):
        """`shapes`: (channels, side) of the parts of the neural texture."""
        super().__init__()
        self.net = FusionUNet(self.IN_DIM, config)
        self.heads = nn.ModuleList(MapHead(config, size_px, dim, size) for dim, size in shapes)

    def forward(self, maps: Pyramid) -> NeuralTexture:
        """F_tex_off from what the U-Net found."""
        return NeuralTexture(*(head(maps) for head in self.heads))


class PlaneEncoder(nn.Module):
    """E_tri, and E_tri_rec with a memory: transforms of half of the static generator's features, coarse to fine."""

    IN_DIM = 6

    def __init__(self, config: FusionUNetConfig, shapes: tuple[tuple[int, int], ...], size_px: int):
        """`shapes`: (channels that are transformed, side) of the static generator's resolutions."""
        super().__init__()
        self.net = FusionUNet(self.IN_DIM, config)
        self.heads = nn.ModuleList(MapHead(config, size_px, 2 * dim, size) for dim, size in shapes)

    def forward(self, maps: Pyramid) -> tuple[FeatureTransform, ...]:
        """F_tri_SFT from what the U-Net found."""
        return tuple(FeatureTransform(*head(maps).chunk(2, 1)) for head in self.heads)


class PlaneOffsetEncoder(nn.Module):
    """Ablation "E_tri offsets" (Table 3): what is to be added to the static planes."""

    IN_DIM = 6

    def __init__(self, config: FusionUNetConfig, shape: tuple[int, int], size_px: int):
        """`shape`: (channels of all three planes, side)."""
        super().__init__()
        self.net = FusionUNet(self.IN_DIM, config)
        self.head = MapHead(config, size_px, *shape)

    def forward(self, maps: Pyramid) -> Float[Tensor, "batch 3 channel size size"]:
        """The offsets."""
        return self.head(maps).unflatten(1, (3, -1))


class MapHead(nn.Module):
    """The map of one side -> channels of that side, by two 1 × 1 convolutions; what is larger than the finest map is
    made from that by a 3 × 3 convolution more."""

    def __init__(self, config: FusionUNetConfig, size_px: int, out_dim: int, out_size: int):
        super().__init__()
        sides = [size_px // 16 * 2**level for level in range(len(config.dims))]
        self.level = sides.index(min(out_size, sides[-1])) if out_size >= sides[0] else 0
        dim, self.out_size = config.dims[self.level], out_size
        refine = [nn.Conv2d(dim, dim, 3, padding=1), nn.LeakyReLU(SLOPE)] if out_size > sides[-1] else []
        self.layers = nn.Sequential(
            *refine, nn.Conv2d(dim, dim, 1), nn.LeakyReLU(SLOPE), last := nn.Conv2d(dim, out_dim, 1)
        )
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, maps: Pyramid) -> Float[Tensor, "batch out side side"]:
        """Raw values."""
        x = maps.maps[self.level]
        if x.shape[-1] != self.out_size:
            x = functional.interpolate(x, (self.out_size,) * 2, mode="bilinear", align_corners=False, antialias=True)
        return self.layers(x)


@dataclass(frozen=True)
class FoundMaps:
    """What both U-Nets know; of recurrent ones also all that they keep."""

    texture: Pyramid
    plane: Pyramid
