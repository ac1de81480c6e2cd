"""A gated memory of feature maps: what of a stream of pictures is kept, texel by texel (InvertAvatar section 3.3).

    z_t, r_t = σ(Conv(f_t, h_{t−1}))
    o_t      = tanh(Conv(f_t, r_t · h_{t−1}))                                                       (Eq. 1)
    h_t      = z_t · h_{t−1} + (1 − z_t) · o_t,      h_0 = 0

· is the product element by element.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

Gate = Literal["keeps", "replaces"]
FIRST_SCALE = 0.1  # of usual weights
FIRST_KEPT = 0.5  # σ(−½) = 0.38 of the state is kept at first


class ConvGRU(nn.Module):
    """Eq. 1 with convolutions of 3 × 3. What it gives is its state, in (−1, 1)."""

    def __init__(self, dim: int, gate: Gate = "keeps"):
        """`gate`: z keeps the state, as printed in Eq. 1; or it replaces it, h_t = (1 − z) h_{t−1} + z o_t, as in the
        released code. The two are the same up to the sign of what computes z."""
        super().__init__()
        self.gates = nn.Conv2d(2 * dim, 2 * dim, 3, padding=1)  # first r, then z
        self.candidate = nn.Conv2d(2 * dim, dim, 3, padding=1)
        self.gate = gate
        self._begin(dim)

    def _begin(self, dim: int) -> None:
        """o ≈ tanh(f), and z about the same everywhere: h_1 is near what tanh(f) alone would be, and a long sequence
        is a sliding mean. What is better to keep is left to learn."""
        with torch.no_grad():
            for conv in (self.gates, self.candidate):
                conv.weight.mul_(FIRST_SCALE)
                conv.bias.zero_()
            self.candidate.weight[range(dim), range(dim), 1, 1] += 1.0
            self.gates.bias[dim:] = -FIRST_KEPT if self.gate == "keeps" else FIRST_KEPT

    def forward(
        self,
        feats: Float[Tensor, "batch channel height width"],
        state: Float[Tensor, "batch channel height width"] | None = None,
    ) -> Float[Tensor, "batch channel height width"]:
        """h_t from f_t and h_{t−1}; without a state from h_0 = 0."""
        state = torch.zeros_like(feats) if state is None else state
        r, z = self.gates(torch.cat([feats, state], 1)).sigmoid().chunk(2, 1)
        candidate = self.candidate(torch.cat([feats, r * state], 1)).tanh()
        keep = z if self.gate == "keeps" else 1 - z
        return candidate + keep * (state - candidate)


def literal_conv_gru(
    gru: ConvGRU, feats: Float[Tensor, "batch channel height width"], state: Float[Tensor, "batch channel height width"]
) -> Float[Tensor, "batch channel height width"]:
    """The slow twin of `ConvGRU`: Eq. 1 line by line, each convolution split into its two inputs and two gates."""
    dim = feats.shape[1]

    def conv(layer: nn.Conv2d, rows: slice, second: Tensor) -> Tensor:
        weight, bias = layer.weight[rows], layer.bias[rows, None, None]
        own = nn.functional.conv2d(feats, weight[:, :dim], padding=1)
        return own + nn.functional.conv2d(second, weight[:, dim:], padding=1) + bias

    r = torch.sigmoid(conv(gru.gates, slice(0, dim), state))
    z = torch.sigmoid(conv(gru.gates, slice(dim, None), state))
    o = torch.tanh(conv(gru.candidate, slice(None), r * state))
    return z * state + (1 - z) * o if gru.gate == "keeps" else (1 - z) * state + z * o
