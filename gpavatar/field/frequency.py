"""The frequency code of a vector: what makes a small network see fine differences of position."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def frequency_code(
    x: Float[Tensor, "*batch axis"], octaves: int, base: float = math.pi
) -> Float[Tensor, "*batch code"]:
    """γ(x) = (sin 2⁰bx, …, sin 2ᴸ⁻¹bx, cos 2⁰bx, …, cos 2ᴸ⁻¹bx, x), the octaves of one axis side by side.

    Of 3 axes and L = 6 octaves 39 numbers. `base` b is π as in NeRF (Mildenhall et al. 2020, Eq. 4); GPAvatar's
    released code has 1.
    """
    scales = base * 2.0 ** torch.arange(octaves, dtype=x.dtype, device=x.device)
    angles = (x[..., None] * scales).flatten(-2)
    return torch.cat([angles.sin(), angles.cos(), x], -1)


def code_width(axes: int, octaves: int) -> int:
    """How many numbers `frequency_code` gives."""
    return axes * (2 * octaves + 1)
