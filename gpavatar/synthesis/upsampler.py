"""Super-resolution: rendered features at low resolution -> the image (GPAvatar section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor, nn

from gpavatar.synthesis.style_layers import to_colour
from gpavatar.synthesis.style_unet import StyleUNet, StyleUNetConfig


@dataclass(frozen=True)
class UpsamplerConfig:
    """A StyleUNet like the encoder's, and how its output becomes a colour."""

    net: StyleUNetConfig = field(
        default_factory=lambda: StyleUNetConfig(in_size_px=512, out_size_px=512, in_dim=32, out_dim=3)
    )
    widened_sigmoid: bool = False
    """RGB = 1.002 sigmoid − 0.001 (released) instead of the plain sigmoid."""


class Upsampler(nn.Module):
    """Features, enlarged bilinearly, through a StyleUNet to RGB."""

    def __init__(self, config: UpsamplerConfig | None = None):
        super().__init__()
        self.config = config or UpsamplerConfig()
        self.net = StyleUNet(self.config.net)

    def forward(self, feats: Float[Tensor, "batch feat small small"]) -> Float[Tensor, "batch 3 size size"]:
        """[0, 1] (widened: a thousandth beyond)."""
        return to_colour(self.net(feats), self.config.widened_sigmoid)
