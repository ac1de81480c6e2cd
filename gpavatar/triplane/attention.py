"""Multi Tri-planes Attention: the planes of any number of photos -> one set of planes (GPAvatar section 3.3).

    P = Σ_i w_i / Σ_j w_j · E(I_i),    w_i = L_q(Q) · L_k(E(I_i))                       (Eq. 2)

per texel, with learnable query planes Q; L_q and L_k are three linear layers each. The planes themselves are averaged,
not projections of them, so that one photo's planes come out as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as functional
from jaxtyping import Bool, Float
from torch import Tensor, nn


@dataclass(frozen=True)
class AttentionConfig:
    """How planes of several photos become one."""

    plane_dim: int = 32
    plane_size: int = 256
    weighting: Literal["ratio", "softmax", "mean"] = "ratio"
    """Eq. 2; softmax over the photos (released); or equal weights without any parameter (ablation "mean")."""


class PlaneAttention(nn.Module):
    """Eq. 2, or its alternatives."""

    def __init__(self, config: AttentionConfig | None = None):
        super().__init__()
        self.config = config = config or AttentionConfig()
        if config.weighting != "mean":
            dim, size = config.plane_dim, config.plane_size
            self.query_planes = nn.Parameter(torch.randn(3, dim, size, size))
            self.to_query, self.to_key = _three_layers(dim), _three_layers(dim)

    def forward(
        self,
        planes: Float[Tensor, "batch source 3 channel height width"],
        present: Bool[Tensor, "batch source"] | None = None,
    ) -> Float[Tensor, "batch 3 channel height width"]:
        """The order of the photos does not matter. `present` marks those that count; at least one per batch entry."""
        if planes.shape[1] == 1:
            return planes[:, 0]
        return (self.shares(planes, present) * planes).sum(1)

    def shares(
        self,
        planes: Float[Tensor, "batch source 3 channel height width"],
        present: Bool[Tensor, "batch source"] | None = None,
    ) -> Float[Tensor, "batch source #3 1 #height #width"]:
        """How much each photo says about each texel; they sum to 1 over the photos."""
        counts = planes.new_ones(planes.shape[:2], dtype=torch.bool) if present is None else present
        counts = counts[:, :, None, None, None, None]
        if self.config.weighting == "mean":
            weights = counts.to(planes.dtype)
            return weights / weights.sum(1, keepdim=True)
        query = self.to_query(self.query_planes.movedim(1, -1))
        key = self.to_key(planes.movedim(3, -1))
        precise = torch.promote_types(planes.dtype, torch.float32)
        agreement = (query * key).sum(-1).to(precise)[:, :, :, None] * self.config.plane_dim**-0.5
        if self.config.weighting == "softmax":
            return agreement.masked_fill(~counts, -torch.inf).softmax(1).to(planes.dtype)
        # A dot product can be negative or zero, a weight cannot: softplus is the product itself where it is large.
        weights = (functional.softplus(agreement) + 1e-6) * counts
        return (weights / weights.sum(1, keepdim=True)).to(planes.dtype)


def _three_layers(dim: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim)
    )
