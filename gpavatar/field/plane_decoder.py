"""What the planes hold at a point -> density and colour features (EG3D, section 4.2)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor, nn

from gpavatar.field.radiance import FieldSamples
from gpavatar.synthesis.style_layers import to_colour


class PlaneDecoder(nn.Module):
    """One hidden layer: σ = softplus(s − 1), colours in (0, 1) by a sigmoid a thousandth wider. It does not know from
    where a point is seen."""

    def __init__(self, in_dim: int, out_dim: int, hidden_dim: int = 64):
        super().__init__()
        self.hidden, self.out = nn.Linear(in_dim, hidden_dim), nn.Linear(hidden_dim, 1 + out_dim)
        for layer in (self.hidden, self.out):
            nn.init.normal_(layer.weight, std=1 / math.sqrt(layer.in_features))
            nn.init.zeros_(layer.bias)

    def forward(self, feats: Float[Tensor, "batch sample feat"]) -> FieldSamples:
        """All channels are colours; the first three are RGB."""
        raw = self.out(functional.softplus(self.hidden(feats)))
        sigma, colour = torch.split(raw, [1, raw.shape[-1] - 1], -1)
        return FieldSamples(functional.softplus(sigma[..., 0] - 1), to_colour(colour, widened=True))
