"""The face detector on a photo that anybody can have."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gpavatar.face.open_head import OpenHead
from gpavatar.media.image import read_image, resize_u8
from gpavatar.pretrained.detector import FaceDetection, FaceDetector, Window
from gpavatar.types import ARKIT_NAMES

RIGHT_EYE, LEFT_EYE, CHIN = 33, 263, 152  # MediaPipe's indices; outer corners


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector()


@pytest.fixture(scope="module")
def picture(photo) -> np.ndarray:
    return read_image(photo)


@pytest.fixture(scope="module")
def face(detector, picture) -> FaceDetection:
    (found,) = detector.detect(picture)
    return found


def apart(a: FaceDetection, landmarks_px: torch.Tensor) -> float:
    """Mean distance of landmarks, in face sizes."""
    return float((a.landmarks_px - landmarks_px).norm(dim=-1).mean()) / a.size_px


def score(face: FaceDetection, name: str) -> float:
    return float(face.blendshapes[ARKIT_NAMES.index(name)])


def test_the_astronaut_smiles(face) -> None:
    assert score(face, "mouthSmileLeft") > 0.5 and score(face, "mouthSmileRight") > 0.5
    assert score(face, "jawOpen") < 0.3 and score(face, "tongueOut") == 0
    assert face.landmarks_px[RIGHT_EYE, 0] < face.landmarks_px[LEFT_EYE, 0]  # her right is on the picture's left
    assert face.landmarks_px[CHIN, 1] > face.landmarks_px[LEFT_EYE, 1]
    assert 80 < face.size_px < 120 and face.pose[:3, :3].det() == pytest.approx(1, abs=0.01)


def test_scores_are_in_the_order_of_the_heads_expressions() -> None:
    assert OpenHead.load().expression_names == ARKIT_NAMES


def test_a_strided_view_is_read_right(detector, picture, face) -> None:
    padded = np.zeros((512, 700, 3), np.uint8)
    padded[:, 50:562] = picture
    (found,) = detector.detect(padded[:, 50:562])
    assert apart(face, found.landmarks_px) < 1e-4


def test_every_face_is_found_the_largest_first(detector, picture, face) -> None:
    small = resize_u8(picture, 256, 256)
    both = np.full((512, 900, 3), 128, np.uint8)
    both[200:456, :256] = small
    both[:, 300:812] = picture
    large, little = detector.detect(both)
    assert apart(face, large.landmarks_px - torch.tensor([300.0, 0.0])) < 0.03
    assert apart(face, (little.landmarks_px - torch.tensor([0.0, 200.0])) * 2) < 0.05


def test_a_small_face_in_a_large_picture_is_found_and_looked_at_sharply(detector, picture, face) -> None:
    large = np.full((1600, 2400, 3), 100, np.uint8)
    large[900:1412, 1700:2212] = picture
    (found,) = detector.detect(large)
    assert apart(face, found.landmarks_px - torch.tensor([1700.0, 900.0])) < 0.03


def test_a_face_that_fills_the_picture_is_found(detector, picture, face) -> None:
    x0, y0, x1, y1 = (int(value) for value in face.box_px)
    (found,) = detector.detect(picture[y0:y1, x0:x1])
    assert apart(face, found.landmarks_px + torch.tensor([float(x0), float(y0)])) < 0.06


@pytest.mark.parametrize("size", [(512, 512), (10, 10), (1, 1), (3, 900)])
def test_no_face_is_an_empty_list(detector, size) -> None:
    assert detector.detect(np.full((*size, 3), 90, np.uint8)) == []


def test_a_mirrored_picture_has_mirrored_scores(detector, picture, face) -> None:
    (mirrored,) = detector.detect(picture[:, ::-1])
    for name in ("mouthSmile", "eyeBlink", "eyeLookOut", "browDown"):
        assert score(face, f"{name}Left") == pytest.approx(score(mirrored, f"{name}Right"), abs=0.15)


def test_following_agrees_with_looking_afresh_also_through_a_window(detector, picture, face) -> None:
    large = np.full((560, 640, 3), 100, np.uint8)
    at = torch.tensor([100.0, 40.0])
    large[40:552, 100:612] = picture
    window = Window(200, 20, 460, 280)
    for where in (None, None, window, window):
        (found,) = detector.detect_next(large, where)
        assert apart(face, found.landmarks_px - at) < 0.04


def test_after_a_reset_the_old_place_is_forgotten(detector, picture) -> None:
    empty = np.full_like(picture, 100)
    detector.detect_next(picture)
    detector.reset()
    assert detector.detect_next(empty) == []


def test_a_window_knows_what_it_contains() -> None:
    window = Window.around((40.0, 50.0, 60.0, 90.0), scale=2.0)
    assert window == Window(10, 30, 90, 110)
    assert window.contains((20.0, 40.0, 80.0, 100.0), margin_px=10.0)
    assert not window.contains((20.0, 40.0, 81.0, 100.0), margin_px=10.0)


def test_the_network_is_silent_and_ends_quietly(photo) -> None:
    """In a program of its own: the C++ side writes to file descriptor 2, and at the end of a program it may crash."""
    code = (
        "from gpavatar.media.image import read_image\n"
        "from gpavatar.pretrained.detector import FaceDetector\n"
        f"kept = FaceDetector()\nprint(len(kept.detect(read_image({str(photo)!r}))))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2]
    )
    assert (ended.returncode, ended.stdout.strip()) == (0, "1")
    assert "Traceback" not in ended.stderr and "Exception" not in ended.stderr
    assert ended.stderr == ""


def test_handlers_that_are_saved_and_restored_end_no_process(detector, picture) -> None:
    """As Lightning does around a training; MediaPipe's timers would tick into the default handler."""
    handler = signal.getsignal(signal.SIGPROF)
    signal.signal(signal.SIGPROF, handler)
    status = Path("/proc/self/status").read_text().split("SigIgn:")[1].split()[0]
    assert int(status, 16) >> (signal.SIGPROF - 1) & 1
    assert detector.detect(picture)
