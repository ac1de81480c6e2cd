"""The folded field (`folded.py`) for a block of samples in registers; called by `gpavatar.render.volume_triton`.

Every width is a power of two, 16 at least, with zeros where the network is narrower. Matrix products take operands of
type KIND and sum in ACC. The frequency code is made and multiplied 16 columns at a time: all of it, with what a sine
needs, would fill the registers.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

# The interpreter multiplies the bits of bfloat16; widened, operands have the same products.
WIDEN = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
@no_type_check
def dot(a, b, KIND: tl.constexpr, ACC: tl.constexpr):
    """a @ b of operands rounded to KIND, summed in ACC. float32 is three products of TF32, exact to 1e-6."""
    a, b = a.to(KIND), b.to(KIND)
    if WIDEN and KIND == tl.bfloat16:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="tf32x3", out_dtype=ACC)


@triton.jit
@no_type_check
def matrix(weights, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A weight matrix, whole."""
    return tl.load(weights + tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :])


@triton.jit
@no_type_check
def _sine_of_turns(turns, cosine, ACC: tl.constexpr):
    """sin 2πu, or cos 2πu where `cosine`. u is first brought to [-¼, ¼], which rounds nothing; then a polynomial,
    within 1e-7, since the library's sine spends most of its time on huge arguments."""
    rest = turns - tl.floor(turns + 0.5)
    if ACC == tl.float64:
        return tl.where(cosine, tl.cos(rest * 6.283185307179586), tl.sin(rest * 6.283185307179586))
    folded = tl.where(tl.abs(rest) > 0.25, tl.where(rest > 0, 0.5, -0.5) - rest, rest)
    angle = tl.where(cosine, 0.25 - tl.abs(rest), folded) * 6.283185307179586
    square = angle * angle
    series = 1 - square / 72 * (1 - square / 110)
    series = 1 - square / 20 * (1 - square / 42 * series)
    return angle * (1 - square / 6 * series)


@triton.jit
@no_type_check
def frequency_code(x, y, z, PART: tl.constexpr, OCTAVES: tl.constexpr, TURNS: tl.constexpr, ACC: tl.constexpr):
    """Columns 16 PART to 16 PART + 15 of γ. Column 3 j + axis is a sine of octave j, a cosine of octave j − OCTAVES, or
    the vector; `pass_triton.code_order` puts weights in this order. TURNS: base / 2π."""
    column = PART * 16 + tl.arange(0, 16)
    axis, band = column % 3, column // 3
    value = tl.where((axis == 0)[None, :], x[:, None], tl.where((axis == 1)[None, :], y[:, None], z[:, None]))
    octave = tl.where(band < OCTAVES, band, band - OCTAVES)
    turns = value * (tl.exp2(octave.to(ACC)) * TURNS)[None, :]
    waves = _sine_of_turns(turns, (band >= OCTAVES)[None, :], ACC)
    value = tl.where((band == 2 * OCTAVES)[None, :], value, 0.0)
    return tl.where((band < 2 * OCTAVES)[None, :], waves, value)


@triton.jit
@no_type_check
def neighbour(
    cloud, numbers, per_vertex, code_weights, x, y, z, there, k,
    K: tl.constexpr, POINT: tl.constexpr, CODE: tl.constexpr, OCTAVES: tl.constexpr, TURNS: tl.constexpr,
    DIRECTION: tl.constexpr, SQUARE: tl.constexpr, REACH: tl.constexpr, KIND: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """What the k-th neighbour of each sample says: number, parts of the code, layer before the ReLU, weight (not
    normalised)."""
    number = tl.load(numbers + k, mask=there, other=0)
    dx = tl.load(cloud + number * 3, mask=there, other=0.0).to(ACC) - x
    dy = tl.load(cloud + number * 3 + 1, mask=there, other=0.0).to(ACC) - y
    dz = tl.load(cloud + number * 3 + 2, mask=there, other=0.0).to(ACC) - z
    length = dx * dx + dy * dy + dz * dz
    squared = length + 1e-12  # TINY² of `point_field.py`
    weight = 1 / squared if SQUARE else tl.rsqrt(squared)
    if REACH > 0:
        weight = tl.where(squared <= REACH * REACH, weight, 0.0)
    if DIRECTION:
        scale = -1 / tl.maximum(tl.sqrt(length), 1e-12)
        dx, dy, dz = dx * scale, dy * scale, dz * scale
    at = number[:, None] * POINT + tl.arange(0, POINT)[None, :]
    layer = tl.load(per_vertex + at, mask=there[:, None], other=0).to(ACC)
    parts = ()
    for part in tl.static_range(CODE // 16):
        code = frequency_code(dx, dy, dz, part, OCTAVES, TURNS, ACC).to(KIND)
        layer += dot(code, matrix(code_weights + part * 16 * POINT, 16, POINT), KIND, ACC)
        parts = parts + (code,)
    return number, parts, layer, weight


@triton.jit
@no_type_check
def mixed_neighbours(
    cloud, numbers, per_vertex, code_weights, x, y, z, there,
    K: tl.constexpr, POINT: tl.constexpr, CODE: tl.constexpr, OCTAVES: tl.constexpr, TURNS: tl.constexpr,
    DIRECTION: tl.constexpr, SQUARE: tl.constexpr, REACH: tl.constexpr, KIND: tl.constexpr, ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """m (BLOCK, POINT), s and Σ w (BLOCK): the weighted mean is divided once, at the end."""
    mixed, total = tl.zeros((BLOCK, POINT), ACC), tl.zeros((BLOCK,), ACC)
    for k in range(K):
        _, _, layer, weight = neighbour(
            cloud, numbers, per_vertex, code_weights, x, y, z, there, k,
            K, POINT, CODE, OCTAVES, TURNS, DIRECTION, SQUARE, REACH, KIND, ACC,
        )  # fmt: skip
        mixed += weight[:, None] * tl.maximum(layer, 0.0)
        total += weight
    safe = tl.maximum(total, 1e-37)
    return mixed / safe[:, None], total / safe, safe


@triton.jit
@no_type_check
def log1p_of_exp(x):
    """log(1 + eˣ) to full relative precision, where the hardware's logarithm near 1 has none: by the series of
    2 artanh(z / (2 + z)), z = e^−|x|."""
    z = tl.exp(-tl.abs(x))
    ratio = z / (2 + z)
    square = ratio * ratio
    series = square * 0 + 1.0 / 29
    for term in tl.static_range(14):
        series = series * square + 1.0 / (27 - 2 * term)
    return tl.maximum(x, 0.0) + 2 * ratio * series


@triton.jit
@no_type_check
def one_minus_exp(x):
    """1 − e^−x for x >= 0 to full relative precision."""
    series = x * 0 + 1
    for term in tl.static_range(10):
        series = 1 - series * x / (11 - term)
    return tl.where(x < 0.25, series * x, 1 - tl.exp(-x))
