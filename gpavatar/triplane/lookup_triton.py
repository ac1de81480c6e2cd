"""`sample_planes` for a block of samples in registers, and its gradient; called by `gpavatar.render.volume_triton`.

Planes lie in memory as (plane, row, column, channel): a texel is one run of channels.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def _axis(x, y, z, AXIS: tl.constexpr):
    if AXIS == 0:
        return x
    elif AXIS == 1:
        return y
    else:
        return z


@triton.jit
@no_type_check
def _place(x, y, z, plane, AXES: tl.constexpr, SIZE: tl.constexpr):
    """Column or row on a plane, in texels, of places in space."""
    along = tl.where(plane == 1, _axis(x, y, z, AXES[1]), _axis(x, y, z, AXES[2]))
    return ((tl.where(plane == 0, _axis(x, y, z, AXES[0]), along) + 1) * SIZE - 1) * 0.5


@triton.jit
@no_type_check
def _corner(column, row, there, corner, WIDTH: tl.constexpr, HEIGHT: tl.constexpr):
    """Texel number and bilinear weight of one of the four texels around a place, and whether it is on the plane."""
    left, top = tl.floor(column), tl.floor(row)
    share = tl.where(corner % 2 == 1, column - left, left + 1 - column)
    share *= tl.where(corner // 2 == 1, row - top, top + 1 - row)
    at_column, at_row = left.to(tl.int32) + corner % 2, top.to(tl.int32) + corner // 2
    inside = there & (at_column >= 0) & (at_column < WIDTH) & (at_row >= 0) & (at_row < HEIGHT)
    return at_row * WIDTH + at_column, share, inside


@triton.jit
@no_type_check
def gather_planes(
    planes, x, y, z, there,
    CHANNELS: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
    ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The sum of the three planes' features: (BLOCK, CHANNELS)."""
    channel = tl.arange(0, CHANNELS)
    total = tl.zeros((BLOCK, CHANNELS), ACC)
    for plane in range(3):
        column, row = _place(x, y, z, plane, COLUMNS, WIDTH), _place(x, y, z, plane, ROWS, HEIGHT)
        for corner in tl.static_range(4):  # four loads are under way at once; twelve would fill the registers
            texel, share, inside = _corner(column, row, there, corner, WIDTH, HEIGHT)
            at = (plane * HEIGHT * WIDTH + texel)[:, None] * CHANNELS + channel[None, :]
            total += share[:, None] * tl.load(planes + at, mask=inside[:, None], other=0.0).to(ACC)
    return total


@triton.jit
@no_type_check
def scatter_planes(
    grad_planes, grad, x, y, z, there,
    CHANNELS: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Adds the gradient of `gather_planes` with respect to the planes."""
    channel = tl.arange(0, CHANNELS)
    for plane in range(3):
        column, row = _place(x, y, z, plane, COLUMNS, WIDTH), _place(x, y, z, plane, ROWS, HEIGHT)
        for corner in range(4):
            texel, share, inside = _corner(column, row, there, corner, WIDTH, HEIGHT)
            at = (plane * HEIGHT * WIDTH + texel)[:, None] * CHANNELS + channel[None, :]
            tl.atomic_add(grad_planes + at, share[:, None] * grad, mask=inside[:, None], sem="relaxed")
