"""The features that FID compares: Inception-v3 as Heusel et al. (2017) first used it, 2048 numbers a picture.

The network is a TorchScript file: a program. It is only loaded after its sha256 has been found to be the known one.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gpavatar import assets

SIDE_PX = 299


class Inception(nn.Module):
    """Pictures in [0, 1] -> features of the last pooling. AssetError where the network cannot be had."""

    def __init__(self):
        super().__init__()
        self.network = torch.jit.load(assets.fetch("inception"), map_location="cpu").eval()

    @torch.no_grad()
    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 2048"]:
        """(255 x − 128) / 128 at 299 x 299, enlarged or reduced as TensorFlow 1 did, then the network."""
        return self.network((255 * resized_as_tensorflow(image, SIDE_PX, SIDE_PX) - 128) / 128)


def resized_as_tensorflow(
    image: Float[Tensor, "batch channel height width"], height_px: int, width_px: int
) -> Float[Tensor, "batch channel {height_px} {width_px}"]:
    """Bilinear with the upper left pixels' centres on each other: out[i] = in[i · size_in / size_out], no antialiasing.

    This shifts the picture by up to half a pixel, and every published FID has been measured so.
    """
    rows = _interpolation(image.shape[2], height_px).to(image)
    columns = _interpolation(image.shape[3], width_px).to(image)
    return rows @ image @ columns.T


def _interpolation(size_in: int, size_out: int) -> Float[Tensor, "{size_out} {size_in}"]:
    position = torch.arange(size_out) * (size_in / size_out)
    low = position.long()
    share = position - low
    matrix = torch.zeros(size_out, size_in)
    matrix.scatter_add_(1, low[:, None], 1 - share[:, None])
    return matrix.scatter_add_(1, (low + 1).clamp_max(size_in - 1)[:, None], share[:, None])
