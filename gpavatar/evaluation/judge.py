"""One method on one clip: photos in, frames drawn, frames scored."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from gpavatar.avatars.base import Avatar, AvatarState
from gpavatar.camera import Camera
from gpavatar.data.shards import Sample, ShardSet
from gpavatar.evaluation.depth import ShowsDepth, depth_columns, stacked_depth
from gpavatar.evaluation.metrics import (
    CHUNK,
    FRAME,
    Column,
    FaceReadings,
    FrameScores,
    Scorer,
    Target,
    identity_drift,
    jitter,
)
from gpavatar.evaluation.protocols import CROSS, ClipPlan, ProtocolConfig, Take
from gpavatar.evaluation.results import ClipScores, TakeScores
from gpavatar.evaluation.synthetic_truth import SyntheticTruth
from gpavatar.media.image import to_u8, write_image
from gpavatar.pretrained.matting import matte
from gpavatar.retarget import retarget_camera, retarget_params
from gpavatar.streaming import Stopwatch
from gpavatar.types import HeadParams, SourceFrame, map_tensors

PICTURE_QUALITY = 92
NO_FEATURES = torch.zeros(0, 0)


@dataclass(frozen=True)
class Outputs:
    """What a method drew for a take."""

    images: Float[Tensor, "frame 3 height width"]  # [0, 1]
    depth: Float[Tensor, "frame 1 height width"] | None


@dataclass(frozen=True)
class Truth:
    """What a take's frames should look like, where that is known."""

    target: Target
    depth: Float[Tensor, "frame 1 height width"] | None
    features: Float[Tensor, "seen feature"]  # Inception's, for FID; none seen where it is not asked for


class Judge:
    """Draws and scores the frames of a protocol's clips. Every clip is judged for itself, whatever came before it."""

    def __init__(self, shards: ShardSet, config: ProtocolConfig, scorer: Scorer):
        self.shards, self.config, self.scorer = shards, config, scorer
        self._synthetic: SyntheticTruth | None = None
        self._clip = ""
        # by task; these two are of one clip, which method after method shows
        self._truths: dict[str, Truth | None] = {}
        self._sources: dict[int, SourceFrame] = {}
        self._readings: dict[tuple[int, ...], FaceReadings] = {}
        self._inception = None

    @torch.no_grad()
    def clip(self, label: str, method: Avatar, plan: ClipPlan, pictures: Path | None = None) -> ClipScores:
        """All takes of a clip at every N. The outputs at the smallest N are kept as JPEG in the folder `pictures`."""
        watch, start_s = Stopwatch(), time.process_time()
        if self._clip != plan.clip:
            self._clip, self._truths, self._sources = plan.clip, {}, {}
        takes = []
        for number, rows in enumerate(plan.sources):
            with watch("read"):
                sources = [self._source(row) for row in rows]
            with watch("encode"):
                state = method.encode(sources)
            for take in plan.takes:
                poses = self._poses(plan, take)
                with watch("draw"):
                    with_depth = self._sample(take.rows[0]).depth is not None
                    outputs = draw(method, state, poses, self.shards.index.size_px, with_depth)
                with watch("truth"):
                    if take.task not in self._truths:
                        self._truths[take.task] = self._truth(plan, take, poses)
                    truth = self._truths[take.task]
                with watch("score"):
                    takes.append(self._scored(label, plan, take, len(rows), outputs, truth))
                if pictures and number == 0:
                    for name, image in zip(takes[-1].picture_names, outputs.images, strict=True):
                        pictures.mkdir(parents=True, exist_ok=True)
                        write_image(pictures / name, to_u8(image), PICTURE_QUALITY)
        return ClipScores(tuple(takes), {**watch.seconds, "processor": time.process_time() - start_s})

    def _poses(self, plan: ClipPlan, take: Take) -> list[tuple[HeadParams, Camera]]:
        """What each frame is drawn from: the target's own, or the driver's motion on the source's shape."""
        samples = [self._sample(row) for row in take.rows]
        if take.task != CROSS:
            return [(sample.params, sample.camera) for sample in samples]
        source, reference = self._sample(plan.sources[0][0]), self._sample(take.reference)
        return [
            (
                retarget_params(source.params, sample.params, reference.params, "absolute", "driving"),
                retarget_camera(source.camera, sample.camera, reference.camera, "driving"),
            )
            for sample in samples
        ]

    def _truth(self, plan: ClipPlan, take: Take, poses: list[tuple[HeadParams, Camera]]) -> Truth | None:
        """None where nobody knows: real people in the task cross."""
        if take.task == CROSS:
            if not SyntheticTruth.serves(self.shards, plan.clip):
                return None
            self._synthetic = self._synthetic or SyntheticTruth(self.shards)
            true = self._synthetic.frames(self._sample(plan.sources[0][0]), poses)
            target = self.scorer.target(true.images.clamp(0, 1), true.alpha.clamp(0, 1))
            return Truth(target, true.depth, self._features(target.images))
        samples = [self._sample(row) for row in take.rows]
        images, alpha = (torch.stack([getattr(one, name) for one in samples]) for name in ("image", "alpha"))
        target = self.scorer.target(images, alpha)
        self._readings[take.rows] = target.readings
        return Truth(target, stacked_depth([one.depth for one in samples]), self._features(target.images))

    def _scored(
        self, label: str, plan: ClipPlan, take: Take, num_sources: int, outputs: Outputs, truth: Truth | None
    ) -> TakeScores:
        source = self._read(plan.sources[0][:1])
        if truth is None:
            columns = self.scorer.other_person(outputs.images, source, self._read(take.rows))
        else:
            reference = source if take.task == CROSS else None
            columns = self.scorer.same_person(outputs.images, truth.target, reference)
            if outputs.depth is not None and truth.depth is not None:
                columns += depth_columns(outputs.depth, truth.depth, truth.target.weights)
            columns += self._over_time(take, outputs, truth, columns)
        return TakeScores(
            method=label,
            task=take.task,
            num_sources=num_sources,
            clip=plan.clip,
            identity=plan.identity,
            driving=take.driving,
            rows=take.rows,
            frame_index=tuple(self.shards.table.frame_index[list(take.rows)].tolist()),
            columns=tuple(columns),
            features=self._features(outputs.images) if truth else NO_FEATURES,
            true_features=truth.features if truth else NO_FEATURES,
        )

    def _over_time(self, take: Take, outputs: Outputs, truth: Truth, columns: list[Column]) -> list[Column]:
        """Jitter and identity drift, of frames that follow each other without a gap."""
        numbers = self.shards.table.frame_index[list(take.rows)]
        if len(numbers) < 3 or not bool((numbers.diff() == 1).all()) or bool((self._views(take) > 0).any()):
            return []
        trembling = jitter(self.scorer.read(outputs.images), truth.target.readings)
        likeness = next(column.scores for column in columns if column.metric == "csim")
        times_s = torch.tensor([self._sample(row).time_s for row in take.rows])
        drift = FrameScores.of_pixels(torch.full((len(numbers),), identity_drift(likeness, times_s)))
        return [Column(FRAME, "jitter", trembling), Column(FRAME, "identity_drift", drift)]

    def _views(self, take: Take) -> Tensor:
        return self.shards.table.view[list(take.rows)]

    def _features(self, images: Tensor) -> Float[Tensor, "frame feature"]:
        """What FID compares; nothing where it is not asked for."""
        if not self.config.fid:
            return NO_FEATURES
        if self._inception is None:
            from gpavatar.pretrained.inception import Inception

            self._inception = Inception()
        return torch.cat([self._inception(part) for part in images.split(CHUNK)])

    def _source(self, row: int) -> SourceFrame:
        if row not in self._sources:
            self._sources[row] = source_frame(self._sample(row))
        return self._sources[row]

    def _read(self, rows: tuple[int, ...]) -> FaceReadings:
        if rows not in self._readings:
            self._readings[rows] = self.scorer.read(torch.stack([self._sample(row).image for row in rows]))
        return self._readings[rows]

    def _sample(self, row: int) -> Sample:
        return self.shards.sample(row)


def source_frame(sample: Sample) -> SourceFrame:
    """A frame of a set as a source: its own matte; which of it is hair, face and skin says the matting network."""
    parts = matte(sample.image)
    hair, face, body = (torch.minimum(part, sample.alpha) for part in (parts.hair, parts.face, parts.body))
    return SourceFrame(sample.image, sample.alpha, hair, face, body, sample.params, sample.camera, sample.landmarks_px)


def draw(
    method: Avatar, state: AvatarState, poses: list[tuple[HeadParams, Camera]], size_px: int, with_depth: bool
) -> Outputs:
    """The frames of a take, on the CPU, on the background of the method's first source."""
    device = state.reference.image.device
    images, depths = [], []
    for params, camera in poses:
        there = map_tensors(params, lambda tensor: tensor.to(device)), map_tensors(camera, lambda t: t.to(device))
        images.append(method.render(state, *there, size_px).image.cpu())
        knows = with_depth and isinstance(method, ShowsDepth)
        depths.append(method.depth(state, *there, size_px).cpu() if knows else None)
    return Outputs(torch.stack(images), stacked_depth(depths))
