"""What surrounds the head of a synthetic person: clothes on the shoulders, light, background."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch.nn import functional

from gpavatar.data.synthetic_noise import fractal_noise
from gpavatar.data.synthetic_shading import Light
from gpavatar.data.synthetic_skin import linear, ramp

RINGS = 18
HALF_WIDTH, HALF_DEPTH, BOTTOM = 1.08, 0.42, -3.2  # of the body, units of head space
CLOTHS = ("#20242c", "#3b4252", "#6b2f35", "#2f4a3c", "#c9c4ba", "#8a8f98", "#46618c", "#a8763e", "#e4e1dc", "#7d5a7a",
          "#b5563c", "#5c7f86")  # fmt: skip
WALLS = ("#8d8a84", "#6a7078", "#a89f92", "#4c545c", "#7f8f88", "#b9b6b0", "#5e5148", "#3c4048", "#93a0ad", "#c7bfae")


@dataclass(frozen=True)
class Clothes:
    """A plain, striped or mottled garment; `depth` of the neckline in front."""

    colour: np.ndarray
    second: np.ndarray
    pattern: str  # "plain", "stripes", "mottled"
    depth: float
    pointed: bool
    seed: int

    @staticmethod
    def random(rng: np.random.Generator) -> Clothes:
        """Any garment."""
        colours = [linear(str(rng.choice(CLOTHS))) * rng.uniform(0.8, 1.15) for _ in range(2)]
        pattern = str(rng.choice(["plain", "plain", "plain", "stripes", "stripes", "mottled"]))
        if pattern == "mottled":
            colours[1] = 0.6 * colours[0] + 0.4 * colours[1]
        return Clothes(*colours, pattern, rng.uniform(0.01, 0.12), bool(rng.random() < 0.4), int(rng.integers(1 << 30)))

    def covers(self, points: Float[np.ndarray, "*place 3"], chin_y: float) -> Float[np.ndarray, "*place"]:
        """[0, 1] where the garment lies on the skin of the neutral bust."""
        azimuth = np.abs(np.arctan2(points[..., 0], points[..., 2] + 0.13)) / np.pi
        line = chin_y - 0.27 + 0.19 * ramp(azimuth, 0.1, 0.75)
        width = np.clip(np.abs(points[..., 0]) / 0.30, 0, 1)
        cut = 1 - width if self.pointed else np.sqrt(1 - width**2)
        line = line - self.depth * (1.25 if self.pointed else 1.0) * cut * (points[..., 2] > -0.1)
        return ramp(points[..., 1], line + 0.008, line - 0.008)

    def paint(
        self, points: Float[np.ndarray, "*place 3"]
    ) -> tuple[Float[np.ndarray, "*place 3"], Float[np.ndarray, "*place"]]:
        """Albedo and height of the cloth at points of the resting body."""
        folds = fractal_noise(points * [1.0, 0.6, 1.0], 0.5, 3, self.seed)
        weave = fractal_noise(points, 0.012, 2, self.seed + 1)
        share = np.zeros(points.shape[:-1])
        if self.pattern == "stripes":
            share = ramp(np.sin(points[..., 1] * 42.0 + 0.6 * folds), 0.2, 0.5)
        elif self.pattern == "mottled":
            share = ramp(fractal_noise(points, 0.16, 3, self.seed + 2), -0.05, 0.15)
        albedo = self.colour + (self.second - self.colour) * share[..., None]
        return albedo * (1 + 0.10 * weave + 0.06 * folds)[..., None], 0.030 * folds + 0.0009 * weave


@dataclass(frozen=True)
class Torso:
    """The body below the head's collar: new vertices behind the head's own, and faces that join both."""

    verts: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    uv_faces: np.ndarray


def build_torso(verts: Float[np.ndarray, "vert 3"], collar: Int[np.ndarray, " loop"]) -> Torso:
    """Sweep the collar loop of a neutral head outwards over the shoulders and down."""
    collar = np.roll(collar, -int((verts[collar, 2] + np.abs(verts[collar, 0])).argmin()))  # the seam is at the back
    loop = verts[collar]
    middle = np.array([0.0, 0.0, loop[:, 2].mean()])
    flat = (loop - middle)[:, [0, 2]]
    reach = np.linalg.norm(flat, axis=1)
    direction = flat / reach[:, None]
    outline = 1 / ((np.abs(direction[:, 0]) / HALF_WIDTH) ** 2.6 + (np.abs(direction[:, 1]) / HALF_DEPTH) ** 2.6) ** (
        1 / 2.6
    )
    gain = np.maximum(outline - reach, 0.04)
    rows = []
    for ring in range(1, RINGS + 1):
        t = min(ring / 12, 1.0)
        radius = reach + gain * np.sin(t * np.pi / 2)
        y = loop[:, 1] - 0.20 * gain * np.sin(t * np.pi / 2) - 0.5 * (1 - np.cos(t * np.pi / 2)) ** 1.4
        y = y + (BOTTOM - y) * max(ring - 12, 0) / (RINGS - 12)
        rows.append(np.stack([direction[:, 0] * radius, y, direction[:, 1] * radius + middle[2]], 1))
    count = len(collar)
    ids = np.concatenate([collar[None], len(verts) + np.arange(RINGS * count).reshape(RINGS, count)])
    uv_ids = np.arange((RINGS + 1) * (count + 1)).reshape(RINGS + 1, count + 1)
    u, v = np.meshgrid(np.linspace(0.01, 0.99, count + 1), np.linspace(0.01, 0.99, RINGS + 1))
    closed = np.concatenate([ids, ids[:, :1]], 1)
    a, b, c, d = closed[:-1, :-1], closed[:-1, 1:], closed[1:, 1:], closed[1:, :-1]
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    a, b, c, d = uv_ids[:-1, :-1], uv_ids[:-1, 1:], uv_ids[1:, 1:], uv_ids[1:, :-1]
    uv_faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    new = np.concatenate(rows)
    every = np.concatenate([verts, new])
    corners = every[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    if (normals * (corners.mean(1) - [0, -1.6, middle[2]])).sum() < 0:
        faces, uv_faces = faces[:, ::-1], uv_faces[:, ::-1]
    uv = np.stack([u, v], -1).reshape(-1, 2)
    return Torso(new, np.ascontiguousarray(faces), uv, np.ascontiguousarray(uv_faces))


def random_light(rng: np.random.Generator) -> Light:
    """A lamp or window from in front, to a side and above; a weaker one from elsewhere; sky and ground."""
    side = rng.choice([-1.0, 1.0])
    azimuth, elevation = side * rng.uniform(0.15, 1.0), rng.uniform(0.25, 0.9)
    warm = rng.normal(0, 0.09)
    tint = np.array([1 + warm, 1.0, 1 - warm])
    strength = rng.uniform(1.0, 1.6)
    other = -side * rng.uniform(0.5, 1.9)
    cool = np.array([1 - warm, 1.0, 1 + warm])
    sky = rng.uniform(0.32, 0.62)
    return Light(
        _direction(azimuth, elevation), strength * tint,
        _direction(other, rng.uniform(0.0, 0.5)), rng.uniform(0.15, 0.55) * cool,
        sky * cool, sky * rng.uniform(0.35, 0.7) * tint,
    )  # fmt: skip


def _direction(azimuth: float, elevation: float) -> np.ndarray:
    flat = np.cos(elevation)
    return np.array([flat * np.sin(azimuth), np.sin(elevation), flat * np.cos(azimuth)])


@dataclass(frozen=True)
class Background:
    """A wall, a gradient, blurred shapes or clouds of colour; fixed to the picture."""

    kind: str
    colours: np.ndarray  # (4, 3)
    seed: int

    @staticmethod
    def random(rng: np.random.Generator) -> Background:
        """Any background."""
        colours = np.stack([linear(str(rng.choice(WALLS))) * rng.uniform(0.7, 1.2) for _ in range(4)])
        kind = str(rng.choice(["plain", "gradient", "shapes", "clouds"]))
        return Background(kind, colours, int(rng.integers(1 << 30)))

    def draw(self, size: int) -> Float[np.ndarray, "{size} {size} 3"]:
        """The picture, linear RGB."""
        return _draw_background(self.kind, self.colours.tobytes(), self.seed, size).copy()

    def _drawn(self, size: int) -> np.ndarray:
        rng = np.random.default_rng(self.seed)
        v, u = np.meshgrid((np.arange(size) + 0.5) / size, (np.arange(size) + 0.5) / size, indexing="ij")
        first, second = self.colours[0], self.colours[1]
        vignette = 1 - 0.35 * ((u - 0.5) ** 2 + (v - 0.5) ** 2)
        if self.kind == "gradient":
            angle = rng.uniform(0, 2 * np.pi)
            share = ramp(np.cos(angle) * (u - 0.5) + np.sin(angle) * (v - 0.5), -0.6, 0.6)
            picture = first + (second - first) * share[..., None]
        elif self.kind == "clouds":
            points = np.stack([u, v, np.zeros_like(u)], -1)
            share = ramp(fractal_noise(points, 0.5, 4, self.seed % 1000), -0.4, 0.4)
            picture = first + (second - first) * share[..., None]
        elif self.kind == "shapes":
            small = np.tile(first, (48, 48, 1))
            for _ in range(int(rng.integers(5, 11))):
                x, y, w, h = rng.integers(-8, 44), rng.integers(-8, 44), rng.integers(5, 22), rng.integers(5, 30)
                small[max(y, 0) : y + h, max(x, 0) : x + w] = self.colours[rng.integers(4)] * rng.uniform(0.5, 1.8)
            coarse = torch.from_numpy(small).permute(2, 0, 1)[None]
            coarse = functional.avg_pool2d(functional.pad(coarse, (2, 2, 2, 2), mode="replicate"), 5, 1)
            smooth = functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
            picture = smooth[0].permute(1, 2, 0).clamp_min(0).numpy()
        else:
            picture = np.tile(first, (size, size, 1))
        return (picture * vignette[..., None]).astype(np.float32)


@lru_cache(maxsize=4)
def _draw_background(kind: str, colours: bytes, seed: int, size: int) -> np.ndarray:
    """Kept: the frames of a clip share their background, which takes as long as the skin."""
    return Background(kind, np.frombuffer(colours).reshape(4, 3), seed)._drawn(size)
