"""The radiance head: features at a point -> density and colour features (GPAvatar appendix A.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor, nn

from gpavatar.field.frequency import code_width, frequency_code
from gpavatar.synthesis.style_layers import to_colour


@dataclass(frozen=True)
class RadianceConfig:
    """Three layers to a shared feature, one to density, two to colour."""

    hidden_dim: int = 128
    colour_hidden_dim: int = 64
    out_dim: int = 32
    """Channels of the rendered features; the first three are RGB."""
    view_octaves: int = 4
    """Frequency code of the viewing direction; -1: colour does not depend on it. The paper does not say."""
    view_base: float = 1.0
    softplus_beta: float = 1.0
    """σ = softplus(β s) / β; released: 10."""
    widened_sigmoid: bool = False
    """RGB = 1.002 sigmoid − 0.001 (released), which reaches 0 and 1, instead of the plain sigmoid."""


@dataclass(frozen=True)
class FieldSamples:
    """What a field says at points in space."""

    sigma: Float[Tensor, "batch sample"]  # >= 0, per head unit
    feats: Float[Tensor, "batch sample channel"]  # RGB first


class RadianceHead(nn.Module):
    """σ(x) and c(x, d) from the features at x."""

    def __init__(self, in_dim: int, config: RadianceConfig | None = None):
        super().__init__()
        self.config = config = config or RadianceConfig()
        hidden = config.hidden_dim
        self.shared = nn.Sequential(
            nn.Linear(in_dim, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden)
        )
        self.density = nn.Linear(hidden, 1)
        view_dim = code_width(3, config.view_octaves) if config.view_octaves >= 0 else 0
        self.colour = nn.Sequential(
            nn.Linear(hidden + view_dim, config.colour_hidden_dim),
            nn.ReLU(),
            nn.Linear(config.colour_hidden_dim, config.out_dim),
        )

    def forward(self, feats: Float[Tensor, "batch sample feat"], dirs: Float[Tensor, "batch sample 3"]) -> FieldSamples:
        """`dirs` are unit vectors, from the camera on."""
        config, shared = self.config, self.shared(feats)
        sigma = functional.softplus(self.density(shared)[..., 0], beta=config.softplus_beta)
        if config.view_octaves >= 0:
            shared = torch.cat([shared, frequency_code(dirs, config.view_octaves, config.view_base)], -1)
        colour = self.colour(shared)
        return FieldSamples(sigma, torch.cat([to_colour(colour[..., :3], config.widened_sigmoid), colour[..., 3:]], -1))
