"""The independent detector of 68 points."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from optional_assets import needs

from gpavatar.face.landmarks import IBUG68_FROM_MEDIAPIPE
from gpavatar.media.image import read_image, resize_u8
from gpavatar.pretrained.detector import FaceDetector
from gpavatar.pretrained.dlib_landmarks import DlibLandmarks
from gpavatar.types import InputError


@needs("dlib_landmarks")
def test_it_agrees_with_mediapipe_on_a_photo(photo):
    picture, detector = read_image(photo), DlibLandmarks()
    points = detector.detect(picture)
    face = FaceDetector().detect(picture)[0]
    apart = (points - face.landmarks_px[list(IBUG68_FROM_MEDIAPIPE)]).norm(dim=-1)
    assert apart[17:].mean() < 0.05 * face.size_px  # without the jaw line, which the two draw differently
    # a smaller picture, and more of it: the points stay where they are on the face
    wide = np.zeros((512, 1024, 3), np.uint8)
    wide[:, 300:812] = picture
    assert (detector.detect(wide) - points - torch.tensor([300.0, 0])).norm(dim=-1).mean() < 2
    assert (detector.detect(resize_u8(picture, 400, 400)) / 400 * 512 - points).norm(dim=-1).mean() < 3


@needs("dlib_landmarks")
def test_no_face_is_nan():
    assert DlibLandmarks().detect(np.full((256, 256, 3), 128, np.uint8)).isnan().all()


def test_a_missing_package_is_said_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(InputError, match=r"pip install 'gpavatar\[eval\]'"):
        DlibLandmarks()
