"""Features at points in space from three axis-aligned planes that span the cube [-1, 1]³."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor

AXES = "xyz"
PLANES = ("xy", "xz", "yz")


def project(points: Float[Tensor, "batch sample 3"], planes: tuple[str, ...]) -> Float[Tensor, "batch plane sample 2"]:
    """Where each point falls on each plane: (column, row) in [-1, 1], as the plane's name says ("xz": x right, z down).

    Rows run with the axis: row 0 is -1.
    """
    columns, rows = ([AXES.index(name[axis]) for name in planes] for axis in (0, 1))
    return torch.stack([points[..., columns], points[..., rows]], -1).transpose(1, 2)


def sample_planes(
    planes: Float[Tensor, "batch 3 channel height width"],
    points: Float[Tensor, "batch sample 3"],
    names: tuple[str, ...] = PLANES,
    reduce: Literal["mean", "sum", "concat"] = "mean",
) -> Float[Tensor, "batch sample feat"]:
    """Bilinear lookup in each plane, then the mean, the sum, or all channels side by side.

    A plane of n texels spans [-1, 1], the first centre at -1 + 1/n; outside it is zero. Exact for features that are
    linear in the coordinates, between the outermost centres. Differentiable to planes and points.
    """
    batch = points.shape[0]
    at = project(points, names).flatten(0, 1)[:, None]
    precise = torch.promote_types(planes.dtype, points.dtype)  # places are never rounded to half precision
    found = functional.grid_sample(planes.flatten(0, 1).to(precise), at.to(precise), align_corners=False)
    found = found[:, :, 0].unflatten(0, (batch, len(names)))
    if reduce == "concat":
        return found.permute(0, 3, 1, 2).flatten(2)
    found = found.mean(1) if reduce == "mean" else found.sum(1)
    return found.transpose(1, 2)
