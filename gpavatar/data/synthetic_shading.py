"""Light on the synthetic people: shaded surfaces, soft shadows, and strands of hair with a volume that shades them.

All colours are linear (not sRGB). Directions point away from the surface, towards the light or the camera.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Float, Int

from gpavatar.data.synthetic_noise import hash01
from gpavatar.face.bands import in_bands

VOLUME_CELLS = 56
VOLUME_HALF = np.array([1.7, 1.9, 1.5])  # half the size of the box that holds the hair, units of head space
VOLUME_CENTRE = np.array([0.0, -0.35, -0.2])
MARCH_STEP = 0.07
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


@numba.njit(cache=True, nogil=True, fastmath=True)
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


def hair_volume(points: Float[np.ndarray, "strand k 3"], width: float) -> Float[np.ndarray, "x y z"]:
    """Extinction of the hair on a grid, 1 / unit: strand points deposit their length × width."""
    volume = np.zeros((VOLUME_CELLS,) * 3, np.float32)
    _deposit(points.astype(np.float32), width, volume)
    return volume


def hair_transmittance(
    volume: Float[np.ndarray, "x y z"], points: Float[np.ndarray, "point 3"], direction: Float[np.ndarray, "3"]
) -> Float[np.ndarray, " point"]:
    """exp(−∫ extinction) from each point towards a direction."""
    share = np.empty(len(points), np.float32)
    points, direction = np.ascontiguousarray(points, np.float32), direction.astype(np.float32)
    in_bands(len(points), lambda a, b: _march_band(a, b, volume, points, direction, share))
    return share


def strand_transmittance(
    volume: Float[np.ndarray, "x y z"], points: Float[np.ndarray, "strand k 3"], direction: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "strand k"]:
    """`hair_transmittance` of strands: found at every third point, linear between them."""
    strands, count = points.shape[:2]
    at = np.unique(np.r_[np.arange(0, count, 3), count - 1])
    known = hair_transmittance(volume, points[:, at].reshape(-1, 3), direction).reshape(strands, len(at))
    left = np.searchsorted(at, np.arange(count), side="right").clip(1, len(at) - 1) - 1
    share = ((np.arange(count) - at[left]) / (at[left + 1] - at[left])).astype(np.float32)
    return known[:, left] * (1 - share) + known[:, left + 1] * share


@numba.njit(cache=True, nogil=True)
@no_type_check
def _deposit(points, width, volume):
    cell = 2 * VOLUME_HALF / volume.shape[0]
    for strand in range(points.shape[0]):
        for index in range(1, points.shape[1]):
            a, b = points[strand, index - 1], points[strand, index]
            length = math.sqrt((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 + (a[2] - b[2]) ** 2)
            at = ((a + b) / 2 - VOLUME_CENTRE + VOLUME_HALF) / cell - 0.5
            x, y, z = int(math.floor(at[0])), int(math.floor(at[1])), int(math.floor(at[2]))
            if min(x, y, z) < 0 or max(x, y, z) >= volume.shape[0] - 1:
                continue
            amount = length * width / (cell[0] * cell[1] * cell[2])
            for i in range(2):
                for j in range(2):
                    for k in range(2):
                        fx, fy, fz = abs(1 - i - at[0] + x), abs(1 - j - at[1] + y), abs(1 - k - at[2] + z)
                        volume[x + i, y + j, z + k] += amount * fx * fy * fz


@numba.njit(cache=True, nogil=True, fastmath=True)
@no_type_check
def _march_band(first, end, volume, points, direction, share):
    cells = volume.shape[0]
    inverse = cells / (2 * VOLUME_HALF)
    for index in range(first, end):
        depth = 0.0
        start = 0.35 + 0.5 * hash01(index, 0, 0, 3)
        for step in range(28):
            distance = (start + step) * MARCH_STEP
            x = (points[index, 0] + distance * direction[0] - VOLUME_CENTRE[0] + VOLUME_HALF[0]) * inverse[0] - 0.5
            y = (points[index, 1] + distance * direction[1] - VOLUME_CENTRE[1] + VOLUME_HALF[1]) * inverse[1] - 0.5
            z = (points[index, 2] + distance * direction[2] - VOLUME_CENTRE[2] + VOLUME_HALF[2]) * inverse[2] - 0.5
            i, j, k = int(math.floor(x)), int(math.floor(y)), int(math.floor(z))
            if min(i, j, k) < 0 or max(i, j, k) >= cells - 1:
                break
            a, b, c = x - i, y - j, z - k
            near = (volume[i, j, k] * (1 - b) + volume[i, j + 1, k] * b) * (1 - a) + a * (
                volume[i + 1, j, k] * (1 - b) + volume[i + 1, j + 1, k] * b
            )
            far = (volume[i, j, k + 1] * (1 - b) + volume[i, j + 1, k + 1] * b) * (1 - a) + a * (
                volume[i + 1, j, k + 1] * (1 - b) + volume[i + 1, j + 1, k + 1] * b
            )
            depth += (near * (1 - c) + far * c) * MARCH_STEP
            if depth > 5.0:
                break
        share[index] = math.exp(-depth)


def shade_strands(
    points: Float[np.ndarray, "strand k 3"],
    colours: Float[np.ndarray, "strand 3"],
    lit: Float[np.ndarray, "strand k"],
    sky: Float[np.ndarray, "strand k"],
    light: Float[np.ndarray, "7 3"],
    camera_position: Float[np.ndarray, "3"],
    gloss: float,
) -> Float[np.ndarray, "strand k 3"]:
    """Colour at every strand point: diffuse of Kajiya-Kay, two highlights as in Marschner et al. 2003.

    The first highlight has the light's colour and is shifted towards the root, the second, from inside the hair, the
    hair's colour and is shifted towards the tip. `lit` and `sky` are the shares of key light and sky that reach.
    """
    shaded = np.empty((*points.shape[:2], 3), np.float32)
    arguments = (points, colours, lit, sky, light, camera_position, gloss, shaded)
    in_bands(len(points), lambda a, b: _strand_band(a, b, *arguments))
    return shaded


@numba.njit(cache=True, nogil=True, fastmath=True)
@no_type_check
def _strand_band(first, end, points, colours, lit, sky, light, eye, gloss, shaded):
    count = points.shape[1]
    for strand in range(first, end):
        jitter = 0.12 * (hash01(strand, 1, 0, 5) - 0.5)
        for index in range(count):
            a, b = points[strand, max(index - 1, 0)], points[strand, min(index + 1, count - 1)]
            tx, ty, tz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
            scale = 1 / math.sqrt(max(tx * tx + ty * ty + tz * tz, 1e-12))
            tx, ty, tz = tx * scale, ty * scale, tz * scale
            p = points[strand, index]
            vx, vy, vz = eye[0] - p[0], eye[1] - p[1], eye[2] - p[2]
            scale = 1 / math.sqrt(vx * vx + vy * vy + vz * vz)
            vx, vy, vz = vx * scale, vy * scale, vz * scale
            t_v = tx * vx + ty * vy + tz * vz
            up = 0.5 + 0.5 * light[6, 1]
            for c in range(3):
                ambient = light[5, c] * 0.4 + light[4, c] * 0.6 * up
                shaded[strand, index, c] = ambient * sky[strand, index] * colours[strand, c] * 0.9
            for lamp in range(2):
                lx, ly, lz = light[2 * lamp]
                t_l = tx * lx + ty * ly + tz * lz
                diffuse = math.sqrt(max(1 - t_l * t_l, 0.0))
                half = 0.5 * (math.asin(min(max(t_l, -1.0), 1.0)) + math.asin(min(max(t_v, -1.0), 1.0))) + jitter
                cosine = lx * vx + ly * vy + lz * vz - t_l * t_v
                towards = math.sqrt(max(0.5 + 0.5 * cosine, 0.0))
                first_lobe = math.exp(-(((half - 0.07) / 0.11) ** 2)) * 0.16 * towards
                second_lobe = math.exp(-(((half + 0.13) / 0.21) ** 2)) * 0.9 * towards
                share = lit[strand, index] if lamp == 0 else sky[strand, index]
                for c in range(3):
                    colour = colours[strand, c]
                    inner = math.sqrt(colour) * colour * 1.6 + 0.15 * colour
                    response = 0.55 * diffuse * colour + gloss * (first_lobe + second_lobe * inner)
                    shaded[strand, index, c] += light[2 * lamp + 1, c] * share * response


def draw_strands(
    screen: Float[np.ndarray, "strand k 3"],
    shaded: Float[np.ndarray, "strand k 3"],
    width_px: Float[np.ndarray, " strand"],
    opacity: float,
    picture: Float[np.ndarray, "height width 3"],
    depth: Float[np.ndarray, "height width"],
) -> None:
    """Draw strands into `picture` and the z-buffer `depth` (infinite where empty), nearer wins.

    `screen` is x_px, y_px, z; `width_px` the width of a strand at its root, which it loses
    towards the tip. A width below one pixel is drawn as that share of the pixels. With `opacity` below 1 what is
    behind shines through, more so towards the tip, and the z-buffer stays as it is.
    """
    in_bands(len(picture), lambda a, b: _draw_band(a, b, screen, shaded, width_px, opacity, picture, depth))


@numba.njit(cache=True, nogil=True, fastmath=True)
@no_type_check
def _draw_band(first_row, end_row, screen, shaded, width_px, opacity, picture, depth):
    columns, count = picture.shape[1], screen.shape[1]
    for strand in range(screen.shape[0]):
        for index in range(1, count):
            ax, ay, az = screen[strand, index - 1]
            bx, by, bz = screen[strand, index]
            width = width_px[strand] * (1.0 - 0.75 * (index / (count - 1.0)) ** 2)
            if max(ay, by) + width < first_row or min(ay, by) - width >= end_row or min(az, bz) < 0.05:
                continue
            steep = abs(by - ay) > abs(bx - ax)
            steps = int(math.ceil(max(abs(bx - ax), abs(by - ay), 1.0)))
            if steps > 400:
                continue
            spread = int(width)
            for step in range(steps):
                t = step / steps
                x, y, z = ax + (bx - ax) * t, ay + (by - ay) * t, az + (bz - az) * t
                for side in range(spread + 1):
                    shift = side - width / 2
                    column = int(math.floor(x + (shift if steep else 0.0)))
                    row = int(math.floor(y + (0.0 if steep else shift)))
                    if row < first_row or row >= end_row or column < 0 or column >= columns or z >= depth[row, column]:
                        continue
                    if side == spread and hash01(column, row, strand, 11) > width - spread:
                        continue
                    if opacity == 1.0:
                        depth[row, column] = z
                    share = opacity if opacity == 1.0 else opacity * (1.0 - 0.6 * (index - 1 + t) / (count - 1.0))
                    for c in range(3):
                        colour = shaded[strand, index - 1, c] * (1 - t) + shaded[strand, index, c] * t
                        picture[row, column, c] += share * (colour - picture[row, column, c])
