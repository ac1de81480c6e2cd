"""Short hair fixed to the moving skin: brows, lashes, beard."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gpavatar.data.synthetic_skin import BROWS, SkinPoints, beard_area
from gpavatar.face.morphable import SurfacePoints
from gpavatar.face.raster import rasterize

LIDS = (
    ((133, 173, 157, 158, 159, 160, 161, 246, 33), (133, 155, 154, 153, 145, 144, 163, 7, 33)),
    ((362, 398, 384, 385, 386, 387, 388, 466, 263), (362, 382, 381, 380, 374, 373, 390, 249, 263)),
)  # upper and lower rim of each eye, from the nose outwards
POINTS = 5
BROW_DROP = 0.020  # below where MediaPipe expects the brows of a bare head; it takes higher ones for raised


@dataclass(frozen=True)
class Fuzz:
    """Hairs as roots on the skin and constant offsets from them."""

    roots: SurfacePoints
    offsets: np.ndarray  # (hair, POINTS, 3)
    width: np.ndarray  # (hair,)

    def strands(
        self, verts: Float[Tensor, "vert 3"], faces: Int[Tensor, "face 3"]
    ) -> Float[np.ndarray, "hair point 3"]:
        """Hairs on a moved mesh."""
        return self.roots.on(verts, faces).numpy()[:, None] + self.offsets


@dataclass(frozen=True)
class FrontMap:
    """The neutral head seen from the front without perspective, x and y in [−0.6, 0.6]."""

    face_ids: Int[np.ndarray, "height width"]
    bary: Float[np.ndarray, "height width 3"]


def front_map(verts: Float[Tensor, "vert 3"], faces: Int[Tensor, "face 3"], size: int = 1024) -> FrontMap:
    """Look at the neutral head from the front."""
    screen = torch.stack([(verts[:, 0] + 0.6) / 1.2 * size, (0.6 - verts[:, 1]) / 1.2 * size, 4 - verts[:, 2]], -1)
    seen = rasterize(screen, faces, size, size)
    return FrontMap(seen.face_ids.numpy(), seen.bary.numpy())


def _plant(xy: np.ndarray, front: FrontMap) -> SurfacePoints:
    size = len(front.face_ids)
    column = np.clip(((xy[:, 0] + 0.6) / 1.2 * size).astype(int), 0, size - 1)
    row = np.clip(((0.6 - xy[:, 1]) / 1.2 * size).astype(int), 0, size - 1)
    return SurfacePoints(
        torch.from_numpy(front.face_ids[row, column].clip(0)), torch.from_numpy(front.bary[row, column])
    )


def _bend(direction: np.ndarray, normal: np.ndarray, length: np.ndarray, lift: float) -> np.ndarray:
    """Offsets of hairs that leave along `direction`, laid onto the plane of the skin, ends a little off it."""
    tangent = direction - (direction * normal).sum(-1, keepdims=True) * normal
    tangent /= np.linalg.norm(tangent, axis=-1, keepdims=True).clip(1e-6)
    s = np.linspace(0, 1, POINTS)[None, :, None]
    rise = lift * 4 * s * (1 - 0.75 * s)
    return length[:, None, None] * (tangent[:, None] * s + normal[:, None] * rise)


def grow_brows(
    skin: SkinPoints, normals: Float[Tensor, "vert 3"], faces: Int[Tensor, "face 3"], front: FrontMap,
    thickness: float, rng: np.random.Generator,
) -> Fuzz:  # fmt: skip
    """Two brows inside MediaPipe's outlines: hair that rises near the nose and lies along the bone further out."""
    roots, directions = [], []
    for brow in BROWS:
        line = 0.5 * (skin.landmarks[list(brow[:5])] + skin.landmarks[list(brow[9:4:-1])])
        line = line[::-1] if abs(line[0, 0]) > abs(line[-1, 0]) else line  # from the nose outwards
        straight = line[:1] + (line[-1:] - line[:1]) * np.linspace(0, 1, 5)[:, None]
        line = 0.65 * line + 0.35 * (straight + line.mean(0) - straight.mean(0))
        line = line - [0, BROW_DROP, 0]
        t = 0.95 * rng.beta(1.1, 1.35, 420)
        at = np.stack([np.interp(t * 4, np.arange(5), line[:, k]) for k in range(2)], -1)
        ahead = np.stack([np.interp(t * 4 + 0.3, np.arange(5), line[:, k]) for k in range(2)], -1)
        behind = np.stack([np.interp(t * 4 - 0.3, np.arange(5), line[:, k]) for k in range(2)], -1)
        along = (ahead - behind) / np.linalg.norm(ahead - behind, axis=1, keepdims=True).clip(1e-6)
        across = rng.normal(0, 0.5, len(t)).clip(-1.2, 1.2) * (1 - 0.75 * t**1.5) * (0.55 + 0.45 * np.minimum(1, 8 * t))
        roots.append(at + np.stack([0 * t, across * 0.026 * (0.6 + 0.8 * thickness)], -1))
        rise = 0.5 - 0.9 * t - 0.4 * across
        directions.append(np.stack([along[:, 0], along[:, 1] + rise, 0 * t], -1))
    planted = _plant(np.concatenate(roots), front)
    normal = planted.on(normals, faces).numpy()
    direction = np.concatenate(directions) + rng.normal(0, 0.12, (len(normal), 3))
    length = rng.uniform(0.022, 0.042, len(normal))
    return Fuzz(planted, _bend(direction, normal, length, 0.06), rng.uniform(0.0011, 0.0019, len(normal)))


def grow_beard(
    skin: SkinPoints, normals: Float[Tensor, "vert 3"], faces: Int[Tensor, "face 3"], front: FrontMap,
    length: float, rng: np.random.Generator,
) -> Fuzz:  # fmt: skip
    """A beard of up to a few centimetres, growing down and outwards."""
    marks = skin.landmarks
    xy = rng.uniform([marks[234, 0], marks[152, 1] - 0.1], [marks[454, 0], marks[2, 1] + 0.1], (40000, 2))
    planted = _plant(xy, front)
    verts = torch.from_numpy(skin.points).float()
    area = beard_area(SkinPoints(planted.on(verts, faces).numpy(), np.zeros(3), marks))
    kept = rng.random(len(xy)) < 0.8 * area**1.5
    planted = SurfacePoints(planted.face_ids[kept], planted.bary[kept])
    normal = planted.on(normals, faces).numpy()
    sideways = np.sign(xy[kept, :1]) * [0.25, 0.0, 0.0]
    direction = np.array([0.0, -1.0, 0.1]) + sideways + rng.normal(0, 0.3, normal.shape)
    size = length * rng.uniform(0.5, 1.1, len(normal)) * (0.4 + 0.6 * area[kept])
    return Fuzz(planted, _bend(direction, normal, size, 0.22), rng.uniform(0.0010, 0.0018, len(normal)))


def lashes(
    landmarks: Float[np.ndarray, "478 3"], eye_centres: Float[np.ndarray, "2 3"], length: float, seed: int
) -> Float[np.ndarray, "hair point 3"]:
    """Lashes on moved landmarks: away from the eyeball, the upper ones curved upwards."""
    rng = np.random.default_rng(seed)
    hairs = []
    for eye in range(2):
        # Landmark outlines start with the person's right eye, eye centres with the left.
        centre = eye_centres[1 - eye]
        for lower, rim in enumerate(LIDS[eye]):
            count = 40 if lower else 110
            t = np.clip(rng.uniform(0.10, 0.99, count), 0, 1) * (len(rim) - 1)
            root = np.stack([np.interp(t, np.arange(len(rim)), landmarks[list(rim), k]) for k in range(3)], -1)
            away = root - centre
            away /= np.linalg.norm(away, axis=1, keepdims=True)
            outer = (t / (len(rim) - 1) - 0.45)[:, None] * np.sign(landmarks[rim[-1], 0] - landmarks[rim[0], 0])
            away = away + outer * [0.7, 0, 0] + rng.normal(0, 0.10, (count, 3))
            size = length * rng.uniform(0.6, 1.0, count) * (0.45 if lower else 0.6 + 0.4 * t / (len(rim) - 1))
            s = np.linspace(0, 1, POINTS)[None, :, None]
            curve = np.array([0.0, -0.5 if lower else 0.75, 0.0]) * s**2
            hairs.append(root[:, None] + size[:, None, None] * (away[:, None] * s + curve))
    return np.concatenate(hairs)
