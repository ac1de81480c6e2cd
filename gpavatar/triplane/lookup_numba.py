"""`sample_planes` of `lookup.py` with reduce="sum", compiled by numba; of planes whose channels are the fastest axis.

Planes and result are float32, or bfloat16 as uint16 (`gpavatar.triplane.bfloat16_numba`).
"""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np

from gpavatar.triplane.bfloat16_numba import narrowed, widened

FAST = {"contract", "reassoc", "nsz", "arcp"}


@numba.njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def sum_planes(planes, columns, rows, points, found):
    """Σ over planes (plane height width channel) of the bilinear value at each point (sample 3), 0 beyond the edge.

    `columns`, `rows`: the axis of the point that runs along each plane's width and height.
    """
    height, width, channels = planes.shape[1:]
    half, one = np.float32(0.5), np.float32(1)
    summed = np.empty(channels, np.float32)
    for sample in range(points.shape[0]):
        summed[:] = 0
        for plane in range(planes.shape[0]):
            x = (points[sample, columns[plane]] + one) * (half * width) - half
            y = (points[sample, rows[plane]] + one) * (half * height) - half
            if not (x > -one and y > -one and x < width and y < height):
                continue
            left, top = np.floor(x), np.floor(y)
            right_share, low_share = x - left, y - top
            x0, y0 = int(left), int(top)
            upper, lower = (one - low_share) * (y0 >= 0), low_share * (y0 + 1 < height)
            first, second = (one - right_share) * (x0 >= 0), right_share * (x0 + 1 < width)
            x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
            x0, y0 = max(x0, 0), max(y0, 0)
            w00, w01, w10, w11 = upper * first, upper * second, lower * first, lower * second
            for channel in range(channels):
                summed[channel] += (
                    w00 * widened(planes[plane, y0, x0, channel])
                    + w01 * widened(planes[plane, y0, x1, channel])
                    + w10 * widened(planes[plane, y1, x0, channel])
                    + w11 * widened(planes[plane, y1, x1, channel])
                )
        for channel in range(channels):
            found[sample, channel] = narrowed(summed[channel], found[sample, channel])
