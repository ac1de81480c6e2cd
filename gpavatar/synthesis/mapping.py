"""Latent codes -> styles, knowing from where the head will be looked at (StyleGAN2; pose: EG3D, section 4.4)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gpavatar.camera import Camera
from gpavatar.synthesis.style_layers import leaky

POSE_DIM = 16


@dataclass(frozen=True)
class MappingConfig:
    """Sizes."""

    code_dim: int = 512
    depth: int = 2
    with_pose: bool = True
    mean_decay: float = 0.998  # of the running mean style


def pose_code(camera: Camera) -> Float[Tensor, "batch 16"]:
    """Rotation and position of the camera (12 numbers of c2w, row by row), then fx, fy, cx, cy."""
    return torch.cat([camera.c2w[:, :3].flatten(1), camera.intrinsics], 1)


class Mapping(nn.Module):
    """w = MLP(normalised z, normalised A pose), and where the styles lie on average.

    Pictures and poses go together in any data set (who looks at the camera smiles): the generator may know the pose,
    so that the scene need not change with the view (EG3D, "generator pose conditioning").
    """

    def __init__(self, config: MappingConfig, style_dim: int):
        super().__init__()
        self.config = config
        self.embed = nn.Linear(POSE_DIM, config.code_dim) if config.with_pose else None
        dims = [config.code_dim * (1 + config.with_pose)] + [style_dim] * config.depth
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(dims, dims[1:], strict=False))
        for layer in [*self.layers, *([self.embed] if self.embed else [])]:
            nn.init.normal_(layer.weight, std=1 / math.sqrt(layer.in_features))
            nn.init.zeros_(layer.bias)
        self.register_buffer("mean", torch.zeros(style_dim))

    def forward(
        self, code: Float[Tensor, "batch code"], pose: Float[Tensor, "batch 16"], truncation: float = 1.0
    ) -> Float[Tensor, "batch style"]:
        """w' = mean + truncation (w − mean): 1 is the style itself, 0 the mean face. `pose` as in `pose_code`."""
        x = _normalised(code)
        if self.embed is not None:
            x = torch.cat([x, _normalised(self.embed(pose))], 1)
        for layer in self.layers:
            x = leaky(layer(x)) * math.sqrt(2)
        return self.mean + truncation * (x - self.mean)

    @torch.no_grad()
    def follow(self, styles: Float[Tensor, "batch style"]) -> None:
        """Let the mean move towards these styles (training)."""
        self.mean.lerp_(styles.mean(0), 1 - self.config.mean_decay)


def _normalised(x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)
