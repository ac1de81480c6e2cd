"""A moving face in planes that stand still: where the face is drawn, its features replace the static ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor

from gpavatar.triplane.lookup import PLANES


@dataclass(frozen=True)
class FacePlane:
    """A square window of the plane called `plane`: what the face looks like there, and how much of it is the face's."""

    plane: str
    feats: Float[Tensor, "batch channel size size"]
    alpha: Float[Tensor, "batch 1 alpha_size alpha_size"]  # [0, 1]


def with_face(
    static: Float[Tensor, "batch 3 channel height width"], face: FacePlane, column: int, row: int, side: int
) -> Float[Tensor, "batch 3 channel height width"]:
    """alpha · face + (1 − alpha) · static in the window; every texel outside stays as it is.

    `column` and `row` are the window's first texel, `side` how many it has each way. Features and alpha are brought to
    this size: the mean over each texel, or bilinear where they have fewer.
    """
    feats, alpha = (_sized(one.to(static.dtype), side) for one in (face.feats, face.alpha))
    window = (slice(None), PLANES.index(face.plane), slice(None), slice(row, row + side), slice(column, column + side))
    blended = static.clone()
    blended[window] = torch.lerp(static[window], feats, alpha.expand_as(feats))
    return blended


def _sized(image: Float[Tensor, "batch channel size size"], side: int) -> Float[Tensor, "batch channel side side"]:
    if image.shape[-1] == side:
        return image
    return functional.interpolate(image, (side, side), mode="bilinear", align_corners=False, antialias=True)
