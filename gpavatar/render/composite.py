"""From optical thickness to pixels: the volume rendering sum of NeRF (Mildenhall et al. 2020, Eq. 3).

    τ_i = σ_i δ_i      trans_i = exp(−Σ_{j<i} τ_j)      alpha_i = 1 − exp(−τ_i)      w_i = trans_i · alpha_i

with density σ (per head unit) and interval length δ. Σ w_i = 1 − exp(−Σ τ_i) <= 1 is the opacity of the ray.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def ray_weights(thickness: Float[Tensor, "*batch sample"]) -> Float[Tensor, "*batch sample"]:
    """w_i of each sample, from τ >= 0, front to back. Written without a product of (1 − alpha), whose gradient needs
    a division by it."""
    before = torch.cat([torch.zeros_like(thickness[..., :1]), thickness[..., :-1]], -1).cumsum(-1)
    return torch.exp(-before) * -torch.expm1(-thickness)


def ray_weights_literal(alpha: Float[Tensor, "*batch sample"]) -> Float[Tensor, "*batch sample"]:
    """The slow twin of `ray_weights`: w_i = alpha_i Π_{j<i} (1 − alpha_j), one sample after the other."""
    weights, trans = [], torch.ones_like(alpha[..., 0])
    for one in alpha.unbind(-1):
        weights.append(one * trans)
        trans = trans * (1 - one)
    return torch.stack(weights, -1)


def accumulate(
    weights: Float[Tensor, "*batch sample"], values: Float[Tensor, "*batch sample channel"]
) -> Float[Tensor, "*batch channel"]:
    """Σ_i w_i v_i."""
    return (weights[..., None, :].to(values.dtype) @ values)[..., 0, :]
