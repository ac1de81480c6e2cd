"""`PictureNet` on the CPU, without gradients: channels last and in place, what lies between its convolutions compiled.

Imported by `gpavatar_lite_picture.py` only. Pictures are float32, or bfloat16 as uint16
(`gpavatar.triplane.bfloat16_numba`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, no_type_check

import numba
import numpy as np
import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor, nn

from gpavatar.bands import in_bands
from gpavatar.field.head_field_numba import array
from gpavatar.synthesis.style_layers import SLOPE
from gpavatar.triplane.bfloat16_numba import narrowed, widened

if TYPE_CHECKING:
    from gpavatar.avatars.gpavatar_lite_picture import Block, Gathered, PictureNet

FAST = {"contract", "reassoc", "nsz", "arcp"}


def corrections(
    net: PictureNet, feats: Float[Tensor, "batch feat small small"], base: Gathered, dtype: torch.dtype
) -> Float[Tensor, "batch 6 size size"]:
    """`PictureNet.forward`; the convolutions in `dtype`."""
    size, low = base.colour.shape[-1], feats.shape[-1]
    assert (size // 2) % low == 0, "rays are as many as pixels of the half size, or a part of them"
    found = torch.empty(len(feats), 6, size, size)
    for entry in range(len(feats)):
        pictures = tuple(one[entry].contiguous().numpy() for one in (base.colour, base.alpha, base.hints))
        told = feats[entry].permute(1, 2, 0).contiguous().numpy()
        fine = torch.empty(1, size // 2, size // 2, 4 * 6 + len(feats[entry]), dtype=dtype)
        _by_rows(_opened, array(fine[0]), *pictures, told)
        last = _unet(net, fine.permute(0, 3, 1, 2))
        _by_rows(_closed, found[entry].numpy(), array(last[0].permute(1, 2, 0)))
    return found


def _unet(net: PictureNet, fine: Tensor) -> Tensor:
    half = _leaky(_conv(net.first, fine))
    quarter = _block(net.quarter, _leaky(_conv(net.down_quarter, half)))
    eighth = _leaky(_conv(net.down_eighth, quarter))
    for block in net.eighth:
        eighth = _block(block, eighth)
    quarter = _block(net.again_quarter, _with_enlarged(quarter, _conv(net.up_quarter, eighth)))
    half = _block(net.again_half, _with_enlarged(half, _conv(net.up_half, quarter)))
    return _conv(net.last, half)


def _block(block: Block, x: Tensor) -> Tensor:
    return _leaky(x.add_(_conv(block.second, _leaky(_conv(block.first, x)))))


def _conv(layer: nn.Conv2d, x: Tensor) -> Tensor:
    weight = layer.weight.detach().to(x.dtype, memory_format=torch.channels_last)
    return functional.conv2d(x, weight, layer.bias.detach().to(x.dtype), layer.stride, layer.padding)


def _leaky(x: Tensor) -> Tensor:
    return functional.leaky_relu_(x, SLOPE)


def _with_enlarged(x: Tensor, small: Tensor) -> Tensor:
    """x and twice as large the other, in place."""
    _by_rows(_add_enlarged, array(x[0].permute(1, 2, 0)), array(small[0].permute(1, 2, 0)))
    return x


def _by_rows(kernel, into: np.ndarray, *inputs: np.ndarray) -> None:
    rows = into.shape[1] if kernel is _closed else into.shape[0]
    in_bands(rows, lambda first, end: kernel(first, end, into, *inputs))


@numba.njit(cache=True, nogil=True, inline="always")
@no_type_check
def _between(place, small, large):
    """The two entries of a row of `small` around an entry of one enlarged to `large`, and the share of the second."""
    half = np.float32(0.5)
    at = max((np.float32(place) + half) * np.float32(small / large) - half, np.float32(0))
    first = min(int(at), small - 1)
    return first, min(first + 1, small - 1), at - np.float32(first)


@numba.njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _opened(first_row, end_row, fine, colour, alpha, hints, told):
    """The first layer's inputs: four pixels side by side of the picture and its hints, and enlarged what rays told."""
    columns, low = fine.shape[1], told.shape[0]
    like, one = fine[0, 0, 0], np.float32(1)
    for row in range(first_row, end_row):
        upper, lower, down = _between(row, low, fine.shape[0])
        for column in range(columns):
            for dy in range(2):
                for dx in range(2):
                    y, x, part = 2 * row + dy, 2 * column + dx, 2 * dy + dx
                    opaque = alpha[0, y, x]
                    for channel in range(3):
                        fine[row, column, 4 * channel + part] = narrowed(colour[channel, y, x] * opaque, like)
                    fine[row, column, 12 + part] = narrowed(opaque, like)
                    fine[row, column, 16 + part] = narrowed(hints[0, y, x], like)
                    fine[row, column, 20 + part] = narrowed(hints[1, y, x], like)
            left, right, along = _between(column, low, columns)
            w00, w01, w10, w11 = (one - down) * (one - along), (one - down) * along, down * (one - along), down * along
            for channel in range(told.shape[2]):
                value = w00 * told[upper, left, channel] + w01 * told[upper, right, channel]
                value += w10 * told[lower, left, channel] + w11 * told[lower, right, channel]
                fine[row, column, 24 + channel] = narrowed(value, like)


@numba.njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _add_enlarged(first_row, end_row, into, small):
    height, width, channels = into.shape
    like, one = into[0, 0, 0], np.float32(1)
    for row in range(first_row, end_row):
        upper, lower, down = _between(row, small.shape[0], height)
        for column in range(width):
            left, right, along = _between(column, small.shape[1], width)
            w00, w01, w10, w11 = (one - down) * (one - along), (one - down) * along, down * (one - along), down * along
            for channel in range(channels):
                value = widened(into[row, column, channel])
                value += w00 * widened(small[upper, left, channel]) + w01 * widened(small[upper, right, channel])
                value += w10 * widened(small[lower, left, channel]) + w11 * widened(small[lower, right, channel])
                into[row, column, channel] = narrowed(value, like)


@numba.njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _closed(first_row, end_row, found, last):
    """Four channels side by side, and `smoothed`."""
    channels, height, width = found.shape
    quarter, half = np.float32(0.25), np.float32(0.5)
    rows = np.empty((3, channels, width), np.float32)  # smoothed along the row, of the row before, this and the next
    wide = np.empty(width + 2, np.float32)
    for row in range(first_row - 1, end_row + 1):
        y = min(max(row, 0), height - 1)
        into = rows[(row + 3) % 3]
        for channel in range(channels):
            part = 4 * channel + 2 * (y % 2)
            for column in range(width // 2):
                wide[2 * column + 1] = widened(last[y // 2, column, part])
                wide[2 * column + 2] = widened(last[y // 2, column, part + 1])
            wide[0], wide[width + 1] = wide[1], wide[width]
            for column in range(width):
                into[channel, column] = quarter * (wide[column] + wide[column + 2]) + half * wide[column + 1]
        if row > first_row:
            before, middle, after = rows[(row + 1) % 3], rows[(row + 2) % 3], rows[row % 3]
            for channel in range(channels):
                for column in range(width):
                    value = quarter * (before[channel, column] + after[channel, column])
                    found[channel, row - 1, column] = value + half * middle[channel, column]
