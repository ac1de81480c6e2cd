"""Values that pass between the stages of a frame's journey, and the errors a user may see.

Every value is frozen; tensors are float32 unless the field says otherwise. Leading axes written `*batch` are either
absent (one frame) or one axis of frames.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from gpavatar.camera import Camera

T = TypeVar("T")

# The 51 blendshape names of MediaPipe's face landmarker in its order (its "_neutral" left out), then tongueOut, which
# ARKit has and MediaPipe has not.
ARKIT_NAMES: tuple[str, ...] = (
    "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff",
    "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight",
    "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight",
    "eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen", "jawRight",
    "mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel",
    "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft",
    "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight",
    "noseSneerLeft", "noseSneerRight", "tongueOut",
)  # fmt: skip


class GpavatarError(Exception):
    """Something the user can mend: the message says what is wrong, in which input, and what to do.

    A program prints the message as one line and exits with code 2.
    """


class InputError(GpavatarError):
    """A file or value given by the user cannot be used."""


class AssetError(GpavatarError):
    """An external file cannot be had, or is not the file it should be."""


class InputWarning(UserWarning):
    """A file given by the user can be used only in part; a program prints the message as one line and goes on."""


def one_line(error: BaseException | str, length: int = 200) -> str:
    """What a library says, fit for one line: it may quote the file."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:length]


class FaceStatus(IntEnum):
    """How the parameters of a frame were found. Only TRACKED rests on a detection in that very frame."""

    MISSING = 0
    INTERPOLATED = 1
    TRACKED = 2


def map_tensors(value: T, fn) -> T:
    """Rebuild a (nested) dataclass with `fn` applied to every tensor in it; other fields are kept."""

    def visit(field):
        if isinstance(field, Tensor):
            return fn(field)
        return map_tensors(field, fn) if dataclasses.is_dataclass(field) else field

    return dataclasses.replace(value, **{f.name: visit(getattr(value, f.name)) for f in dataclasses.fields(value)})


@dataclass(frozen=True)
class HeadParams:
    """Parameters of a morphable head. Global rotation and translation are not here: they live in the camera."""

    shape: Float[Tensor, "*batch n_shape"]  # standard deviations of the head's identity basis
    expression: Float[Tensor, "*batch n_expression"]  # open head: ARKit weights in [0, 1]; FLAME: standard deviations
    jaw_pose: Float[Tensor, "*batch 3"]  # axis-angle, radians
    neck_pose: Float[Tensor, "*batch 3"]  # axis-angle, radians; turns the head against the shoulders
    eye_pose: Float[Tensor, "*batch 2 3"]  # axis-angle, radians; the person's left eye, then the right

    @staticmethod
    def neutral(n_shape: int, n_expression: int, batch: tuple[int, ...] = ()) -> HeadParams:
        """The mean person with a neutral face: all zeros."""
        sizes = ((n_shape,), (n_expression,), (3,), (3,), (2, 3))
        return HeadParams(*(torch.zeros(*batch, *size) for size in sizes))

    def __getitem__(self, index) -> HeadParams:
        """Index the frame axis of batched parameters."""
        return map_tensors(self, lambda tensor: tensor[index])


@dataclass(frozen=True)
class TrackedFrame:
    """What the tracker knows of one frame of a clip.

    `camera` is that of the whole image as read (rotation and EXIF applied); `landmarks_px` are the detector's points
    in that image, NaN where the frame has no detection.
    """

    index: int  # position in the clip, from 0
    time_s: float
    status: FaceStatus
    params: HeadParams
    camera: Camera
    landmarks_px: Float[Tensor, "478 2"]


@dataclass(frozen=True)
class Track:
    """A tracked clip: one shape, and per frame the rest. The content of a `tracks.npz`."""

    times_s: Float[Tensor, " frame"]  # float64
    status: UInt8[Tensor, " frame"]  # values of FaceStatus
    params: HeadParams  # batched over frames
    camera: Camera  # batched over frames
    landmarks_px: Float[Tensor, "frame 478 2"]
    width_px: int
    height_px: int
    head: str  # name of the head model
    head_sha256: str

    def __len__(self) -> int:
        return self.times_s.shape[0]

    def frame(self, index: int) -> TrackedFrame:
        """The frame at `index` as the value that the tracker streams."""
        status = FaceStatus(int(self.status[index]))
        time_s, landmarks_px = float(self.times_s[index]), self.landmarks_px[index]
        return TrackedFrame(index, time_s, status, self.params[index], self.camera[index], landmarks_px)

    @property
    def tracked(self) -> Bool[Tensor, " frame"]:
        """Frames whose parameters rest on a detection in that frame."""
        return self.status == int(FaceStatus.TRACKED)


@dataclass(frozen=True)
class SourceFrame:
    """A photo of the person, aligned, fitted and matted: what an avatar is made from.

    `camera` belongs to `image` (cropped, square), not to the file it came from. `landmarks_px` are pixels of `image`.
    """

    image: Float[Tensor, "3 height width"]  # [0, 1]
    alpha: Float[Tensor, "1 height width"]  # [0, 1], the person against the background
    hair: Float[Tensor, "1 height width"]  # [0, 1], hair and headwear
    face: Float[Tensor, "1 height width"]  # [0, 1], skin of face and ears, with eyes, lips and beard
    body: Float[Tensor, "1 height width"]  # [0, 1], bare skin from the neck down
    params: HeadParams
    camera: Camera
    landmarks_px: Float[Tensor, "478 2"]


@dataclass(frozen=True)
class RenderOutput:
    """A rendered frame. `image` is premultiplied nowhere: it already stands on the asked background."""

    image: Float[Tensor, "3 height width"]  # [0, 1]
    alpha: Float[Tensor, "1 height width"]  # [0, 1], the person against the background
