"""Strands of hair: the light that reaches them through the hair around, their gloss, and how they become pixels.

Colours are linear. Most strands are behind others: the hair of a head is drawn first, and only those strands that are
then seen are lit. `ids` are the places of strands among all: what is random about one does not depend on the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Float, Int

from gpavatar.bands import in_bands
from gpavatar.camera import Camera
from gpavatar.data.synthetic_noise import hash01

VOLUME_CELLS = 56
VOLUME_HALF = np.array([1.7, 1.9, 1.5])  # half the size of the box that holds the hair, units of head space
VOLUME_CENTRE = np.array([0.0, -0.35, -0.2])
MARCH_STEP = 0.07
SEEN_MARGIN = 0.02  # a point this far behind the skin still counts as seen: strands are thicker than their axis


def hair_volume(points: Float[np.ndarray, "strand k 3"], width: float) -> Float[np.ndarray, "x y z"]:
    """Extinction of the hair on a grid, 1 / unit: strand points deposit their length × width."""
    volume = np.zeros((VOLUME_CELLS,) * 3, np.float32)
    _deposit(points.astype(np.float32), width, volume)
    return volume


def hair_transmittance(
    volume: Float[np.ndarray, "x y z"],
    points: Float[np.ndarray, "point 3"],
    direction: Float[np.ndarray, "3"],
    ids: Int[np.ndarray, " point"] | None = None,
) -> Float[np.ndarray, " point"]:
    """exp(−∫ extinction) from each point towards a direction; `ids` decide where a point's first step begins."""
    share = np.empty(len(points), np.float32)
    points, direction = np.ascontiguousarray(points, np.float32), direction.astype(np.float32)
    ids = np.arange(len(points)) if ids is None else ids
    in_bands(len(points), lambda a, b: _march_band(a, b, volume, points, direction, ids, share))
    return share


def strand_transmittance(
    volume: Float[np.ndarray, "x y z"],
    points: Float[np.ndarray, "strand k 3"],
    direction: Float[np.ndarray, "3"],
    ids: Int[np.ndarray, " strand"] | None = None,
) -> Float[np.ndarray, "strand k"]:
    """`hair_transmittance` of strands: found at every third point, linear between them."""
    strands, count = points.shape[:2]
    ids = np.arange(strands) if ids is None else ids
    at = np.unique(np.r_[np.arange(0, count, 3), count - 1])
    point_ids = (ids[:, None] * len(at) + np.arange(len(at))).reshape(-1)
    known = hair_transmittance(volume, points[:, at].reshape(-1, 3), direction, point_ids).reshape(strands, len(at))
    left = np.searchsorted(at, np.arange(count), side="right").clip(1, len(at) - 1) - 1
    share = ((np.arange(count) - at[left]) / (at[left + 1] - at[left])).astype(np.float32)
    return known[:, left] * (1 - share) + known[:, left + 1] * share


def project_strands(
    points: Float[np.ndarray, "strand k 3"], camera: Camera, size_px: int
) -> Float[np.ndarray, "strand k 3"]:
    """`raster.to_screen` for many points."""
    w2c = camera.w2c.numpy()
    screen = np.empty(points.shape, np.float32)
    arguments = (points, w2c, camera.intrinsics.numpy() * size_px, screen)
    in_bands(len(points), lambda a, b: _project_band(a, b, *arguments))
    return screen


def visible_strands(
    screen: Float[np.ndarray, "strand k 3"], depth: Float[np.ndarray, "height width"]
) -> Int[np.ndarray, " seen"]:
    """Strands with a point inside the picture that is not behind what is drawn already."""
    seen = np.zeros(len(screen), np.bool_)
    in_bands(len(screen), lambda a, b: _seen_band(a, b, screen, depth, seen))
    return np.flatnonzero(seen)


@numba.njit(cache=True, nogil=True, fastmath=True)
@no_type_check
def _project_band(first, end, points, w2c, intrinsics, screen):
    for strand in range(first, end):
        for index in range(points.shape[1]):
            x, y, z = points[strand, index]
            right = w2c[0, 0] * x + w2c[0, 1] * y + w2c[0, 2] * z + w2c[0, 3]
            down = w2c[1, 0] * x + w2c[1, 1] * y + w2c[1, 2] * z + w2c[1, 3]
            depth = w2c[2, 0] * x + w2c[2, 1] * y + w2c[2, 2] * z + w2c[2, 3]
            screen[strand, index, 0] = right / depth * intrinsics[0] + intrinsics[2]
            screen[strand, index, 1] = down / depth * intrinsics[1] + intrinsics[3]
            screen[strand, index, 2] = depth


@numba.njit(cache=True, nogil=True)
@no_type_check
def _seen_band(first, end, screen, depth, seen):
    rows, columns = depth.shape
    for strand in range(first, end):
        for index in range(screen.shape[1]):
            x, y, z = screen[strand, index]
            if 0 <= x < columns and 0 <= y < rows and z < depth[int(y), int(x)] + SEEN_MARGIN:
                seen[strand] = True
                break


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


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
@no_type_check
def _march_band(first, end, volume, points, direction, ids, share):
    cells = volume.shape[0]
    inverse = cells / (2 * VOLUME_HALF)
    for index in range(first, end):
        depth = 0.0
        start = 0.35 + 0.5 * hash01(ids[index], 0, 0, 3)
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
    ids: Int[np.ndarray, " strand"],
) -> Float[np.ndarray, "strand k 3"]:
    """Colour at every strand point: diffuse of Kajiya-Kay, two highlights as in Marschner et al. 2003.

    The first highlight has the light's colour and is shifted towards the root, the second, from inside the hair, the
    hair's colour and is shifted towards the tip. `lit` and `sky` are the shares of key light and sky that reach.
    """
    shaded = np.empty((*points.shape[:2], 3), np.float32)
    arguments = (points, colours, lit, sky, light, camera_position, gloss, ids, shaded)
    in_bands(len(points), lambda a, b: _strand_band(a, b, *arguments))
    return shaded


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
@no_type_check
def _strand_band(first, end, points, colours, lit, sky, light, eye, gloss, ids, shaded):
    count = points.shape[1]
    inner = np.empty(3)
    up = 0.5 + 0.5 * light[6, 1]
    for strand in range(first, end):
        jitter = 0.12 * (hash01(ids[strand], 1, 0, 5) - 0.5)
        for c in range(3):
            colour = colours[strand, c]
            inner[c] = math.sqrt(colour) * colour * 1.6 + 0.15 * colour
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
            seen_from = math.asin(min(max(t_v, -1.0), 1.0))
            for c in range(3):
                ambient = light[5, c] * 0.4 + light[4, c] * 0.6 * up
                shaded[strand, index, c] = ambient * sky[strand, index] * colours[strand, c] * 0.9
            for lamp in range(2):
                share = lit[strand, index] if lamp == 0 else sky[strand, index]
                lx, ly, lz = light[2 * lamp]
                t_l = tx * lx + ty * ly + tz * lz
                diffuse = math.sqrt(max(1 - t_l * t_l, 0.0))
                half = 0.5 * (math.asin(min(max(t_l, -1.0), 1.0)) + seen_from) + jitter
                towards = math.sqrt(max(0.5 + 0.5 * (lx * vx + ly * vy + lz * vz - t_l * t_v), 0.0))
                first_lobe, second_lobe = (half - 0.07) / 0.11, (half + 0.13) / 0.21
                # Beyond three widths (e⁻⁹) there is no highlight worth an exponential.
                first_lobe = math.exp(-first_lobe * first_lobe) * 0.16 * towards if abs(first_lobe) < 3 else 0.0
                second_lobe = math.exp(-second_lobe * second_lobe) * 0.9 * towards if abs(second_lobe) < 3 else 0.0
                for c in range(3):
                    response = 0.55 * diffuse * colours[strand, c] + gloss * (first_lobe + second_lobe * inner[c])
                    shaded[strand, index, c] += light[2 * lamp + 1, c] * share * response


@dataclass(frozen=True)
class StrandCover:
    """What opaque strands cover: the strand in front in each pixel, and where on it; lit once that is known."""

    segment: Int[np.ndarray, "height width"]  # strand × k + number of its point behind, −1 where there is none
    along: Float[np.ndarray, "height width"]  # [0, 1] from the point before to that
    points: int  # k, of a strand

    def strands(self) -> Int[np.ndarray, " shown"]:
        """The strands of which something is seen."""
        seen = np.zeros(int(self.segment.max(initial=-1)) // self.points + 1, np.bool_)
        seen[self.segment[self.segment >= 0] // self.points] = True
        return np.flatnonzero(seen)

    def paint(
        self,
        strands: Int[np.ndarray, " shown"],
        shaded: Float[np.ndarray, "shown k 3"],
        picture: Float[np.ndarray, "height width 3"],
    ) -> None:
        """Write the colours of these strands (those of `strands()`) into the picture."""
        place = np.zeros(int(strands.max(initial=-1)) + 1, np.int64)
        place[strands] = np.arange(len(strands))
        arguments = (self.segment, self.along, place, shaded, picture)
        in_bands(len(picture), lambda a, b: _paint_band(a, b, *arguments))


def cover_strands(
    screen: Float[np.ndarray, "strand k 3"],
    width_px: Float[np.ndarray, " strand"],
    ids: Int[np.ndarray, " strand"],
    depth: Float[np.ndarray, "height width"],
) -> StrandCover:
    """Enter opaque strands into the z-buffer `depth` (infinite where empty), nearer wins.

    `screen` is x_px, y_px, z; `width_px` the width of a strand at its root, which it loses
    towards the tip. A width below one pixel covers that share of the pixels.
    """
    cover = StrandCover(np.full(depth.shape, -1, np.int32), np.zeros(depth.shape, np.float32), screen.shape[1])
    none = np.zeros((0, 0, 3), np.float32)
    arguments = (screen, none, width_px, 1.0, ids, none, depth, cover.segment, cover.along)
    in_bands(len(depth), lambda a, b: _draw_band(a, b, *arguments))
    return cover


def blend_strands(
    screen: Float[np.ndarray, "strand k 3"],
    shaded: Float[np.ndarray, "strand k 3"],
    width_px: Float[np.ndarray, " strand"],
    opacity: float,
    ids: Int[np.ndarray, " strand"],
    picture: Float[np.ndarray, "height width 3"],
    depth: Float[np.ndarray, "height width"],
) -> None:
    """Draw strands of an `opacity` below 1, less towards the tip, where nothing of `depth` (which stays) is nearer.

    Places and widths as in `cover_strands`.
    """
    none = np.zeros((0, 0), np.int32), np.zeros((0, 0), np.float32)
    arguments = (screen, shaded, width_px, opacity, ids, picture, depth, *none)
    in_bands(len(picture), lambda a, b: _draw_band(a, b, *arguments))


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
@no_type_check
def _draw_band(first_row, end_row, screen, shaded, width_px, opacity, ids, picture, depth, segment, along):
    columns, count = depth.shape[1], screen.shape[1]
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
                    if side == spread and hash01(column, row, ids[strand], 11) > width - spread:
                        continue
                    if opacity == 1.0:
                        depth[row, column] = z
                        segment[row, column], along[row, column] = strand * count + index, t
                        continue
                    share = opacity * (1.0 - 0.6 * (index - 1 + t) / (count - 1.0))
                    for c in range(3):
                        colour = shaded[strand, index - 1, c] * (1 - t) + shaded[strand, index, c] * t
                        picture[row, column, c] += share * (colour - picture[row, column, c])


@numba.njit(cache=True, nogil=True, fastmath=True)
@no_type_check
def _paint_band(first_row, end_row, segment, along, place, shaded, picture):
    count = shaded.shape[1]
    for row in range(first_row, end_row):
        for column in range(segment.shape[1]):
            if segment[row, column] < 0:
                continue
            strand, index = place[segment[row, column] // count], segment[row, column] % count
            t = along[row, column]
            for c in range(3):
                picture[row, column, c] = shaded[strand, index - 1, c] * (1 - t) + shaded[strand, index, c] * t
