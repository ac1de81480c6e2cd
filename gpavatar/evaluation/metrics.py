"""Every metric of a results table under one name, and what must be said of it in the table's header.

    scorer = Scorer()
    target = scorer.target(images, alpha)          # once; all methods are compared with it
    columns = scorer.same_person(outputs, target)  # per frame, by region and metric

Definitions: pixels in `image_metrics`, faces in `face_metrics`, sets of pictures in `distribution`. Regions are `full`
(every pixel alike), `foreground` (weighted with the target's matte), `face` (the box of the target's landmarks), and
`frame` for metrics without a region. Both pictures stay as they are: nothing is composed on another background, so what
a method draws outside the target's person is seen by `full` alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gpavatar.evaluation import face_metrics, image_metrics
from gpavatar.evaluation.distribution import fid
from gpavatar.evaluation.face_metrics import FrameScores, identity_drift, jitter
from gpavatar.evaluation.face_reading import FaceReader, FaceReadings
from gpavatar.pretrained.perceptual import Perceptual

__all__ = [
    "FRAME", "METRICS", "REGIONS", "Column", "FaceReader", "FaceReadings", "FrameScores", "MetricInfo", "Scorer",
    "Target", "fid", "identity_drift", "jitter",
]  # fmt: skip

REGIONS = ("full", "foreground", "face")
FRAME = "frame"
PIXEL_METRICS = ("psnr", "ssim", "l1", "lpips")
CHUNK = 16  # frames whose pixels are compared at once, which bounds the memory
MEDIAPIPE, DLIB = "MediaPipe, the tracker's own detector", "dlib, independent of the tracker"
DIAGONAL = "diagonal of the target's face"


@dataclass(frozen=True)
class MetricInfo:
    """What a table says of a metric."""

    label: str  # with unit
    higher_is_better: bool
    decimals: int
    about: str
    detector: str = ""  # whose points or scores it rests on
    penalty: str = ""  # of a frame whose face is lost


METRICS = {
    "psnr": MetricInfo("PSNR dB", True, 2, "of the mean squared error of each frame, pictures in [0, 1], at most 100"),
    "ssim": MetricInfo("SSIM", True, 4, "11 x 11 Gaussian, σ = 1.5 px, per channel"),
    "l1": MetricInfo("L1", False, 4, "mean absolute difference, pictures in [0, 1]"),
    "lpips": MetricInfo("LPIPS", False, 4, "version 0.1; over a region the weighted mean of the error maps"),
    "csim": MetricInfo("CSIM", True, 4, "cosine of identity embeddings", "identity network, aligned by MediaPipe", "0"),
    "akd": MetricInfo("AKD px", False, 3, "mean distance of 68 points at 512²", DLIB, DIAGONAL),
    "akd_mediapipe": MetricInfo(
        "AKD (MediaPipe)", False, 5, "mean distance of 478 points, sides = 1", MEDIAPIPE, DIAGONAL
    ),
    "aed": MetricInfo("AED", False, 4, "mean absolute difference of 51 blendshape scores", MEDIAPIPE, "1"),
    "apd": MetricInfo("APD deg", False, 3, "angle between head rotations", MEDIAPIPE, "90"),
    "apd_dlib": MetricInfo("APD deg (dlib)", False, 3, "angle between head rotations by 27 of 68 points", DLIB, "90"),
    "jitter": MetricInfo(
        "jitter px", False, 3, "second difference of 478 points against the target's, at 512²", MEDIAPIPE,
        DIAGONAL,
    ),
    "identity_drift": MetricInfo("identity drift", False, 4, "fall of CSIM over a clip, by a straight line"),
    "fid": MetricInfo("FID", False, 2, "Inception-v3, 2048 features; biased upwards for few pictures"),
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One metric of one region, in every frame."""

    region: str  # of REGIONS, or FRAME
    metric: str  # of METRICS
    scores: FrameScores


@dataclass(frozen=True)
class Target:
    """True pictures, and everything about them that every method is compared with."""

    images: Float[Tensor, "frame 3 height width"]  # [0, 1]
    weights: Float[Tensor, "region frame 1 height width"]  # [0, 1], in the order of REGIONS
    readings: FaceReadings


class Scorer:
    """All metrics of pictures, with their networks loaded once.

    `identity`: "arcface" or "sface". `trunk` of LPIPS: "alex" or "vgg". `independent`: also the metrics of dlib, which
    is an extra package. `device` is where LPIPS runs. AssetError where a network cannot be had.
    """

    def __init__(
        self,
        identity: str = "arcface",
        trunk: str = "alex",
        independent: bool = True,
        device: str | torch.device = "cpu",
    ):
        self.reader = FaceReader(identity, independent)
        self.perceptual = Perceptual(trunk).to(device)
        self.device = torch.device(device)

    @property
    def header(self) -> tuple[str, ...]:
        """What a table must state of its metrics, a line each."""
        lines = [f"LPIPS trunk: {self.perceptual.trunk}", f"identity network: {self.reader.identity_label}"]
        lines += [f"{one.label}: {one.detector}" for one in METRICS.values() if one.detector and self._has(one)]
        lost = "; ".join(f"{one.label} {one.penalty}" for one in METRICS.values() if one.penalty and self._has(one))
        return (*lines, f"a lost face counts as: {lost}")

    def read(self, images: Float[Tensor, "frame 3 height width"]) -> FaceReadings:
        """The faces of pictures in [0, 1]."""
        _assert_range(images)
        return self.reader.read(images)

    def target(
        self, images: Float[Tensor, "frame 3 height width"], alpha: Float[Tensor, "frame 1 height width"]
    ) -> Target:
        """True pictures in [0, 1] with their mattes in [0, 1] (the person against the background)."""
        readings = self.read(images)
        box = image_metrics.face_box(readings.landmarks_px, *images.shape[-2:])
        return Target(images, torch.stack([torch.ones_like(alpha), alpha, box]), readings)

    @torch.no_grad()
    def same_person(
        self, outputs: Float[Tensor, "frame 3 height width"], target: Target, reference: FaceReadings | None = None
    ) -> list[Column]:
        """Outputs in [0, 1] against the true pictures of the same frames: self-reenactment, novel views.

        CSIM is taken to the target, or to `reference` (one frame or as many) where given.
        """
        readings = self.read(outputs)
        chunks = zip(outputs.split(CHUNK), target.images.split(CHUNK), target.weights.split(CHUNK, dim=1), strict=True)
        values = torch.cat([self._pixels(*chunk) for chunk in chunks], dim=-1)
        columns = [
            Column(region, metric, FrameScores.of_pixels(of_region))
            for metric, of_metric in zip(PIXEL_METRICS, values, strict=True)
            for region, of_region in zip(REGIONS, of_metric, strict=True)
        ]
        return columns + self._faces(readings, target.readings, target.readings if reference is None else reference)

    @torch.no_grad()
    def other_person(
        self, outputs: Float[Tensor, "frame 3 height width"], source: FaceReadings, driving: FaceReadings
    ) -> list[Column]:
        """Outputs in [0, 1] without a truth: identity against `source` (one frame or many), motion against `driving`.

        Points of another person's face are no measure, so AKD is left out.
        """
        columns = self._faces(self.read(outputs), driving, source)
        return [column for column in columns if not column.metric.startswith("akd")]

    def _pixels(self, output: Tensor, target: Tensor, weights: Tensor) -> Float[Tensor, "metric region frame"]:
        likeness = image_metrics.ssim_map(output, target)
        psnr = torch.stack([image_metrics.psnr(output, target, weight) for weight in weights])
        ssim = torch.stack([image_metrics.weighted_mean(likeness, weight) for weight in weights])
        l1 = torch.stack([image_metrics.l1(output, target, weight) for weight in weights])
        lpips = self.perceptual.regional(*(part.to(self.device) for part in (output, target, weights))).cpu()
        return torch.stack([psnr, ssim, l1, lpips])

    def _faces(self, output: FaceReadings, target: FaceReadings, reference: FaceReadings) -> list[Column]:
        reference = reference.expanded(len(output)) if len(reference) == 1 else reference
        columns = [Column(FRAME, "csim", face_metrics.csim(output, reference))]
        metrics = (face_metrics.akd_mediapipe, face_metrics.aed, face_metrics.apd)
        metrics += (face_metrics.akd, face_metrics.apd_dlib) if self.reader.independent else ()
        return columns + [Column(FRAME, metric.__name__, metric(output, target)) for metric in metrics]

    def _has(self, metric: MetricInfo) -> bool:
        return self.reader.independent or metric.detector != DLIB


def _assert_range(images: Tensor) -> None:
    assert images.min() >= 0 and images.max() <= 1, "pictures must be in [0, 1]"
