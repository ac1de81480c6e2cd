"""Between a mesh, its texture and pictures of it.

A texture is `channel height width` over the atlas `topology.uv`: texel (row, column) is centred at
((column + 0.5) / width, (row + 0.5) / height). Each texel of an island knows its triangle and barycentrics
(`texel_map`); a photo is brought into the atlas by `unproject`, and back into pictures by `sample`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from gpavatar.camera import Camera
from gpavatar.face.morphable import HeadTopology
from gpavatar.face.raster import Fragments, fast_path, interpolate, rasterize, to_screen, vertex_normals

MAX_SLOPE = 6.0  # surface tilts beyond atan(6) = 80° are given no more depth tolerance


@dataclass(frozen=True)
class TexelMap:
    """The surface point of every texel; where `valid` is false no island covers the texel (face id −1, bary 0)."""

    face_ids: Int[Tensor, "height width"]
    bary: Float[Tensor, "height width 3"]
    valid: Bool[Tensor, "height width"]

    def on(
        self, attributes: Float[Tensor, "vert channel"], faces: Int[Tensor, "face 3"]
    ) -> Float[Tensor, "channel height width"]:
        """Vertex attributes (positions, normals, colours) at the texels; 0 in empty ones."""
        return interpolate(Fragments(self.face_ids, self.bary, self.valid.float()), attributes, faces)


@dataclass(frozen=True)
class UnprojectedTexture:
    """One picture seen as a texture."""

    colour: Float[Tensor, "channel height width"]  # the picture's channels, also where `weight` is 0 (then meaningless)
    weight: Float[Tensor, "1 height width"]  # [0, 1], visibility × cosine between surface normal and view direction


def texel_map(topology: HeadTopology, size: int) -> TexelMap:
    """Rasterise the atlas at `size` × `size` texels. Kept for the last few topologies and sizes."""
    return _texel_map(topology.uv, topology.uv_faces, size)


@lru_cache(maxsize=8)
def _texel_map(uv: Tensor, uv_faces: Tensor, size: int) -> TexelMap:
    flat = torch.cat([uv * size, torch.ones_like(uv[:, :1])], -1)
    fragments = rasterize(flat, uv_faces, size, size)
    return TexelMap(fragments.face_ids, fragments.bary, fragments.covered)


def unproject(
    image: Float[Tensor, "channel image_height image_width"],
    camera: Camera,
    verts: Float[Tensor, "vert 3"],
    topology: HeadTopology,
    texel_map: TexelMap,
) -> UnprojectedTexture:
    """What the picture shows at each texel's place on the mesh, and how well it shows it.

    colour = image(π(x)) (bilinear), weight = visible(x) · max(0, n · v) with x the texel's point, n its normal and v
    the direction to the camera. `visible` compares the depth of x with the mesh's z-buffer in the four pixels around
    π(x), with a tolerance of what a pixel spans on the tilted surface. Differentiable in the image; in the vertices
    through π and the cosine.
    """
    height_px, width_px = image.shape[-2:]
    points = texel_map.on(verts, topology.faces).flatten(1).T
    normals = functional.normalize(texel_map.on(vertex_normals(verts, topology.faces), topology.faces).flatten(1).T)
    to_camera = functional.normalize(camera.c2w[:3, 3] - points)
    cosine = (normals * to_camera).sum(-1).clamp(0, 1)

    x_px, y_px, z = to_screen(points, camera, width_px, height_px).unbind(-1)
    grid = torch.stack([2 * x_px / width_px - 1, 2 * y_px / height_px - 1], -1)[None, None]
    colour = functional.grid_sample(image[None], grid, padding_mode="border", align_corners=False)[0, :, 0]

    seen = rasterize(to_screen(verts, camera, width_px, height_px), topology.faces, height_px, width_px)
    buffer = torch.where(seen.covered, seen.depth, torch.inf)
    slope = ((1 - cosine**2).clamp_min(0).sqrt() / cosine.clamp_min(1e-6)).clamp_max(MAX_SLOPE)
    pixel_size = z / (camera.intrinsics[0] * width_px)
    farthest_seen = z - pixel_size * (1 + slope)
    visible = _share_not_nearer(buffer, x_px, y_px, farthest_seen.detach())
    inside = (x_px >= 0) & (x_px <= width_px) & (y_px >= 0) & (y_px <= height_px) & texel_map.valid.flatten()
    weight = visible * cosine * inside
    shape = texel_map.valid.shape
    return UnprojectedTexture(colour.reshape(-1, *shape), weight.reshape(1, *shape))


def _share_not_nearer(
    buffer: Float[Tensor, "height width"],
    x_px: Float[Tensor, " point"],
    y_px: Float[Tensor, " point"],
    depth: Float[Tensor, " point"],
) -> Float[Tensor, " point"]:
    """Bilinear share of the four pixels around a point in which the z-buffer is not nearer than `depth`."""
    height, width = buffer.shape
    x0, y0 = (x_px.detach() - 0.5).floor(), (y_px.detach() - 0.5).floor()
    share = torch.zeros_like(depth)
    for dx in (0, 1):
        for dy in (0, 1):
            column, row = (x0 + dx).clamp(0, width - 1).long(), (y0 + dy).clamp(0, height - 1).long()
            part = (1 - (x_px.detach() - 0.5 - x0 - dx).abs()) * (1 - (y_px.detach() - 0.5 - y0 - dy).abs())
            share = share + part * (buffer[row, column] >= depth)
    return share


def dilate(
    texture: Float[Tensor, "channel height width"], valid: Bool[Tensor, "height width"], iterations: int
) -> Float[Tensor, "channel height width"]:
    """Grow the valid texels by `iterations` texels: an empty texel takes the mean of its valid 3 × 3 neighbours.

    Bilinear sampling near the border of an island then never meets an empty texel. Texels further away become 0.
    """
    known = valid[None, None].to(texture.dtype)
    filled = texture[None] * known
    for _ in range(iterations):
        share = functional.avg_pool2d(known, 3, stride=1, padding=1)
        mean = functional.avg_pool2d(filled, 3, stride=1, padding=1) / share.clamp_min(1e-6)
        filled = torch.where(known > 0, filled, mean)
        known = (share > 0).to(texture.dtype)
    return filled[0]


def sample(
    texture: Float[Tensor, "channel tex_height tex_width"],
    fragments: Fragments,
    uv: Float[Tensor, "uv_vert 2"],
    uv_faces: Int[Tensor, "face 3"],
    backend: str = "auto",
) -> Float[Tensor, "*batch channel height width"]:
    """The texture (colour, alpha, any channels) at the fragments, bilinear, clamped at the atlas border; 0 elsewhere.

    Differentiable in the texture and in `fragments.bary`; where no gradient is asked for, "auto" takes the numba
    kernel on the CPU.
    """
    if fast_path(backend, texture, fragments.bary):
        from gpavatar.face import raster_numba  # numba is optional, and takes a second to import

        return raster_numba.sample(texture, fragments.face_ids, fragments.bary, uv, uv_faces)
    batch = fragments.face_ids.shape[:-2]
    where = interpolate(fragments, uv, uv_faces, "torch")
    grid = 2 * where.reshape(-1, *where.shape[-3:]).permute(0, 2, 3, 1) - 1
    source = texture.expand(len(grid), -1, -1, -1)
    sampled = functional.grid_sample(source, grid, padding_mode="border", align_corners=False)
    return sampled.reshape(*batch, *sampled.shape[1:]) * fragments.covered.unsqueeze(-3)
