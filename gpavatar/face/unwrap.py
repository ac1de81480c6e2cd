"""Pictures of a head laid out in its texture atlas, and which of the surface they show (InvertAvatar section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gpavatar.camera import Camera
from gpavatar.face.morphable import HeadTopology
from gpavatar.face.uv import texel_map, unproject

FACING = 0.1  # cosine between surface and view direction from which on a texel counts as seen


@dataclass(frozen=True)
class Unwrapped:
    """Pictures in the atlas."""

    picture: Float[Tensor, "batch channel size size"]  # 0 where the surface is not seen
    visible: Float[Tensor, "batch 1 size size"]  # 1 where it is seen, else 0


@torch.no_grad()
def unwrap(
    pictures: Float[Tensor, "batch channel height width"],
    camera: Camera,
    verts: Float[Tensor, "batch vert 3"],
    topology: HeadTopology,
    size: int,
) -> Unwrapped:
    """Every texel takes the picture where its point of the surface falls, if nothing stands before that point and the
    surface faces the camera by more than `FACING`. `face.uv.sample` of what comes out is the picture again."""
    texels = texel_map(topology, size)
    seen = [unproject(picture, camera[index], verts[index], topology, texels) for index, picture in enumerate(pictures)]
    visible = torch.stack([(one.weight > FACING).to(pictures.dtype) for one in seen])
    return Unwrapped(torch.stack([one.colour for one in seen]) * visible, visible)
