"""The canonical feature encoder: a photo, brought upright by its head pose -> three planes (GPAvatar section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor, nn

from gpavatar.camera import Camera
from gpavatar.synthesis.style_unet import StyleUNet, StyleUNetConfig
from gpavatar.triplane.lookup import PLANES


@dataclass(frozen=True)
class EncoderConfig:
    """A StyleUNet from 3 × 512 × 512 to 3 planes × 32 × 256 × 256."""

    net: StyleUNetConfig = field(
        default_factory=lambda: StyleUNetConfig(in_size_px=512, out_size_px=256, in_dim=3, out_dim=96)
    )
    planes: tuple[str, str, str] = PLANES
    """What the columns and rows of each plane are; released: xy, xz, zy."""
    flipped: bool = True
    """Images go in upside down, since rows of a plane run with +y and rows of an image against it."""


class CanonicalEncoder(nn.Module):
    """E(I): aligned images -> tri-planes. Nothing asks for a neutral expression: that is the other field's part."""

    def __init__(self, config: EncoderConfig | None = None):
        super().__init__()
        self.config = config or EncoderConfig()
        self.net = StyleUNet(self.config.net)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 channel size size"]:
        """Images in [0, 1], as `align` gives them; planes are without bounds."""
        planes = self.net(images.flip(-2) if self.config.flipped else images)
        return planes.unflatten(1, (3, -1))


def align(
    images: Float[Tensor, "batch 3 height width"], camera: Camera, size_px: int
) -> Float[Tensor, "batch 3 {size_px} {size_px}"]:
    """The photo as it falls on the square [-1, 1]² in the plane z = 0 of head space, row 0 at y = 1; 0 where it ends.

    The head is upright, centred and of one size in all photos (section 3.1: "affine transformations ... using estimated
    head poses"), and the pixel at (x, y) is where the plane "xy" has its feature.
    """
    steps = (torch.arange(size_px, dtype=images.dtype, device=images.device) + 0.5) * (2 / size_px) - 1
    y, x = torch.meshgrid(-steps, steps, indexing="ij")
    square = torch.stack([x, y, torch.zeros_like(x)], -1).flatten(0, 1)
    with torch.autocast(images.device.type, enabled=False):  # places of 8 bits would be blocks of pixels
        at = camera.project(square.expand(len(images), -1, -1)).unflatten(1, (size_px, size_px))
    return functional.grid_sample(images, at * 2 - 1, align_corners=False)
