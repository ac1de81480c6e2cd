"""Index facts about MediaPipe's points: they agree with each other and with the head."""

from __future__ import annotations

import torch

from gpavatar.face import landmarks
from gpavatar.face.landmarks import MEDIAPIPE_MIRROR, mirrored_name
from gpavatar.types import ARKIT_NAMES


def test_expression_names_are_the_52_of_arkit_each_once():
    assert len(set(ARKIT_NAMES)) == len(ARKIT_NAMES) == 52
    assert list(ARKIT_NAMES[:-1]) == sorted(ARKIT_NAMES[:-1])  # MediaPipe's order is alphabetical
    assert ARKIT_NAMES[-1] == "tongueOut"


def test_mirrored_name_is_an_involution_within_the_names():
    for name in ARKIT_NAMES:
        assert mirrored_name(name) in ARKIT_NAMES
        assert mirrored_name(mirrored_name(name)) == name
    assert mirrored_name("jawLeft") == "jawRight"
    assert mirrored_name("jawOpen") == "jawOpen"


def test_mirror_is_an_involution_that_swaps_the_two_sides():
    mirror = torch.tensor(MEDIAPIPE_MIRROR)
    assert (mirror[mirror] == torch.arange(478)).all()
    assert landmarks.EYE_OUTER_CORNERS == (33, MEDIAPIPE_MIRROR[33])
    for right, left in (("EYE_RIGHT", "EYE_LEFT"), ("BROW_RIGHT", "BROW_LEFT"), ("IRIS_RIGHT", "IRIS_LEFT")):
        assert {MEDIAPIPE_MIRROR[i] for i in getattr(landmarks, right)} == set(getattr(landmarks, left))
    for contour in (landmarks.FACE_OVAL, landmarks.LIPS_OUTER, landmarks.LIPS_INNER):
        assert {MEDIAPIPE_MIRROR[i] for i in contour} == set(contour)
    assert MEDIAPIPE_MIRROR[landmarks.NOSE_TIP] == landmarks.NOSE_TIP
    assert MEDIAPIPE_MIRROR[landmarks.CHIN] == landmarks.CHIN


def test_ibug_points_mirror_in_their_own_order():
    ibug = landmarks.IBUG68_FROM_MEDIAPIPE
    assert len(set(ibug)) == 68
    jaw, brows, nose = range(17), range(17, 27), range(31, 36)
    for group in (jaw, brows, nose):
        assert [MEDIAPIPE_MIRROR[ibug[i]] for i in group] == [ibug[i] for i in reversed(group)]
    assert all(MEDIAPIPE_MIRROR[ibug[i]] == ibug[i] for i in (8, 27, 28, 29, 30, 33, 51, 57, 62, 66))
