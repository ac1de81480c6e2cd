"""Following one person through a video: choosing, keeping hold, and noticing cuts.

A face is the same person's when it stands where it could have moved to and looks alike. Looks are the picture's colours
at the landmarks, so that they do not depend on pose and expression; they tell two people apart when they cross.
"""

from __future__ import annotations

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
SAME_LOOKS = 0.16  # mean change of the colours at the landmarks, of the full range: above it is somebody else
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
    most_faces: int  # seen in one frame so far


@dataclass(frozen=True)
class _Person:
    """Who is followed: where last, how fast, how large, and the colours at the landmarks."""

    centre_px: Float[np.ndarray, " 2"]
    velocity_px_s: Float[np.ndarray, " 2"]
    size_px: float
    looks: Float[np.ndarray, "478 3"]
    seen_s: float

    def met_again(self, face: FaceDetection, looks: np.ndarray, time_s: float) -> _Person:
        """The same person, seen now."""
        centre, passed = _centre(face), max(time_s - self.seen_s, 1e-3)
        share = 1 - np.exp(-passed / LOOKS_MEMORY_S)
        velocity = 0.5 * self.velocity_px_s + 0.5 * (centre - self.centre_px) / passed
        return _Person(centre, velocity, face.size_px, self.looks + share * (looks - self.looks), time_s)

    def mismatch(self, face: FaceDetection, looks: np.ndarray, time_s: float) -> float:
        """How unlikely it is to be this person; above 1 it is not."""
        passed = time_s - self.seen_s
        expected = self.centre_px + self.velocity_px_s * min(passed, 0.25)
        moved = np.linalg.norm(_centre(face) - expected) / max(self.size_px, face.size_px)
        grown = abs(np.log(face.size_px / self.size_px))
        reach = REACH + REACH_PER_S * passed
        change = float(np.abs(looks - self.looks).mean())
        return max(float(moved) / reach, grown / reach, change / SAME_LOOKS)


class PersonFollower:
    """Finds the chosen person in frame after frame of one video."""

    def __init__(self, detector: FaceDetector, choice: FaceChoice = "largest"):
        self._detector = detector
        self._choice = choice
        self._person: _Person | None = None
        self._window: Window | None = None
        self._cuts = CutDetector()
        self._searched_s = -np.inf
        self._most_faces = 0

    def sightings(self, frames: Iterable[VideoFrame]) -> Iterator[Sighting]:
        """One sighting per frame."""
        for frame in frames:
            yield self.look(frame)

    def look(self, frame: VideoFrame) -> Sighting:
        """The person in the next frame."""
        after_cut = self._cuts.is_cut(frame.image_u8)
        if after_cut:
            self._window, self._searched_s = None, -np.inf
            self._detector.reset()
        faces = self._faces(frame)
        self._most_faces = max(self._most_faces, len(faces))
        face = self._chosen(faces, frame, after_cut)
        height, width = frame.image_u8.shape[:2]
        if face is not None:
            self._window = self._window_for(face, frame.image_u8)
        return Sighting(frame.index, frame.time_s, width, height, face, after_cut, self._most_faces)

    def _faces(self, frame: VideoFrame) -> list[FaceDetection]:
        """Cheap where the person was; a search of the whole picture when that shows nothing of them."""
        if self._person is not None and self._searched_s > -np.inf:
            faces = self._detector.detect_next(frame.image_u8, self._window)
            if self._match(faces, frame) is not None:
                return faces
        if frame.time_s - self._searched_s < SEARCH_EVERY_S and self._window is None:
            return self._detector.detect_next(frame.image_u8)
        self._searched_s = frame.time_s
        self._window = None
        return self._detector.detect(frame.image_u8)

    def _match(self, faces: list[FaceDetection], frame: VideoFrame) -> FaceDetection | None:
        """The face that is the person followed."""
        scored = [(self._person.mismatch(face, _looks(frame.image_u8, face), frame.time_s), face) for face in faces]
        score, face = min(scored, key=lambda pair: pair[0], default=(np.inf, None))
        return face if score <= 1 else None

    def _chosen(self, faces: list[FaceDetection], frame: VideoFrame, after_cut: bool) -> FaceDetection | None:
        if self._person is not None and after_cut:  # in the new shot the person may stand anywhere, but looks the same
            alike = [(float(np.abs(_looks(frame.image_u8, face) - self._person.looks).mean()), face) for face in faces]
            change, face = min(alike, key=lambda pair: pair[0], default=(np.inf, None))
            self._person = None
            face = face if change <= SAME_LOOKS else self._by_rule(faces)
        elif self._person is not None and frame.time_s - self._person.seen_s <= FORGET_S:
            face = self._match(faces, frame)
        else:
            self._person = None
            face = self._by_rule(faces)
        if face is None:
            return None
        looks = _looks(frame.image_u8, face)
        if self._person is None:
            self._person = _Person(_centre(face), np.zeros(2), face.size_px, looks, frame.time_s)
        else:
            self._person = self._person.met_again(face, looks, frame.time_s)
        return face

    def _by_rule(self, faces: list[FaceDetection]) -> FaceDetection | None:
        return choose_face(faces, self._choice)

    def _window_for(self, face: FaceDetection, image_u8: np.ndarray) -> Window | None:
        """None, the whole picture, where that shows the face large enough; else a window that stays while it can."""
        reduced = NETWORK_SIDE_PX / min(image_u8.shape[:2])
        if reduced >= 1 or face.size_px * reduced >= SHARP_FACE_PX:
            return None
        window = self._window
        if window is not None and window.contains(face.box_px, margin_px=0.4 * face.size_px):
            if 0.6 < VIEW_SCALE * face.size_px / (window.x1 - window.x0) < 1.3:
                return window
        return Window.around(face.box_px, VIEW_SCALE)


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


def _looks(image_u8: np.ndarray, face: FaceDetection) -> Float[np.ndarray, "478 3"]:
    """Colours at the landmarks, in [0, 1]; outside the picture those of its border."""
    height, width = image_u8.shape[:2]
    columns, rows = face.landmarks_px.numpy().T.astype(int)
    return image_u8[rows.clip(0, height - 1), columns.clip(0, width - 1)].astype(np.float64) / 255
