"""Which photos can be turned into pairs, and which of the drawn sources look right. Every refusal says its figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from data_prep.matte import hidden
from data_prep.still_sources import DrawnSource
from gpavatar.face.open_head import OpenHead
from gpavatar.media.align import head_crop
from gpavatar.media.image import to_u8
from gpavatar.pretrained.detector import FaceDetection, FaceDetector
from gpavatar.pretrained.matting import Matte
from gpavatar.tracking.sources import yaw_pitch_deg
from gpavatar.types import InputError, SourceFrame, TrackedFrame

EYES = (33, 263)  # MediaPipe's outer eye corners


@dataclass(frozen=True)
class StillLimits:
    """What is good enough."""

    min_side: float = 0.75  # side of the square around head and shoulders / side of the pictures asked for
    other_face: float = 0.35  # another face at least so large against the person's: refused
    yaw_deg: float = 35.0
    residual: float = 0.05  # median error of the fitted head's landmarks / distance of the outer eye corners
    hidden: float = 0.35  # share of the face's outline that shows neither skin nor hair
    difference: float = 0.06  # mean over the face between the photo and its avatar in the same pose
    misfit: float = 0.10  # mean distance of drawn and detected landmarks / distance of the outer eye corners


class Unusable(InputError):
    """A photo that is refused, and why."""


def check_face(
    image_u8: UInt8[ndarray, "height width 3"], tracked: TrackedFrame, faces: Sequence[FaceDetection],
    head: OpenHead, size_px: int, limits: StillLimits,
) -> None:  # fmt: skip
    """`Unusable` for a second face, a small or averted one, and one that no head fits."""
    height_px, width_px = image_u8.shape[:2]
    sizes = sorted((face.size_px for face in faces), reverse=True)
    if len(sizes) > 1 and sizes[1] > limits.other_face * sizes[0]:
        raise Unusable(f"a second face, {sizes[1] / sizes[0]:.0%} as large; cut the photo to one person")
    side_px = head_crop(tracked.landmarks_px).kept_inside(width_px, height_px).side_px
    if side_px < limits.min_side * size_px:
        asked = limits.min_side * size_px
        raise Unusable(f"head and shoulders have {side_px:.0f} px, {asked:.0f} asked for {size_px}")
    yaw, _ = yaw_pitch_deg(tracked.camera)
    if abs(yaw) > limits.yaw_deg:
        raise Unusable(f"the head is turned by {abs(yaw):.0f} degrees, {limits.yaw_deg:.0f} allowed")
    on_head = head.topology.mediapipe.on(head.verts(tracked.params), head.faces)
    error = (tracked.camera.project_px(on_head, width_px, height_px) - tracked.landmarks_px).norm(dim=-1).median()
    error = float(error) / _eyes_px(tracked.landmarks_px)
    if error > limits.residual:
        raise Unusable(f"no head fits it better than {error:.3f} of the eyes' distance, {limits.residual:g} allowed")


def check_cover(frame: SourceFrame, limits: StillLimits) -> None:
    """`Unusable` where something covers the face."""
    rest = torch.zeros_like(frame.alpha)  # cloth and things held: not looked at
    share = hidden(Matte(frame.alpha, frame.hair, frame.body, frame.face, rest, rest), frame.landmarks_px)
    if share > limits.hidden:
        raise Unusable(f"{share:.0%} of the face is hidden, {limits.hidden:.0%} allowed")


def check_likeness(frame: SourceFrame, drawn: Float[Tensor, "3 height width"], limits: StillLimits) -> None:
    """`Unusable` where the avatar, drawn in the photo's own pose, does not look like it."""
    difference = float(((drawn - frame.image).abs() * frame.face).sum() / (3 * frame.face.sum().clamp_min(1)))
    if difference > limits.difference:
        raise Unusable(f"its avatar differs from it by {difference:.3f}, {limits.difference:g} allowed")


def found_landmarks(source: DrawnSource, detector: FaceDetector) -> Float[Tensor, "478 2"] | None:
    """What the detector sees in a source."""
    faces = detector.detect(to_u8(source.picture.image))
    return faces[0].landmarks_px if faces else None


def looks_right(source: DrawnSource, found_px: Float[Tensor, "478 2"], head: OpenHead, limits: StillLimits) -> bool:
    """Whether the detector sees the face where it was drawn."""
    size_px = source.picture.image.shape[-1]
    drawn = head.topology.mediapipe.on(source.verts, head.faces)
    drawn_px = source.pose.camera.project_px(drawn, size_px, size_px)
    return float((found_px - drawn_px).norm(dim=-1).mean()) <= limits.misfit * _eyes_px(drawn_px)


def _eyes_px(landmarks_px: Float[Tensor, "478 2"]) -> float:
    return max(float((landmarks_px[EYES[0]] - landmarks_px[EYES[1]]).norm()), 1.0)
