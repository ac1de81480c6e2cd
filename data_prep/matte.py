"""Stage matte: the kept frames cropped, matted and encoded, and how much of the face is hidden in them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from data_prep.crop import cut, on_black
from data_prep.manifest import ClipRecord
from data_prep.settings import PrepConfig
from gpavatar.data.sample import Sample
from gpavatar.media.align import FACE_OVAL, CropBox
from gpavatar.media.image import resize_u8, to_float, to_u8
from gpavatar.pretrained.matting import Matte, matte
from gpavatar.types import Track


@dataclass(frozen=True)
class MattedFrame:
    """A frame as it is kept."""

    sample: Sample
    occluded: float  # share of the face's outline that shows neither skin nor hair


def matted_frame(
    image_u8: UInt8[np.ndarray, "height width 3"], record: ClipRecord, track: Track, index: int, box: CropBox,
    config: PrepConfig,
) -> MattedFrame:  # fmt: skip
    """The frame `index` of a clip under `box`, from its full picture; the clip's track is of a smaller one."""
    height_px, width_px = image_u8.shape[:2]
    size_px = config.size_px
    part = cut(image_u8, box, size_px)
    frame = track.frame(index)
    landmarks_px = box.to_crop_px(frame.landmarks_px * (width_px / track.width_px), size_px)
    alpha_u8, person = _alpha(part.image_u8, min(config.matte_px, size_px))
    alpha_u8 = alpha_u8 * part.inside
    sample = Sample(
        clip=record.clip,
        identity=record.identity,
        frame_index=record.cut.first_frame + index,
        time_s=frame.time_s,
        image_u8=on_black(part.image_u8, alpha_u8) if config.crop.background == "black" else part.image_u8,
        alpha_u8=alpha_u8,
        params=frame.params,
        camera=frame.camera.crop(*box.normalised(width_px, height_px)),
        landmarks_px=landmarks_px,
    )
    return MattedFrame(sample, hidden(person, landmarks_px * (person.alpha.shape[-1] / size_px)))


def hidden(person: Matte, landmarks_px: Float[Tensor, "478 2"]) -> float:
    """Share of the face's outline in which less than half is skin of the face, beard or hair."""
    outline = landmarks_px[list(FACE_OVAL)].numpy().round().astype(np.int32)
    inside = cv2.fillPoly(np.zeros(person.alpha.shape[1:], np.uint8), [outline], 1).astype(bool)
    shown = (person.face + person.hair)[0].numpy() >= 0.5
    return float((~shown[inside]).mean()) if inside.any() else 1.0


def _alpha(image_u8: np.ndarray, matte_px: int) -> tuple[np.ndarray, Matte]:
    """Alpha at the picture's size, from layers that were found at `matte_px`."""
    person = matte(to_float(resize_u8(image_u8, matte_px, matte_px)))
    alpha = person.alpha
    if matte_px != image_u8.shape[0]:
        size = image_u8.shape[:2]
        alpha = torch.nn.functional.interpolate(alpha[None], size=size, mode="bicubic", antialias=False)[0]
    return to_u8(alpha), person
