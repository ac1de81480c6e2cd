"""Skin, eyes, teeth and mouth of the synthetic people, painted into the head's texture.

Everything is painted by the place of a texel on the person's neutral head and its distance to facial landmarks, so
that it does not depend on the layout of the atlas. Colours are linear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Float

from gpavatar.data.synthetic_noise import cell_noise, fractal_noise

# MediaPipe's outlines.
LIPS_OUTER = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
LIPS_INNER = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191)
EYES = (
    (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246),
    (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466),
)
BROWS = ((70, 63, 105, 66, 107, 55, 65, 52, 53, 46), (300, 293, 334, 296, 336, 285, 295, 282, 283, 276))
CORNEA_DEG, PUPIL_DEG = 26.0, 9.5
SKIN_TONES = ("#3a2219", "#54341f", "#744a2f", "#946342", "#b37f5a", "#cc9c78", "#e0b697", "#edcbb4")  # sRGB
IRIS_TONES = ("#2b1a10", "#3d2614", "#57381c", "#6b5a2e", "#566147", "#526a7c", "#66757f")


def linear(colour: str) -> Float[np.ndarray, "3"]:
    """#rrggbb (sRGB) -> linear RGB."""
    srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


@dataclass(frozen=True)
class Complexion:
    """How a person's skin and eyes look; every number but the seed in [0, 1]."""

    tone: float  # dark to light
    redness: float
    freckles: float
    beard: float  # strength of the stubble's shadow
    shine: float
    lips: float  # 0 the skin's own, 1 strongly red
    iris: int  # of IRIS_TONES
    hair_colour: np.ndarray  # linear RGB
    seed: int


@dataclass(frozen=True)
class Paint:
    """What a surface is made of at each place."""

    albedo: Float[np.ndarray, "*place 3"]
    height: Float[np.ndarray, "*place"]  # of the bumps, units of head space
    specular: Float[np.ndarray, "*place"]  # 1 reflects as skin does
    roughness: Float[np.ndarray, "*place"]


@dataclass(frozen=True)
class SkinPoints:
    """Points of the neutral skin with their normals, and the landmarks in front of which they lie."""

    points: np.ndarray  # (..., 3)
    normals: np.ndarray
    landmarks: np.ndarray  # (478, 3)

    def outline(self, indices: tuple[int, ...]) -> Float[np.ndarray, "*place"]:
        """Signed distance to a closed outline of landmarks in the frontal plane, negative inside; large behind."""
        polygon = np.ascontiguousarray(self.landmarks[list(indices), :2])
        flat = np.ascontiguousarray(self.points[..., :2].reshape(-1, 2))
        distance = _polygon_distance(flat, polygon).reshape(self.points.shape[:-1])
        behind = self.points[..., 2] < self.landmarks[list(indices), 2].min() - 0.12
        return np.where(behind, 9.0, distance)

    def spot(self, index: int, radius: float) -> Float[np.ndarray, "*place"]:
        """A soft spot around a landmark, 1 at its middle."""
        return np.exp(-(((self.points - self.landmarks[index]) / radius) ** 2).sum(-1))


@numba.njit(cache=True, nogil=True)
@no_type_check
def _polygon_distance(points, polygon):
    distance = np.empty(len(points))
    for index in range(len(points)):
        x, y = points[index]
        nearest, inside = 1e9, False
        for k in range(len(polygon)):
            ax, ay = polygon[k - 1]
            bx, by = polygon[k]
            t = ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / max((bx - ax) ** 2 + (by - ay) ** 2, 1e-12)
            t = min(max(t, 0.0), 1.0)
            nearest = min(nearest, (x - ax - t * (bx - ax)) ** 2 + (y - ay - t * (by - ay)) ** 2)
            if (ay > y) != (by > y) and x < ax + (y - ay) / (by - ay) * (bx - ax):
                inside = not inside
        distance[index] = -(nearest**0.5) if inside else nearest**0.5
    return distance


def ramp(value: np.ndarray, low: float | np.ndarray, high: float | np.ndarray) -> np.ndarray:
    """Smooth step from 0 at `low` to 1 at `high` (which may lie below `low`)."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def beard_area(skin: SkinPoints) -> Float[np.ndarray, "*place"]:
    """[0, 1] where a beard grows."""
    marks, p = skin.landmarks, skin.points
    side = np.clip(np.abs(p[..., 0]) / abs(marks[234, 0]), 0, 1)
    upper = marks[2, 1] - 0.055 * (side * (1 - side) * 4) + (marks[234, 1] - marks[2, 1]) * ramp(side, 0.55, 1.0)
    lower = marks[152, 1] - 0.09
    around = ramp(p[..., 1], upper + 0.02, upper - 0.05) * ramp(p[..., 1], lower - 0.06, lower + 0.06)
    front = ramp(p[..., 2], marks[234, 2] - 0.08, marks[234, 2] + 0.06)
    bare = ramp(skin.outline(LIPS_OUTER), 0.0, 0.02)
    return around * front * bare


def paint_skin(skin: SkinPoints, look: Complexion, scalp: Float[np.ndarray, "*place"]) -> Paint:
    """Skin, lips and the ground of brows, beard and hair; `scalp` is the hair's density there."""
    p, seed = skin.points, look.seed
    tones = np.stack([linear(tone) for tone in SKIN_TONES])
    at = look.tone * (len(tones) - 1)
    base = tones[int(at)] + (tones[min(int(at) + 1, len(tones) - 1)] - tones[int(at)]) * (at - int(at))
    broad, fine = fractal_noise(p, 0.30, 3, seed), fractal_noise(p, 0.035, 3, seed + 1)
    base = base + 0.12 * (base.mean() - base)
    blotch = fractal_noise(p, 0.09, 3, seed + 8)
    albedo = base * np.exp((0.10 * broad + 0.07 * fine)[..., None] + blotch[..., None] * [0.02, -0.07, -0.06])

    blood = 0.5 * (skin.spot(50, 0.15) + skin.spot(280, 0.15)) + 0.55 * skin.spot(1, 0.09) + 0.3 * skin.spot(152, 0.1)
    blood = blood + 0.35 * (skin.spot(454, 0.2) + skin.spot(234, 0.2)) + 0.25 * (fine + broad)
    blood = np.clip(blood, 0, 1) * (0.25 + 0.75 * look.redness) * (0.5 + 0.5 * look.tone)
    albedo = albedo * (1 - blood[..., None] * [0.05, 0.34, 0.30])
    eyes = np.minimum(*(skin.outline(eye) for eye in EYES))
    under = ramp(eyes, 0.11, 0.02) * ramp(p[..., 1], skin.landmarks[33, 1] + 0.02, skin.landmarks[33, 1] - 0.05)
    albedo = albedo * (1 - (0.20 * under + 0.22 * ramp(eyes, 0.05, 0.0))[..., None] * [0.55, 0.9, 0.75])

    distance, value = cell_noise(p, 0.026, seed + 2)
    where = 0.4 + skin.spot(5, 0.25) + skin.spot(50, 0.2) + skin.spot(280, 0.2)
    spots = ramp(distance, 0.34, 0.12) * (value < look.freckles * where * 0.55)
    albedo = albedo * (1 - spots[..., None] * [0.22, 0.36, 0.42] * (0.35 + 0.65 * value[..., None]))
    distance, value = cell_noise(p, 0.19, seed + 3)
    moles = ramp(distance, 0.045, 0.025) * (value < 0.2)
    albedo = albedo * (1 - moles[..., None] * [0.55, 0.68, 0.72])

    outer = skin.outline(LIPS_OUTER) + 0.003 * fine
    lips = ramp(outer, 0.006, -0.014)
    # The upper lip is darker, and both are where they meet.
    upper = 0.12 * ramp(p[..., 1], skin.landmarks[13, 1], skin.landmarks[0, 1])
    red = base * (np.array([0.80, 0.47, 0.46]) * (1 - look.lips) + np.array([0.78, 0.26, 0.29]) * look.lips)
    crease = fractal_noise(p * [1.0, 0.12, 0.3], 0.022, 2, seed + 4)
    red = red * (1 - upper + 0.10 * crease)[..., None]
    albedo = albedo + (red - albedo) * (lips * 0.92)[..., None]

    stubble = beard_area(skin) * look.beard * np.clip(0.75 + 0.9 * fractal_noise(p, 0.014, 2, seed + 5), 0, 1)
    albedo = albedo + (0.45 * look.hair_colour + 0.16 * base - albedo) * (0.5 * stubble)[..., None]
    brows = np.minimum(*(skin.outline(brow) for brow in BROWS))
    cover = np.maximum(0.92 * scalp * (0.95 + 0.3 * fine), 0.16 * ramp(brows, 0.012, -0.03))
    albedo = albedo + (0.8 * look.hair_colour + 0.10 * base - albedo) * np.clip(cover, 0, 0.94)[..., None]

    pores, _ = cell_noise(p, 0.011, seed + 6)
    height = 0.00035 * ramp(pores, 0.0, 0.6) + 0.0004 * fine + 0.0003 * fractal_noise(p, 0.012, 2, seed + 7)
    height = height * (1 - 0.6 * lips) + 0.0012 * lips * crease
    zone = np.clip(skin.spot(1, 0.12) + skin.spot(6, 0.12) + skin.spot(151, 0.25) + 0.5 * skin.spot(152, 0.12), 0, 1)
    shine = look.shine * (0.45 + 0.55 * zone)
    strength = (0.7 + 0.45 * shine + 0.35 * lips) * (1 + 0.15 * fine) * (1 - 0.7 * scalp)
    roughness = 0.54 - 0.12 * shine - 0.10 * lips + 0.06 * broad
    # The same gloss stands out more on dark skin, whose pictures are exposed longer: it would look wet.
    dark = max(0.0, 1 - look.tone / 0.5)
    strength, roughness = strength * (1 - 0.38 * dark), roughness + 0.07 * dark
    return Paint(albedo, height, strength, roughness)


def paint_eyes(directions: Float[np.ndarray, "*place 3"], look: Complexion) -> Paint:
    """An eyeball by the direction from its centre, gaze along +z."""
    angle = np.rad2deg(np.arccos(np.clip(directions[..., 2], -1, 1)))
    flat = directions[..., :2] / np.linalg.norm(directions[..., :2], axis=-1, keepdims=True).clip(1e-6)
    share = np.clip((angle - PUPIL_DEG) / (CORNEA_DEG - 1.5 - PUPIL_DEG), 0, 1)
    fibre = fractal_noise(np.concatenate([flat * 2.2, 0.35 * share[..., None]], -1), 0.28, 3, look.seed + 20)
    tone = linear(IRIS_TONES[look.iris])
    inner = np.minimum(tone * 1.15 + [0.020, 0.011, 0.003], 1) * (1 + 0.85 * fibre)[..., None]
    outer = tone * (1 + 0.7 * fibre)[..., None]
    iris = inner + (outer - inner) * ramp(share, 0.15, 0.45)[..., None]
    iris = iris * (1 - 0.75 * ramp(share, 0.72, 1.0))[..., None]
    iris = iris * ramp(angle, PUPIL_DEG - 0.8, PUPIL_DEG + 0.8)[..., None] + 0.003
    veins = np.clip(fractal_noise(directions, 0.16, 3, look.seed + 21), 0, 1) * ramp(angle, 34.0, 60.0)
    sclera = np.array([0.42, 0.385, 0.36]) * (1 - ramp(angle, 40.0, 75.0) * 0.3)[..., None]
    sclera = sclera * (1 - 0.45 * ramp(directions[..., 1], 0.12, 0.42))[..., None]  # under the upper lid
    sclera = sclera * (1 - veins[..., None] * [0.05, 0.40, 0.38])
    white = ramp(angle, CORNEA_DEG - 2.2, CORNEA_DEG + 1.6)
    # The eyes of dark people are no darker, but their pictures are exposed longer: the whites would burn out.
    albedo = (iris + (sclera - iris) * white[..., None]) * (1 - 0.3 * max(0.0, 1 - look.tone / 0.5))
    # As rough as the window that they mirror is wide: that of a mirror would be a point, lost between the pixels.
    return Paint(albedo, np.zeros(angle.shape), np.full(angle.shape, 1.6), 0.25 + 0.08 * white)


def bump_normals(
    positions: Float[np.ndarray, "height width 3"],
    normals: Float[np.ndarray, "height width 3"],
    height: Float[np.ndarray, "height width"],
) -> Float[np.ndarray, "height width 3"]:
    """Offset of the unit normal caused by a height map over the texels, −∇h in the tangent plane.

    ∇h = (h_u (p_v × n) + h_v (n × p_u)) / (n · (p_u × p_v)); zero where the atlas has no surface around.
    """
    du = np.zeros_like(positions)
    dv = np.zeros_like(positions)
    hu, hv = np.zeros_like(height), np.zeros_like(height)
    du[:, 1:-1], hu[:, 1:-1] = positions[:, 2:] - positions[:, :-2], height[:, 2:] - height[:, :-2]
    dv[1:-1], hv[1:-1] = positions[2:] - positions[:-2], height[2:] - height[:-2]
    area = (normals * np.cross(du, dv)).sum(-1)
    gradient = hu[..., None] * np.cross(dv, normals) + hv[..., None] * np.cross(normals, du)
    offset = -gradient / np.where(np.abs(area) > 1e-9, area, np.inf)[..., None]
    size = np.linalg.norm(offset, axis=-1, keepdims=True)
    return offset * np.minimum(1, 0.6 / np.maximum(size, 1e-9))
