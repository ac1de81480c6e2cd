"""Following one person through a video: choosing, keeping hold, and noticing cuts.

A face is the same person's when it stands where it could have moved to and looks alike. Looks are the picture's colours
at the landmarks, so that they do not depend on pose and expression; they tell two people apart when they cross.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from gpavatar.media.video import VideoFrame
from gpavatar.pretrained.detector import NETWORK_SIDE_PX, SHARP_FACE_PX, FaceDetection, FaceDetector, Window

FaceChoice = Literal["largest", "left", "right"] | int  # a number counts the faces from the left, from 1

THUMBNAIL_PX = (48, 27)
CUT_LEVEL = 0.10  # mean change of the thumbnail's grey values, of the full range, that may be a cut ...
CUT_RATIO = 4.0  # ... when it is also so many times the usual change between frames
SAME_LOOKS = 0.12  # mean change of the colours at the landmarks, of the full range: above it is somebody else ...
SAME_LOOKS_HELD = 0.2  # ... but for a face that was seen a moment ago in the same place, where it is the light
HELD_S, HELD_REACH = 0.15, 0.15  # seconds, face sizes: how near in time and place that is
LOOKS_MEMORY_S = 2.0  # time constant of the remembered looks
REACH = 0.45  # face sizes that a face may move between neighbouring frames ...
REACH_PER_S = 2.0  # ... and while it is not seen
FORGET_S = 2.0  # after so long without the person, anybody may be chosen
SEARCH_EVERY_S = 0.5  # the search for small faces is slow: while there is none, it runs this often
VIEW_SCALE = 3.0  # side of the window around a small face, in face sizes


@dataclass(frozen=True)
class Sighting:
    """The followed face in one frame, or that it was not seen."""

    index: int
    time_s: float
    width_px: int
    height_px: int
    face: FaceDetection | None
    after_cut: bool  # the first frame of a shot, the clip's first included


@dataclass(frozen=True)
class _Seen:
    """A face in this frame, with what tells people apart."""

    face: FaceDetection
    centre_px: Float[np.ndarray, " 2"]
    looks: Float[np.ndarray, "478 3"]  # the picture's colours at the landmarks, [0, 1]

    @staticmethod
    def of(face: FaceDetection, image_u8: np.ndarray) -> _Seen:
        height, width = image_u8.shape[:2]
        columns, rows = face.landmarks_px.numpy().T.astype(int)
        colours = image_u8[rows.clip(0, height - 1), columns.clip(0, width - 1)]
        return _Seen(face, _centre(face), colours.astype(np.float64) / 255)


@dataclass(frozen=True)
class _Person:
    """Somebody in the picture: where last, how fast, how large, and the colours at the landmarks."""

    last: _Seen
    looks: Float[np.ndarray, "478 3"]  # as remembered over LOOKS_MEMORY_S
    velocity_px_s: Float[np.ndarray, " 2"]
    seen_s: float

    @staticmethod
    def first_met(seen: _Seen, time_s: float) -> _Person:
        return _Person(seen, seen.looks, np.zeros(2), time_s)

    def met_again(self, seen: _Seen, time_s: float) -> _Person:
        passed = max(time_s - self.seen_s, 1e-3)
        share = 1 - np.exp(-passed / LOOKS_MEMORY_S)
        velocity = (self.velocity_px_s + (seen.centre_px - self.last.centre_px) / passed) / 2
        return _Person(seen, self.looks + share * (seen.looks - self.looks), velocity, time_s)

    def change(self, seen: _Seen) -> float:
        """How different it looks."""
        return float(np.abs(seen.looks - self.looks).mean())

    def mismatch(self, seen: _Seen, time_s: float) -> float:
        """How unlikely it is to be this person; infinite when it cannot be."""
        passed = time_s - self.seen_s
        reach = REACH + REACH_PER_S * passed
        expected = self.last.centre_px + self.velocity_px_s * min(passed, 0.25)
        sizes = self.last.face.size_px, seen.face.size_px
        moved, grown = float(np.linalg.norm(seen.centre_px - expected)) / max(sizes), abs(math.log(sizes[1] / sizes[0]))
        held = passed <= HELD_S and max(moved, grown) <= HELD_REACH
        terms = (moved / reach, grown / reach, self.change(seen) / (SAME_LOOKS_HELD if held else SAME_LOOKS))
        return sum(terms) if max(terms) <= 1 else math.inf


class PersonFollower:
    """Finds the chosen person in frame after frame of one video.

    Everybody in view is followed, so that a face in front of the chosen one's is known for whose it is.
    """

    def __init__(self, detector: FaceDetector, choice: FaceChoice = "largest"):
        self._detector = detector
        self._choice = choice
        self._people: dict[int, _Person] = {}
        self._followed: int | None = None
        self._window: Window | None = None
        self._cuts = CutDetector()
        self._searched_s = -math.inf
        self.most_faces = 0  # seen in one frame so far

    def sightings(self, frames: Iterable[VideoFrame]) -> Iterator[Sighting]:
        """One sighting per frame."""
        for frame in frames:
            yield self.look(frame)

    def look(self, frame: VideoFrame) -> Sighting:
        """The person in the next frame."""
        after_cut = self._cuts.is_cut(frame.image_u8)
        if after_cut:
            self._window = None
            self._detector.reset()
        seen = self._seen(frame, after_cut)
        self.most_faces = max(self.most_faces, len(seen))
        chosen = self._chosen_in_new_shot(seen, frame.time_s) if after_cut else self._chosen(seen, frame.time_s)
        face = None if chosen is None else chosen.face
        if face is not None:
            self._window = self._window_for(face, frame.image_u8)
        height, width = frame.image_u8.shape[:2]
        return Sighting(frame.index, frame.time_s, width, height, face, after_cut)

    def _seen(self, frame: VideoFrame, after_cut: bool) -> list[_Seen]:
        """The faces where the person was; a search of the whole picture when they are not seen there."""
        if not after_cut:
            seen = [_Seen.of(face, frame.image_u8) for face in self._detector.detect_next(frame.image_u8, self._window)]
            if self._followed in self._matched(seen, frame.time_s):
                return seen
            if self._window is None and frame.time_s - self._searched_s < SEARCH_EVERY_S:
                return seen
        self._searched_s, self._window = frame.time_s, None
        return [_Seen.of(face, frame.image_u8) for face in self._detector.detect(frame.image_u8)]

    def _matched(self, seen: list[_Seen], time_s: float) -> dict[int, _Seen]:
        """Who is who: the likeliest pairs first, each person and each face once."""
        pairs = [(who, one, person.mismatch(one, time_s)) for who, person in self._people.items() for one in seen]
        matched: dict[int, _Seen] = {}
        taken: set[int] = set()
        for who, one, mismatch in sorted(pairs, key=lambda pair: pair[2]):
            if mismatch < math.inf and who not in matched and id(one) not in taken:
                matched[who] = one
                taken.add(id(one))
        return matched

    def _chosen(self, seen: list[_Seen], time_s: float) -> _Seen | None:
        matched = self._matched(seen, time_s)
        known = {id(one) for one in matched.values()}
        for who, one in matched.items():
            self._people[who] = self._people[who].met_again(one, time_s)
        for one in seen:
            if id(one) not in known:
                self._meet(one, time_s)
        self._people = {who: p for who, p in self._people.items() if time_s - p.seen_s <= FORGET_S}
        if self._followed not in self._people:
            self._followed = self._who(choose_face([one.face for one in seen], self._choice))
        return self._seen_now(time_s)

    def _chosen_in_new_shot(self, seen: list[_Seen], time_s: float) -> _Seen | None:
        """In a new shot the person may stand anywhere, but looks the same; without anybody alike the rule chooses."""
        before = self._people.get(self._followed)
        self._people = {}
        for one in seen:
            self._meet(one, time_s)
        alike = min(seen, key=before.change, default=None) if before is not None else None
        if alike is None or before.change(alike) > SAME_LOOKS:
            self._followed = self._who(choose_face([one.face for one in seen], self._choice))
        else:
            self._followed = self._who(alike.face)
        return self._seen_now(time_s)

    def _meet(self, seen: _Seen, time_s: float) -> None:
        self._people[max(self._people, default=-1) + 1] = _Person.first_met(seen, time_s)

    def _who(self, face: FaceDetection | None) -> int | None:
        return next((who for who, person in self._people.items() if person.last.face is face), None)

    def _seen_now(self, time_s: float) -> _Seen | None:
        person = self._people.get(self._followed)
        return person.last if person is not None and person.seen_s == time_s else None

    def _window_for(self, face: FaceDetection, image_u8: np.ndarray) -> Window | None:
        """None, the whole picture, where that shows the face large enough; else a window that stays while it can."""
        reduced = NETWORK_SIDE_PX / min(image_u8.shape[:2])
        if reduced >= 1 or face.size_px * reduced >= SHARP_FACE_PX:
            return None
        window = self._window
        if window is None or not window.contains(face.box_px, margin_px=0.4 * face.size_px):
            return Window.around(face.box_px, VIEW_SCALE)
        size = VIEW_SCALE * face.size_px / (window.x1 - window.x0)
        return window if 0.6 < size < 1.3 else Window.around(face.box_px, VIEW_SCALE)


class CutDetector:
    """Tells the first frame of a shot by how much a thumbnail changes against what is usual."""

    def __init__(self) -> None:
        self._last: Float[np.ndarray, "row column"] | None = None
        self._usual = 0.0

    def is_cut(self, image_u8: UInt8[np.ndarray, "height width 3"]) -> bool:
        """Whether this frame begins a shot; the first one does."""
        step = max(1, min(image_u8.shape[:2]) // 128)
        small = cv2.resize(image_u8[::step, ::step], THUMBNAIL_PX, interpolation=cv2.INTER_AREA)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float64) / 255
        if self._last is None:
            self._last = grey
            return True
        change = float(np.abs(grey - self._last).mean())
        cut = change > max(CUT_LEVEL, CUT_RATIO * self._usual)
        self._last = grey
        self._usual = self._usual if cut else 0.8 * self._usual + 0.2 * change
        return cut


def choose_face(faces: list[FaceDetection], choice: FaceChoice) -> FaceDetection | None:
    """The face that `choice` names among those of one picture; None when there is no such face."""
    ordered = sorted(faces, key=lambda face: _centre(face)[0])
    if isinstance(choice, int):
        return ordered[choice - 1] if 1 <= choice <= len(ordered) else None
    if not faces:
        return None
    return {"left": ordered[0], "right": ordered[-1], "largest": max(faces, key=lambda face: face.size_px)}[choice]


def _centre(face: FaceDetection) -> Float[np.ndarray, " 2"]:
    return face.landmarks_px.mean(0).double().numpy()
