"""Light on the synthetic people: shaded surfaces with soft shadows.

All colours are linear (not sRGB). Directions point away from the surface, towards the light or the camera.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Float, Int

from gpavatar.bands import in_bands
from gpavatar.data.synthetic_noise import hash01

SOFTNESS_PX = 2.6  # radius of the shadow's soft edge, pixels of the shadow map
_SPIRAL = np.arange(9)
TAPS = SOFTNESS_PX * np.sqrt((_SPIRAL + 0.5) / 9)[:, None] * np.stack(
    [np.cos(2.399963 * _SPIRAL), np.sin(2.399963 * _SPIRAL)], 1
)  # fmt: skip
SCATTER = np.array([0.30, 0.13, 0.08])  # how far light creeps round the terminator in skin, per colour


@dataclass(frozen=True)
class Light:
    """A key light, a fill light without shadow, and the sky and ground as hemispheres. World space = the body's."""

    key_direction: np.ndarray
    key: np.ndarray  # colours
    fill_direction: np.ndarray
    fill: np.ndarray
    sky: np.ndarray
    ground: np.ndarray

    def packed(self, rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "7 3"]:
        """Rows for the kernels, with the directions turned by `rotation`."""
        directions = (rotation @ self.key_direction, rotation @ self.fill_direction)
        rows = (directions[0], self.key, directions[1], self.fill, self.sky, self.ground, rotation[:, 1])
        return np.stack(rows).astype(np.float32)


@dataclass(frozen=True)
class ShadowMap:
    """Depth along the key light. Pixel = (rows · p) × scale + size / 2; depth = distance − axis · p."""

    depth: np.ndarray  # (size, size), infinite where the light passes
    rows: np.ndarray  # (3, 3) right, down, towards the light
    scale: float


def shadow_frame(direction: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """Orthonormal rows (right, down, towards the light)."""
    right = np.cross([0.0, 1.0, 0.0], direction)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(right, direction), direction])


@dataclass(frozen=True)
class Surface:
    """A mesh ready for shading: one texture, and per vertex its normal and the light that reaches it."""

    verts: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    uv_faces: np.ndarray
    normals: np.ndarray
    openness: np.ndarray  # (vert, 2): share of the sky that is seen, share of the key light that hair lets through
    texture: np.ndarray  # (h, w, 9): albedo, normal offset, specular strength, roughness, scattering (1 for skin)


def shade(
    surface: Surface,
    first_face: int,
    face_ids: Int[np.ndarray, "height width"],
    bary: Float[np.ndarray, "height width 3"],
    light: Float[np.ndarray, "7 3"],
    shadow: ShadowMap,
    camera_position: Float[np.ndarray, "3"],
    picture: Float[np.ndarray, "height width 3"],
) -> None:
    """Write the light that leaves the surface's fragments (ids from `first_face` on) into `picture`, linear RGB.

    Diffuse: Lambert, wrapped round the terminator per colour for scattering in skin. Specular: GGX. The sky's share
    is coloured by light that bounces in the cavities.
    """
    names = ("verts", "faces", "uv", "uv_faces", "normals", "openness", "texture")
    mesh = tuple(getattr(surface, name) for name in names)
    lit = (light, shadow.depth, shadow.rows, shadow.scale, camera_position)
    in_bands(len(face_ids), lambda a, b: _shade_band(a, b, first_face, face_ids, bary, *mesh, *lit, picture))


@numba.njit(cache=True, nogil=True)
@no_type_check
def _lit_share(depth, rows, scale, x, y, z, slope, turn):
    """Share of the key light that passes, over taps in a disc that is turned anew for every pixel."""
    size = depth.shape[0]
    u = (rows[0, 0] * x + rows[0, 1] * y + rows[0, 2] * z) * scale + size / 2
    v = (rows[1, 0] * x + rows[1, 1] * y + rows[1, 2] * z) * scale + size / 2
    d = 4.0 - (rows[2, 0] * x + rows[2, 1] * y + rows[2, 2] * z)
    lit, cosine, sine = 0.0, math.cos(turn), math.sin(turn)
    for tap in range(len(TAPS)):
        a, b = TAPS[tap]
        column, row = int(u + cosine * a - sine * b), int(v + sine * a + cosine * b)
        inside = 0 <= column < size and 0 <= row < size
        if not inside or depth[row, column] > d - (0.012 + SOFTNESS_PX * slope / scale):
            lit += 1 / len(TAPS)
    return lit


@numba.njit(cache=True, nogil=True)
@no_type_check
def _ggx(n_l, n_v, n_h, v_h, roughness, strength):
    """Cook-Torrance with the GGX distribution; `strength` scales the reflectance of skin, 0.028."""
    a2 = max(roughness * roughness, 0.002) ** 2
    d = a2 / (math.pi * (n_h * n_h * (a2 - 1) + 1) ** 2)
    k = roughness * roughness / 2
    g = 1 / ((n_l * (1 - k) + k) * (n_v * (1 - k) + k) * 4)
    f0 = 0.028 * strength
    return d * g * (f0 + (min(1.0, strength) - f0) * (1 - v_h) ** 5) * n_l


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
@no_type_check
def _shade_band(
    first_row, end_row, first_face, face_ids, bary, verts, faces, uv, uv_faces, normals, openness, texture,
    light, shadow_depth, shadow_rows, shadow_scale, eye, picture,
):  # fmt: skip
    tex_h, tex_w = texture.shape[:2]
    texel, specular, diffuse = np.zeros(9), np.zeros(2), np.zeros(2)
    last_face = first_face + len(faces)
    for y in range(first_row, end_row):
        for x in range(face_ids.shape[1]):
            if not first_face <= face_ids[y, x] < last_face:
                continue
            face = face_ids[y, x] - first_face
            b0, b1, b2 = bary[y, x]
            i, j, k = faces[face]
            p = b0 * verts[i] + b1 * verts[j] + b2 * verts[k]
            u0, u1, u2 = uv_faces[face]
            u = min(max((b0 * uv[u0, 0] + b1 * uv[u1, 0] + b2 * uv[u2, 0]) * tex_w - 0.5, 0.0), tex_w - 1.001)
            v = min(max((b0 * uv[u0, 1] + b1 * uv[u1, 1] + b2 * uv[u2, 1]) * tex_h - 0.5, 0.0), tex_h - 1.001)
            column, row = int(u), int(v)
            du, dv = u - column, v - row
            for c in range(9):
                texel[c] = (1 - dv) * ((1 - du) * texture[row, column, c] + du * texture[row, column + 1, c]) + dv * (
                    (1 - du) * texture[row + 1, column, c] + du * texture[row + 1, column + 1, c]
                )
            nx = b0 * normals[i, 0] + b1 * normals[j, 0] + b2 * normals[k, 0] + texel[3]
            ny = b0 * normals[i, 1] + b1 * normals[j, 1] + b2 * normals[k, 1] + texel[4]
            nz = b0 * normals[i, 2] + b1 * normals[j, 2] + b2 * normals[k, 2] + texel[5]
            vx, vy, vz = eye[0] - p[0], eye[1] - p[1], eye[2] - p[2]
            scale = 1 / math.sqrt(vx * vx + vy * vy + vz * vz)
            vx, vy, vz = vx * scale, vy * scale, vz * scale
            facing = nx * vx + ny * vy + nz * vz
            if facing < 0.0:  # bent away by interpolation or bumps, or seen from inside
                nx, ny, nz = nx - 1.05 * facing * vx, ny - 1.05 * facing * vy, nz - 1.05 * facing * vz
            scale = 1 / math.sqrt(max(nx * nx + ny * ny + nz * nz, 1e-9))
            nx, ny, nz = nx * scale, ny * scale, nz * scale
            n_v = max(nx * vx + ny * vy + nz * vz, 0.02)
            sky = b0 * openness[i, 0] + b1 * openness[j, 0] + b2 * openness[k, 0]
            hair = b0 * openness[i, 1] + b1 * openness[j, 1] + b2 * openness[k, 1]
            up = nx * light[6, 0] + ny * light[6, 1] + nz * light[6, 2]

            specular[:] = 0.0
            for lamp in range(2):
                lx, ly, lz = light[2 * lamp]
                n_l = nx * lx + ny * ly + nz * lz
                diffuse[lamp] = n_l
                if n_l > 0:
                    hx, hy, hz = lx + vx, ly + vy, lz + vz
                    scale = 1 / math.sqrt(max(hx * hx + hy * hy + hz * hz, 1e-9))
                    n_h = (nx * hx + ny * hy + nz * hz) * scale
                    v_h = (vx * hx + vy * hy + vz * hz) * scale
                    specular[lamp] = _ggx(n_l, n_v, n_h, v_h, texel[7], texel[6])
            slope = min(math.sqrt(max(1 - diffuse[0] ** 2, 0.0)) / max(diffuse[0], 0.1), 6.0)
            turn = 6.2832 * hash01(x, y, 0, 7)
            lit = 0.0
            if diffuse[0] > -SCATTER[0] * texel[8]:  # else nothing of the key light arrives, nor creeps round
                lit = hair * _lit_share(shadow_depth, shadow_rows, shadow_scale, p[0], p[1], p[2], slope, turn)
            rim = 0.25 * (1 - n_v) ** 5 * texel[6] * (1 - texel[7]) * sky
            for c in range(3):
                albedo = texel[c]
                creep = SCATTER[c] * texel[8]
                wrapped = max((diffuse[0] + creep) / (1 + creep), 0.0) ** (1 + creep)
                key = light[1, c] * (lit ** (1 - creep) * wrapped * albedo + lit * specular[0] * math.pi)
                wrapped = max((diffuse[1] + creep) / (1 + creep), 0.0)
                fill = light[3, c] * sky * (wrapped * albedo + specular[1] * math.pi)
                bounced = sky / (1 - albedo * (1 - sky) * 0.9)
                ambient = (light[5, c] + (light[4, c] - light[5, c]) * (0.5 + 0.5 * up)) * (albedo * bounced + rim)
                picture[y, x, c] = key + fill + ambient
