"""The dual discriminator (EG3D, section 4.3; InvertAvatar, section 3.1 and supplementary 6.1).

It sees the image beside the enlarged raw rendering, so that both must agree, and the map of the landmarks that the
image should have, so that the face must make the expression it was asked for. A residual network as StyleGAN2's; the
pose enters by projection.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor, nn

from gpavatar.synthesis.equalised import unit_normal
from gpavatar.synthesis.mapping import POSE_DIM
from gpavatar.synthesis.style_layers import leaky, resized


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Channels as in the generators."""

    size_px: int = 512
    channel_base: int = 32768
    max_channels: int = 512
    with_landmarks: bool = True
    """Released: without."""
    with_pose: bool = True
    """The encoders' discriminator (supplementary 6.2) is without."""
    pose_dim: int = 512
    group_size: int = 4  # of the minibatch statistic

    def channels(self, size_px: int) -> int:
        """Of this resolution."""
        return min(self.channel_base // size_px, self.max_channels)


class DualDiscriminator(nn.Module):
    """See the head of this file."""

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.config = config
        sizes = [config.size_px // 2**level for level in range(config.size_px.bit_length() - 3)]  # size, ... 8
        self.stem = unit_normal(nn.Conv2d(9 if config.with_landmarks else 6, config.channels(sizes[0]), 1))
        self.blocks = nn.ModuleList(DownBlock(config.channels(size), config.channels(size // 2)) for size in sizes)
        top = config.channels(4)
        self.top = unit_normal(nn.Conv2d(top + 1, top, 3, padding=1))
        self.flat = unit_normal(nn.Linear(top * 16, top))
        self.out = unit_normal(nn.Linear(top, config.pose_dim if config.with_pose else 1))
        self.pose = PoseEmbedding(config.pose_dim) if config.with_pose else None

    def forward(
        self,
        image: Float[Tensor, "batch 3 size size"],
        raw: Float[Tensor, "batch 3 small small"],
        landmarks: Float[Tensor, "batch 3 map map"] | None = None,
        pose: Float[Tensor, "batch 16"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """Logits: positive for what looks real. Pictures and maps in [0, 1]; `pose` as in `mapping.pose_code`."""
        return self.judge(self.stack(image, raw, landmarks), pose)

    def stack(
        self,
        image: Float[Tensor, "batch 3 size size"],
        raw: Float[Tensor, "batch 3 small small"],
        landmarks: Float[Tensor, "batch 3 map map"] | None = None,
    ) -> Float[Tensor, "batch channel size size"]:
        """All that is looked at as one picture in [-1, 1]: the image, what was rendered, the landmarks."""
        assert (landmarks is not None) == self.config.with_landmarks, "landmarks as configured"
        size = self.config.size_px
        parts = [image, raw] if landmarks is None else [image, raw, landmarks]
        return torch.cat([_sized(part, size) for part in parts], 1) * 2 - 1

    def judge(
        self, stacked: Float[Tensor, "batch channel size size"], pose: Float[Tensor, "batch 16"] | None = None
    ) -> Float[Tensor, " batch"]:
        """The logits of what `stack` made: this is what augmentation and the R1 penalty stand in front of."""
        assert (pose is not None) == self.config.with_pose, "a pose as configured"
        x = leaky(self.stem(stacked)) * math.sqrt(2)
        for block in self.blocks:
            x = block(x)
        x = torch.cat([x, group_deviation(x, self.config.group_size)], 1)
        x = leaky(self.top(x)) * math.sqrt(2)
        x = self.out(leaky(self.flat(x.flatten(1))) * math.sqrt(2))
        return x[:, 0] if self.pose is None else (x * self.pose(pose)).sum(1) / math.sqrt(x.shape[1])


class DownBlock(nn.Module):
    """Half the size: two convolutions beside a 1 × 1 skip; the sum keeps its variance."""

    def __init__(self, in_dim: int, out_dim: int):
        super().__init__()
        self.first = unit_normal(nn.Conv2d(in_dim, in_dim, 3, padding=1))
        self.second = unit_normal(nn.Conv2d(in_dim, out_dim, 3, padding=1))
        self.skip = unit_normal(nn.Conv2d(in_dim, out_dim, 1, bias=False))

    def forward(self, x: Float[Tensor, "batch in height width"]) -> Float[Tensor, "batch out height2 width2"]:
        """The height and width of the result are half of the given ones."""
        inner = leaky(self.first(x)) * math.sqrt(2)
        inner = leaky(self.second(resized(inner, 0.5))) * math.sqrt(2)
        return (inner + self.skip(resized(x, 0.5))) / math.sqrt(2)


class PoseEmbedding(nn.Module):
    """A pose -> a direction of unit root mean square, on which the image is projected."""

    def __init__(self, dim: int):
        super().__init__()
        self.first, self.second = unit_normal(nn.Linear(POSE_DIM, dim)), unit_normal(nn.Linear(dim, dim))

    def forward(self, pose: Float[Tensor, "batch 16"]) -> Float[Tensor, "batch dim"]:
        """`pose` as in `mapping.pose_code`."""
        x = self.second(leaky(self.first(pose)) * math.sqrt(2))
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


def group_deviation(
    x: Float[Tensor, "batch channel height width"], group_size: int
) -> Float[Tensor, "batch 1 height width"]:
    """How much the pictures of a group differ: standard deviation over the group, mean over the rest, as a channel.

    A generator that always draws the same person is so seen through (Karras et al. 2018, section 3). A batch that does
    not divide into groups is one group.
    """
    batch, _, height, width = x.shape
    groups = batch // group_size if batch % group_size == 0 else 1
    spread = x.unflatten(0, (-1, groups)).var(0, unbiased=False)  # member i of each group stands i · groups further on
    value = (spread + 1e-8).sqrt().mean((1, 2, 3))
    return value.repeat(batch // groups)[:, None, None, None].expand(-1, 1, height, width)


def _sized(image: Float[Tensor, "batch 3 small small"], size: int) -> Float[Tensor, "batch 3 size size"]:
    if image.shape[-1] == size:
        return image
    return functional.interpolate(image, (size, size), mode="bilinear", align_corners=False, antialias=True)
