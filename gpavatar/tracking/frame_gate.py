"""Which source frames an avatar is made from: one that is blurred, hidden by a hand or of somebody else is left out.

Whatever the method, such a frame would only take away from what the others show. Frames are judged in their order, by
those before them, so that a stream can be judged as it comes; the first one is the person.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gpavatar.media.image import to_u8
from gpavatar.pretrained.identity import Identity, five_points_px
from gpavatar.tracking.left_out import Fault, LeftOut
from gpavatar.tracking.sources import sharpness
from gpavatar.types import SourceFrame

# Limits and what they were measured with: docs/decisions/0098-frame-gate.md.
BLURRED = 1 / 3  # of the median sharpness of the frames that were taken
HIDDEN = 0.2  # of the lower face that is neither face nor hair
SAME_PERSON = 0.4  # cosine between SFace's embeddings
# The outline of the face from the right temple over the chin to the left one and the nose's tip, of MediaPipe's points:
# the lower face, on which no glasses sit.
LOWER_FACE = (4, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234)


class FrameGate:
    """Judges the frames of one person, one after the other."""

    def __init__(self, first: SourceFrame, identity: Identity | None = None):
        """`first` is the person, and is taken. AssetError where the identity network cannot be had."""
        self._identity = identity or Identity("sface")
        self._person = self._embedding(first)
        self._sharpness = [frame_sharpness(first)]

    def fault(self, frame: SourceFrame) -> Fault | None:
        """What is wrong with a frame; None for one that is to be taken (by which later ones are judged)."""
        sharp = frame_sharpness(frame)
        if sharp < BLURRED * float(torch.tensor(self._sharpness).median()):
            return Fault.BLURRED
        if hidden_share(frame) > HIDDEN:
            return Fault.HIDDEN
        if float(self._embedding(frame) @ self._person) < SAME_PERSON:
            return Fault.SOMEBODY_ELSE
        self._sharpness.append(sharp)
        return None

    def _embedding(self, frame: SourceFrame) -> Float[Tensor, " feature"]:
        return self._identity.embed([to_u8(frame.image)], five_points_px(frame.landmarks_px)[None])[0]


def gated(frames: Iterable[SourceFrame]) -> tuple[list[SourceFrame], LeftOut]:
    """The frames that an avatar is to be made from, the first one always among them, and what was left out."""
    frames = list(frames)
    if len(frames) == 1:  # nothing to be judged by, and no network to be loaded
        return frames, LeftOut(1)
    gate = FrameGate(frames[0])
    judged = [(frame, gate.fault(frame)) for frame in frames[1:]]
    kept = [frames[0], *(frame for frame, fault in judged if fault is None)]
    return kept, LeftOut(len(frames), tuple(fault for _, fault in judged if fault is not None))


def frame_sharpness(frame: SourceFrame) -> float:
    """See `sources.sharpness`."""
    return sharpness(to_u8(frame.image), frame.landmarks_px)


def hidden_share(frame: SourceFrame) -> float:
    """How much of the lower face something stands before: what is neither face nor hair there, in [0, 1]."""
    inside = _inside(frame.landmarks_px[list(LOWER_FACE)], frame.image.shape[-1])
    other = (1 - frame.face - frame.hair)[0].clamp(0, 1)
    return float(other[inside].mean()) if inside.any() else 1.0


def _inside(outline_px: Float[Tensor, "point 2"], size_px: int) -> Bool[Tensor, "size size"]:
    """Pixels whose centre a ray to the right crosses the outline an odd number of times (even-odd rule)."""
    steps = torch.arange(size_px) + 0.5
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    inside = torch.zeros(size_px, size_px, dtype=torch.bool)
    for (x0, y0), (x1, y1) in zip(outline_px.tolist(), outline_px.roll(-1, 0).tolist(), strict=True):
        if y0 != y1:
            crosses = (y0 <= y) != (y1 <= y)
            inside ^= crosses & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside
