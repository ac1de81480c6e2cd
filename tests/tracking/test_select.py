"""Following one person, with a detector that finds what was painted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from gpavatar.media.video import VideoFrame
from gpavatar.pretrained.detector import FaceDetection, FaceDetector, Window
from gpavatar.tracking.select import FORGET_S, CutDetector, PersonFollower, choose_face

FPS = 25.0
HEIGHT, WIDTH = 240, 640
UNIT = torch.rand(478, 2, generator=torch.Generator().manual_seed(1)) - 0.5


@dataclass(frozen=True)
class Painted:
    """A face of one colour: where it is, and how large."""

    x: float
    colour: tuple[int, int, int]
    y: float = 120.0
    size: float = 80.0


ANN, BOB = (200, 150, 120), (70, 50, 40)


class PaintedDetector(FaceDetector):
    """Knows the faces of each picture by the picture's identity; a hidden face is not found."""

    def __init__(self) -> None:
        self.faces: dict[int, list[Painted]] = {}
        self.searches = self.resets = 0
        self.windows: list[Window | None] = []

    def paint(self, index: int, faces: list[Painted], background: int = 110, height: int = HEIGHT) -> VideoFrame:
        """The later faces stand in front."""
        image = np.full((height, WIDTH, 3), background, np.uint8)
        for face in faces:
            half = int(face.size / 2)
            x, y = int(face.x), int(face.y)
            image[max(y - half, 0) : y + half, max(x - half, 0) : x + half] = face.colour
        seen = [
            face
            for i, face in enumerate(faces)
            if all(abs(face.x - other.x) > 0.5 * face.size for other in faces[i + 1 :])
        ]
        self.faces[id(image)] = seen
        return VideoFrame(index, index / FPS, image)

    def detect(self, image_u8):
        self.searches += 1
        return self._found(image_u8)

    def detect_next(self, image_u8, window=None):
        self.windows.append(window)
        return self._found(image_u8)

    def reset(self) -> None:
        self.resets += 1

    def _found(self, image_u8) -> list[FaceDetection]:
        return [
            FaceDetection(
                UNIT * face.size + torch.tensor([face.x, face.y]), torch.zeros(478), torch.zeros(52), torch.eye(4)
            )
            for face in self.faces[id(image_u8)]
        ]


def follow(scene: Callable[[int], list[Painted]], number: int, choice="largest", backgrounds=lambda index: 110):
    """Horizontal place of the followed face per frame, None where not seen, and which frames were called cuts."""
    detector = PaintedDetector()
    frames = [detector.paint(index, scene(index), backgrounds(index)) for index in range(number)]
    sightings = list(PersonFollower(detector, choice).sightings(frames))
    assert [one.index for one in sightings] == list(range(number))
    at = [
        None if one.face is None else float((one.face.landmarks_px.amin(0) + one.face.landmarks_px.amax(0))[0] / 2)
        for one in sightings
    ]
    return at, [one.index for one in sightings if one.after_cut]


def crossing(index: int) -> list[Painted]:
    """Ann walks right behind Bob, who walks left; the two meet in frame 40."""
    return [Painted(120 + 5 * index, ANN), Painted(520 - 5 * index, BOB)]


@pytest.mark.parametrize(("choice", "path"), [("left", lambda i: 120 + 5 * i), ("right", lambda i: 520 - 5 * i)])
def test_two_people_who_cross_are_never_swapped(choice, path) -> None:
    at, cuts = follow(crossing, 80, choice)
    assert cuts == [0]
    errors = [abs(x - path(index)) for index, x in enumerate(at) if x is not None]
    assert max(errors) < 5
    seen = sum(x is not None for x in at)
    assert seen == 80 if choice == "right" else 60 <= seen < 80  # Bob is in front
    assert at[-1] is not None


def test_two_alike_who_only_pass_near_are_told_apart_by_their_ways() -> None:
    at, _ = follow(lambda i: [Painted(100 + 4 * i, ANN), Painted(200 + 4 * i, ANN)], 60, "left")
    assert max(abs(x - (100 + 4 * index)) for index, x in enumerate(at)) < 5


def test_somebody_else_does_not_take_the_place_of_a_person_who_leaves() -> None:
    gone = 20

    def scene(index: int) -> list[Painted]:
        return [Painted(300, ANN)] if index < gone else [Painted(300, BOB)]

    at, _ = follow(scene, gone + round((FORGET_S + 0.5) * FPS))
    wait = round(FORGET_S * FPS)
    assert all(x is None for x in at[gone : gone + wait - 1])
    assert at[-1] is not None  # in the end anybody is better than nobody


def test_a_person_who_comes_back_is_taken_up_again() -> None:
    hidden = range(20, 45)
    at, _ = follow(lambda i: [] if i in hidden else [Painted(300 + i, ANN)], 70)
    assert all((x is None) == (i in hidden) for i, x in enumerate(at))


def test_slow_changes_of_light_lose_nobody() -> None:
    def scene(index: int) -> list[Painted]:
        return [Painted(300, tuple(int(value * (1 - 0.008 * index)) for value in ANN))]

    assert all(x is not None for x in follow(scene, 80)[0])


def test_after_a_cut_the_same_person_is_followed_in_the_new_place() -> None:
    def scene(index: int) -> list[Painted]:
        return (
            [Painted(150, ANN), Painted(450, BOB, size=90)]
            if index < 20
            else [Painted(150, BOB, size=90), Painted(450, ANN)]
        )

    at, cuts = follow(scene, 40, "left", backgrounds=lambda index: 110 if index < 20 else 220)
    assert cuts == [0, 20]
    assert at[19] == pytest.approx(150, abs=2) and at[20] == pytest.approx(450, abs=2)


def test_the_search_for_small_faces_is_not_made_in_every_frame() -> None:
    detector = PaintedDetector()
    frames = [detector.paint(index, []) for index in range(100)]
    assert all(one.face is None for one in PersonFollower(detector).sightings(frames))
    assert 4 <= detector.searches <= 100 / FPS / 0.5 + 2


def test_a_small_face_is_looked_at_through_a_window_that_moves_rarely() -> None:
    detector = PaintedDetector()
    frames = [detector.paint(index, [Painted(100 + 4 * index, ANN, y=400)], height=1600) for index in range(100)]
    assert all(one.face is not None for one in PersonFollower(detector).sightings(frames))
    used = [window for window in detector.windows if window is not None]
    assert len(used) >= 98 and len(set(used)) < 10
    for window, frame in zip(used[-50:], frames[-50:], strict=True):
        assert window.x0 < 100 + 4 * frame.index < window.x1


def faces_at(*places: tuple[float, float]) -> list[FaceDetection]:
    return [
        FaceDetection(UNIT * size + torch.tensor([x, 50.0]), torch.zeros(478), torch.zeros(52), torch.eye(4))
        for x, size in places
    ]


def test_the_choice_is_by_size_or_by_place() -> None:
    faces = faces_at((300.0, 50.0), (100.0, 40.0), (500.0, 30.0))
    largest, left, right = faces
    assert choose_face(faces, "largest") is largest
    assert choose_face(faces, "left") is left is choose_face(faces, 1)
    assert choose_face(faces, "right") is right is choose_face(faces, 3)
    assert choose_face(faces, 2) is largest
    assert choose_face(faces, 4) is None and choose_face([], "left") is None and choose_face(faces, 0) is None


def test_noise_fades_and_motion_are_no_cuts() -> None:
    random = np.random.default_rng(0)
    texture = random.integers(0, 255, (90, 400, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    pan = [texture[:, 6 * i : 6 * i + 1280] for i in range(30)]
    fade = [(pan[-1] * (1 - i / 40)).astype(np.uint8) for i in range(30)]
    noisy = [np.clip(fade[-1] + random.normal(0, 12, fade[-1].shape), 0, 255).astype(np.uint8) for _ in range(5)]
    detector = CutDetector()
    assert [detector.is_cut(image) for image in pan + fade + noisy] == [True] + [False] * 64
    assert detector.is_cut(255 - pan[0])
