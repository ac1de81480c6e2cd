"""Rays through the pixels of a camera, and the part of each that lies in the cube [-1, 1]³ around the head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gpavatar.camera import Camera

PixelGrid = Literal["centres", "corners"]


@dataclass(frozen=True)
class Rays:
    """x(t) = origin + t · dir, for t in [near, far]. Rays are numbered row by row, from the upper left pixel."""

    origins: Float[Tensor, "batch ray 3"]
    dirs: Float[Tensor, "batch ray 3"]  # unit length
    near: Float[Tensor, "batch ray"]
    far: Float[Tensor, "batch ray"]  # near = far = 0, at the camera, for a ray that misses the cube
    hit: Bool[Tensor, "batch ray"]

    def at(self, t: Float[Tensor, "batch ray sample"]) -> Float[Tensor, "batch ray sample 3"]:
        """Points at these distances along the rays."""
        return self.origins[..., None, :] + t[..., None] * self.dirs[..., None, :]

    def split(self, num: int) -> list[Rays]:
        """The same rays in pieces of at most `num` per batch entry."""
        fields = (self.origins, self.dirs, self.near, self.far, self.hit)
        return [Rays(*piece) for piece in zip(*(field.split(num, dim=1) for field in fields), strict=True)]


def camera_rays(camera: Camera, size_px: int, grid: PixelGrid = "centres") -> Rays:
    """One ray per pixel of a square picture, cut to the cube.

    The pixel at (column i, row j) looks through ((i + ½)/size, (j + ½)/size). With grid "corners" the outermost pixel
    centres lie on the picture's edge, i/(size − 1), as in the authors' released code.
    """
    options = {"dtype": camera.c2w.dtype, "device": camera.c2w.device}
    edge = 1 - 1 / size_px if grid == "centres" else 1.0
    steps = torch.linspace(-edge, edge, size_px, **options)  # twice the picture's coordinates, from its middle
    v, u = torch.meshgrid(steps, steps, indexing="ij")
    uv = torch.stack([u, v], -1).flatten(0, 1)
    focal, centre = camera.intrinsics[:, None, :2], camera.intrinsics[:, None, 2:]
    xy = (uv - (2 * centre - 1)) / (2 * focal)
    view = torch.cat([xy, torch.ones_like(xy[..., :1])], -1)
    with torch.autocast(view.device.type, enabled=False):  # a direction of 8 bits would not find its pixel
        dirs = torch.nn.functional.normalize(view @ camera.c2w[:, :3, :3].transpose(-1, -2), dim=-1)
    origins = camera.c2w[:, None, :3, 3].expand_as(dirs)
    near, far, hit = cube_span(origins, dirs)
    return Rays(origins, dirs, near, far, hit)


def cube_span(
    origins: Float[Tensor, "batch ray 3"], dirs: Float[Tensor, "batch ray 3"]
) -> tuple[Float[Tensor, "batch ray"], Float[Tensor, "batch ray"], Bool[Tensor, "batch ray"]]:
    """Where each ray, from its origin on, enters and leaves [-1, 1]³, and whether it does (slab method).

    A ray along an axis is nudged by 1e-9, so that no 0/0 arises on a face of the cube.
    """
    safe = torch.where(dirs.abs() < 1e-9, torch.full_like(dirs, 1e-9), dirs)
    first, second = (-1 - origins) / safe, (1 - origins) / safe
    near = torch.minimum(first, second).amax(-1).clamp_min(0)
    far = torch.maximum(first, second).amin(-1)
    hit = far > near
    zero = torch.zeros_like(near)
    return torch.where(hit, near, zero), torch.where(hit, far, zero), hit
