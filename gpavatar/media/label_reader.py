"""Seeing the visible label in a picture, so that a check rests on the picture and not on what is said of it."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import UInt8

from gpavatar.media.compose import label_plate

ALIKE = 0.62  # measured: 0.81 and more with a label (0.66 scaled to 3/4 as JPEG 50), 0.52 at most without one
SIZES = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1)  # a scaled video has a scaled label


def label_seen(image_u8: UInt8[np.ndarray, "height width 3"]) -> bool:
    """Whether the label stands somewhere in the lower half, at about the size it is drawn in."""
    return label_likeness(image_u8) >= ALIKE


def label_likeness(image_u8: UInt8[np.ndarray, "height width 3"]) -> float:
    """The largest normalised correlation of the label's letters with the lower half, over SIZES, in [-1, 1].

    The letters are bright on a darker plate whatever lies behind, so their pattern is the same over every picture.
    """
    height, width = image_u8.shape[:2]
    lower = cv2.cvtColor(image_u8[height // 2 :], cv2.COLOR_RGB2GRAY)
    letters = label_plate(height, width).colour[..., 0]
    best = -1.0
    for size in SIZES:
        template = cv2.resize(letters, None, fx=size, fy=size, interpolation=cv2.INTER_AREA)
        if template.shape[0] <= lower.shape[0] and template.shape[1] <= lower.shape[1]:
            best = max(best, float(cv2.matchTemplate(lower, template, cv2.TM_CCOEFF_NORMED).max()))
    return best
