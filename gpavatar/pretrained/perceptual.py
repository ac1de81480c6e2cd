"""LPIPS: how different two pictures look (Zhang et al., "The Unreasonable Effectiveness of Deep Features", CVPR 2018).

The same module is a metric and a training loss. Its weights are constants: not in `parameters()`, not in a checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from gpavatar import assets
from gpavatar.pretrained.restricted_pickle import read_arrays

NORM_EPS = 1e-10
# Mean and deviation of ImageNet as the reference has them, for pictures in [-1, 1].
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


@dataclass(frozen=True)
class Trunk:
    """A classification network as a chain of stages: maybe a max pooling, then convolutions with ReLU."""

    asset: str
    prefix: str  # of its arrays in the file
    convolutions: tuple[int, ...]  # per stage; the last one's output is compared
    pooled: tuple[bool, ...]  # whether the stage begins with a pooling
    pool_px: int  # side of the pooling window; its stride is 2
    first_stride: int
    first_padding: int


TRUNKS = {
    "alex": Trunk("lpips_alex", "AlexNet_0", (1, 1, 1, 1, 1), (False, True, True, False, False), 3, 4, 2),
    "vgg": Trunk("lpips_vgg", "VGG16_0", (2, 2, 3, 3, 3), (False, True, True, True, True), 2, 1, 1),
}


class Perceptual(nn.Module):
    """LPIPS version 0.1 with its linear heads.

    d(x, y) = Σ_l mean_hw Σ_c w_lc (x̂_lchw − ŷ_lchw)², with x̂_l the features of stage l divided by their norm over c.

    `trunk` is "alex" (what tables report) or "vgg" (a smoother loss). AssetError where the weights cannot be had.
    """

    def __init__(self, trunk: str = "alex"):
        super().__init__()
        self.trunk = trunk
        self.plan = TRUNKS[trunk]
        arrays = read_arrays(assets.fetch(self.plan.asset))
        for index in range(sum(self.plan.convolutions)):
            name = f"{self.plan.prefix}/Conv_{index}"
            kernel = rearrange(torch.from_numpy(arrays[f"{name}/kernel"]), "h w i o -> o i h w").contiguous()
            self.register_buffer(f"kernel_{index}", kernel, persistent=False)
            self.register_buffer(f"bias_{index}", torch.from_numpy(arrays[f"{name}/bias"]), persistent=False)
        for stage in range(len(self.plan.convolutions)):
            head = torch.from_numpy(arrays[f"NetLinLayer_{stage}/Conv_0/kernel"]).reshape(1, -1, 1, 1)
            self.register_buffer(f"head_{stage}", head, persistent=False)
        self.register_buffer("shift", torch.tensor(SHIFT).reshape(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).reshape(3, 1, 1), persistent=False)

    def forward(
        self, output: Float[Tensor, "batch 3 height width"], target: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, " batch"]:
        """LPIPS of each pair of pictures in [0, 1]; differentiable in both. Sides of at least 64 px are meant."""
        return sum(error.mean((1, 2, 3)) for error in self._errors(output, target))

    def regional(
        self,
        output: Float[Tensor, "batch 3 height width"],
        target: Float[Tensor, "batch 3 height width"],
        weights: Float[Tensor, "region batch 1 height width"],
    ) -> Float[Tensor, "region batch"]:
        """LPIPS of parts of the pictures: each stage's error is averaged with the weights of its own pixels.

        d_R = Σ_l Σ_hw m_lhw e_lhw / Σ_hw m_lhw, e_l the stage's error map and m_l the weights in [0, 1], averaged down
        to its size. With weights of 1 that is `forward`. A stage's pixel has seen a surrounding of up to 195 px (alex)
        of its picture, so what lies just outside a region counts a little. NaN where all weights are 0.
        """
        distance = 0
        for error in self._errors(output, target):
            reduced = nnf.adaptive_avg_pool2d(weights.flatten(0, 1), error.shape[-2:]).unflatten(0, weights.shape[:2])
            distance = distance + (reduced * error).sum((2, 3, 4)) / reduced.sum((2, 3, 4))
        return distance

    def _errors(self, output: Tensor, target: Tensor) -> list[Float[Tensor, "batch 1 _ _"]]:
        pairs = self._features(torch.cat([output, target]))
        errors = []
        for stage, features in enumerate(pairs):
            # the norm's gradient is 0 where the features are, unlike that of a square root of squares
            unit = features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + NORM_EPS)
            a, b = unit.chunk(2)
            errors.append(((a - b) ** 2 * getattr(self, f"head_{stage}")).sum(1, keepdim=True))
        return errors

    def _features(self, image: Tensor) -> list[Float[Tensor, "batch channel _ _"]]:
        plan, index, features = self.plan, 0, []
        x = (2 * image - 1 - self.shift) / self.scale
        for count, pooled in zip(plan.convolutions, plan.pooled, strict=True):
            x = nnf.max_pool2d(x, plan.pool_px, stride=2) if pooled else x
            for _ in range(count):
                kernel, bias = getattr(self, f"kernel_{index}"), getattr(self, f"bias_{index}")
                stride, padding = (plan.first_stride, plan.first_padding) if index == 0 else (1, kernel.shape[-1] // 2)
                x = nnf.relu(nnf.conv2d(x, kernel, bias, stride=stride, padding=padding))
                index += 1
            features.append(x)
        return features
