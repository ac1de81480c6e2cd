"""StyleUNet: a U-Net whose way up steers a StyleGAN2 decoder, after GFPGAN (Wang et al. 2021b).

The way down ends in the style code; the way up gives, per resolution, a scale and a shift for the decoder's features
(spatial feature transform): x <- x · scale + shift. GPAvatar has one from image to tri-planes and one for
super-resolution (sections 3.1 and 3.4, appendix A.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor, nn

from gpavatar.synthesis.style_layers import SLOPE, ResBlock, StyleConv, StyleMlp, ToOutput, leaky_over

# Channels by resolution at full width, of the U-Net and of the decoder.
UNET_CHANNELS = {4: 256, 8: 256, 16: 256, 32: 256, 64: 128, 128: 64, 256: 32, 512: 16, 1024: 8}
DECODER_CHANNELS = {4: 512, 8: 512, 16: 512, 32: 512, 64: 256, 128: 128, 256: 64, 512: 32, 1024: 16}


@dataclass(frozen=True)
class StyleUNetConfig:
    """A square image in, a square image out; sizes are powers of two from 8 to 1024."""

    in_size_px: int = 512
    """At most twice `out_size_px`; a smaller image is enlarged to `out_size_px` first."""
    out_size_px: int = 256
    in_dim: int = 3
    out_dim: int = 96
    style_dim: int = 512
    mlp_depth: int = 8
    width: float = 1.0
    """Factor on all numbers of channels."""
    noise: Literal["fresh", "stored"] = "fresh"
    """In training: new noise for every image, or what the checkpoint holds. Afterwards always the latter: a video
    whose noise changes flickers."""

    def channels(self, table: dict[int, int], size_px: int) -> int:
        """Of this resolution at this width."""
        return max(8, round(table[size_px] * self.width))


class StyleUNet(nn.Module):
    """See the head of this file."""

    def __init__(self, config: StyleUNetConfig):
        super().__init__()
        self.config = config
        inner, outer = config.out_size_px, config.in_size_px
        unet = {size: config.channels(UNET_CHANNELS, size) for size in UNET_CHANNELS}
        sizes = [4 * 2**level for level in range(1, inner.bit_length() - 2)]  # 8, 16, ... out_size
        if outer > 2 * inner:
            raise ValueError(f"the input ({outer} px) is more than twice as large as the output ({inner} px)")
        if outer > inner:
            self.stem = nn.Conv2d(config.in_dim, unet[outer], 1)
            self.shrink = ResBlock(unet[outer], unet[inner], 0.5)
        else:
            self.stem, self.shrink = nn.Conv2d(config.in_dim, unet[inner], 1), None
        self.down = nn.ModuleList(ResBlock(unet[size], unet[size // 2], 0.5) for size in reversed(sizes))
        self.bottom = nn.Conv2d(unet[4], unet[4], 3, padding=1)
        self.to_style = nn.Linear(unet[4] * 16, config.style_dim)
        self.up = nn.ModuleList(ResBlock(unet[size // 2], unet[size], 2.0) for size in sizes)
        decoder = {size: config.channels(DECODER_CHANNELS, size) for size in DECODER_CHANNELS}
        self.scale = nn.ModuleList(_transform(unet[size], decoder[size]) for size in sizes)
        self.shift = nn.ModuleList(_transform(unet[size], decoder[size]) for size in sizes)
        self.decoder = StyleDecoder(config)

    def forward(self, image: Float[Tensor, "batch in height width"]) -> Float[Tensor, "batch out height2 width2"]:
        """Raw values; no activation at the end."""
        size = self.config.out_size_px
        if image.shape[-1] < size:
            image = functional.interpolate(image, (size, size), mode="bilinear", align_corners=False)
        x = leaky_over(self.stem(image))
        if self.shrink is not None:
            x = self.shrink(x)
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
        x = leaky_over(self.bottom(x))
        style = self.to_style(x.flatten(1))
        transforms = []
        for block, scale, shift in zip(self.up, self.scale, self.shift, strict=True):
            x = block(x + skips.pop())
            transforms.append((scale(x), shift(x)))
        return self.decoder(style, transforms)


class StyleDecoder(nn.Module):
    """StyleGAN2's synthesis network with a spatial feature transform between the two convolutions of each level."""

    def __init__(self, config: StyleUNetConfig):
        super().__init__()
        self.config = config
        style_dim = config.style_dim
        sizes = [4 * 2**level for level in range(config.out_size_px.bit_length() - 2)]  # 4, 8, ... out_size
        dims = [config.channels(DECODER_CHANNELS, size) for size in sizes]
        self.style_mlp = StyleMlp(style_dim, config.mlp_depth)
        self.constant = nn.Parameter(torch.randn(1, dims[0], 4, 4))
        self.first = StyleConv(dims[0], dims[0], style_dim)
        self.first_output = ToOutput(dims[0], config.out_dim, style_dim)
        pairs = list(zip(dims, dims[1:], strict=False))
        self.grow = nn.ModuleList(StyleConv(coarse, fine, style_dim, upsample=True) for coarse, fine in pairs)
        self.refine = nn.ModuleList(StyleConv(fine, fine, style_dim) for _, fine in pairs)
        self.outputs = nn.ModuleList(ToOutput(fine, config.out_dim, style_dim) for _, fine in pairs)
        for number, size in enumerate([4, *(size for size in sizes[1:] for _ in range(2))]):
            self.register_buffer(f"noise{number}", torch.randn(1, 1, size, size))

    def forward(
        self,
        code: Float[Tensor, "batch style"],
        transforms: list[tuple[Float[Tensor, "batch _ _ _"], Float[Tensor, "batch _ _ _"]]],
    ) -> Float[Tensor, "batch out height width"]:
        """`transforms` are scale and shift per level from 8 px on."""
        style = self.style_mlp(code)
        batch = len(code)
        x = self.first(self.constant.expand(batch, -1, -1, -1), style, self._noise(0, batch))
        image = self.first_output(x, style)
        for level, (scale, shift) in enumerate(transforms):
            x = torch.addcmul(shift, self.grow[level](x, style, self._noise(2 * level + 1, batch)), scale)
            x = self.refine[level](x, style, self._noise(2 * level + 2, batch))
            image = self.outputs[level](x, style, image)
        return image

    def _noise(self, number: int, batch: int) -> Float[Tensor, "_ 1 height width"]:
        stored = getattr(self, f"noise{number}")
        if self.training and self.config.noise == "fresh":
            return torch.randn(batch, *stored.shape[1:], dtype=stored.dtype, device=stored.device)
        return stored


def _transform(in_dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_dim, in_dim, 3, padding=1), nn.LeakyReLU(SLOPE), nn.Conv2d(in_dim, out_dim, 3, padding=1)
    )
