"""Faces in a picture: MediaPipe's Face Landmarker (Apache-2.0) behind one small class.

Pictures are uint8 height-width-channel RGB here: this is the file border. Landmarks come back in pixels of the picture
given, whatever was cropped, padded or scaled on the way to the network.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import mediapipe
import numpy as np
import torch
from jaxtyping import Float, UInt8
from mediapipe.tasks.python import BaseOptions, vision
from torch import Tensor

from gpavatar import assets
from gpavatar.pretrained.native import native_stderr_silenced, remember_ignored_timers
from gpavatar.types import ARKIT_NAMES

NETWORK_SIDE_PX = 512  # the short side of the picture that the detector sees; it works at 128, the landmarks at 256
SHARP_FACE_PX = 160  # a face smaller than this in the reduced picture is looked at again in a crop of its own


@dataclass(frozen=True)
class FaceDetection:
    """One face in one picture."""

    landmarks_px: Float[Tensor, "478 2"]  # the centre of the upper left pixel is (0.5, 0.5)
    landmarks_z: Float[Tensor, " 478"]  # depth relative to the head's centre, about in px, away from the camera
    blendshapes: Float[Tensor, " 52"]  # [0, 1], in the order of ARKIT_NAMES; tongueOut is not scored: 0
    pose: Float[Tensor, "4 4"]  # MediaPipe's canonical face -> its own camera (OpenGL axes, cm); rotation is reliable

    @property
    def box_px(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 around the landmarks."""
        low, high = self.landmarks_px.amin(0).tolist(), self.landmarks_px.amax(0).tolist()
        return (*low, *high)

    @property
    def size_px(self) -> float:
        """The geometric mean of the sides of `box_px`."""
        x0, y0, x1, y1 = self.box_px
        return ((x1 - x0) * (y1 - y0)) ** 0.5


@dataclass(frozen=True)
class Window:
    """The part of a picture that the network looks at, in px; what lies outside the picture is black."""

    x0: int
    y0: int
    x1: int
    y1: int

    @staticmethod
    def whole(image_u8: UInt8[np.ndarray, "height width 3"]) -> Window:
        """All of the picture."""
        return Window(0, 0, image_u8.shape[1], image_u8.shape[0])

    @staticmethod
    def around(box_px: tuple[float, float, float, float], scale: float) -> Window:
        """A square about the middle of the box, `scale` times its longer side."""
        x0, y0, x1, y1 = box_px
        half = max(x1 - x0, y1 - y0) * scale / 2
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        return Window(round(x - half), round(y - half), round(x + half), round(y + half))

    def contains(self, box_px: tuple[float, float, float, float], margin_px: float) -> bool:
        """Whether the box lies inside, at least `margin_px` from every side."""
        x0, y0, x1, y1 = box_px
        return min(x0 - self.x0, y0 - self.y0) >= margin_px and min(self.x1 - x1, self.y1 - y1) >= margin_px


class FaceDetector:
    """Finds every face of a picture (`detect`) or follows the faces of a video (`detect_next`).

    `detect` depends on nothing but the picture. `detect_next` starts from where the faces were in the call before,
    which keeps hold of profiles and small faces; the two share no state. AssetError when the model cannot be had.
    """

    def __init__(self, max_faces: int = 6, model: Path | None = None):
        model = model or assets.fetch("face_landmarker")
        with native_stderr_silenced():
            self._still = _landmarker(model, vision.RunningMode.IMAGE, max_faces)
            self._video = _landmarker(model, vision.RunningMode.VIDEO, max_faces)
            self._clock_ms = 0
            blank = np.zeros((NETWORK_SIDE_PX // 2, NETWORK_SIDE_PX, 3), np.uint8)
            self._still.detect(_as_mediapipe(blank))
            self.reset()
        remember_ignored_timers()
        self._window: Window | None = None
        # MediaPipe's own clean-up fails with a traceback when it only comes as the interpreter goes down.
        self.close = weakref.finalize(self, _close, self._still, self._video)

    def detect(self, image_u8: UInt8[np.ndarray, "height width 3"]) -> list[FaceDetection]:
        """Every face, the largest first; empty when there is none.

        When the whole picture shows no face, looks again with a black border (close-ups), then in overlapping square
        tiles of a half and a quarter of the short side (small faces).
        """
        for windows in _search_windows(image_u8):
            found = [face for window in windows for face in self._look(self._still.detect, image_u8, window)]
            if found:
                faces = [self._sharpened(image_u8, face) for face in _without_doubles(found)]
                return sorted(faces, key=lambda face: -face.size_px)
        return []

    def detect_next(
        self, image_u8: UInt8[np.ndarray, "height width 3"], window: Window | None = None
    ) -> list[FaceDetection]:
        """The faces inside `window` (default: the whole picture) of the next frame of a video, in no order."""
        window = window or Window.whole(image_u8)
        if window != self._window:
            self.reset()
            self._window = window
        return self._look(self._look_next, image_u8, window)

    def reset(self) -> None:
        """Forget where the faces of the video were, as at a cut."""
        self._look_next(_as_mediapipe(np.zeros((64, 64, 3), np.uint8)))

    def _look_next(self, picture: mediapipe.Image) -> vision.FaceLandmarkerResult:
        self._clock_ms += 33  # must grow; with several faces nothing else depends on it
        return self._video.detect_for_video(picture, self._clock_ms)

    def _look(self, network, image_u8: np.ndarray, window: Window) -> list[FaceDetection]:
        view, scale = _cut(image_u8, window)
        result = network(_as_mediapipe(view))
        size = np.array([view.shape[1], view.shape[0]]) / scale
        origin = np.array([window.x0, window.y0])
        faces = zip(result.face_landmarks, result.face_blendshapes, result.facial_transformation_matrixes, strict=True)
        return [_detection(marks, scores, pose, size, origin) for marks, scores, pose in faces]

    def _sharpened(self, image_u8: np.ndarray, face: FaceDetection) -> FaceDetection:
        """The same face from a crop of its own, where the reduction of the picture cost detail."""
        reduction = min(1.0, NETWORK_SIDE_PX / min(image_u8.shape[:2]))
        if reduction == 1.0 or face.size_px * reduction >= SHARP_FACE_PX:
            return face
        again = self._look(self._still.detect, image_u8, Window.around(face.box_px, 2.5))
        return min(again, key=lambda other: _distance(face, other), default=face)


def _landmarker(model: Path, mode: vision.RunningMode, max_faces: int) -> vision.FaceLandmarker:
    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(model)),
        running_mode=mode,
        num_faces=max_faces,
        output_face_blendshapes=True,
        output_facial_transformation_matrixes=True,
    )
    return vision.FaceLandmarker.create_from_options(options)


def _close(*networks: vision.FaceLandmarker) -> None:
    for network in networks:
        network.close()


def _as_mediapipe(view_u8: np.ndarray) -> mediapipe.Image:
    # MediaPipe reads a strided array as if it were contiguous, and silently finds no face.
    return mediapipe.Image(mediapipe.ImageFormat.SRGB, np.ascontiguousarray(view_u8))


def _cut(image_u8: np.ndarray, window: Window) -> tuple[np.ndarray, float]:
    """The window's pixels, reduced to the network's size; and the reduction."""
    height, width = image_u8.shape[:2]
    inside = image_u8[max(window.y0, 0) : max(window.y1, 0), max(window.x0, 0) : max(window.x1, 0)]
    borders = (-window.y0, window.y1 - height, -window.x0, window.x1 - width)
    if any(border > 0 for border in borders):
        inside = cv2.copyMakeBorder(inside, *(max(border, 0) for border in borders), cv2.BORDER_CONSTANT)
    scale = NETWORK_SIDE_PX / min(inside.shape[:2])
    if scale >= 1.0:
        return inside, 1.0
    return cv2.resize(inside, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), scale


def _search_windows(image_u8: np.ndarray) -> Iterator[list[Window]]:
    height, width = image_u8.shape[:2]
    yield [Window.whole(image_u8)]
    yield [Window(-width // 3, -height // 3, width + width // 3, height + height // 3)]
    for part in (2, 4):
        side = min(height, width) // part
        if side >= 48:
            rows, columns = _tile_starts(height, side), _tile_starts(width, side)
            yield [Window(x, y, x + side, y + side) for y in rows for x in columns]


def _tile_starts(length: int, side: int) -> list[int]:
    """Where tiles begin so that neighbours overlap by half or more: a face up to half a tile wide is whole in one."""
    count = math.ceil((length - side) / (side / 2)) + 1
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def _distance(a: FaceDetection, b: FaceDetection) -> float:
    """Mean distance of the landmarks, in face sizes."""
    return float((a.landmarks_px - b.landmarks_px).norm(dim=-1).mean()) / max(a.size_px, b.size_px)


def _without_doubles(faces: list[FaceDetection]) -> list[FaceDetection]:
    """Overlapping tiles find a face twice."""
    kept: list[FaceDetection] = []
    for face in faces:
        if all(_distance(face, other) > 0.3 for other in kept):
            kept.append(face)
    return kept


def _detection(marks, scores, pose, size: np.ndarray, origin: np.ndarray) -> FaceDetection:
    points = np.array([(mark.x, mark.y, mark.z) for mark in marks])
    by_name = {score.category_name: score.score for score in scores}
    return FaceDetection(
        landmarks_px=torch.from_numpy(points[:, :2] * size + origin).float(),
        landmarks_z=torch.from_numpy(points[:, 2] * size[0]).float(),
        blendshapes=torch.tensor([by_name.get(name, 0.0) for name in ARKIT_NAMES]),
        pose=torch.from_numpy(np.asarray(pose)).float(),
    )
