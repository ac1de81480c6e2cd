"""68 points of a face by dlib: a detector that shares nothing with the tracker's, to judge results that it helped make.

A gradient histogram detector (King 2009) and an ensemble of regression trees (Kazemi and Sullivan 2014) trained on
iBUG 300-W. Needs the package dlib-bin (extra `eval`).
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gpavatar import assets
from gpavatar.types import InputError

DETECTION_PX = (256, 512)  # short sides at which faces are looked for, in turn: they must be 80 px wide there


class DlibLandmarks:
    """Finds the most certain face of a picture. InputError where dlib is not installed, AssetError for its model."""

    def __init__(self):
        try:
            import dlib
        except ImportError as error:
            raise InputError("dlib is not installed; pip install 'gpavatar[eval]', or measure without it") from error
        self._rectangle = dlib.rectangle
        self._detector = dlib.get_frontal_face_detector()
        self._predictor = dlib.shape_predictor(str(assets.fetch("dlib_landmarks")))

    def detect(self, image_u8: UInt8[np.ndarray, "height width 3"]) -> Float[Tensor, "68 2"]:
        """The points in px (the centre of the upper left pixel is (0.5, 0.5)), in iBUG's order; NaN without a face."""
        for side_px in DETECTION_PX:
            scale = side_px / min(image_u8.shape[:2])
            shrink = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            boxes, scores, _ = self._detector.run(
                cv2.resize(image_u8, None, fx=scale, fy=scale, interpolation=shrink), 0, 0.0
            )
            if boxes:
                box = boxes[int(np.argmax(scores))]
                sides = (box.left(), box.top(), box.right(), box.bottom())
                shape = self._predictor(
                    np.ascontiguousarray(image_u8), self._rectangle(*(round(side / scale) for side in sides))
                )
                return torch.tensor([(point.x + 0.5, point.y + 0.5) for point in shape.parts()])
        return torch.full((68, 2), torch.nan)
