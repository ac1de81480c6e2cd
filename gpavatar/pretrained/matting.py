"""Layers of a portrait: MediaPipe's multiclass selfie segmenter (Apache-2.0), refined to the picture's own edges."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import mediapipe
import numpy as np
import torch
import torch.nn.functional as nnf
from jaxtyping import Float
from mediapipe.tasks.python import BaseOptions, vision
from scipy.ndimage import label
from torch import Tensor

from gpavatar import assets
from gpavatar.media.alpha import guided_filter, refine_alpha
from gpavatar.pretrained.native import native_stderr_silenced, remember_ignored_timers

NUM_CLASSES = 6
BACKGROUND, HAIR, BODY_SKIN, FACE_SKIN, CLOTHES, OTHERS = range(NUM_CLASSES)  # the network's order
NEVER, SURE = 0.10, 0.92  # its probability of a person in plain background, and well inside a person
EDGE_GAIN = 4.0  # how much steeper an edge of skin or cloth is than the network, unsure of its place, draws it


@dataclass(frozen=True)
class Matte:
    """How much of each pixel is what, in [0, 1]; the five parts, in the network's order, sum to `alpha`."""

    alpha: Float[Tensor, "1 height width"]  # the person against the background
    hair: Float[Tensor, "1 height width"]  # with headwear
    body: Float[Tensor, "1 height width"]  # skin of the neck and below
    face: Float[Tensor, "1 height width"]  # face and ears, with beard, eyes and lips
    clothes: Float[Tensor, "1 height width"]
    others: Float[Tensor, "1 height width"]  # glasses, jewellery, things held


def matte(image: Float[Tensor, "3 height width"]) -> Matte:
    """The layers of the person whose face is the largest in a head-and-shoulders picture in [0, 1].

    Meant for crops of about 512 x 512 (the network sees 256 x 256, the edges come from the picture). A mirrored picture
    gives the mirrored layers. A picture without a person gives zeros. Raises AssetError where the model cannot be had.
    """
    classes = _class_probabilities(image)
    person = 1 - classes[BACKGROUND, None]
    shares = guided_filter(image, _with_headwear_as_hair(classes)[HAIR:] / person).clamp_min(1e-4)
    shares = shares / shares.sum(0)
    coarse = _main_component(((person - NEVER) / (SURE - NEVER)).clamp(0, 1), classes[FACE_SKIN])
    gain = 1 + (EDGE_GAIN - 1) * (1 - _blurred(shares[:1], 6))
    alpha = refine_alpha(image, ((coarse - 0.5) * gain + 0.5).clamp(0, 1))
    return Matte(alpha, *(alpha * shares).split(1))


@cache
def _segmenter() -> vision.ImageSegmenter:
    model = str(assets.fetch("selfie_multiclass"))
    options = vision.ImageSegmenterOptions(BaseOptions(model_asset_path=model), output_confidence_masks=True)
    with native_stderr_silenced():
        segmenter = vision.ImageSegmenter.create_from_options(options)
        segmenter.segment(mediapipe.Image(mediapipe.ImageFormat.SRGB, np.zeros((256, 256, 3), np.uint8)))
    remember_ignored_timers()
    return segmenter


def _class_probabilities(image: Tensor) -> Float[Tensor, "6 height width"]:
    """The mean of what the network says of the picture and of its mirror image: steadier at the edges."""
    pixels = (image * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
    both = []
    for view in (pixels, pixels.flip(1)):
        picture = mediapipe.Image(mediapipe.ImageFormat.SRGB, np.ascontiguousarray(view.numpy()))
        masks = _segmenter().segment(picture).confidence_masks
        both.append(torch.from_numpy(np.stack([mask.numpy_view()[..., 0] for mask in masks])))
    return (both[0] + both[1].flip(2)) / 2


def _with_headwear_as_hair(classes: Tensor) -> Tensor:
    """The network calls hats `others` and scarves `clothes`: they count as hair above the face's middle.

    Glasses do not: there is face above them in the same column.
    """
    height = classes.shape[1]
    face = (classes[FACE_SKIN] - NEVER).clamp_min(0)
    if face.mean() < 1e-3:
        return classes
    rows = torch.arange(height, dtype=face.dtype)
    middle = (face.sum(1) * rows).sum() / face.sum()
    above_middle = ((middle - rows) / (0.02 * height) + 0.5).clamp(0, 1)[:, None]
    headwear = above_middle * (1 - face.cummax(0).values.clamp_max(1)) * classes[[CLOTHES, OTHERS]]
    classes = classes.clone()
    classes[[CLOTHES, OTHERS]] -= headwear
    classes[HAIR] += headwear.sum(0)
    return classes


def _main_component(coarse: Tensor, face: Tensor) -> Tensor:
    """`coarse` without what does not hang together with the largest face: people and smudges in the background."""
    labels, _ = label(coarse[0].numpy() > 0.05)
    labels = torch.from_numpy(labels).long()
    votes = torch.bincount(labels.flatten(), weights=(face * coarse[0]).flatten())
    votes[0] = 0
    return coarse * ((labels == votes.argmax()) & (labels > 0))


def _blurred(mask: Tensor, radius_px: int) -> Tensor:
    return nnf.avg_pool2d(mask, 2 * radius_px + 1, stride=1, padding=radius_px, count_include_pad=False)
