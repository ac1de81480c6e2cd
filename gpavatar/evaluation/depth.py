"""How far a method's surface is from the true one, where a method can say where its surface is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from gpavatar.avatars.base import State
from gpavatar.camera import METRES_PER_UNIT, Camera
from gpavatar.evaluation.face_metrics import FrameScores
from gpavatar.evaluation.metrics import REGIONS, Column, MetricInfo
from gpavatar.types import HeadParams

MM_PER_UNIT = 1000 * METRES_PER_UNIT
DEPTH_METRICS = {
    "depth_mm": MetricInfo(
        "depth error mm", False, 2, "mean absolute difference along the optical axis, where both have a surface"
    ),
    "depth_missing": MetricInfo("depth missing", False, 4, "share of the true surface where the method has none"),
}


@runtime_checkable
class ShowsDepth(Protocol[State]):
    """A method that knows where its surface is; optional beside `Avatar`."""

    def depth(self, state: State, params: HeadParams, camera: Camera, size_px: int) -> Float[Tensor, "1 height width"]:
        """Along the optical axis, units of head space; 0 where there is no surface."""


def depth_columns(
    output: Float[Tensor, "frame 1 height width"],
    truth: Float[Tensor, "frame 1 height width"],
    weights: Float[Tensor, "region frame 1 height width"],
) -> list[Column]:
    """Both metrics over foreground and face: Σ m b |z − z*| / Σ m b with b where both have a surface, and
    1 − Σ m b / Σ m t with t where the truth has one. NaN where nothing counts."""
    there, both = (truth > 0).float(), ((truth > 0) & (output > 0)).float()
    error = (output - truth).abs() * MM_PER_UNIT
    columns = []
    for region, weight in zip(REGIONS[1:], weights[1:], strict=True):
        known, met = _sum(weight * there), _sum(weight * both)
        columns.append(Column(region, "depth_mm", FrameScores.of_pixels(_sum(weight * both * error) / met)))
        columns.append(Column(region, "depth_missing", FrameScores.of_pixels(1 - met / known)))
    return columns


def stacked_depth(depths: Sequence[Tensor | None]) -> Float[Tensor, "frame 1 height width"] | None:
    """Of all frames; None where one of them has no depth."""
    known = [depth for depth in depths if depth is not None]
    return torch.stack(known) if known and len(known) == len(depths) else None


def _sum(values: Tensor) -> Float[Tensor, " frame"]:
    return values.sum((1, 2, 3))
