"""Small sets of pictures that tell what they are: red is the clip, green the frame, blue a ramp."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from gpavatar.camera import Camera, axis_angle_to_matrix
from gpavatar.data.shards import ClipInfo, Encoding, HeadInfo, Sample, ShardSet, ShardWriter
from gpavatar.face.open_head import OpenHead
from gpavatar.types import HeadParams

HEAD = HeadInfo.of(OpenHead.load())
SIZE = 32
LOSSLESS = Encoding(image="webp", image_quality=100, alpha="png")


def make_sample(clip: str, person: str, index: int, red: int = 0, size: int = SIZE, **changes) -> Sample:
    """A frame whose numbers differ from frame to frame; `changes` replace fields."""
    generator = np.random.default_rng([red, index])
    image = np.empty((size, size, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = 20 * red, 5 * index, np.linspace(0, 255, size)
    alpha = np.zeros((size, size, 1), np.uint8)
    alpha[size // 4 : 3 * size // 4] = 255
    params = HeadParams(*(torch.tensor(generator.normal(size=n), dtype=torch.float32) for n in (120, 52, 3, 3, (2, 3))))
    camera = Camera.frontal(5.0, 2.2)
    turned = torch.eye(4)
    turned[:3, :3] = axis_angle_to_matrix(torch.tensor([0.0, 0.05 * index, 0.0]))
    camera = Camera(turned @ camera.c2w, camera.intrinsics)
    landmarks_px = torch.tensor(generator.uniform(-3, size + 3, (478, 2)), dtype=torch.float32)
    sample = Sample(clip, person, index, index / 25, image, alpha, params, camera, landmarks_px)
    return dataclasses.replace(sample, **changes)


def make_set(
    directory: Path, clips: Sequence[tuple[str, str, str, int]], size: int = SIZE, tier: str = "open", **options
) -> ShardSet:
    """A set of these (clip, identity, split, number of frames)."""
    with ShardWriter(directory, HEAD, size, **options) as writer:
        for number, (clip, identity, split, count) in enumerate(clips):
            info = ClipInfo(clip, identity, split, "real", tier, "CC0-1.0")
            writer.add(info, (make_sample(clip, identity, i, number, size) for i in range(count)))
    return ShardSet.open(directory)
