"""What of `radiance.py` is no matrix product, compiled by numba: density, the ray's share, sigmoids.

Inputs are float32, or bfloat16 as uint16 (`gpavatar.triplane.bfloat16_numba`). Imported by `head_field_numba.py` only.
"""

from __future__ import annotations

import math
from typing import no_type_check

import numba
import numpy as np

from gpavatar.triplane.bfloat16_numba import narrowed, widened

FAST = {"contract", "reassoc", "nsz", "arcp"}


@numba.njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def densities(hidden, points, weights, bias, beta, sigma):
    """σ = softplus(β (hidden · weights + bias)) / β, and 0 outside the cube."""
    for sample in range(len(sigma)):
        summed = np.float32(0)
        for column in range(hidden.shape[1]):
            summed += widened(hidden[sample, column]) * weights[column]
        raw = beta * (summed + bias)
        inside = max(abs(points[sample, 0]), abs(points[sample, 1]), abs(points[sample, 2])) <= np.float32(1)
        soft = raw if raw > np.float32(20) else np.float32(math.log1p(math.exp(raw)))
        sigma[sample] = soft / beta if inside else np.float32(0)


@numba.njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def add_ray_and_relu(hidden, ray, ray_of):
    """relu(hidden + what the sample's ray adds), in place."""
    for sample in range(hidden.shape[0]):
        number = ray_of[sample]
        for column in range(hidden.shape[1]):
            value = widened(hidden[sample, column]) + ray[number, column]
            hidden[sample, column] = narrowed(max(value, np.float32(0)), hidden[sample, column])


@numba.njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def colours(raw, widen, feats):
    """`raw` with its first three channels as colours in (0, 1); `widen`: in (−0.001, 1.001)."""
    one = np.float32(1)
    scale, shift = (np.float32(1.002), np.float32(-0.001)) if widen else (one, np.float32(0))
    for sample in range(raw.shape[0]):
        for channel in range(raw.shape[1]):
            feats[sample, channel] = raw[sample, channel]
        for channel in range(min(3, raw.shape[1])):
            colour = one / (one + np.float32(math.exp(-widened(raw[sample, channel]))))
            feats[sample, channel] = narrowed(scale * colour + shift, raw[sample, channel])
