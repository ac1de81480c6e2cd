"""Who is shown, where the face's points are, its expression and its pose: one number per frame.

A face that the detector finds in the target and not in the output is a failure: the frame gets the metric's penalty,
the worst that the metric can sensibly say, and is counted. So losing a face never helps. A frame whose target shows the
detector no face says nothing: NaN, counted as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gpavatar.camera import rotation_angle_deg
from gpavatar.evaluation.face_reading import FaceReadings
from gpavatar.types import ARKIT_NAMES

REFERENCE_PX = 512  # distances in px are those of a picture of this height
SCORED = tuple(index for index, name in enumerate(ARKIT_NAMES) if name != "tongueOut")
LOST_CSIM, LOST_AED, LOST_APD_DEG = 0.0, 1.0, 90.0


@dataclass(frozen=True)
class FrameScores:
    """A metric in every frame of a clip."""

    values: Float[Tensor, " frame"]  # the penalty where failed; NaN where the target says nothing
    failed: Bool[Tensor, " frame"]  # the target has a face there, the output has not

    @staticmethod
    def of_pixels(values: Float[Tensor, " frame"]) -> FrameScores:
        """A metric that needs no detector cannot fail."""
        return FrameScores(values, torch.zeros(len(values), dtype=torch.bool))

    @property
    def defined(self) -> Bool[Tensor, " frame"]:
        """Frames that count."""
        return ~self.values.isnan()

    @property
    def n_failed(self) -> int:
        """Frames whose face was lost."""
        return int(self.failed.sum())

    @property
    def n_undefined(self) -> int:
        """Frames whose target says nothing."""
        return int((~self.defined).sum())

    @property
    def failure_rate(self) -> float:
        """Share of the frames that count; NaN where none does."""
        return self.n_failed / int(self.defined.sum()) if self.defined.any() else math.nan

    def mean(self) -> float:
        """Over the frames that count, penalties among them; NaN where none does."""
        return float(self.values[self.defined].double().mean())

    def mean_found(self) -> float:
        """Over the frames with a face in both, which is what papers report; NaN where there is none."""
        return float(self.values[self.defined & ~self.failed].double().mean())


def csim(output: FaceReadings, reference: FaceReadings) -> FrameScores:
    """Cosine of the identity embeddings, in [-1, 1]; higher is better. A lost face has 0, as a stranger's."""
    cosine = (output.embedding * reference.embedding).sum(-1)
    return _scores(cosine, output.found, reference.found, LOST_CSIM)


def akd(output: FaceReadings, target: FaceReadings) -> FrameScores:
    """Mean distance of dlib's 68 points, (1/68) Σ |p_i − q_i|, px of a picture 512 high; lower is better.

    A lost face costs the diagonal of the box around the target's points.
    """
    factor = REFERENCE_PX / target.height_px
    apart, lost = _distance(output.dlib_px, target.dlib_px)
    return _scores(apart * factor, output.dlib_found, target.dlib_found, lost * factor)


def akd_mediapipe(output: FaceReadings, target: FaceReadings) -> FrameScores:
    """Mean distance of MediaPipe's 478 points, coordinates divided by the picture's sides; lower is better.

    InvertAvatar's unit; its paper does not say which of the points it takes. A lost face costs the diagonal of the box
    around the target's points.
    """
    sides = target.landmarks_px.new_tensor([target.width_px, target.height_px])
    apart, lost = _distance(output.landmarks_px / sides, target.landmarks_px / sides)
    return _scores(apart, output.found, target.found, lost)


def aed(output: FaceReadings, target: FaceReadings) -> FrameScores:
    """Mean absolute difference of MediaPipe's 51 blendshape scores, in [0, 1]; lower is better. A lost face costs 1."""
    apart = (output.blendshapes - target.blendshapes)[:, list(SCORED)].abs().mean(-1)
    return _scores(apart, output.found, target.found, LOST_AED)


def apd(output: FaceReadings, target: FaceReadings) -> FrameScores:
    """Angle between the head rotations by MediaPipe, degrees; lower is better. A lost face costs 90."""
    apart_deg = rotation_angle_deg(output.rotation, target.rotation)
    return _scores(apart_deg, output.found, target.found, LOST_APD_DEG)


def apd_dlib(output: FaceReadings, target: FaceReadings) -> FrameScores:
    """As `apd`, the rotations from dlib's points (see `rotation_of_points`): independent of the tracker."""
    apart_deg = rotation_angle_deg(output.dlib_rotation, target.dlib_rotation)
    return _scores(apart_deg, output.dlib_found, target.dlib_found, LOST_APD_DEG)


def jitter(output: FaceReadings, target: FaceReadings) -> FrameScores:
    """How much the face trembles against the target's, px of a picture 512 high; lower is better.

    (1/478) Σ_i |e_i(t+1) − 2 e_i(t) + e_i(t−1)| with e the output's landmark less the target's: what moves as the
    target does, or is off by something steady, costs nothing. For consecutive frames only; the first and last are
    undefined. A face lost in any of the three frames costs the diagonal of the target's box.
    """
    factor = REFERENCE_PX / target.height_px
    error = output.landmarks_px - target.landmarks_px
    values = torch.full((len(target),), torch.nan)
    _, lost = _distance(target.landmarks_px, target.landmarks_px)
    values[1:-1] = (error[2:] - 2 * error[1:-1] + error[:-2]).norm(dim=-1).mean(-1) * factor
    ends = torch.zeros(1, dtype=torch.bool)
    known, seen = (
        torch.cat([ends, found[2:] & found[1:-1] & found[:-2], ends]) for found in (target.found, output.found)
    )
    return _scores(values, seen, known, lost * factor)


def identity_drift(likeness: FrameScores, times_s: Float[Tensor, " frame"]) -> float:
    """How much CSIM falls from the first frame to the last along the straight line of least squares; 0 is best.

    −b (t_last − t_first), b = Σ (t − t̄)(c − c̄) / Σ (t − t̄)². NaN for less than two frames that count.
    """
    count = likeness.defined
    if int(count.sum()) < 2:
        return math.nan
    times, values = times_s[count].double().numpy(), likeness.values[count].double().numpy()
    return float(-np.polyfit(times - times[0], values, 1)[0] * (times[-1] - times[0]))


def _scores(values: Tensor, found: Tensor, known: Tensor, lost: Tensor | float) -> FrameScores:
    failed = known & ~found
    values = torch.where(failed, torch.as_tensor(lost, dtype=values.dtype), values)
    return FrameScores(torch.where(known, values, torch.nan), failed)


def _distance(points: Tensor, target: Tensor) -> tuple[Float[Tensor, " frame"], Float[Tensor, " frame"]]:
    """Mean distance of the points, and the diagonal of the box around the target's."""
    return (points - target).norm(dim=-1).mean(-1), (target.amax(1) - target.amin(1)).norm(dim=-1)
