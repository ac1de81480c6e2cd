"""The tracker: pictures in, head parameters and cameras out.

    frames -> sightings (select) -> states under one shape (fit) -> gaps filled, smoothed (smooth) -> TrackedFrame

Offline, the shape comes from diverse frames of a stretch that is read ahead, gaps are bridged, and the smoothing sees
the future. Causal, each frame is answered before the next is read. Memory does not grow with the length of the clip.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8

from gpavatar.camera import Camera
from gpavatar.face.morphable import MorphableHead
from gpavatar.media.frames import open_frames
from gpavatar.media.video import VideoFrame
from gpavatar.pretrained.detector import FaceDetection, FaceDetector
from gpavatar.streaming import prefetch
from gpavatar.tracking.fit import FitConfig, FramePose, HeadFitter, Observation, PersonEstimate, fit_person
from gpavatar.tracking.select import FaceChoice, PersonFollower, Sighting, choose_face
from gpavatar.tracking.smooth import CausalSmoother, MotionSample, SmoothConfig, fill_gaps, smoothed
from gpavatar.types import FaceStatus, HeadParams, InputError, Track, TrackedFrame

FACE_DISTANCE = 5.0  # units (1 m): where the face of a clip of unknown focal length is taken to be
LOST_RESIDUAL = 0.12  # inter-ocular distances: a frame fitted worse is begun again from the detector's pose


@dataclass(frozen=True)
class TrackerConfig:
    """What to follow, and how."""

    face: FaceChoice = "largest"  # "largest", "left", "right", or which one counted from the left, from 1
    mode: Literal["offline", "causal"] = "offline"
    focal: float | None = None  # in longer image sides; None: such that the face is FACE_DISTANCE away
    max_gap_s: float = 0.5  # frames without a face are interpolated across at most so long
    lookahead_s: float = 5.0  # offline: how much of a stream is read before its first frame comes out
    shape_frames: int = 24  # at most so many frames decide the shape
    fit: FitConfig = field(default_factory=FitConfig)
    smooth: SmoothConfig = field(default_factory=SmoothConfig)


class Tracker:
    """Tracks one person in pictures and videos. Not for several threads at a time."""

    def __init__(self, head: MorphableHead, config: TrackerConfig | None = None, detector: FaceDetector | None = None):
        self.head = head
        self.config = config or TrackerConfig()
        self._detector = detector or FaceDetector()
        self._fitter = HeadFitter(head, self.config.fit)

    def track_image(self, image_u8: UInt8[np.ndarray, "height width 3"], name: str = "the image") -> TrackedFrame:
        """Track a single picture; InputError, which calls it `name`, when it shows no face."""
        return self.track_images([image_u8], [name])[0]

    def track_images(
        self, images_u8: Sequence[UInt8[np.ndarray, "_ _ 3"]], names: Sequence[str] | None = None
    ) -> list[TrackedFrame]:
        """Track pictures of one person, of any sizes, under one shape; InputError when one shows no face."""
        names = names or [f"image {index + 1}" for index in range(len(images_u8))]
        seen = [self._only_sighting(image, index, names[index]) for index, image in enumerate(images_u8)]
        focals = [self._focal([sighting]) for sighting in seen]
        observations = [self._observe(sighting, focal) for sighting, focal in zip(seen, focals, strict=True)]
        person, states = fit_person(self._fitter, observations)
        return [
            self._answer(MotionSample(sighting, FaceStatus.TRACKED, state), person, focal)
            for sighting, state, focal in zip(seen, states, focals, strict=True)
        ]

    def stream(self, frames: Iterable[VideoFrame], name: str = "the video") -> Iterator[TrackedFrame]:
        """Track the frames of one video, in order, one out for each in.

        InputError, which calls the video `name`, when no frame shows the face asked for.

        Offline, the first frame comes out after `lookahead_s`, and from then on a good half second after it went in.
        """
        follower = PersonFollower(self._detector, self.config.face)
        if self.config.mode == "causal":
            answers = self._causal(follower.sightings(frames))
        else:
            answers = self.track_sightings(prefetch(follower.sightings(frames), depth=8))
        found, number = False, 0
        for answer in answers:
            found |= answer.status == FaceStatus.TRACKED
            number += 1
            yield answer
        if not found:
            raise InputError(f"{name}: {_nothing_found(number, follower.most_faces, self.config.face)}")

    def track_sightings(self, sightings: Iterator[Sighting]) -> Iterator[TrackedFrame]:
        """Offline, from faces that were found before: one out for each in, nothing when no face is among them."""
        for sighting in sightings:
            if sighting.face is not None:
                break
            yield self._unseen(sighting)
        else:
            return
        ahead = [sighting]
        for later in sightings:
            ahead.append(later)
            if later.time_s - sighting.time_s >= self.config.lookahead_s:
                break
        focal, person = self._clip_constants([one for one in ahead if one.face is not None])
        samples = self._fitted(chain(ahead, sightings), person, focal)
        for sample in smoothed(fill_gaps(samples, self.config.max_gap_s), self.config.smooth):
            yield self._answer(sample, person, focal)

    def _clip_constants(self, seen: list[Sighting]) -> tuple[float, np.ndarray]:
        """Focal length and person from the most diverse of the frames."""
        chosen = _diverse(seen, self.config.shape_frames)
        focal = self._focal(chosen)
        person, _ = fit_person(self._fitter, [self._observe(sighting, focal) for sighting in chosen])
        return focal, person

    def _fitted(self, sightings: Iterable[Sighting], person: np.ndarray, focal: float) -> Iterator[MotionSample]:
        last: FramePose | None = None
        for sighting in sightings:
            last = None if sighting.face is None else self._fit(sighting, person, focal, last)
            status = FaceStatus.MISSING if last is None else FaceStatus.TRACKED
            yield MotionSample(sighting, status, last)

    def _fit(self, sighting: Sighting, person: np.ndarray, focal: float, last: FramePose | None) -> FramePose:
        """The state of a frame that shows the face, from the frame before it where that leads somewhere."""
        seen = self._observe(sighting, focal)
        if last is not None and not sighting.after_cut:
            state = self._fitter.fit(seen, person, last, steps=2)
            if np.abs(self._fitter.residual(seen, person, state)).mean() < LOST_RESIDUAL:
                return state
        return self._fitter.fit(seen, person)

    def _causal(self, sightings: Iterator[Sighting]) -> Iterator[TrackedFrame]:
        smoother = CausalSmoother(self.config.smooth)
        person: _CausalPerson | None = None
        last = MotionSample(_NEVER, FaceStatus.MISSING, None)
        for sighting in sightings:
            if sighting.face is None and last.state is None:
                yield self._unseen(sighting)
                continue
            if sighting.face is not None:
                if person is None:
                    person = _CausalPerson(self, sighting)
                previous = last.state if last.status == FaceStatus.TRACKED else None
                last = MotionSample(sighting, FaceStatus.TRACKED, person.fit(sighting, previous))
                sample = last
            else:
                recent = sighting.time_s - last.sighting.time_s <= self.config.max_gap_s and not sighting.after_cut
                if not recent:
                    last = replace(last, status=FaceStatus.MISSING)
                held = FaceStatus.INTERPOLATED if last.status == FaceStatus.TRACKED else FaceStatus.MISSING
                sample = MotionSample(sighting, held, last.state)
            yield self._answer(smoother.push(sample), person.person, person.focal)

    def _focal(self, seen: list[Sighting]) -> float:
        """The focal length for these frames, in longer image sides."""
        if self.config.focal is not None:
            return self.config.focal
        guess, mean = 2.0, np.zeros(self._fitter.n_person)
        depths = [self._fitter.start(self._observe(sighting, guess), mean).translation[2] for sighting in seen]
        return guess * FACE_DISTANCE / float(np.median(depths))  # depth grows in proportion to the focal length

    def _observe(self, sighting: Sighting, focal: float) -> Observation:
        width, height = sighting.width_px, sighting.height_px
        return self._fitter.observe(sighting.face, focal * max(width, height), width, height)

    def _only_sighting(self, image_u8: np.ndarray, index: int, name: str) -> Sighting:
        faces = self._detector.detect(image_u8)
        face = choose_face(faces, self.config.face)
        if face is None:
            raise InputError(f"{name}: {_nothing_found(1, len(faces), self.config.face)}")
        height, width = image_u8.shape[:2]
        return Sighting(index, 0.0, width, height, face, True)

    def _answer(self, sample: MotionSample, person: np.ndarray, focal: float) -> TrackedFrame:
        sighting = sample.sighting
        longer = max(sighting.width_px, sighting.height_px)
        intrinsics = torch.tensor([focal * longer / sighting.width_px, focal * longer / sighting.height_px, 0.5, 0.5])
        return TrackedFrame(
            index=sighting.index,
            time_s=sighting.time_s,
            status=sample.status,
            params=sample.state.params(person[: self.head.n_shape]),
            camera=Camera.from_w2c(sample.state.w2c(), intrinsics),
            landmarks_px=_landmarks_px(sighting.face),
        )

    def _unseen(self, sighting: Sighting) -> TrackedFrame:
        """A frame before the first face: the neutral mean head, facing a camera that nobody should believe."""
        params = HeadParams.neutral(self.head.n_shape, self.head.n_expression)
        camera = Camera.frontal(FACE_DISTANCE, self.config.focal or 2.0)
        return TrackedFrame(
            sighting.index, sighting.time_s, FaceStatus.MISSING, params, camera, _landmarks_px(sighting.face)
        )


class _CausalPerson:
    """Focal length and shape of a person who is still being learnt: the shape settles over the first frames."""

    def __init__(self, tracker: Tracker, first: Sighting):
        self._tracker = tracker
        self._fitter = tracker._fitter
        self.focal = tracker._focal([first])
        self.person, _ = fit_person(self._fitter, [tracker._observe(first, self.focal)])
        self._estimate = PersonEstimate.of(self._fitter)
        self._next_lesson_s = first.time_s

    def fit(self, sighting: Sighting, last: FramePose | None) -> FramePose:
        state = self._tracker._fit(sighting, self.person, self.focal, last)
        config = self._tracker.config
        if self._estimate.frames < config.shape_frames and sighting.time_s >= self._next_lesson_s:
            seen = self._tracker._observe(sighting, self.focal)
            self._estimate = self._estimate.plus(*self._fitter.person_information(seen, self.person, state))
            self.person = self._estimate.person()
            self._next_lesson_s = sighting.time_s + config.lookahead_s / config.shape_frames
        return state


def track_clip(
    path: str | Path,
    head: MorphableHead,
    config: TrackerConfig | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
) -> Track:
    """Track a whole video, image or directory of frames. InputError when it cannot be read or shows no face.

    Offline, the whole clip decides the shape.
    """
    config = replace(config or TrackerConfig(), lookahead_s=math.inf)
    frames = open_frames(path, start_s=start_s, end_s=end_s)
    answers = list(Tracker(head, config).stream(prefetch(frames), str(path)))
    return as_track(answers, frames.info.width_px, frames.info.height_px, head)


def as_track(frames: Sequence[TrackedFrame], width_px: int, height_px: int, head: MorphableHead) -> Track:
    """The frames of one clip as one value. Under the causal mode the shape settles: the last frame's stands for all."""

    def stacked(read):
        return torch.stack([read(frame) for frame in frames])

    last = frames[-1].params.shape
    return Track(
        times_s=torch.tensor([frame.time_s for frame in frames], dtype=torch.float64),
        status=torch.tensor([int(frame.status) for frame in frames], dtype=torch.uint8),
        params=HeadParams(
            shape=last.expand(len(frames), -1).clone(),
            expression=stacked(lambda frame: frame.params.expression),
            jaw_pose=stacked(lambda frame: frame.params.jaw_pose),
            neck_pose=stacked(lambda frame: frame.params.neck_pose),
            eye_pose=stacked(lambda frame: frame.params.eye_pose),
        ),
        camera=Camera(stacked(lambda frame: frame.camera.c2w), stacked(lambda frame: frame.camera.intrinsics)),
        landmarks_px=stacked(lambda frame: frame.landmarks_px),
        width_px=width_px,
        height_px=height_px,
        head=head.name,
        head_sha256=head.sha256,
    )


_NEVER = Sighting(-1, -math.inf, 1, 1, None, True)


def _diverse(seen: list[Sighting], number: int) -> list[Sighting]:
    """At most `number` of the frames, each as far as can be from those before it in head rotation and scores."""
    if len(seen) <= number:
        return seen
    # 0.2 rad of rotation counts as much as a quarter of the range of a score.
    features = np.stack(
        [np.concatenate([one.face.pose[:3, 2].numpy() * 5, one.face.blendshapes.numpy() * 4]) for one in seen]
    )
    chosen = [int(np.linalg.norm(features - np.median(features, 0), axis=1).argmin())]
    distance = np.full(len(seen), np.inf)
    while len(chosen) < number:
        distance = np.minimum(distance, np.linalg.norm(features - features[chosen[-1]], axis=1))
        chosen.append(int(distance.argmax()))
    return [seen[index] for index in sorted(chosen)]


def _landmarks_px(face: FaceDetection | None) -> torch.Tensor:
    return torch.full((478, 2), torch.nan) if face is None else face.landmarks_px


def _nothing_found(frames: int, most_faces: int, choice: FaceChoice) -> str:
    where = "the picture" if frames == 1 else f"any of the {frames} frames"
    if most_faces:
        return f"face {choice} was asked for, but no more than {most_faces} seen in {where}; choose a smaller number"
    return f"no face found in {where}; use a picture in which the face is larger than about 30 px and not covered"
