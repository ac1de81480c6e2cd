"""Hair of the synthetic people: where it grows, how it falls, and how it follows the head.

A few hundred guides are grown point by point from the scalp, outside the head; thousands of strands follow the guide
nearest to their root and gather towards it. Everything is grown on the person's neutral head and moves rigidly with
the skull, but for the brows and the stubble, which are fixed to the moving skin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Bool, Float

from gpavatar.data.synthetic_noise import fractal_noise, hash01

LATITUDES, LONGITUDES = 96, 192
GUIDES = 700
POINTS = 18  # along a strand
# The upper half of MediaPipe's face oval runs along the hairline, from the middle of the forehead to the ear.
HAIRLINE_LEFT = (10, 338, 297, 332, 284, 251, 389, 356)
HAIRLINE_RIGHT = (10, 109, 67, 103, 54, 21, 162, 127)


@dataclass(frozen=True)
class HairStyle:
    """How hair is cut and combed; lengths in units of head space (0.2 m)."""

    length: float
    strands: int
    width: float  # of a strand
    flow: str  # "crown": outwards from the crown, "back", "part": to both sides of a parting
    lift: float  # how far it stands off the scalp
    gravity: float
    curl: float  # radius of the curls
    frizz: float
    gather: float  # [0, 1] how much strands gather into locks
    part: float = 0.0  # x of the parting
    fade: float = 0.35  # length at the hairline, relative
    bangs: bool = False  # whether parted hair falls over the forehead


STYLES = {
    "buzz": HairStyle(0.035, 42000, 0.0026, "crown", 0.7, 0.0, 0.0, 0.15, 0.0, fade=0.5),
    "short": HairStyle(0.16, 30000, 0.0030, "crown", 0.35, 0.25, 0.0, 0.10, 0.45, fade=0.3),
    "back": HairStyle(0.30, 30000, 0.0030, "back", 0.28, 0.15, 0.0, 0.05, 0.4, fade=0.45),
    "side": HairStyle(0.34, 30000, 0.0030, "part", 0.22, 1.0, 0.0, 0.05, 0.45, part=0.18, fade=0.35),
    "bob": HairStyle(0.80, 26000, 0.0034, "part", 0.16, 1.2, 0.0, 0.04, 0.5, part=-0.12, fade=0.95),
    "long": HairStyle(1.60, 26000, 0.0036, "part", 0.14, 1.5, 0.0, 0.04, 0.55, part=0.05, fade=0.95),
    "wavy": HairStyle(1.25, 26000, 0.0036, "part", 0.18, 1.2, 0.035, 0.08, 0.7, part=-0.15, fade=0.95),
    "curly": HairStyle(0.50, 26000, 0.0034, "crown", 0.9, 0.35, 0.030, 0.15, 0.75, fade=0.35),
    "afro": HairStyle(0.42, 34000, 0.0030, "crown", 1.6, 0.05, 0.014, 0.25, 0.35, fade=0.5),
}


@dataclass(frozen=True)
class Scalp:
    """The head as its hair sees it."""

    centre: np.ndarray
    radius: np.ndarray  # (LATITUDES, LONGITUDES) distance from the centre to the outermost skin
    azimuth: np.ndarray  # knots of the hairline: angle from the front
    height: np.ndarray  # and its height there
    brow_y: float
    chin_y: float

    def line(self, points: Float[np.ndarray, "*place 3"]) -> Float[np.ndarray, "*place"]:
        """Height of the hairline in the direction of points."""
        azimuth = np.arctan2(np.abs(points[..., 0] - self.centre[0]), points[..., 2] - self.centre[2])
        return np.interp(azimuth, self.azimuth, self.height)


def survey(
    verts: Float[np.ndarray, "vert 3"],
    landmarks: Float[np.ndarray, "478 3"],
    ears: Bool[np.ndarray, " vert"],
    dense: Float[np.ndarray, "point 3"],
) -> Scalp:
    """Measure a neutral head: hairline through the landmarks and over the ears, and the distance map.

    `dense` are points all over the skin.
    """
    top, ear = verts[:, 1].max(), verts[ears]
    centre = np.array([0.0, ear[:, 1].max(), (ear[:, 2].mean() + landmarks[10, 2]) / 2 - 0.25])
    front = 0.5 * (landmarks[list(HAIRLINE_LEFT)] * [1, 1, 1] + landmarks[list(HAIRLINE_RIGHT)] * [-1, 1, 1])
    azimuth = np.arctan2(np.abs(front[:, 0]), front[:, 2] - centre[2])
    height = front[:, 1] + np.linspace(0.06, 0.0, len(front)) * (top - front[0, 1]) / 0.3
    ear_azimuth = np.arctan2(np.abs(ear[:, 0]), ear[:, 2] - centre[2])
    low, high = ear[:, 1].min(), ear[:, 1].max()
    first, last = ear_azimuth.min(), ear_azimuth.max()
    keep = azimuth < first - 0.12
    azimuth = np.r_[azimuth[keep], first - 0.06, first + 0.02, (first + last) / 2, last, last + 0.12, math.pi]
    height = np.r_[height[keep], 0.55 * low + 0.45 * high, high - 0.02, high + 0.02, high - 0.03, low, low - 0.06]
    order = np.argsort(azimuth)
    dense = dense[dense[:, 1] > landmarks[152, 1]]  # the shoulders are not where hair stops
    return Scalp(
        centre, _distance_map(dense, centre), azimuth[order], height[order],
        float(landmarks[[105, 334], 1].mean()), float(landmarks[152, 1]),
    )  # fmt: skip


def _distance_map(points: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Largest distance from the centre per direction, filled where no point fell and smoothed a little."""
    away = points - centre
    distance = np.linalg.norm(away, axis=1)
    row = np.clip(np.arccos(np.clip(away[:, 1] / distance, -1, 1)) / math.pi * LATITUDES, 0, LATITUDES - 1).astype(int)
    column = (np.arctan2(away[:, 0], away[:, 2]) / (2 * math.pi) * LONGITUDES).astype(int) % LONGITUDES
    radius = np.zeros((LATITUDES, LONGITUDES))
    np.maximum.at(radius, (row, column), distance)
    for _ in range(LATITUDES):
        if (radius > 0).all():
            break
        around = np.stack([np.roll(radius, 1, 1), np.roll(radius, -1, 1), radius[np.r_[0, :LATITUDES - 1]],
                           radius[np.r_[1:LATITUDES, LATITUDES - 1]]])  # fmt: skip
        radius = np.where(radius > 0, radius, around.max(0))
    return radius


def hair_density(
    scalp: Scalp, points: Float[np.ndarray, "*place 3"], seed: int, recede: float = 0.0
) -> Float[np.ndarray, "*place"]:
    """[0, 1] how densely hair grows at points of the neutral skin; an irregular, soft hairline."""
    azimuth = np.arctan2(np.abs(points[..., 0] - scalp.centre[0]), points[..., 2] - scalp.centre[2])
    temple = np.exp(-(((azimuth - 0.75) / 0.3) ** 2))
    line = scalp.line(points) + recede * (0.35 + temple) * 0.18
    rough = 0.018 * fractal_noise(points, 0.09, 3, seed) + 0.012 * fractal_noise(points, 0.02, 2, seed + 1)
    soft = np.where(azimuth < 1.0, 0.055, 0.04)
    return np.clip((points[..., 1] - line + rough) / soft, 0, 1)


@dataclass(frozen=True)
class Hair:
    """Strands on the neutral head."""

    points: np.ndarray  # (strand, POINTS, 3)
    width: np.ndarray  # (strand,)
    shade: np.ndarray  # (strand,) brightness around 1


def grow(
    style: HairStyle,
    scalp: Scalp,
    skin_points: Float[np.ndarray, "point 3"],
    skin_normals: Float[np.ndarray, "point 3"],
    density: Float[np.ndarray, " point"],
    rng: np.random.Generator,
) -> Hair:
    """Grow hair from candidates on the skin: many points, their normals, and the density there (sampled by it)."""
    chosen = rng.choice(len(skin_points), style.strands, p=density / density.sum())
    roots, normals, share = skin_points[chosen], skin_normals[chosen], density[chosen]
    is_guide = rng.permutation(style.strands)[:GUIDES]
    above = roots[:, 1] - scalp.line(roots)
    lengths = style.length * (style.fade + (1 - style.fade) * np.clip(above / 0.3, 0, 1))
    lengths = lengths * rng.normal(1, 0.08, len(roots)).clip(0.6, 1.4)
    flow = _flow(style, scalp, roots, normals)
    layer = rng.random(style.strands)
    # Without bangs hair is combed to the side first, and falls from there.
    combed = np.clip((roots[:, 2] - scalp.centre[2] + 0.2) * 4.0, 0, 1) * (style.flow == "part" and not style.bangs)
    settings = np.array([style.lift, style.gravity, style.frizz, scalp.brow_y, scalp.chin_y])
    guides = np.empty((GUIDES, POINTS, 3))
    _grow_guides(
        roots[is_guide], normals[is_guide], flow[is_guide], lengths[is_guide], layer[is_guide], combed[is_guide],
        settings, scalp.centre, scalp.radius, guides,
    )  # fmt: skip
    part = style.part + 0.02 * fractal_noise(roots, 0.08, 2, 43)  # no parting is straight
    side = np.sign(roots[:, 0] - part) * (style.flow == "part") * (roots[:, 2] > scalp.centre[2] - 0.1)
    nearest = _nearest(roots, roots[is_guide], side, side[is_guide])
    points = np.empty((style.strands, POINTS, 3))
    scale = lengths / lengths[is_guide][nearest]
    curl = np.array([style.curl, style.gather, style.frizz])
    _follow(guides, nearest, roots, np.clip(scale, 0.5, 1.6), normals, curl, layer, scalp.centre, scalp.radius, points)
    width = style.width * rng.uniform(0.7, 1.2, style.strands) * (0.55 + 0.45 * np.clip(share * 1.5, 0, 1))
    shade = np.exp(0.16 * rng.normal(size=style.strands) + 0.22 * fractal_noise(roots, 0.15, 2, 5))
    return Hair(points.astype(np.float32), width.astype(np.float32), shade.astype(np.float32))


def _flow(style: HairStyle, scalp: Scalp, roots: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Direction in which hair leaves its root, tangential to the skin, unit length."""
    away = roots - scalp.centre
    back = np.clip(-away[:, 2:] / 0.5, -1, 1)
    if style.flow == "part":
        side = np.sign(roots[:, :1] - style.part)
        flow = (
            side * [1.0, 0.0, 0.0] + [0.0, 0.0, -0.45] * (1 - np.clip(back, 0, 1)) + [0, -0.2, 0] * np.clip(back, 0, 1)
        )
    elif style.flow == "back":
        flow = np.array([0.0, 0.1, -1.0]) + away * [0.25, 0, 0]
    else:
        crown = scalp.centre + [0.03, 0.62, -0.32]
        swirl = np.cross(normals, roots - crown)
        flow = (roots - crown) / np.linalg.norm(roots - crown, axis=1, keepdims=True).clip(0.05) + 0.5 * swirl
    wander = np.stack([fractal_noise(roots, 0.35, 2, seed) for seed in (40, 41, 42)], -1)
    flow = flow / np.linalg.norm(flow, axis=1, keepdims=True) + (0.2 if style.flow == "part" else 0.45) * wander
    flow = flow - (flow * normals).sum(-1, keepdims=True) * normals
    return flow / np.linalg.norm(flow, axis=1, keepdims=True).clip(1e-6)


def _nearest(roots: np.ndarray, guides: np.ndarray, side: np.ndarray, guide_side: np.ndarray) -> np.ndarray:
    """Index of the nearest guide on the same side of the parting."""
    nearest = np.empty(len(roots), np.int64)
    for start in range(0, len(roots), 4096):
        part = slice(start, start + 4096)
        squared = (roots[part] ** 2).sum(1)[:, None] - 2 * roots[part] @ guides.T + (guides**2).sum(1)[None]
        squared = squared + 9.0 * (side[part, None] != guide_side[None])
        nearest[part] = squared.argmin(1)
    return nearest


@numba.njit(cache=True, nogil=True)
@no_type_check
def _outside(p, centre, radius, offset, lying):
    """Move a point out along the ray from the centre where it is nearer than the skin plus `offset`.

    A `lying` one is moved in as well.
    """
    x, y, z = p[0] - centre[0], p[1] - centre[1], p[2] - centre[2]
    distance = math.sqrt(x * x + y * y + z * z)
    row = min(max(math.acos(min(max(y / distance, -1.0), 1.0)) / math.pi * LATITUDES - 0.5, 0.0), LATITUDES - 1.001)
    column = math.atan2(x, z) / (2 * math.pi) * LONGITUDES - 0.5
    r0, c0 = int(row), int(math.floor(column))
    a, b = row - r0, column - c0
    near = (
        radius[r0, c0 % LONGITUDES] * (1 - a) * (1 - b)
        + radius[r0 + 1, c0 % LONGITUDES] * a * (1 - b)
        + radius[r0, (c0 + 1) % LONGITUDES] * (1 - a) * b
        + radius[r0 + 1, (c0 + 1) % LONGITUDES] * a * b
    ) + offset
    if distance < near or lying:
        scale = near / distance
        p[0], p[1], p[2] = centre[0] + x * scale, centre[1] + y * scale, centre[2] + z * scale


@numba.njit(cache=True, nogil=True)
@no_type_check
def _grow_guides(roots, normals, flow, lengths, layer, combed, settings, centre, radius, guides):
    lift, gravity, frizz, brow_y, chin_y = settings
    count = guides.shape[1]
    for guide in range(len(roots)):
        step = lengths[guide] / (count - 1)
        p = roots[guide].copy()
        guides[guide, 0] = p
        direction = normals[guide] * lift + flow[guide]
        offset = 0.01 + 0.10 * layer[guide] * min(lift, 0.5) * min(1.0, lengths[guide] / 0.3)
        for index in range(1, count):
            s = index / (count - 1)
            scale = 1 / math.sqrt(max((direction * direction).sum(), 1e-9))
            direction = direction * scale
            free = 1.0 if index * step > 0.42 * combed[guide] else 1 - 0.93 * combed[guide]
            pull = 1 - math.exp(-12.0 * gravity * step * free)
            direction = direction * (1 - pull)
            direction[1] -= pull
            for c in range(3):
                direction[c] += frizz * 0.5 * (hash01(guide, index, c, 9) - 0.5)
            scale = 1 / math.sqrt(max((direction * direction).sum(), 1e-9))
            before = p.copy()
            p = p + direction * (scale * step)
            _outside(p, centre, radius, offset * min(1.0, 3.0 * s), free < 1.0 and combed[guide] > 0.3)
            # Hair falls beside the face, not over it.
            z, x = p[2] - centre[2], p[0]
            opening = 1.02 if p[1] > chin_y - 0.15 else 0.75
            azimuth = abs(math.atan2(x, z))
            if p[1] < brow_y + 0.05 and azimuth < opening:
                if azimuth < 0.75 * opening:
                    p = before
                else:
                    flat, turned = math.sqrt(x * x + z * z), math.copysign(opening, x)
                    p[0], p[2] = flat * math.sin(turned), centre[2] + flat * math.cos(turned)
            moved = p - before
            distance = math.sqrt((moved * moved).sum())
            if distance > 1e-6:
                direction = moved / distance
            guides[guide, index] = p


@numba.njit(cache=True, nogil=True)
@no_type_check
def _follow(guides, nearest, roots, scale, normals, curl, layer, centre, radius, points):
    curl_radius, gather, frizz = curl
    count = points.shape[1]
    for strand in range(len(roots)):
        guide = guides[nearest[strand]]
        shift = roots[strand] - guide[0]
        phase = 6.2832 * (hash01(nearest[strand], 2, 0, 13) + 0.12 * hash01(strand, 2, 1, 13))
        turns = 9.0 + 5.0 * hash01(nearest[strand], 3, 0, 13)
        for index in range(count):
            s = index / (count - 1) * min(scale[strand], 1.0)
            at = s * (count - 1)
            low = min(int(at), count - 2)
            f = at - low
            p = guide[low] * (1 - f) + guide[low + 1] * f + shift * (1 - gather * s * s * 0.9)
            for c in range(3):
                p[c] += 0.10 * frizz * s * (hash01(strand, 0, c, 17) - 0.5) * 2.0
            if curl_radius > 0:
                along = guide[low + 1] - guide[low]
                along = along / max(math.sqrt((along * along).sum()), 1e-6)
                u = np.cross(along, normals[strand])
                w = np.cross(along, u)
                turn = phase + turns * s * 2.5
                p = p + (u * math.cos(turn) + w * math.sin(turn)) * curl_radius * min(1.0, 4 * s)
            if index > 0:
                _outside(p, centre, radius, 0.006 + 0.02 * layer[strand] * s, False)
            points[strand, index] = p
