"""Frames that are left out, and those that are not."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from gpavatar.media.frames import open_frames
from gpavatar.media.image import read_image, to_float, to_u8
from gpavatar.pipeline import default_head
from gpavatar.pretrained.matting import matte
from gpavatar.tracking.frame_gate import FrameGate, frame_sharpness, gated, hidden_share
from gpavatar.tracking.left_out import Fault, LeftOut
from gpavatar.tracking.sources import source_frame
from gpavatar.tracking.tracker import Tracker
from gpavatar.types import SourceFrame

pytestmark = pytest.mark.download


@pytest.fixture(scope="module")
def woman(photo) -> SourceFrame:
    picture = read_image(photo)
    return source_frame(picture, Tracker(default_head()).track_image(picture, "photo"), 256)


@pytest.fixture(scope="module")
def man(clip) -> SourceFrame:
    picture = next(iter(open_frames(clip))).image_u8
    return source_frame(picture, Tracker(default_head()).track_image(picture, "clip"), 256)


@pytest.fixture(scope="module")
def gate(woman) -> FrameGate:
    return FrameGate(woman)


def looked_at(frame: SourceFrame, picture_u8: np.ndarray) -> SourceFrame:
    """Another picture, its own matte, landmarks where they were."""
    layers = matte(to_float(picture_u8))
    return replace(
        frame, image=to_float(picture_u8), alpha=layers.alpha, hair=layers.hair, face=layers.face, body=layers.body
    )


def with_hand(frame: SourceFrame, colour: tuple[int, int, int], aside: float = 0.0) -> SourceFrame:
    """A hand before the mouth: palm, four fingers and an arm, darker at their rims."""
    picture, points = to_u8(frame.image), frame.landmarks_px
    width = float((points[454] - points[234]).norm())
    x, y = (points[[13, 14]].mean(0) + torch.tensor([aside * width, 0.1 * width])).int().tolist()
    cover = np.zeros(picture.shape[:2], np.uint8)
    cv2.ellipse(cover, (x, y), (int(0.3 * width), int(0.22 * width)), 0, 0, 360, 1, -1)
    for finger in range(4):
        foot = (int(x + (0.15 * finger - 0.22) * width), int(y - 0.05 * width))
        cv2.line(cover, foot, (foot[0], int(foot[1] - 0.35 * width)), 1, int(0.12 * width))
    cv2.rectangle(cover, (x - int(0.13 * width), y), (x + int(0.13 * width), picture.shape[0]), 1, -1)
    shade = 0.65 + 0.35 * np.clip(cv2.distanceTransform(cover, cv2.DIST_L2, 3) / (0.08 * width), 0, 1)
    hand = np.where(cover[..., None] > 0, shade[..., None] * colour, picture)
    return looked_at(frame, hand.astype(np.uint8))


def test_a_clear_face_is_taken(gate, woman):
    assert gate.fault(woman) is None
    assert hidden_share(woman) < 0.1
    mirrored = to_u8(woman.image)[:, ::-1].copy()
    points = woman.landmarks_px * torch.tensor([-1.0, 1.0]) + torch.tensor([256.0, 0.0])
    swapped = points.clone()  # what the alignment looks at: eyes and mouth change sides
    swapped[[33, 133, 362, 263, 61, 291]] = points[[263, 362, 133, 33, 291, 61]]
    other_side = replace(woman, image=to_float(mirrored), face=woman.face.flip(-1), hair=woman.hair.flip(-1))
    assert gate.fault(replace(other_side, landmarks_px=swapped)) is None


def test_a_blurred_frame_is_noticed(gate, woman):
    soft = replace(woman, image=to_float(cv2.GaussianBlur(to_u8(woman.image), (0, 0), 2)))
    assert gate.fault(soft) is Fault.BLURRED
    slightly = replace(woman, image=to_float(cv2.GaussianBlur(to_u8(woman.image), (0, 0), 0.4)))
    assert gate.fault(slightly) is None
    assert frame_sharpness(soft) < frame_sharpness(slightly) < frame_sharpness(woman)


@pytest.mark.parametrize(("colour", "aside"), [((228, 180, 160), 0.0), ((228, 180, 160), 0.3), ((60, 90, 200), 0.0)])
def test_a_hand_or_a_thing_before_the_face_is_noticed(gate, woman, colour, aside):
    """Of the face's own colour, beside the mouth, and no hand at all."""
    assert gate.fault(with_hand(woman, colour, aside)) is Fault.HIDDEN


def test_somebody_else_is_noticed(gate, man):
    assert gate.fault(man) is Fault.SOMEBODY_ELSE


def test_frames_are_judged_by_those_before_them_and_counted(woman, man):
    soft = replace(woman, image=to_float(cv2.GaussianBlur(to_u8(woman.image), (0, 0), 2)))
    kept, left_out = gated([woman, man, woman, soft, woman])
    assert kept == [woman, woman, woman]
    assert left_out == LeftOut(5, (Fault.SOMEBODY_ELSE, Fault.BLURRED))
    assert str(left_out) == "2 of 5 source frames left out: 1 blurred, 1 of another person"
    assert FrameGate(soft).fault(soft) is None  # no softer than all before it ...
    later = FrameGate(soft)
    assert [later.fault(frame) for frame in (woman, woman, woman, soft)] == [None, None, None, Fault.BLURRED]  # ... now
    kept, left_out = gated([soft, woman])  # the first one is the person, however blurred
    assert kept == [soft, woman] and left_out == LeftOut(2)
    assert gated([man]) == ([man], LeftOut(1))
