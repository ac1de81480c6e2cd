"""Sampling and compositing of rays (`sampling.py`, `composite.py`), compiled by numba; for `volume_numba.py` only.

Sums along a ray run in float64, as torch's cumulative sums do. Features are float32, or bfloat16 as uint16.
"""

from __future__ import annotations

import math
from typing import no_type_check

import numba
import numpy as np

from gpavatar.render.sampling import PDF_FLOOR
from gpavatar.triplane.bfloat16_numba import widened

FAST = {"contract", "reassoc", "nsz", "arcp"}


@numba.njit(cache=True, nogil=True)
@no_type_check
def even_samples(near, far, shares, t):
    """A sample in each of equal intervals (`shares`: where in it, (ray sample) in [0, 1])."""
    num = t.shape[1]
    for ray in range(t.shape[0]):
        step = (far[ray] - near[ray]) / np.float32(num)
        for i in range(num):
            t[ray, i] = near[ray] + (np.float32(i) + shares[ray, i]) * step


@numba.njit(cache=True, nogil=True)
@no_type_check
def places(origins, dirs, t, ray_of, points):
    """Points (sample 3) at t (sample) along the rays of these numbers."""
    for sample in range(len(t)):
        ray = ray_of[sample]
        for axis in range(3):
            points[sample, axis] = origins[ray, axis] + t[sample] * dirs[ray, axis]


@numba.njit(cache=True, nogil=True)
@no_type_check
def occupied(points, filled):
    """Whether each point lies in a filled voxel (`Occupancy.at`)."""
    side, one = len(filled), np.float32(1)
    there = np.zeros(points.shape[0], np.bool_)
    for sample in range(points.shape[0]):
        x, y, z = points[sample, 0], points[sample, 1], points[sample, 2]
        if abs(x) <= one and abs(y) <= one and abs(z) <= one:
            scale = np.float32(side / 2)
            vx = min(int((x + one) * scale), side - 1)
            vy = min(int((y + one) * scale), side - 1)
            vz = min(int((z + one) * scale), side - 1)
            there[sample] = filled[vx, vy, vz]
    return there


@numba.njit(cache=True, nogil=True)
@no_type_check
def weights_of(t, sigma, near, far, step_length, alpha, weights):
    """w_i of one ray from its sorted samples, and each sample's own alpha; see `composite.py`."""
    num, before = len(t), 0.0
    for i in range(num):
        length = 1.0
        if step_length:
            start = near if i == 0 else (t[i - 1] + t[i]) / np.float32(2)
            end = far if i == num - 1 else (t[i] + t[i + 1]) / np.float32(2)
            length = end - start
        thickness = sigma[i] * length
        alpha[i] = -math.expm1(-thickness)
        weights[i] = math.exp(-before) * alpha[i]
        before += thickness


@numba.njit(cache=True, nogil=True)
@no_type_check
def fine_samples(t, sigma, near, far, step_length, released, shares, alpha, fine):
    """The samples of the second pass (`sample_pdf`, or `sample_released`), and each coarse sample's own alpha.

    `shares`: where in its part of the cumulative weight each sample lies, (ray fine) in [0, 1].
    """
    num, num_fine = t.shape[1], fine.shape[1]
    weights, edges, cdf = np.empty(num), np.empty(num + 1), np.empty(num + 1)
    drawn = np.empty(num_fine)
    for ray in range(t.shape[0]):
        weights_of(t[ray], sigma[ray], near[ray], far[ray], step_length, alpha[ray], weights)
        total = weights.sum() + num * PDF_FLOOR
        step = (far[ray] - near[ray]) / num
        summed = 0.0
        for i in range(num):
            cdf[i] = summed
            summed += (weights[i] + PDF_FLOOR) / total
            if released:
                cdf[i], edges[i] = summed, t[ray, i]
            else:
                edges[i] = near[ray] + i * step
        last = num - 1 if released else num
        if not released:
            cdf[num], edges[num] = 1.0, far[ray]
        base, span = (cdf[0], cdf[last] - cdf[0]) if released else (0.0, 1.0)
        at = 0
        for i in range(num_fine):
            u = base + (i + shares[ray, i]) / num_fine * span
            while at < last - 1 and cdf[at + 1] <= u:
                at += 1
            room = cdf[at + 1] - cdf[at]
            share = (u - cdf[at]) / room if room > 0 else 0.5
            drawn[i] = edges[at] + min(max(share, 0.0), 1.0) * (edges[at + 1] - edges[at])
        if released:
            _middles(drawn, t[ray, 0], t[ray, num - 1], fine[ray])
        else:
            fine[ray] = drawn


@numba.njit(cache=True, nogil=True)
@no_type_check
def _middles(drawn, low, high, fine):
    """Middles of the intervals around draws, whose ends lie half-way between them and within [low, high]."""
    num = len(drawn)
    start = drawn[0] - (drawn[1] - drawn[0]) / 2
    for i in range(num):
        end = (drawn[i] + drawn[i + 1]) / 2 if i < num - 1 else drawn[i] + (drawn[i] - drawn[i - 1]) / 2
        fine[i] = (min(max(start, low), high) + min(max(end, low), high)) / 2
        start = end


@numba.njit(cache=True, nogil=True)
@no_type_check
def merge(first, second, order, t):
    """The samples of both passes, sorted along each ray; `order` numbers them, those of `second` behind `first`."""
    num, more = first.shape[1], second.shape[1]
    for ray in range(first.shape[0]):
        i = j = 0
        for place in range(num + more):
            if j >= more or (i < num and first[ray, i] <= second[ray, j]):
                t[ray, place], order[ray, place] = first[ray, i], i
                i += 1
            else:
                t[ray, place], order[ray, place] = second[ray, j], num + j
                j += 1


@numba.njit(cache=True, nogil=True)
@no_type_check
def thickness_before(t, order, sigma, rays, near, far, step_length, end):
    """Optical thickness of each ray's sorted samples up to `end`."""
    num = t.shape[1]
    thickness = np.zeros(t.shape[0])
    for row in range(t.shape[0]):
        for i in range(num):
            if t[row, i] > end[row]:
                break
            length = 1.0
            if step_length:
                start = near[rays[row]] if i == 0 else (t[row, i - 1] + t[row, i]) / np.float32(2)
                stop = far[rays[row]] if i == num - 1 else (t[row, i] + t[row, i + 1]) / np.float32(2)
                length = stop - start
            thickness[row] += sigma[row, order[row, i]] * length
    return thickness


@numba.njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def composite(t, order, sigma, feats, rays, near, far, step_length, summed, opacity, depth, alpha):
    """Features, opacity and depth of the rays numbered `rays`, and their samples' alphas (`volume._composite`).

    `sigma` (ray sample) and `feats` (ray sample channel) stand in the order in which they were looked at, `order` says
    where each of the sorted samples is. Rows of what follows `rays` are of all rays.
    """
    num = t.shape[1]
    weights, thick = np.empty(num), np.empty(num, np.float32)
    for row in range(t.shape[0]):
        ray = rays[row]
        for i in range(num):
            thick[i] = sigma[row, order[row, i]]
        weights_of(t[row], thick, near[ray], far[ray], step_length, alpha[ray], weights)
        summed[ray] = 0
        total = mean = 0.0
        for i in range(num):
            weight = np.float32(weights[i])
            total += weights[i]
            mean += weights[i] * t[row, i]
            if weight > 0:
                at = order[row, i]
                for channel in range(feats.shape[2]):
                    summed[ray, channel] += weight * widened(feats[row, at, channel])
        opacity[ray] = total
        depth[ray] = (mean + far[ray] * 1e-6) / (total + 1e-6)
