"""The contours of the landmarks as a picture: what a discriminator is told about the expression (InvertAvatar 6.1)."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from gpavatar.face.landmarks import (
    BROW_LEFT,
    BROW_RIGHT,
    EYE_LEFT,
    EYE_RIGHT,
    FACE_OVAL,
    IRIS_LEFT,
    IRIS_RIGHT,
    LIPS_INNER,
    LIPS_OUTER,
)

# Closed contours, one list per channel: face and brows, eyes and irises, lips.
CONTOURS = (
    (FACE_OVAL, BROW_RIGHT, BROW_LEFT),
    (EYE_RIGHT, EYE_LEFT, IRIS_RIGHT[1:], IRIS_LEFT[1:]),
    (LIPS_OUTER, LIPS_INNER),
)
LINE_WIDTH = 1 / 128  # of the picture's side: standard deviation of the line's profile


def landmark_map(points: Float[Tensor, "batch 478 2"], size_px: int) -> Float[Tensor, "batch 3 {size_px} {size_px}"]:
    """exp(−d² / 2 w²) with d the distance to the nearest line of a channel's contours, w = `LINE_WIDTH`.

    `points` are MediaPipe's, as a share of the picture's side: (0, 0) upper left, (1, 1) lower right. Differentiable.
    """
    steps = (torch.arange(size_px, dtype=points.dtype, device=points.device) + 0.5) / size_px
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    pixels = torch.stack([columns, rows], -1).flatten(0, 1)
    channels = [_squared_distance(pixels, points[:, _lines(contours, points.device)]) for contours in CONTOURS]
    return torch.exp(torch.stack(channels, 1) / (-2 * LINE_WIDTH**2)).unflatten(2, (size_px, size_px))


def _squared_distance(
    pixels: Float[Tensor, "pixel 2"], lines: Float[Tensor, "batch line 2 2"]
) -> Float[Tensor, "batch pixel"]:
    """From each pixel to the nearest of the line segments; one line after the other, which saves memory."""
    nearest = torch.full((len(lines), len(pixels)), torch.inf, dtype=pixels.dtype, device=pixels.device)
    for start, end in zip(*lines.permute(2, 1, 0, 3), strict=True):
        along = end - start
        offset = pixels - start[:, None]
        share = (offset * along[:, None]).sum(-1) / along.square().sum(-1, keepdim=True).clamp_min(1e-12)
        apart = offset - share.clamp(0, 1)[..., None] * along[:, None]
        nearest = torch.minimum(nearest, apart.square().sum(-1))
    return nearest


def _lines(contours: tuple[tuple[int, ...], ...], device: torch.device) -> Int64[Tensor, "line 2"]:
    """First and last point of each line."""
    ends = [pair for contour in contours for pair in pairwise((*contour, contour[0]))]
    return torch.tensor(ends, device=device)
