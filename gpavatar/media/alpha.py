"""Alpha against colours: the compositing equation I = alpha F + (1 - alpha) B, solved for alpha or for F."""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from jaxtyping import Float
from torch import Tensor


def refine_alpha(
    image: Float[Tensor, "3 height width"],
    coarse: Float[Tensor, "channel height width"],
    radius_px: int = 4,
    tolerance: float = 1e-4,
) -> Float[Tensor, "channel height width"]:
    """Soft masks that follow the image's edges: the colour guided filter.

    In every window of side 2 radius + 1 the mask is a linear function of colour, a . I + b, with (a, b) the ridge
    regression of `coarse` on I (penalty `tolerance`, a variance of colour); a pixel gets the mean over its windows.
    Values in [0, 1]. Source: He, Sun and Tang, Guided Image Filtering, 2013, eqs. 14-16.
    """
    mean_i, mean_p = _box(image, radius_px), _box(coarse, radius_px)
    products = torch.einsum("ihw,jhw->ijhw", image, image).flatten(0, 1)
    covariance = _box(products, radius_px).unflatten(0, (3, 3)) - torch.einsum("ihw,jhw->ijhw", mean_i, mean_i)
    joint = torch.einsum("ihw,chw->ichw", image, coarse).flatten(0, 1)
    cross = _box(joint, radius_px).unflatten(0, (3, -1)) - torch.einsum("ihw,chw->ichw", mean_i, mean_p)
    ridge = covariance.permute(2, 3, 0, 1) + tolerance * torch.eye(3)
    slope = torch.linalg.solve(ridge, cross.permute(2, 3, 0, 1)).permute(2, 3, 0, 1)
    offset = mean_p - torch.einsum("ichw,ihw->chw", slope, mean_i)
    slope = _box(slope.flatten(0, 1), radius_px).unflatten(0, (3, -1))
    return (torch.einsum("ichw,ihw->chw", slope, image) + _box(offset, radius_px)).clamp(0, 1)


def _box(image: Tensor, radius_px: int) -> Tensor:
    """Mean over the part of a square window that lies inside the image."""
    side = 2 * radius_px + 1
    return nnf.avg_pool2d(image[None], side, stride=1, padding=radius_px, count_include_pad=False)[0]
