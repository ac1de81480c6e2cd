"""Eq. 1 in its cheap form (`point_field.py`), compiled by numba: what lies before and behind its matrix product.

Rows are samples times their K neighbours. Arrays that the product reads or has written are float32, or bfloat16 as
uint16 (`gpavatar.triplane.bfloat16_numba`). Imported by `head_field_numba.py` only.
"""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np

from gpavatar.triplane.bfloat16_numba import narrowed, widened

FAST = {"contract", "reassoc", "nsz", "arcp"}  # but infinities stay what they are


def _sine_series(count: int = 5) -> np.ndarray:
    """Coefficients in u² of sin(πu) / u through Chebyshev's nodes for |u| <= ½, lowest first; within 5e-9."""
    nodes = (1 + np.cos(np.pi * (np.arange(count) + 0.5) / count)) / 8
    values = np.sin(np.pi * np.sqrt(nodes)) / np.sqrt(nodes)
    return np.polynomial.polynomial.polyfit(nodes, values, count - 1).astype(np.float32)


S0, S1, S2, S3, S4 = _sine_series()


def code_scales(octaves: int, base: float) -> np.ndarray:
    """What turns an offset into half turns: (axis column), for the sines and cosines of `frequency_code`'s columns."""
    scales = np.zeros((3, 2, 3, octaves), np.float32)
    for axis in range(3):
        scales[axis, :, axis] = base / np.pi * 2.0 ** np.arange(octaves)
    return scales.reshape(3, 6 * octaves)


@numba.njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def near_offsets(points, numbers, cloud, tiny, inverse, reach, offsets, shares):
    """p_i − x into `offsets` (row 3), ŵ_i into `shares` (sample k). `tiny` is added to d²; w = 1/d (`inverse`) or 1/d²,
    0 where d² > `reach`."""
    one = np.float32(1)
    for sample in range(points.shape[0]):
        total = np.float32(0)
        for j in range(numbers.shape[1]):
            row, number = sample * numbers.shape[1] + j, numbers[sample, j]
            squared = tiny
            for axis in range(3):
                offset = cloud[number, axis] - points[sample, axis]
                offsets[row, axis] = offset
                squared += offset * offset
            weight = one / (np.sqrt(squared) if inverse else squared)
            weight = weight if squared <= reach else np.float32(0)
            shares[sample, j] = weight
            total += weight
        scale = one / max(total, np.float32(1e-38))
        for j in range(numbers.shape[1]):
            shares[sample, j] *= scale


@numba.njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def to_directions(offsets):
    """x − p over its length, in place (released code)."""
    for row in range(offsets.shape[0]):
        x, y, z = offsets[row, 0], offsets[row, 1], offsets[row, 2]
        scale = np.float32(-1) / max(np.sqrt(x * x + y * y + z * z), np.float32(1e-12))
        for axis in range(3):
            offsets[row, axis] *= scale


@numba.njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def frequency_codes(offsets, scales, codes):
    """γ of each offset: sin πu, cos πu, the offset, with u = offset · scales (`code_scales`).

    u is brought into [-½, ½] by taking off whole half turns, which rounds nothing; a polynomial does the rest.
    """
    columns = scales.shape[1]
    half, two = np.float32(0.5), np.float32(2)
    for row in range(offsets.shape[0]):
        x, y, z = offsets[row, 0], offsets[row, 1], offsets[row, 2]
        for column in range(columns):
            turns = x * scales[0, column] + y * scales[1, column] + z * scales[2, column]
            whole = np.rint(turns)
            rest = turns - whole
            if column >= columns // 2:  # a cosine is the sine half a half turn on
                rest = half - abs(rest)
            square = rest * rest
            wave = rest * (S0 + square * (S1 + square * (S2 + square * (S3 + square * S4))))
            odd = abs(whole - two * np.rint(whole * half))
            codes[row, column] = narrowed(wave - two * odd * wave, codes[row, column])
        for axis in range(3):
            codes[row, columns + axis] = narrowed(offsets[row, axis], codes[row, axis])


@numba.njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def mix_neighbours(hidden, per_vertex, numbers, shares, mixed):
    """Σ_i ŵ_i relu(u_i + hidden_i) of each sample; `mixed` may have one more column, for Σ_i ŵ_i."""
    k, width = numbers.shape[1], per_vertex.shape[1]
    summed = np.empty(width, np.float32)
    for sample in range(numbers.shape[0]):
        total = np.float32(0)
        summed[:] = 0
        for j in range(k):
            row, number, share = sample * k + j, numbers[sample, j], shares[sample, j]
            total += share
            for column in range(width):
                value = widened(hidden[row, column]) + per_vertex[number, column]
                summed[column] += share * max(value, np.float32(0))
        for column in range(width):
            mixed[sample, column] = narrowed(summed[column], mixed[sample, column])
        if mixed.shape[1] > width:
            mixed[sample, width] = narrowed(total, mixed[sample, width])
