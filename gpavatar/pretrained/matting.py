"""Layers of a portrait: MediaPipe's multiclass selfie segmenter (Apache-2.0), refined to the picture's own edges."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import mediapipe
import numpy as np
import torch
from jaxtyping import Float
from mediapipe.tasks.python import BaseOptions, vision
from torch import Tensor

from gpavatar import assets
from gpavatar.media.alpha import refine_alpha

BACKGROUND, HAIR, BODY_SKIN, FACE_SKIN, CLOTHES, OTHERS = range(6)  # the network's classes


@dataclass(frozen=True)
class Matte:
    """How much of each pixel is what, in [0, 1]; the parts sum to `alpha`."""

    alpha: Float[Tensor, "1 height width"]  # the person against the background
    hair: Float[Tensor, "1 height width"]  # with headwear
    face: Float[Tensor, "1 height width"]  # skin of the face, with eyes, lips and ears
    body: Float[Tensor, "1 height width"]  # skin of neck, shoulders, arms and hands
    clothes: Float[Tensor, "1 height width"]
    others: Float[Tensor, "1 height width"]  # jewellery, glasses, things held


def matte(image: Float[Tensor, "3 height width"]) -> Matte:
    """The layers of a head-and-shoulders picture in [0, 1]."""
    probabilities = _probabilities(image)
    person = 1 - probabilities[BACKGROUND]
    coarse = ((person - 0.1) / (0.95 - 0.1)).clamp(0, 1)[None]
    alpha = refine_alpha(image, coarse)
    parts = refine_alpha(image, probabilities[HAIR:] / person).clamp_min(1e-6)
    parts = alpha * parts / parts.sum(0)
    return Matte(alpha, *(part[None] for part in parts))


@cache
def _segmenter() -> vision.ImageSegmenter:
    options = vision.ImageSegmenterOptions(
        base_options=BaseOptions(model_asset_path=str(assets.fetch("selfie_multiclass"))), output_confidence_masks=True
    )
    return vision.ImageSegmenter.create_from_options(options)


def _probabilities(image: Tensor) -> Float[Tensor, "6 height width"]:
    pixels = (image * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    masks = _segmenter().segment(mediapipe.Image(mediapipe.ImageFormat.SRGB, pixels)).confidence_masks
    return torch.from_numpy(np.stack([mask.numpy_view()[..., 0] for mask in masks]))
