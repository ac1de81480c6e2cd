"""What detectors and networks say of the faces in pictures: read once, compared with many others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gpavatar.face.open_head import OpenHead
from gpavatar.media.image import to_u8
from gpavatar.pretrained.detector import FaceDetection, FaceDetector
from gpavatar.pretrained.dlib_landmarks import DlibLandmarks
from gpavatar.pretrained.identity import Identity, five_points_px
from gpavatar.types import HeadParams

# Of iBUG's 68 points: nose, eyes, corners of the mouth, and the upper ends of the jaw line, whose depth steadies the
# pitch (without them it comes out 1.5 times too large, measured against MediaPipe on clips).
RIGID = (*range(27, 48), 48, 54, 0, 1, 15, 16)
FOCAL = 2.5  # in picture sizes, assumed of every picture: a common error of both sides cancels in a comparison
Y_DOWN = np.diag([1.0, -1.0, -1.0])  # a camera with y up that looks along -z, against our axes


@dataclass(frozen=True)
class FaceReadings:
    """The largest face of every picture; NaN where a detector finds none.

    Coordinates are in px of the picture, (0.5, 0.5) the centre of its upper left pixel.
    """

    landmarks_px: Float[Tensor, "frame 478 2"]
    blendshapes: Float[Tensor, "frame 52"]  # [0, 1], in the order of ARKIT_NAMES; tongueOut is not scored: 0
    rotation: Float[Tensor, "frame 3 3"]  # head -> camera
    embedding: Float[Tensor, "frame feature"]  # of norm 1
    dlib_px: Float[Tensor, "frame 68 2"]  # by the independent detector; NaN as well where it was not asked
    dlib_rotation: Float[Tensor, "frame 3 3"]
    height_px: int
    width_px: int

    def __len__(self) -> int:
        return len(self.landmarks_px)

    def __getitem__(self, frames: slice | Sequence[int] | Bool[Tensor, " frame"]) -> FaceReadings:
        """Some of the frames."""
        return replace(self, **{name: getattr(self, name)[frames] for name in _tensor_names()})

    def expanded(self, num_frames: int) -> FaceReadings:
        """One reading, repeated: a source that many frames are compared with."""
        assert len(self) == 1
        return self[[0] * num_frames]

    @staticmethod
    def cat(readings: Sequence[FaceReadings]) -> FaceReadings:
        """Frames of pictures of one size, one after the other."""
        assert len({(reading.height_px, reading.width_px) for reading in readings}) == 1
        joined = {name: torch.cat([getattr(reading, name) for reading in readings]) for name in _tensor_names()}
        return replace(readings[0], **joined)

    @property
    def found(self) -> Bool[Tensor, " frame"]:
        """Whether MediaPipe finds a face."""
        return self.landmarks_px.isfinite().all(-1).all(-1)

    @property
    def dlib_found(self) -> Bool[Tensor, " frame"]:
        """Whether dlib finds a face."""
        return self.dlib_px.isfinite().all(-1).all(-1)


class FaceReader:
    """Reads faces with MediaPipe, an identity network ("arcface" or "sface") and, when `independent`, dlib.

    About 35 ms a picture of 256 x 256 on one CPU core. AssetError where a model cannot be had, InputError where dlib
    is not installed.
    """

    def __init__(self, identity: str = "arcface", independent: bool = True):
        self._detector = FaceDetector()
        self._identity = Identity(identity)
        self._dlib = DlibLandmarks() if independent else None
        self.identity_label = self._identity.network.label
        self.independent = independent

    def read(self, images: Float[Tensor, "frame 3 height width"]) -> FaceReadings:
        """Readings of pictures in [0, 1]. Each depends on its picture alone."""
        images_u8 = [to_u8(image) for image in images]
        faces = [next(iter(self._detector.detect(image_u8)), None) for image_u8 in images_u8]
        landmarks_px = _stacked([face and face.landmarks_px for face in faces], (478, 2))
        points_px = _stacked([self._dlib and self._dlib.detect(image_u8) for image_u8 in images_u8], (68, 2))
        height_px, width_px = images.shape[-2:]
        return FaceReadings(
            landmarks_px=landmarks_px,
            blendshapes=_stacked([face and face.blendshapes for face in faces], (52,)),
            rotation=_stacked([face and _rotation(face) for face in faces], (3, 3)),
            embedding=self._identity.embed(images_u8, five_points_px(landmarks_px)),
            dlib_px=points_px,
            dlib_rotation=_stacked([rotation_of_points(points, height_px, width_px) for points in points_px], (3, 3)),
            height_px=height_px,
            width_px=width_px,
        )


def rotation_of_points(points_px: Float[Tensor, "68 2"], height_px: int, width_px: int) -> Float[Tensor, "3 3"] | None:
    """How the head is turned against the camera, from 27 of iBUG's 68 points.

    The rotation with the least squared error between the points and those of the mean open head, seen by a camera of
    2.5 picture heights focal length. None where the points are NaN.
    """
    if not points_px.isfinite().all():
        return None
    focal_px = FOCAL * height_px
    matrix = np.array([[focal_px, 0, width_px / 2], [0, focal_px, height_px / 2], [0, 0, 1.0]])
    seen = points_px[list(RIGID)].double().numpy()
    start = cv2.Rodrigues(Y_DOWN)[0], np.array([0.0, 0.0, 12.0])
    _, turn, _ = cv2.solvePnP(_rigid_points(), seen, matrix, None, *start, True, cv2.SOLVEPNP_ITERATIVE)
    return torch.from_numpy(cv2.Rodrigues(turn)[0]).float()


@cache
def _rigid_points() -> Float[np.ndarray, "point 3"]:
    head = OpenHead.load()
    verts = head.verts(HeadParams.neutral(head.n_shape, head.n_expression))
    return head.topology.ibug68.on(verts, head.topology.faces)[list(RIGID)].double().numpy()


def _rotation(face: FaceDetection) -> Float[Tensor, "3 3"]:
    u, _, v = torch.linalg.svd(torch.from_numpy(Y_DOWN).float() @ face.pose[:3, :3])
    return u @ v


def _stacked(values: Sequence[Tensor | None], shape: tuple[int, ...]) -> Tensor:
    missing = torch.full(shape, torch.nan)
    return torch.stack([missing if value is None else value for value in values])


def _tensor_names() -> list[str]:
    return [field.name for field in fields(FaceReadings) if field.name not in ("height_px", "width_px")]
