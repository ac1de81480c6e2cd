"""New light on a rendered portrait: one lamp and an even rest, by the normals of the head mesh.

A photo's own light is taken for even. The irradiance of a lamp from the unit direction l at a normal n, its clamped
cosine c = n · l, is expanded up to second order of the spherical harmonics, as any lit convex Lambertian body may be to
within 2 % (Ramamoorthi and Hanrahan, An efficient representation for irradiance environment maps, 2001):

    E(c) = 1/4 + c/2 + 5/32 (3 c² − 1)        gain = (rest + lamp · E(c)) / mean over the face

It multiplies the linear colours. Hair and body, of which no normals are known, take the gain of the nearest skin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gpavatar.camera import Camera
from gpavatar.face.open_head import OpenHead
from gpavatar.face.raster import interpolate, rasterize, to_screen, vertex_normals
from gpavatar.media.inpaint import push_pull

EXTREMES = (0.35, 1.9)  # of a gain


@dataclass(frozen=True)
class StillLight:
    """Light in the camera's axes (x right, y down, z away)."""

    towards: Float[Tensor, "3"]  # unit vector to the lamp
    lamp: Float[Tensor, "3"]  # linear RGB
    rest: Float[Tensor, "3"]
    exposure: float

    @staticmethod
    def random(rng: np.random.Generator, strength: float = 1.0) -> StillLight:
        """A lamp from anywhere in front, mostly above the eyes; `strength` 0 changes nothing."""
        azimuth, elevation = rng.uniform(-1.4, 1.4), rng.uniform(-0.2, 1.0)
        flat = math.cos(elevation)
        towards = torch.tensor([flat * math.sin(azimuth), -math.sin(elevation), -flat * math.cos(azimuth)])
        warm = rng.normal(0, 0.07) * strength
        tint = torch.tensor([1 + warm, 1.0, 1 - warm])
        lamp = strength * rng.uniform(0.25, 1.3) * tint
        return StillLight(towards.float(), lamp.float(), 1 / tint.float(), math.exp(0.12 * strength * rng.normal()))

    def gain(self, normals: Float[Tensor, "3 height width"]) -> Float[Tensor, "3 height width"]:
        """What linear colours are multiplied with at unit normals in the camera's axes, not yet divided by its mean."""
        cosine = (normals * self.towards[:, None, None]).sum(0)
        irradiance = 0.25 + cosine / 2 + 5 / 32 * (3 * cosine**2 - 1)
        return self.rest[:, None, None] + self.lamp[:, None, None] * irradiance


def relit(
    image: Float[Tensor, "3 size size"],
    alpha: Float[Tensor, "1 size size"],
    light: StillLight,
    head: OpenHead,
    verts: Float[Tensor, "vert 3"],
    camera: Camera,
) -> Float[Tensor, "3 size size"]:
    """A rendered person (sRGB) in another light; the background stays as it is."""
    size = image.shape[-1]
    seen = rasterize(to_screen(verts, camera, size, size), head.faces, size, size)
    turned = vertex_normals(verts, head.faces) @ camera.w2c[:3, :3].T
    normals = torch.nn.functional.normalize(interpolate(seen, turned, head.faces), dim=0)
    on_head = interpolate(seen, head.head_weight[:, None], head.faces).clamp(0, 1) * seen.covered
    gain = light.gain(normals)
    mean = (gain.mean(0, keepdim=True) * on_head).sum() / on_head.sum().clamp_min(1)
    gain = push_pull((gain / mean * light.exposure).clamp(*EXTREMES), on_head)
    linear = image.clamp(0, 1) ** 2.2
    # 1 − (1 − x)^g is about g x where it is dark, and comes closer to white without reaching it.
    lit = torch.where(gain > 1, 1 - (1 - linear) ** gain, linear * gain)
    return torch.lerp(image, lit ** (1 / 2.2), alpha).clamp(0, 1)
