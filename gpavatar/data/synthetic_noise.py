"""Smooth noise in space: the source of every irregularity of the synthetic people."""

from __future__ import annotations

import math
from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Float


def fractal_noise(
    points: Float[np.ndarray, "*place 3"], size: float, octaves: int = 3, seed: int = 0
) -> Float[np.ndarray, "*place"]:
    """Sum of gradient noise (Perlin 1985), each octave half as large and half as strong; about [−1, 1].

    `size` is the length of the largest features in the same units.
    """
    flat = np.ascontiguousarray(points.reshape(-1, 3), dtype=np.float64)
    return _fractal(flat, 1.0 / size, octaves, seed).reshape(points.shape[:-1])


def cell_noise(
    points: Float[np.ndarray, "*place 3"], size: float, seed: int = 0
) -> tuple[Float[np.ndarray, "*place"], Float[np.ndarray, "*place"]]:
    """Distance to the nearest of scattered points (one per cube of edge `size`), in `size`, and that point's hash."""
    flat = np.ascontiguousarray(points.reshape(-1, 3), dtype=np.float64)
    distance, value = _cells(flat, 1.0 / size, seed)
    return distance.reshape(points.shape[:-1]), value.reshape(points.shape[:-1])


@numba.njit(cache=True, nogil=True)
@no_type_check
def hash01(x, y, z, seed):
    """Hash of four integers, uniform in [0, 1)."""
    h = (np.int64(x) * 73856093) ^ (np.int64(y) * 19349663) ^ (np.int64(z) * 83492791) ^ (np.int64(seed) * 2654435761)
    h = ((h ^ (h >> 16)) & 0xFFFFFFFF) * 0x7FEB352D & 0xFFFFFFFF
    h = (h ^ (h >> 15)) * 0x046CA68B & 0xFFFFFFFF
    return (h ^ (h >> 16)) / 4294967296.0


@numba.njit(cache=True, nogil=True)
@no_type_check
def _fade(t):
    return t * t * t * (t * (6 * t - 15) + 10)


@numba.njit(cache=True, nogil=True)
@no_type_check
def gradient_noise(x, y, z, seed):
    """Perlin's noise at one point, about [−1, 1]."""
    x0, y0, z0 = math.floor(x), math.floor(y), math.floor(z)
    fx, fy, fz = x - x0, y - y0, z - z0
    wx, wy, wz = _fade(fx), _fade(fy), _fade(fz)
    total = 0.0
    for dx in range(2):
        for dy in range(2):
            for dz in range(2):
                h = int(hash01(x0 + dx, y0 + dy, z0 + dz, seed) * 12)
                a, b, c = fx - dx, fy - dy, fz - dz
                first, second = (a, b) if h < 4 else ((a, c) if h < 8 else (b, c))
                slope = (first if h & 1 else -first) + (second if h & 2 else -second)
                total += (wx if dx else 1 - wx) * (wy if dy else 1 - wy) * (wz if dz else 1 - wz) * slope
    return total


@numba.njit(cache=True, nogil=True)
@no_type_check
def _fractal(points, frequency, octaves, seed):
    values = np.zeros(len(points))
    for index in range(len(points)):
        step, strength = frequency, 1.0
        for octave in range(octaves):
            p = points[index] * step
            values[index] += strength * gradient_noise(p[0], p[1], p[2], seed + 31 * octave)
            step, strength = 2 * step, strength / 2
    return values


@numba.njit(cache=True, nogil=True)
@no_type_check
def _cells(points, frequency, seed):
    distance, value = np.empty(len(points)), np.empty(len(points))
    for index in range(len(points)):
        x, y, z = points[index] * frequency
        x0, y0, z0 = math.floor(x), math.floor(y), math.floor(z)
        nearest = 9.0
        for i in range(-1, 2):
            for j in range(-1, 2):
                for k in range(-1, 2):
                    a, b, c = x0 + i, y0 + j, z0 + k
                    dx = a + hash01(a, b, c, seed) - x
                    dy = b + hash01(a, b, c, seed + 1) - y
                    dz = c + hash01(a, b, c, seed + 2) - z
                    squared = dx * dx + dy * dy + dz * dz
                    if squared < nearest:
                        nearest = squared
                        value[index] = hash01(a, b, c, seed + 3)
        distance[index] = math.sqrt(nearest)
    return distance, value
