"""Differences of pixels, over the whole picture or over a part of it.

Pictures are in [0, 1]. `weight` says how much each pixel counts, in [0, 1]; without it all count alike. Every function
gives one number per frame, NaN where nothing counts; averages over frames are the caller's.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

SSIM_SIGMA_PX, SSIM_RADIUS_PX = 1.5, 5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2
PSNR_CEILING_DB = 100.0  # of equal pictures, whose PSNR is infinite and would swallow every mean


def l1(
    output: Float[Tensor, "frame 3 height width"],
    target: Float[Tensor, "frame 3 height width"],
    weight: Float[Tensor, "frame 1 height width"] | None = None,
) -> Float[Tensor, " frame"]:
    """Σ m |x − y| / 3 Σ m of pictures in [0, 1]: in [0, 1]; lower is better."""
    return weighted_mean((output - target).abs(), weight)


def psnr(
    output: Float[Tensor, "frame 3 height width"],
    target: Float[Tensor, "frame 3 height width"],
    weight: Float[Tensor, "frame 1 height width"] | None = None,
) -> Float[Tensor, " frame"]:
    """−10 log₁₀(Σ m (x − y)² / 3 Σ m) dB of pictures in [0, 1], whose peak is 1: in [0, 100]; higher is better.

    The logarithm is taken per frame.
    """
    error = weighted_mean((output - target) ** 2, weight)
    return -10 * error.clamp_min(10 ** (-PSNR_CEILING_DB / 10)).log10()


def ssim(
    output: Float[Tensor, "frame 3 height width"],
    target: Float[Tensor, "frame 3 height width"],
    weight: Float[Tensor, "frame 1 height width"] | None = None,
) -> Float[Tensor, " frame"]:
    """Σ m s / 3 Σ m with s the map of `ssim_map`, of pictures in [0, 1]: in [-1, 1]; higher is better."""
    return weighted_mean(ssim_map(output, target), weight)


def ssim_map(
    output: Float[Tensor, "frame 3 height width"], target: Float[Tensor, "frame 3 height width"]
) -> Float[Tensor, "frame 3 height width"]:
    """Structural similarity around every pixel and channel of pictures in [0, 1], in [-1, 1].

    Wang et al. 2004, eq. 13, K₁ = 0.01, K₂ = 0.03, L = 1:
    s = (2 μ_x μ_y + C₁)(2 σ_xy + C₂) / (μ_x² + μ_y² + C₁)(σ_x² + σ_y² + C₂), moments under an 11 x 11 Gaussian of
    σ = 1.5 px; pictures are mirrored at their borders. torchmetrics computes the same with the Gaussian in two
    dimensions at once, several times slower.
    """
    rows, columns = (_gaussian_rows(size).to(output) for size in output.shape[-2:])
    moments = torch.cat([output, target, output**2 + target**2, output * target])
    mean_x, mean_y, square, product = (rows @ moments @ columns.T).chunk(4)
    mean_product, mean_square = mean_x * mean_y, mean_x**2 + mean_y**2
    contrast = (2 * (product - mean_product) + SSIM_C2) / (square - mean_square + SSIM_C2)
    return (2 * mean_product + SSIM_C1) / (mean_square + SSIM_C1) * contrast


def weighted_mean(
    values: Float[Tensor, "frame channel height width"], weight: Float[Tensor, "frame 1 height width"] | None
) -> Float[Tensor, " frame"]:
    """Σ m v / channels Σ m per frame; NaN where all weights are 0."""
    if weight is None:
        return values.mean((1, 2, 3))
    return (values * weight).sum((1, 2, 3)) / (values.shape[1] * weight.sum((1, 2, 3)))


def face_box(
    landmarks_px: Float[Tensor, "frame 478 2"], height_px: int, width_px: int
) -> Float[Tensor, "frame 1 {height_px} {width_px}"]:
    """1 for the pixels whose centres lie in the upright box around the landmarks, else 0; all 0 without landmarks."""
    low, high = landmarks_px.amin(1)[..., None, None], landmarks_px.amax(1)[..., None, None]
    x = torch.arange(width_px).to(landmarks_px) + 0.5
    y = torch.arange(height_px).to(landmarks_px)[:, None] + 0.5
    inside = (x >= low[:, 0]) & (x <= high[:, 0]) & (y >= low[:, 1]) & (y <= high[:, 1])
    return inside[:, None].to(landmarks_px)


def _gaussian_rows(size: int) -> Float[Tensor, "{size} {size}"]:
    """Filtering of a line of pixels as a matrix, mirrored (without doubling the last pixel) at both ends."""
    offsets = torch.arange(-SSIM_RADIUS_PX, SSIM_RADIUS_PX + 1)
    kernel = torch.exp(-0.5 * (offsets / SSIM_SIGMA_PX) ** 2)
    taken = (torch.arange(size)[:, None] + offsets).abs()
    taken = (size - 1) - (size - 1 - taken).abs()
    return torch.zeros(size, size).scatter_add_(1, taken, (kernel / kernel.sum()).expand(size, -1))
