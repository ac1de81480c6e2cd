"""Photos and clips of a person -> the aligned, fitted and matted frames that an avatar is made from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gpavatar.camera import Camera, matrix_to_axis_angle
from gpavatar.media.align import crop_image, head_crop
from gpavatar.media.frames import open_frames
from gpavatar.pretrained.matting import matte
from gpavatar.tracking.tracker import Tracker
from gpavatar.types import InputError, SourceFrame, TrackedFrame

SOURCE_PX = 512
MAX_SIDE_PX = 2048  # of a photo as it is read; the crop that is kept has SOURCE_PX
MAX_SIDE_CLIP_PX = 1280
CLIP_S = 60.0  # of a clip are looked at
CANDIDATES = 32  # frames of them are tracked
VIEWS_PER_CLIP = 8
ALIKE_DEG = 4.0  # views closer than this show nothing new
EYES = ((159, 145, 33, 133), (386, 374, 263, 362))  # MediaPipe's upper lid, lower lid, outer and inner corner
FRONTAL = torch.diag(torch.tensor([1.0, -1.0, -1.0]))  # head -> camera for a face that looks into the camera


@dataclass(frozen=True)
class View:
    """A photo, or one frame of a source clip."""

    name: str
    image_u8: UInt8[np.ndarray, "height width 3"]


def source_frames(
    paths: Sequence[str | Path],
    tracker: Tracker,
    size_px: int = SOURCE_PX,
    views_per_clip: int = VIEWS_PER_CLIP,
) -> list[SourceFrame]:
    """Every photo, and up to `views_per_clip` views of every clip, as source frames, fitted under one shape.

    The views of a clip are sharp, with open eyes, and as different in yaw and pitch as they come; the most frontal
    stands first. Raises InputError, naming the file, for one that cannot be read or shows no face.
    """
    views = [view for path in paths for view in _views(Path(path), tracker, views_per_clip)]
    tracked = tracker.track_images([view.image_u8 for view in views], [view.name for view in views])
    return [source_frame(view.image_u8, fit, size_px) for view, fit in zip(views, tracked, strict=True)]


def source_frame(image_u8: UInt8[np.ndarray, "height width 3"], tracked: TrackedFrame, size_px: int) -> SourceFrame:
    """One picture and what the tracker knows of it -> the square around the head, with matte and camera of the crop."""
    height_px, width_px = image_u8.shape[:2]
    box = head_crop(tracked.landmarks_px).kept_inside(width_px, height_px)
    image = crop_image(image_u8, box, size_px).image
    person = matte(image)
    camera = tracked.camera.crop(*box.normalised(width_px, height_px))
    landmarks_px = box.to_crop_px(tracked.landmarks_px, size_px)
    return SourceFrame(image, person.alpha, person.hair, person.face, person.body, tracked.params, camera, landmarks_px)


@dataclass(frozen=True)
class ViewQuality:
    """What decides which frames of a clip are taken."""

    yaw_pitch_deg: Float[Tensor, "*view 2"]
    sharpness: Float[Tensor, "*view"]
    eye_opening: Float[Tensor, "*view"]

    @staticmethod
    def of(image_u8: UInt8[np.ndarray, "height width 3"], tracked: TrackedFrame) -> ViewQuality:
        """Measured in one frame."""
        angles, landmarks_px = torch.tensor(yaw_pitch_deg(tracked.camera)), tracked.landmarks_px
        return ViewQuality(angles, torch.tensor(sharpness(image_u8, landmarks_px)), eye_opening(landmarks_px))


def choose_views(views: ViewQuality, count: int = VIEWS_PER_CLIP) -> list[int]:
    """Indices of up to `count` views: the most frontal first, then always the one farthest from those chosen.

    Only views are taken that are at least half as sharp as the median, with eyes at least 3/4 as open, and none within
    4° of one already chosen.
    """
    sharp = views.sharpness >= views.sharpness.median() / 2
    awake = views.eye_opening >= views.eye_opening.median() * 0.75
    usable = sharp & awake if (sharp & awake).any() else sharp
    angles = views.yaw_pitch_deg
    chosen = [int(torch.where(usable, angles.norm(dim=-1), torch.inf).argmin())]
    while len(chosen) < count:
        nearest = torch.cdist(angles, angles[chosen]).amin(-1)
        best = int(torch.where(usable, nearest, -torch.inf).argmax())
        if nearest[best] < ALIKE_DEG:
            break
        chosen.append(best)
    return chosen


def eye_opening(landmarks_px: Float[Tensor, "478 2"]) -> Float[Tensor, ""]:
    """Distance of the lids over the distance of the eye's corners, the mean of both eyes."""
    upper, lower, outer, inner = landmarks_px[torch.tensor(EYES).T]
    return ((upper - lower).norm(dim=-1) / (outer - inner).norm(dim=-1)).mean()


def yaw_pitch_deg(camera: Camera) -> tuple[float, float]:
    """How far the head is turned sideways and up or down against the camera, degrees."""
    pitch, yaw, _ = matrix_to_axis_angle(FRONTAL @ camera.w2c[:3, :3]).rad2deg().tolist()
    return yaw, pitch


def sharpness(image_u8: UInt8[np.ndarray, "height width 3"], landmarks_px: Float[Tensor, "478 2"]) -> float:
    """Mean squared Laplacian of the face, scaled to one size so that a near face is not called soft."""
    grey = crop_image(image_u8, head_crop(landmarks_px), 256).image.mean(0)[64:192, 64:192]
    laplacian = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    return float((laplacian**2).mean())


def _views(path: Path, tracker: Tracker, count: int) -> list[View]:
    reader = open_frames(path, max_side_px=MAX_SIDE_CLIP_PX, end_s=CLIP_S)
    if reader.info.num_frames_estimate == 1:
        return [View(str(path), frame.image_u8) for frame in open_frames(path, max_side_px=MAX_SIDE_PX)]
    stride = math.ceil(reader.info.num_frames_estimate / CANDIDATES)
    views, qualities = [], []
    for frame in reader:
        if frame.index % stride:
            continue
        name = f"{path} at {frame.time_s:.2f} s"
        try:
            tracked = tracker.track_image(frame.image_u8, name)
        except InputError:  # no face in this one
            continue
        views.append(View(name, frame.image_u8))
        qualities.append(ViewQuality.of(frame.image_u8, tracked))
    if not views:
        raise InputError(f"{path}: no face found in any frame; give a clip that shows the person's face")
    names = [field.name for field in fields(ViewQuality)]
    quality = ViewQuality(*(torch.stack([getattr(one, name) for one in qualities]) for name in names))
    return [views[index] for index in choose_views(quality, count)]
