"""Where MediaPipe's points lie on the open head: render people, detect, lift to the surface, take the median.

    rendering -> 478 pixels -> triangle and barycentrics -> the same place on the average head -> median -> snap
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

from data_prep.open_head_parts import CORNEA_DEG, PUPIL_DEG
from gpavatar.camera import METRES_PER_UNIT, Camera, axis_angle_to_matrix
from gpavatar.face.landmarks import FACE_OVAL, IBUG68_FROM_MEDIAPIPE, IRIS_LEFT, IRIS_RIGHT, MEDIAPIPE_MIRROR
from gpavatar.face.open_head import PARTS, OpenHead
from gpavatar.face.raster import rasterize, to_screen, vertex_normals
from gpavatar.types import HeadParams

SIZE_PX, SUPERSAMPLE = 512, 2
DISTANCE, FOCAL = 7.0, 3.4  # camera distance in head-space units, focal length in image sizes
VIEWS_DEG = tuple(itertools.product((-40, -20, 0, 20, 40), (-15, 0, 15)))  # yaw, pitch
MM_PER_UNIT = 1000 * METRES_PER_UNIT
STEADY_MM = 4.0  # a point with this spread gets half the weight
POSE_FIELDS = ("expression", "jaw_pose", "neck_pose", "eye_pose")
FACING = 0.35  # least cosine between surface normal and viewing direction: beyond, a pixel is many millimetres


@dataclass(frozen=True)
class View:
    """A rendering: what the detector sees, and what lies under each pixel."""

    image: np.ndarray  # (512, 512, 3) uint8
    face_ids: np.ndarray  # (512, 512), -1 where nothing
    bary: np.ndarray  # (512, 512, 3)
    facing: np.ndarray  # (512, 512) cosine


def orbit(yaw_deg: float, pitch_deg: float) -> Camera:
    """A camera on a sphere around the face, looking at its middle."""
    turn = axis_angle_to_matrix(torch.tensor([np.deg2rad(pitch_deg), 0.0, 0.0]).float())
    turn = axis_angle_to_matrix(torch.tensor([0.0, np.deg2rad(yaw_deg), 0.0]).float()) @ turn
    pose = torch.eye(4)
    pose[:3, :3] = turn
    lower = torch.eye(4)
    lower[1, 3] = -0.05
    frontal = Camera.frontal(DISTANCE, FOCAL)
    return Camera(lower @ pose @ frontal.c2w, frontal.intrinsics)


def paint(head: OpenHead, face_ids: np.ndarray, bary: np.ndarray, tone: np.ndarray) -> np.ndarray:
    """(..., 3) albedo: a plain person with brows, lips, irises and short hair, from the place on the average head."""
    faces, mean = head.faces.numpy(), head.mean.numpy()
    at = (mean[faces[face_ids]] * bary[..., None]).sum(-2)
    part = head.face_parts.numpy()[face_ids]
    regions = head.topology.regions

    def share(name: str) -> np.ndarray:
        return ((regions[name].numpy().astype(np.float32))[faces[face_ids]] * bary).sum(-1)[..., None]

    x, y = np.abs(at[..., 0]), at[..., 1]
    brow_line = 0.098 + 0.035 * np.sin((x - 0.03) * np.pi / 0.26)
    thick = 0.022 * np.clip(1.25 - x / 0.3, 0.35, 1)
    brow = np.exp(-(((y - brow_line) / thick) ** 4)) * (x > 0.05) * (x < 0.265) * (at[..., 2] > 0.25)
    colour = np.broadcast_to(tone, at.shape).copy()
    hair = np.clip(share("scalp") * 1.5 - 0.2, 0, 1)
    colour = colour * (1 - 0.45 * share("lips")) + 0.45 * share("lips") * np.array([0.62, 0.28, 0.27])
    for amount in (0.8 * brow[..., None], 0.9 * hair):
        colour = colour * (1 - amount) + amount * np.array([0.09, 0.065, 0.05])
    plain = {"mouth_bag": (0.22, 0.05, 0.05), "tongue": (0.6, 0.25, 0.25), "teeth_upper": (0.85, 0.82, 0.75),
             "teeth_lower": (0.85, 0.82, 0.75), "gums_upper": (0.6, 0.3, 0.3), "gums_lower": (0.6, 0.3, 0.3)}  # fmt: skip
    for name, value in plain.items():
        colour[part == PARTS.index(name)] = value
    for side, name in enumerate(("eye_left", "eye_right")):
        own = part == PARTS.index(name)
        ray = at[own] - head.joints.numpy()[2 + side]
        angle = np.rad2deg(np.arccos(ray[:, 2] / np.linalg.norm(ray, axis=1)))[:, None]
        white = np.where(angle < CORNEA_DEG, [0.25, 0.16, 0.1], [0.83, 0.82, 0.8])
        colour[own] = np.where(angle < PUPIL_DEG, [0.02, 0.02, 0.02], white)
    return colour


def render(head: OpenHead, verts: torch.Tensor, camera: Camera, tone: np.ndarray) -> View:
    """Shade a head from a camera: two lamps, no shadows; lashes left out, they hide the lid's edge."""
    size = SIZE_PX * SUPERSAMPLE
    kept = head.face_parts != PARTS.index("lashes")
    faces, number = head.faces[kept], kept.nonzero()[:, 0].numpy()
    seen = rasterize(to_screen(verts, camera, size, size), faces, size, size)
    local, bary = seen.face_ids.numpy(), seen.bary.numpy()
    covered = local >= 0
    ids = np.where(covered, number[local], -1)
    corners = head.faces.numpy()[ids[covered]]
    normals = (vertex_normals(verts, faces).numpy()[corners] * bary[covered][..., None]).sum(1)
    points = (verts.numpy()[corners] * bary[covered][..., None]).sum(1)
    to_eye = camera.c2w[:3, 3].numpy() - points
    facing = (normals * to_eye).sum(1) / (np.linalg.norm(normals, axis=1) * np.linalg.norm(to_eye, axis=1) + 1e-9)
    light = 0.3 + 0.55 * np.clip(normals @ [-0.37, 0.46, 0.81], 0, 1) + 0.25 * np.clip(normals @ [0.7, 0.1, 0.7], 0, 1)
    image = np.full((size, size, 3), 0.45)
    image[covered] = paint(head, ids[covered], bary[covered], tone) * light[:, None]
    small = image.reshape(SIZE_PX, SUPERSAMPLE, SIZE_PX, SUPERSAMPLE, 3).mean((1, 3))
    full_facing = np.zeros((size, size))
    full_facing[covered] = facing
    middle = slice(SUPERSAMPLE // 2, None, SUPERSAMPLE)
    pixels = (np.clip(small, 0, 1) ** (1 / 1.8) * 255).round().astype(np.uint8)
    return View(pixels, ids[middle, middle], bary[middle, middle], full_facing[middle, middle])


class Detector:
    """MediaPipe's face landmarker on single images."""

    def __init__(self, model: Path):
        import mediapipe as mp

        options = mp.tasks.vision.FaceLandmarkerOptions(
            base_options=mp.tasks.BaseOptions(model_asset_path=str(model)), num_faces=1
        )
        self._mp, self._landmarker = mp, mp.tasks.vision.FaceLandmarker.create_from_options(options)

    def __call__(self, image: np.ndarray) -> np.ndarray | None:
        """(478, 2) pixels, or None without a face."""
        picture = self._mp.Image(image_format=self._mp.ImageFormat.SRGB, data=np.ascontiguousarray(image))
        found = self._landmarker.detect(picture).face_landmarks
        return np.array([[p.x, p.y] for p in found[0]]) * image.shape[1::-1] if found else None


def lift(view: View, points_px: np.ndarray, head: OpenHead) -> np.ndarray:
    """(478, 3) places on the average head that the points show; NaN beside the head and on grazing surfaces."""
    pixel = np.floor(points_px).astype(int)
    inside = ((pixel >= 0) & (pixel < SIZE_PX)).all(1)
    column, row = np.clip(pixel, 0, SIZE_PX - 1).T
    ids = view.face_ids[row, column]
    usable = inside & (ids >= 0) & (view.facing[row, column] > FACING)
    corners = head.mean.numpy()[head.faces.numpy()[ids]]
    return np.where(usable[:, None], (corners * view.bary[row, column][..., None]).sum(1), np.nan)


def geometric_median(points: np.ndarray) -> np.ndarray:
    """Point of least summed distance to `points` (n, 3) (Weiszfeld)."""
    middle = np.median(points, 0)
    for _ in range(50):
        weight = 1 / np.maximum(np.linalg.norm(points - middle, axis=1), 1e-4)
        middle = (points * weight[:, None]).sum(0) / weight.sum()
    return middle


def snap(points: np.ndarray, verts: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest place on a surface: (face index, barycentrics) per point, by a search of the nearest triangles."""
    corners = verts[faces]
    _, near = cKDTree(corners.mean(1)).query(points, k=24)
    tri = corners[near]
    bary = _closest_bary(points[:, None], tri)
    distance = np.linalg.norm((tri * bary[..., None]).sum(2) - points[:, None], axis=-1)
    best = distance.argmin(1)
    rows = np.arange(len(points))
    return near[rows, best], bary[rows, best]


def _closest_bary(point: np.ndarray, tri: np.ndarray) -> np.ndarray:
    """Barycentrics of the closest point of each triangle: inside, or on the nearest of its edges."""
    a, ab, ac, ap = tri[..., 0, :], tri[..., 1, :] - tri[..., 0, :], tri[..., 2, :] - tri[..., 0, :], point - tri[..., 0, :]
    d00, d01, d11 = (ab * ab).sum(-1), (ab * ac).sum(-1), (ac * ac).sum(-1)
    d20, d21 = (ap * ab).sum(-1), (ap * ac).sum(-1)
    area = np.maximum(d00 * d11 - d01 * d01, 1e-18)
    v, w = (d11 * d20 - d01 * d21) / area, (d00 * d21 - d01 * d20) / area
    options = [np.stack([1 - v - w, v, w], -1)]
    for i, j in ((0, 1), (1, 2), (2, 0)):
        edge = tri[..., j, :] - tri[..., i, :]
        t = ((point - tri[..., i, :]) * edge).sum(-1) / np.maximum((edge * edge).sum(-1), 1e-18)
        bary = np.zeros((*t.shape, 3))
        bary[..., i], bary[..., j] = 1 - np.clip(t, 0, 1), np.clip(t, 0, 1)
        options.append(bary)
    stacked = np.stack(options)
    reach = np.linalg.norm((stacked[..., None] * tri).sum(-2) - point, axis=-1)
    reach[0] = np.where((stacked[0] >= 0).all(-1), reach[0], np.inf)
    return np.take_along_axis(stacked, reach.argmin(0)[None, ..., None], 0)[0]


def mirror_permutation(points: np.ndarray) -> np.ndarray:
    """(478,) each point's partner on the other side: the assignment that best matches the points' mirror image."""
    cost = np.linalg.norm(points[:, None] * [-1, 1, 1] - points[None], axis=-1)
    cost = cost + cost.T
    return linear_sum_assignment(cost)[1]


def landmark_arrays(head: OpenHead, model: Path, n_people: int = 12) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The landmark arrays of the npz file, and each point's spread in mm (median distance of what was seen)."""
    rng = np.random.default_rng(478)
    detect, seen = Detector(model), []
    for person in range(n_people):
        shape = torch.from_numpy(rng.normal(size=head.n_shape) * (person > 0) * 0.8).float()
        tone = np.array([0.80, 0.60, 0.50]) * rng.uniform(0.35, 1.05) ** np.array([0.7, 1.0, 1.2])
        neutral = HeadParams.neutral(head.n_shape, head.n_expression)
        with torch.no_grad():
            verts = head.verts(HeadParams(shape, *(getattr(neutral, f) for f in POSE_FIELDS)))
        for yaw, pitch in VIEWS_DEG:
            view = render(head, verts, orbit(yaw, pitch), tone)
            points = detect(view.image)
            if points is not None:
                seen.append(lift(view, points, head))
    lifted = np.array(seen)  # (image, 478, 3)
    centre = np.array([geometric_median(p[~np.isnan(p[:, 0])]) for p in lifted.transpose(1, 0, 2)])
    spread = np.nanmedian(np.linalg.norm(lifted - centre, axis=-1), 0) * MM_PER_UNIT
    mirror = np.array(MEDIAPIPE_MIRROR)
    centre = (centre + centre[mirror] * [-1, 1, 1]) / 2
    spread = np.maximum(spread, spread[mirror])
    mean, faces = head.mean.numpy(), head.faces.numpy()
    skin = np.flatnonzero(head.face_parts.numpy() == PARTS.index("skin"))
    face, bary = snap(centre, mean, faces[skin])
    face = skin[face]
    _place_irises(head, face, bary)
    weights = 1 / (1 + (spread / STEADY_MM) ** 2)
    weights[list(FACE_OVAL)] *= 0.3
    weights[spread > 12] = np.minimum(weights[spread > 12], 0.05)
    weights[list(IRIS_RIGHT + IRIS_LEFT)] = 1
    ibug = np.array(IBUG68_FROM_MEDIAPIPE)
    return {
        "mediapipe_faces": face.astype(np.uint16),
        "mediapipe_bary": bary.astype(np.float32),
        "mediapipe_weights": weights.astype(np.float32),
        "ibug68_faces": face[ibug].astype(np.uint16),
        "ibug68_bary": bary[ibug].astype(np.float32),
    }, spread


def _place_irises(head: OpenHead, face: np.ndarray, bary: np.ndarray) -> None:
    """Put the iris points where they are by definition: the cornea's apex and four points of the limbus.

    Detected, the upper and lower ones lie on the lids.
    """
    mean, faces = head.mean.numpy(), head.faces.numpy()
    sine, cosine = np.sin(np.deg2rad(CORNEA_DEG)), np.cos(np.deg2rad(CORNEA_DEG))
    ring = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]]) * sine
    rays = np.array([[0, 0, 1.045], *[[x, y, cosine] for x, y in ring]])
    for points, side in ((IRIS_RIGHT, 1), (IRIS_LEFT, 0)):
        own = np.flatnonzero(head.face_parts.numpy() == PARTS.index("eye_left") + side)
        target = head.joints[2 + side].numpy() + rays * float(head.eye_radius[side])
        found, where = snap(target, mean, faces[own])
        face[list(points)], bary[list(points)] = own[found], where
