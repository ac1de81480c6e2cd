"""What training and evaluation take in: frames stacked into tensors, N sources and one target per example."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from gpavatar.camera import Camera
from gpavatar.data.sample import Sample
from gpavatar.types import HeadParams, map_tensors

T = TypeVar("T")


def zip_tensors(a: T, b: T, fn) -> T:
    """Rebuild a (nested) dataclass with `fn` applied to the tensors of `a` and `b` field by field."""
    if isinstance(a, Tensor):
        return fn(a, b)
    return type(a)(*(zip_tensors(getattr(a, f.name), getattr(b, f.name), fn) for f in fields(a)))


@dataclass(frozen=True)
class FrameStack:
    """Frames as they lie in a shard, 8 bit; `*batch` are any axes."""

    image_u8: UInt8[Tensor, "*batch 3 height width"]
    alpha_u8: UInt8[Tensor, "*batch 1 height width"]
    params: HeadParams
    camera: Camera
    landmarks_px: Float[Tensor, "*batch 478 2"]

    @staticmethod
    def of(samples: list[Sample]) -> FrameStack:
        """Samples of one size, on a new first axis `frame`."""

        def planes(images: list[np.ndarray]) -> UInt8[Tensor, "frame channel height width"]:
            return torch.from_numpy(np.stack([image.transpose(2, 0, 1) for image in images]))

        params, cameras = [sample.params for sample in samples], [sample.camera for sample in samples]
        names = ("shape", "expression", "jaw_pose", "neck_pose", "eye_pose")
        return FrameStack(
            planes([sample.image_u8 for sample in samples]),
            planes([sample.alpha_u8 for sample in samples]),
            HeadParams(*(torch.stack([getattr(p, name) for p in params]) for name in names)),
            Camera(torch.stack([c.c2w for c in cameras]), torch.stack([c.intrinsics for c in cameras])),
            torch.stack([sample.landmarks_px for sample in samples]),
        )

    def __getitem__(self, index) -> FrameStack:
        """Index the leading axes; a tensor of indices brings its own axes."""
        return map_tensors(self, lambda tensor: tensor[index])

    def to_views(self) -> Views:
        """Pictures as float in [0, 1]."""
        image, alpha = self.image_u8.float() / 255, self.alpha_u8.float() / 255
        return Views(image, alpha, self.params, self.camera, self.landmarks_px)


@dataclass(frozen=True)
class Views:
    """Frames as a model takes them."""

    image: Float[Tensor, "*batch 3 height width"]  # [0, 1]
    alpha: Float[Tensor, "*batch 1 height width"]  # [0, 1], the person against the background
    params: HeadParams
    camera: Camera
    landmarks_px: Float[Tensor, "*batch 478 2"]  # NaN where there is no detection


@dataclass(frozen=True)
class Pairs:
    """Which frames stand together: rows of the frames drawn from, and clips by their position among them."""

    clip: Int64[Tensor, " batch"]
    source: Int64[Tensor, "batch source"]
    target: Int64[Tensor, " batch"]


@dataclass(frozen=True)
class Batch:
    """N sources and the target that they are to become; all of one clip, and so of one person.

    `place` says which batch of training this is; `pairs` which frames it is made of (`PairFrames.clips` has the names).
    """

    source: Views  # batch source ...
    target: Views  # batch ...
    pairs: Pairs
    epoch: int
    step: int  # of this rank, from 0 in each epoch

    def to(self, device: torch.device | str) -> Batch:
        """All tensors on `device`."""
        return map_tensors(self, lambda tensor: tensor.to(device, non_blocking=True))
