"""Where MediaPipe's points lie on the open head: render people, detect, lift to the surface, take the median.

rendering -> 478 pixels -> triangle and barycentrics -> the same place on the average head -> median -> snap
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from data_prep.open_head_parts import CORNEA_APEX, CORNEA_DEG, PUPIL_DEG
from gpavatar.camera import METRES_PER_UNIT, Camera, axis_angle_to_matrix
from gpavatar.face.landmarks import (
    FACE_OVAL,
    IBUG68_FROM_MEDIAPIPE,
    IRIS_LEFT,
    IRIS_RIGHT,
    LIPS_INNER,
    LIPS_OUTER,
    MEDIAPIPE_MIRROR,
)
from gpavatar.face.open_head import JAW, PARTS, OpenHead
from gpavatar.face.raster import rasterize, to_screen, vertex_normals
from gpavatar.types import HeadParams

SIZE_PX, SUPERSAMPLE = 512, 2
DISTANCE, FOCAL = 7.0, 3.4  # camera distance in head-space units, focal length in image sizes
VIEWS_DEG = tuple(itertools.product((-40, -20, 0, 20, 40), (-15, 0, 15)))  # yaw, pitch
OPEN_VIEWS_DEG = tuple((yaw, 0) for yaw in (-40, -20, 0, 20, 40))
REACH_PX = 4.0
MM_PER_UNIT = 1000 * METRES_PER_UNIT
STEADY_MM = 4.0  # a point with this spread gets half the weight
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
    white, pink = (0.85, 0.82, 0.75), (0.6, 0.3, 0.3)
    plain = {"mouth_bag": (0.22, 0.05, 0.05), "tongue": (0.6, 0.25, 0.25), "teeth_upper": white, "teeth_lower": white,
             "gums_upper": pink, "gums_lower": pink}  # fmt: skip
    for name, value in plain.items():
        colour[part == PARTS.index(name)] = value
    for side, name in enumerate(("eye_left", "eye_right")):
        own = part == PARTS.index(name)
        ray = at[own] - head.joints.numpy()[2 + side]
        angle = np.rad2deg(np.arccos(ray[:, 2] / np.linalg.norm(ray, axis=1)))[:, None]
        iris = np.where(angle < CORNEA_DEG, [0.25, 0.16, 0.1], [0.83, 0.82, 0.8])
        colour[own] = np.where(angle < PUPIL_DEG, [0.02, 0.02, 0.02], iris)
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


@dataclass(frozen=True)
class Lifted:
    """What the 478 points of one image show: NaN beside the head and on grazing surfaces."""

    at: np.ndarray  # (478, 3) places on the average head
    jaw: np.ndarray  # (478,) how far the surface there follows the jaw


def lift(view: View, points_px: np.ndarray, head: OpenHead) -> Lifted:
    """From pixels through the rendering's triangles to the average head.

    A point that the detector puts on an eyeball or into the mouth means the skin next to it.
    """
    hit = view.face_ids >= 0
    skin = hit & (head.face_parts.numpy()[view.face_ids] == PARTS.index("skin"))
    usable = skin & (view.facing > FACING)
    away, nearest = distance_transform_edt(~usable, return_indices=True)
    column, row = np.clip(np.floor(points_px).astype(int), 0, SIZE_PX - 1).T
    usable = (usable | (hit & ~skin & (away <= REACH_PX)))[row, column]
    row, column = nearest[:, row, column]
    ids, bary = view.face_ids[row, column], view.bary[row, column]
    corners = head.faces.numpy()[ids]
    at = (head.mean.numpy()[corners] * bary[..., None]).sum(1)
    jaw = (head.joint_weights[:, JAW].numpy()[corners] * bary).sum(1)
    return Lifted(np.where(usable[:, None], at, np.nan), np.where(usable, jaw, np.nan))


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
    a, b, c = tri[..., 0, :], tri[..., 1, :], tri[..., 2, :]
    ab, ac, ap = b - a, c - a, point - a
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


def landmark_arrays(head: OpenHead, model: Path, n_people: int = 12) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The landmark arrays of the npz file, and each point's spread in mm (median distance of what was seen).

    The lips' points come from renderings with an open mouth: on a closed one the two inner lines coincide, and a
    point of the lower lip could be put on the upper.
    """
    detect, visible = Detector(model), np.zeros(len(head.faces), bool)
    closed: list[Lifted] = []
    opened: list[Lifted] = []
    for verts, tone, mouth_open in _people(head, n_people):
        for yaw, pitch in OPEN_VIEWS_DEG if mouth_open else VIEWS_DEG:
            view = render(head, verts, orbit(yaw, pitch), tone)
            visible[view.face_ids[view.facing > FACING]] = True
            points = detect(view.image)
            if points is not None:
                (opened if mouth_open else closed).append(lift(view, points, head))
    lips = np.isin(np.arange(478), LIPS_OUTER + LIPS_INNER)
    images = [np.array([one.at for one in group]) for group in (closed, opened)]
    centre, spread = np.zeros((478, 3)), np.zeros(478)
    for point in range(478):
        own = images[int(lips[point])][:, point]
        own = own[~np.isnan(own[:, 0])]
        centre[point] = geometric_median(own)
        spread[point] = np.median(np.linalg.norm(own - centre[point], axis=1)) * MM_PER_UNIT
    mirror = np.array(MEDIAPIPE_MIRROR)
    residual = np.linalg.norm(centre - centre[mirror] * [-1, 1, 1], axis=1) / 2 * MM_PER_UNIT
    print(f"{len(closed)} + {len(opened)} faces found; left against right: median {np.median(residual):.2f} mm")
    centre = (centre + centre[mirror] * [-1, 1, 1]) / 2
    spread = np.maximum(spread, spread[mirror])
    jaw = np.nanmedian([one.jaw for one in opened], 0)
    lower = (jaw + jaw[mirror]) / 2 > 0.5
    face, bary = _snap_to_skin(head, centre, visible, np.where(lips, lower.astype(int), -1))
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


def _people(head: OpenHead, count: int) -> Iterator[tuple[torch.Tensor, np.ndarray, bool]]:
    """The average person, then random ones: (vertices, skin tone, mouth open), each with a closed and an open mouth."""
    rng = np.random.default_rng(478)
    neutral = HeadParams.neutral(head.n_shape, head.n_expression)
    opening = neutral.expression.clone()
    opening[head.expression_names.index("jawOpen")] = 0.4
    for person in range(count):
        shape = torch.from_numpy(rng.normal(size=head.n_shape) * (person > 0) * 0.8).float()
        tone = np.array([0.80, 0.60, 0.50]) * rng.uniform(0.35, 1.05) ** np.array([0.7, 1.0, 1.2])
        for expression in (neutral.expression, opening):
            with torch.no_grad():
                yield (
                    head.verts(replace(neutral, shape=shape, expression=expression)),
                    tone,
                    expression is opening,
                )


def _snap_to_skin(
    head: OpenHead, points: np.ndarray, visible: np.ndarray, lip: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Nearest place on the skin that can be seen; a lip's points (0 upper, 1 lower) stay on their own lip."""
    skin = (head.face_parts.numpy() == PARTS.index("skin")) & visible
    jaw = head.joint_weights[:, JAW].numpy()[head.faces.numpy()].mean(1)
    face, bary = np.zeros(len(points), int), np.zeros((len(points), 3))
    for kind, allowed in ((-1, skin), (0, skin & (jaw < 0.5)), (1, skin & (jaw >= 0.5))):
        own, among = lip == kind, np.flatnonzero(allowed)
        found, bary[own] = snap(points[own], head.mean.numpy(), head.faces.numpy()[among])
        face[own] = among[found]
    return face, bary


def _place_irises(head: OpenHead, face: np.ndarray, bary: np.ndarray) -> None:
    """Put the iris points where they are by definition: the cornea's apex and four points of the limbus.

    Detected, the upper and lower ones lie on the lids.
    """
    mean, faces = head.mean.numpy(), head.faces.numpy()
    sine, cosine = np.sin(np.deg2rad(CORNEA_DEG)), np.cos(np.deg2rad(CORNEA_DEG))
    ring = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]]) * sine
    rays = np.array([[0, 0, CORNEA_APEX], *[[x, y, cosine] for x, y in ring]])
    for points, side in ((IRIS_RIGHT, 1), (IRIS_LEFT, 0)):
        own = np.flatnonzero(head.face_parts.numpy() == PARTS.index("eye_left") + side)
        target = head.joints[2 + side].numpy() + rays * float(head.eye_radius[side])
        found, where = snap(target, mean, faces[own])
        face[list(points)], bary[list(points)] = own[found], where
