"""The z-buffer of `raster.py` on the CPU, compiled by numba. Imported by `raster.py` and `uv.py` only, when asked for.

Each thread owns a band of rows and goes through all triangles, so that the result does not depend on the number of
threads. Kernels are marked `no_type_check`: numba must see the bare function, also where the tests put a shape check
around every function.
"""

from __future__ import annotations

import math
from typing import no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gpavatar.bands import in_bands


def rasterize(
    verts: Float[Tensor, "*batch vert 3"], faces: Int[Tensor, "face 3"], height_px: int, width_px: int, near: float
) -> tuple[
    Int[Tensor, "*batch height width"], Float[Tensor, "*batch height width 3"], Float[Tensor, "*batch height width"]
]:
    """Face ids, perspective-correct barycentrics and depth; see `raster.rasterize`."""
    batch = verts.shape[:-2]
    # Pages fresh from numpy: torch fills with threads of its own, which wait for each other on a busy machine.
    face_ids = torch.from_numpy(np.full((*batch, height_px, width_px), -1, np.int64))
    bary = torch.from_numpy(np.zeros((*batch, height_px, width_px, 3), np.float32))
    depth = torch.from_numpy(np.zeros((*batch, height_px, width_px), np.float32))
    triangles = faces.long().contiguous().numpy()
    frames = verts.reshape(-1, *verts.shape[-2:]).contiguous().numpy()
    outputs = (value.reshape(len(frames), *value.shape[len(batch) :]).numpy() for value in (face_ids, bary, depth))
    for frame in zip(frames, *outputs, strict=True):
        in_bands(height_px, lambda first, end, frame=frame: _band(frame[0], triangles, near, first, end, *frame[1:]))
    return face_ids, bary, depth


def interpolate(
    face_ids: Int[Tensor, "*batch height width"],
    bary: Float[Tensor, "*batch height width 3"],
    attributes: Float[Tensor, "*#batch vert channel"],
    faces: Int[Tensor, "face 3"],
) -> Float[Tensor, "*batch channel height width"]:
    """Vertex attributes at fragments; see `raster.interpolate`."""
    channels, triangles = attributes.shape[-1], faces.long().contiguous().numpy()
    values = attributes.detach().expand(*face_ids.shape[:-2], *attributes.shape[-2:])
    frames = values.reshape(-1, *attributes.shape[-2:]).contiguous().numpy()
    interpolated, views = _pictures(channels, face_ids, bary)
    for values, view in zip(frames, views, strict=True):
        in_bands(len(view[0]), lambda a, b, args=(values, triangles), view=view: _interpolate_band(*args, a, b, *view))
    return interpolated


def sample(
    texture: Float[Tensor, "channel tex_height tex_width"],
    face_ids: Int[Tensor, "*batch height width"],
    bary: Float[Tensor, "*batch height width 3"],
    uv: Float[Tensor, "uv_vert 2"],
    uv_faces: Int[Tensor, "face 3"],
) -> Float[Tensor, "*batch channel height width"]:
    """Bilinear lookup of a texture at fragments; see `uv.sample`."""
    fixed = tuple(value.detach().contiguous().numpy() for value in (texture, uv, uv_faces.long()))
    sampled, views = _pictures(len(texture), face_ids, bary)
    for view in views:
        in_bands(len(view[0]), lambda first, end, view=view: _sample_band(*fixed, first, end, *view))
    return sampled


def _pictures(channels: int, face_ids: Tensor, bary: Tensor) -> tuple[Tensor, list[tuple[np.ndarray, ...]]]:
    """An empty picture for fragments, and per frame the arrays (face ids, bary, picture) that share its memory."""
    height_px, width_px = face_ids.shape[-2:]
    pictures = torch.from_numpy(np.zeros((*face_ids.shape[:-2], channels, height_px, width_px), np.float32))
    shapes = ((face_ids, (height_px, width_px)), (bary, (height_px, width_px, 3)), (pictures, pictures.shape[-3:]))
    arrays = (value.detach().reshape(-1, *shape).contiguous().numpy() for value, shape in shapes)
    return pictures, list(zip(*arrays, strict=True))


@numba.njit(cache=True, nogil=True, inline="always")
@no_type_check
def _edge(ax, ay, bx, by, positive_area):
    """Start, direction, sign and closedness of an edge, always walked from its upper (then left) end."""
    swap = ay > by or (ay == by and ax > bx)
    ux, uy, lx, ly = (bx, by, ax, ay) if swap else (ax, ay, bx, by)
    positive = swap != positive_area
    dy = ly - uy
    closed = positive if dy == 0.0 else not positive
    return ux, uy, lx - ux, dy, 1.0 if positive else -1.0, closed


@numba.njit(cache=True, nogil=True)
@no_type_check
def _band(verts, faces, near, first_row, end_row, face_ids, bary, depth):
    width = face_ids.shape[1]
    nearest = np.zeros((end_row - first_row, width))  # 1 / z
    for face in range(faces.shape[0]):
        a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
        y_a, y_b, y_c = np.float64(verts[a, 1]), np.float64(verts[b, 1]), np.float64(verts[c, 1])
        y_min, y_max = min(y_a, y_b, y_c), max(y_a, y_b, y_c)
        if not (y_max >= first_row + 0.5 and y_min <= end_row - 0.5):
            continue
        x_a, x_b, x_c = np.float64(verts[a, 0]), np.float64(verts[b, 0]), np.float64(verts[c, 0])
        x_min, x_max = min(x_a, x_b, x_c), max(x_a, x_b, x_c)
        z_a, z_b, z_c = np.float64(verts[a, 2]), np.float64(verts[b, 2]), np.float64(verts[c, 2])
        if not (z_a > near and z_b > near and z_c > near and x_max >= 0.5 and x_min <= width - 0.5):
            continue
        area = (x_b - x_a) * (y_c - y_a) - (x_c - x_a) * (y_b - y_a)
        if not (abs(area) > 0.0 and math.isfinite(area) and math.isfinite(z_a + z_b + z_c)):
            continue
        x0, x1 = int(math.ceil(max(x_min - 0.5, 0.0))), int(math.floor(min(x_max - 0.5, width - 1.0)))
        y0 = int(math.ceil(max(y_min - 0.5, np.float64(first_row))))
        y1 = int(math.floor(min(y_max - 0.5, end_row - 1.0)))
        if x0 > x1 or y0 > y1:
            continue
        positive = area > 0.0
        ux0, uy0, dx0, dy0, s0, closed0 = _edge(x_b, y_b, x_c, y_c, positive)
        ux1, uy1, dx1, dy1, s1, closed1 = _edge(x_c, y_c, x_a, y_a, positive)
        ux2, uy2, dx2, dy2, s2, closed2 = _edge(x_a, y_a, x_b, y_b, positive)
        size = abs(area)
        w0, w1, w2 = 1.0 / (z_a * size), 1.0 / (z_b * size), 1.0 / (z_c * size)
        for y in range(y0, y1 + 1):
            py = y + 0.5
            row0, row1, row2 = dx0 * (py - uy0), dx1 * (py - uy1), dx2 * (py - uy2)
            for x in range(x0, x1 + 1):
                px = x + 0.5
                e0 = s0 * (row0 - dy0 * (px - ux0))
                e1 = s1 * (row1 - dy1 * (px - ux1))
                e2 = s2 * (row2 - dy2 * (px - ux2))
                if e0 < 0.0 or e1 < 0.0 or e2 < 0.0:
                    continue
                if (e0 == 0.0 and not closed0) or (e1 == 0.0 and not closed1) or (e2 == 0.0 and not closed2):
                    continue
                inverse = e0 * w0 + e1 * w1 + e2 * w2
                if inverse > nearest[y - first_row, x]:
                    nearest[y - first_row, x] = inverse
                    face_ids[y, x] = face
                    bary[y, x, 0] = e0 * w0 / inverse
                    bary[y, x, 1] = e1 * w1 / inverse
                    bary[y, x, 2] = e2 * w2 / inverse
                    depth[y, x] = 1.0 / inverse


@numba.njit(cache=True, nogil=True)
@no_type_check
def _sample_band(texture, uv, uv_faces, first_row, end_row, face_ids, bary, sampled):
    channels, tex_height, tex_width = texture.shape
    for y in range(first_row, end_row):
        for x in range(face_ids.shape[1]):
            face = face_ids[y, x]
            if face < 0:
                continue
            a, b, c = uv_faces[face, 0], uv_faces[face, 1], uv_faces[face, 2]
            w_a, w_b, w_c = bary[y, x, 0], bary[y, x, 1], bary[y, x, 2]
            u = (w_a * uv[a, 0] + w_b * uv[b, 0] + w_c * uv[c, 0]) * tex_width - np.float32(0.5)
            v = (w_a * uv[a, 1] + w_b * uv[b, 1] + w_c * uv[c, 1]) * tex_height - np.float32(0.5)
            u, v = min(max(u, 0.0), tex_width - 1.0), min(max(v, 0.0), tex_height - 1.0)
            u0, v0 = int(u), int(v)
            u1, v1 = min(u0 + 1, tex_width - 1), min(v0 + 1, tex_height - 1)
            right, low = u - u0, v - v0
            for channel in range(channels):
                upper = texture[channel, v0, u0] * (1 - right) + texture[channel, v0, u1] * right
                lower = texture[channel, v1, u0] * (1 - right) + texture[channel, v1, u1] * right
                sampled[channel, y, x] = upper * (1 - low) + lower * low


@numba.njit(cache=True, nogil=True)
@no_type_check
def _interpolate_band(attributes, faces, first_row, end_row, face_ids, bary, interpolated):
    for y in range(first_row, end_row):
        for x in range(face_ids.shape[1]):
            face = face_ids[y, x]
            if face < 0:
                continue
            a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
            w_a, w_b, w_c = bary[y, x, 0], bary[y, x, 1], bary[y, x, 2]
            for channel in range(attributes.shape[1]):
                interpolated[channel, y, x] = (
                    w_a * attributes[a, channel] + w_b * attributes[b, channel] + w_c * attributes[c, channel]
                )
