"""Rendered features -> the image, by two or more style blocks (EG3D, section 4.3)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor, nn

from gpavatar.synthesis.style_layers import StyleConv, ToOutput, resized


@dataclass(frozen=True)
class SuperResolutionConfig:
    """`len(channels)` blocks, each of which doubles the side: `in_size_px` 128 and two blocks make 512 px."""

    in_size_px: int = 128  # what is rendered smaller is enlarged to this
    channels: list[int] = field(default_factory=lambda: [256, 128])

    @property
    def out_size_px(self) -> int:
        """Side of the image."""
        return self.in_size_px * 2 ** len(self.channels)


class SuperResolution(nn.Module):
    """Each block: convolution with upsampling, convolution, and its share of the image. Without noise, which would not
    follow the head."""

    def __init__(self, config: SuperResolutionConfig, in_dim: int, style_dim: int):
        super().__init__()
        self.config = config
        dims = [in_dim, *config.channels]
        pairs = list(zip(dims, dims[1:], strict=False))
        self.grow = nn.ModuleList(StyleConv(coarse, fine, style_dim, upsample=True) for coarse, fine in pairs)
        self.refine = nn.ModuleList(StyleConv(fine, fine, style_dim) for _, fine in pairs)
        self.outputs = nn.ModuleList(ToOutput(fine, 3, style_dim) for _, fine in pairs)
        for conv in [*self.grow, *self.refine]:
            conv.noise_strength.requires_grad_(False)

    def forward(
        self, feats: Float[Tensor, "batch channel small small"], style: Float[Tensor, "batch style"]
    ) -> Float[Tensor, "batch 3 size size"]:
        """The first three channels are RGB in [0, 1]; the result too, but for what overshoots."""
        size = self.config.in_size_px
        if feats.shape[-1] != size:
            feats = functional.interpolate(feats, (size, size), mode="bilinear", align_corners=False, antialias=True)
        x, image = feats, feats[:, :3]
        for grow, refine, output in zip(self.grow, self.refine, self.outputs, strict=True):
            x = refine(grow(x, style, None), style, None)
            image = output(x, style) + resized(image, 2.0)
        return image
