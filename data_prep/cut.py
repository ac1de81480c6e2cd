"""Stage cut: footage -> stretches of frames that show one person without a break, seen once from beginning to end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from data_prep.footage import Footage, frames_of
from data_prep.settings import CutConfig
from gpavatar.pretrained.detector import FaceDetection, FaceDetector, Window
from gpavatar.streaming import prefetch
from gpavatar.tracking.select import PersonFollower, Sighting
from gpavatar.tracking.sources import sharpness

NEAR = 1.6  # longer sides of the person's box within which another face gets into the picture that is kept


class AttentiveDetector(FaceDetector):
    """A detector that remembers what it found last: the follower only tells of the person followed."""

    def __init__(self) -> None:
        super().__init__()
        self.faces: list[FaceDetection] = []

    def detect(self, image_u8: UInt8[np.ndarray, "height width 3"]) -> list[FaceDetection]:
        """As `FaceDetector.detect`."""
        self.faces = super().detect(image_u8)
        return self.faces

    def detect_next(
        self, image_u8: UInt8[np.ndarray, "height width 3"], window: Window | None = None
    ) -> list[FaceDetection]:
        """As `FaceDetector.detect_next`."""
        self.faces = super().detect_next(image_u8, window)
        return self.faces


@dataclass(frozen=True)
class SeenFrame:
    """A frame without its picture."""

    sighting: Sighting
    sharpness: float  # of the face; 0 where there is none
    other: float  # size of the largest other face nearby against the person's; 0 where there is none


@dataclass(frozen=True)
class Shot:
    """Frames in which the person is never out of sight for long; or those of a shot that shows nobody."""

    frames: tuple[SeenFrame, ...]

    @property
    def seen(self) -> tuple[SeenFrame, ...]:
        """Those with a face."""
        return tuple(frame for frame in self.frames if frame.sighting.face is not None)

    @property
    def start_s(self) -> float:
        """Of the first frame."""
        return self.frames[0].sighting.time_s

    @property
    def end_s(self) -> float:
        """Of the last frame."""
        return self.frames[-1].sighting.time_s


def shots(footage: Footage, detector: AttentiveDetector, config: CutConfig) -> Iterator[Shot]:
    """The shots of the footage, in order, each frame decoded once; memory holds one shot, without pictures.

    A shot ends at a cut, where the person goes out of sight for more than `max_gap_s`, and after `max_clip_s`.
    """
    follower = PersonFollower(detector)
    frames: list[SeenFrame] = []
    with closing(prefetch(frames_of(footage, config.look_side_px))) as pictures:
        for picture in pictures:
            sighting = follower.look(picture)
            if frames and (sighting.after_cut or picture.time_s - frames[0].sighting.time_s >= config.max_clip_s):
                yield from with_person(frames, config.max_gap_s)
                frames = []
            if picture.time_s - (footage.start_s or 0.0) > config.max_source_s:
                break
            frames.append(_seen(sighting, picture.image_u8, detector.faces))
    if frames:
        yield from with_person(frames, config.max_gap_s)


def with_person(frames: list[SeenFrame], max_gap_s: float) -> list[Shot]:
    """The stretches with the person in it, without the frames before, between and after; all frames if nobody is."""
    stretches: list[list[SeenFrame]] = []
    waiting: list[SeenFrame] = []
    for frame in frames:
        if frame.sighting.face is None:
            waiting.append(frame)
            continue
        near = stretches and frame.sighting.time_s - stretches[-1][-1].sighting.time_s <= max_gap_s
        if near:
            stretches[-1] += [*waiting, frame]
        else:
            stretches.append([frame])
        waiting = []
    return [Shot(tuple(stretch)) for stretch in stretches or [frames]]


def _seen(sighting: Sighting, image_u8: np.ndarray, faces: list[FaceDetection]) -> SeenFrame:
    person = sighting.face
    if person is None:
        return SeenFrame(sighting, 0.0, 0.0)
    x0, y0, x1, y1 = person.box_px
    reach_px = NEAR * max(x1 - x0, y1 - y0)
    others = [face for face in faces if face is not person and _apart_px(face, person) < reach_px]
    largest = max((face.size_px for face in others), default=0.0)
    return SeenFrame(sighting, sharpness(image_u8, person.landmarks_px), largest / person.size_px)


def _apart_px(a: FaceDetection, b: FaceDetection) -> float:
    return float((a.landmarks_px.mean(0) - b.landmarks_px.mean(0)).abs().max())
