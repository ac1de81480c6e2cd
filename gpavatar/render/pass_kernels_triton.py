"""One pass over the rays of a folded field, fused, and its gradient; launched by `gpavatar.render.volume_triton`.

A program draws a few rays and walks along them, some samples of each at a time, front to back: look up, mix, decode,
composite. Nothing of a sample but its optical thickness is written to memory. The gradient walks the same way and
computes every sample again. With L the loss and y_i = ∂L/∂w_i, a sample's thickness gets

    ∂L/∂τ_i = y_i trans_i exp(−τ_i) − Σ_{j>i} y_j w_j ,

where the sum over what lies behind is the ray's total, known from its outputs, less what was passed so far.

Gradients of planes and vertices are added by atomics; those of weights too, but into one of several copies, which the
host sums up, since all programs add to the same few numbers.

The letters are those of `gpavatar.field.folded`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, no_type_check

import triton
import triton.language as tl
from torch import Tensor

from gpavatar.field.head_field_triton import (
    dot,
    log1p_of_exp,
    matrix,
    mixed_neighbours,
    neighbour,
    one_minus_exp,
)
from gpavatar.triplane.lookup_triton import gather_planes, scatter_planes

FLOOR = tl.constexpr(1e-6)  # in the depth of a ray that meets nothing; as in `volume.py`


@dataclass(frozen=True)
class Shape:
    """What a kernel is compiled for. Widths are powers of two, 16 at least."""

    rays: int  # of a program
    step: int  # samples of each at a time
    channels: int
    height: int
    width: int
    columns: tuple[int, int, int]  # the axis of space along each plane's columns
    rows: tuple[int, int, int]
    neighbours: int  # 0: no expression field
    point: int
    code: int  # a multiple of 16
    octaves: int
    turns: float  # base / 2π
    direction: bool
    square: bool
    reach: float  # 0: no limit
    hidden: int
    hidden2: int
    colour: int
    out: int
    beta: float
    widened: bool
    stop: float  # a program ends when no ray of it lets more light through; below 0: never
    copies: int  # of the weights' gradients
    kind: tl.dtype  # of the operands of products
    acc: tl.dtype
    side: int  # voxels per side of what is filled; 0: all is

    @property
    def block(self) -> int:
        """Samples of a program at a time."""
        return self.rays * self.step


class Scene(NamedTuple):
    """Where to look and what is there, batch entries one behind the other."""

    origins: Tensor
    dirs: Tensor
    t: Tensor
    length: Tensor
    far: Tensor
    planes: Tensor  # (batch, plane, row, column, channel)
    cloud: Tensor
    numbers: Tensor
    per_vertex: Tensor  # u
    filled: Tensor  # (x, y, z), bytes; see `gpavatar.field.occupancy`


class Weights(NamedTuple):
    """The folded field's; matrices in the type of the products, vectors in that of the sums."""

    code: Tensor
    plane: Tensor
    mixed: Tensor
    hidden: Tensor
    colour: Tensor
    out: Tensor
    share: Tensor
    hidden_bias: Tensor
    density: Tensor
    density_bias: Tensor
    out_bias: Tensor
    bias: Tensor  # one per batch entry
    ray: Tensor  # one per ray


class Drawn(NamedTuple):
    """Outputs of a pass, or their gradients."""

    feats: Tensor
    opacity: Tensor
    depth: Tensor
    thickness: Tensor


class Gradients(NamedTuple):
    """All zero before the launch."""

    planes: Tensor
    per_vertex: Tensor
    bias: Tensor
    ray: Tensor
    code: Tensor  # this and what follows: (copies, size)
    plane: Tensor
    mixed: Tensor
    hidden: Tensor
    colour: Tensor
    out: Tensor
    share: Tensor
    hidden_bias: Tensor
    density: Tensor
    density_bias: Tensor
    out_bias: Tensor


@triton.jit
@no_type_check
def _samples(scene, entry, first_ray, begin, num_rays, num_samples, S: tl.constexpr):
    """Of each sample of a step: ray and slot in the batch, place, t, interval length (0 where nothing is)."""
    lane = tl.arange(0, S.block)
    ray, sample = first_ray + lane // S.step, begin + lane % S.step
    there = (ray < num_rays) & (sample < num_samples)
    ray = entry * num_rays + ray
    slot = ray * num_samples + sample
    t = tl.load(scene.t + slot, mask=there, other=0.0).to(S.acc)
    x = tl.load(scene.origins + ray * 3, mask=there, other=0.0)
    y = tl.load(scene.origins + ray * 3 + 1, mask=there, other=0.0)
    z = tl.load(scene.origins + ray * 3 + 2, mask=there, other=0.0)
    x += t * tl.load(scene.dirs + ray * 3, mask=there, other=0.0)
    y += t * tl.load(scene.dirs + ray * 3 + 1, mask=there, other=0.0)
    z += t * tl.load(scene.dirs + ray * 3 + 2, mask=there, other=0.0)
    inside = (tl.abs(x) <= 1) & (tl.abs(y) <= 1) & (tl.abs(z) <= 1)
    if S.side > 0:
        voxel = (_voxel(x, S.side) * S.side + _voxel(y, S.side)) * S.side + _voxel(z, S.side)
        inside &= tl.load(scene.filled + voxel, mask=there & inside, other=0) > 0
    length = tl.load(scene.length + slot, mask=there & inside, other=0.0).to(S.acc)
    return ray, slot, there, x, y, z, t, length


@triton.jit
@no_type_check
def _voxel(x, SIDE: tl.constexpr):
    return tl.minimum(tl.maximum((x + 1) * (SIDE * 0.5), 0.0), SIDE - 1.0).to(tl.int32)


@triton.jit
@no_type_check
def _clamped(x):
    return tl.minimum(tl.maximum(x, -1.0), 1.0)


@triton.jit
@no_type_check
def _looked_up(scene, weights, entry, slot, there, x, y, z, num_verts, S: tl.constexpr):
    """c, m, s of each sample, and what m was divided by."""
    planes = scene.planes + entry * 3 * S.height * S.width * S.channels
    found = gather_planes(planes, x, y, z, there, S.channels, S.height, S.width, S.columns, S.rows, S.acc, S.block)
    mixed, share = tl.full((S.block, S.point), 0.0, S.acc), tl.full((S.block,), 0.0, S.acc)
    total = share + 1
    if S.neighbours > 0:
        mixed, share, total = mixed_neighbours(
            scene.cloud + entry * num_verts * 3, scene.numbers + slot * S.neighbours, scene.per_vertex, weights.code,
            _clamped(x), _clamped(y), _clamped(z), there, S.neighbours, S.point, S.code, S.octaves, S.turns,
            S.direction, S.square, S.reach, S.kind, S.acc, S.block,
        )  # fmt: skip
    return found, mixed, share, total


@triton.jit
@no_type_check
def _decoded(weights, entry, ray, there, found, mixed, share, S: tl.constexpr):
    """h, g, βs, the colour's hidden layer, the colour before the sigmoid."""
    hidden_at, hidden2_at = tl.arange(0, S.hidden), tl.arange(0, S.hidden2)
    colour_at, out_at = tl.arange(0, S.colour), tl.arange(0, S.out)
    h = dot(found, matrix(weights.plane, S.channels, S.hidden), S.kind, S.acc)
    h += tl.load(weights.bias + entry * S.hidden + hidden_at)[None, :]
    if S.neighbours > 0:
        h += dot(mixed, matrix(weights.mixed, S.point, S.hidden), S.kind, S.acc)
        h += share[:, None] * tl.load(weights.share + hidden_at)[None, :]
    h = tl.maximum(h, 0.0)
    g = (
        dot(h, matrix(weights.hidden, S.hidden, S.hidden2), S.kind, S.acc)
        + tl.load(weights.hidden_bias + hidden2_at)[None, :]
    )
    g = tl.maximum(g, 0.0)
    raw = (tl.sum(g * tl.load(weights.density + hidden2_at)[None, :], 1) + tl.load(weights.density_bias)) * S.beta
    q = dot(g, matrix(weights.colour, S.hidden2, S.colour), S.kind, S.acc)
    of_ray = tl.load(weights.ray + ray[:, None] * S.colour + colour_at[None, :], mask=there[:, None], other=0.0)
    q = tl.maximum(q + of_ray, 0.0)
    colour = dot(q, matrix(weights.out, S.colour, S.out), S.kind, S.acc) + tl.load(weights.out_bias + out_at)[None, :]
    return h, g, raw, q, colour


@triton.jit
@no_type_check
def _unit(colour, S: tl.constexpr):
    """The sigmoid of the first three channels, the others as they are; and the slope of both."""
    is_colour = (tl.arange(0, S.out) < 3)[None, :]
    unit = 1 / (1 + tl.exp(-colour))
    slope = unit * (1 - unit)
    if S.widened:
        slope = slope * 1.002
        unit = unit * 1.002 - 0.001
    return tl.where(is_colour, unit, colour), tl.where(is_colour, slope, 1.0)


@triton.jit
@no_type_check
def _weighted(thickness, before, S: tl.constexpr):
    """trans and w of a step's samples, given Σ τ of each ray so far."""
    steps = tl.reshape(thickness, (S.rays, S.step))
    passed = before[:, None] + tl.cumsum(steps, 1) - steps
    trans = tl.reshape(tl.exp(-passed), (S.block,))
    return trans, trans * one_minus_exp(thickness)


@triton.jit
@no_type_check
def _per_ray(values, S: tl.constexpr):
    """Sums over a step's samples."""
    return tl.sum(tl.reshape(values, (S.rays, S.step)), 1)


@triton.jit
@no_type_check
def draw(scene, weights, drawn, num_rays, num_samples, num_verts, S: tl.constexpr):
    """Features on black, opacity and depth of each ray; thickness of each sample (zero before the launch)."""
    entry, first_ray = tl.program_id(1).to(tl.int64), tl.program_id(0) * S.rays
    before, opacity, depth = (
        tl.full((S.rays,), 0.0, S.acc),
        tl.full((S.rays,), 0.0, S.acc),
        tl.full((S.rays,), 0.0, S.acc),
    )
    feats = tl.full((S.rays, S.out), 0.0, S.acc)
    lane = tl.arange(0, S.rays)
    there_ray = first_ray + lane < num_rays
    at = entry * num_rays + first_ray + lane
    far = tl.load(scene.far + at, mask=there_ray, other=0.0)
    begin, light = 0, tl.max(tl.where(far > 0, 2.0, -2.0), 0)  # rays that miss are far = 0
    while (begin < num_samples) & (light > S.stop):
        ray, slot, there, x, y, z, t, length = _samples(scene, entry, first_ray, begin, num_rays, num_samples, S)
        if tl.max(length, 0) > 0:
            found, mixed, share, _ = _looked_up(scene, weights, entry, slot, there, x, y, z, num_verts, S)
            _, _, raw, _, colour = _decoded(weights, entry, ray, there, found, mixed, share, S)
            colour, _ = _unit(colour, S)
            thickness = log1p_of_exp(raw) / S.beta * length
            _, weight = _weighted(thickness, before, S)
            tl.store(drawn.thickness + slot, thickness, mask=there)
            feats += tl.sum(tl.reshape(weight[:, None] * colour, (S.rays, S.step, S.out)), 1)
            opacity += _per_ray(weight, S)
            depth += _per_ray(weight * t, S)
            before += _per_ray(thickness, S)
            light = tl.max(tl.where(far > 0, tl.exp(-before), -2.0), 0).to(tl.float32)
        begin += S.step

    tl.store(drawn.opacity + at, opacity, mask=there_ray)
    tl.store(drawn.depth + at, (depth + far * FLOOR) / (opacity + FLOOR), mask=there_ray)
    tl.store(drawn.feats + at[:, None] * S.out + tl.arange(0, S.out)[None, :], feats, mask=there_ray[:, None])


@triton.jit
@no_type_check
def _add_matrix(total, copy, grad, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    at = copy * ROWS * COLUMNS + tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    tl.atomic_add(total + at, grad, sem="relaxed")


@triton.jit
@no_type_check
def _add_vector(total, copy, grad, SIZE: tl.constexpr):
    tl.atomic_add(total + copy * SIZE + tl.arange(0, SIZE), tl.sum(grad, 0), sem="relaxed")


@triton.jit
@no_type_check
def _product_gradient(total, copy, given, grad, weights, ROWS: tl.constexpr, COLUMNS: tl.constexpr, S: tl.constexpr):
    """Of y = x W with ∂L/∂y: adds xᵀ ∂L/∂y to W's gradient and returns ∂L/∂x."""
    _add_matrix(total, copy, dot(tl.trans(given.to(S.kind)), grad, S.kind, S.acc), ROWS, COLUMNS)
    return dot(grad, tl.trans(matrix(weights, ROWS, COLUMNS)), S.kind, S.acc)


@triton.jit
@no_type_check
def draw_gradient(scene, weights, drawn, given, total, into, num_rays, num_samples, num_verts, S: tl.constexpr):
    """Adds the gradients; `given`: those of the outputs, `total`: Σ y w of each ray."""
    entry, first_ray = tl.program_id(1).to(tl.int64), tl.program_id(0) * S.rays
    copy = tl.program_id(0) % S.copies
    lane = tl.arange(0, S.rays)
    ray_lane = entry * num_rays + first_ray + lane
    there_ray = first_ray + lane < num_rays
    out_at = tl.arange(0, S.out)
    before, passed = tl.full((S.rays,), 0.0, S.acc), tl.full((S.rays,), 0.0, S.acc)
    of_ray = tl.full((S.rays, S.colour), 0.0, S.acc)
    sums = tl.load(total + ray_lane, mask=there_ray, other=0.0).to(S.acc)

    hit = tl.max(tl.load(scene.far + ray_lane, mask=there_ray, other=0.0), 0) > 0
    for begin in range(0, tl.where(hit, num_samples, 0), S.step):
        ray, slot, there, x, y, z, t, length = _samples(scene, entry, first_ray, begin, num_rays, num_samples, S)
        found, mixed, share, divisor = _looked_up(scene, weights, entry, slot, there, x, y, z, num_verts, S)
        h, g, raw, q, colour = _decoded(weights, entry, ray, there, found, mixed, share, S)
        colour, slope = _unit(colour, S)
        thickness = log1p_of_exp(raw) / S.beta * length
        trans, weight = _weighted(thickness, before, S)

        # y, then the thickness and the colour of each sample.
        given_feats = tl.load(given.feats + ray[:, None] * S.out + out_at[None, :], mask=there[:, None], other=0.0)
        scale = tl.load(drawn.opacity + ray, mask=there, other=0.0) + FLOOR
        from_depth = (t - tl.load(drawn.depth + ray, mask=there, other=0.0)) / scale
        slant = tl.sum(given_feats * colour, 1) + tl.load(given.opacity + ray, mask=there, other=0.0)
        slant += from_depth * tl.load(given.depth + ray, mask=there, other=0.0)
        share_of = tl.reshape(slant * weight, (S.rays, S.step))
        behind = tl.reshape((sums - passed)[:, None] - tl.cumsum(share_of, 1), (S.block,))
        grad_thickness = slant * trans * tl.exp(-thickness) - behind
        grad_thickness += tl.load(given.thickness + slot, mask=there, other=0.0)
        before += _per_ray(thickness, S)
        passed += tl.sum(share_of, 1)

        grad_out = weight[:, None] * given_feats * slope
        _add_vector(into.out_bias, copy, grad_out, S.out)
        grad_q = _product_gradient(into.out, copy, q, grad_out, weights.out, S.colour, S.out, S)
        grad_q = tl.where(q > 0, grad_q, 0.0)
        of_ray += tl.sum(tl.reshape(grad_q, (S.rays, S.step, S.colour)), 1)
        grad_raw = grad_thickness * length / (1 + tl.exp(-raw))
        grad_g = _product_gradient(into.colour, copy, g, grad_q, weights.colour, S.hidden2, S.colour, S)
        grad_g += grad_raw[:, None] * tl.load(weights.density + tl.arange(0, S.hidden2))[None, :]
        _add_vector(into.density, copy, grad_raw[:, None] * g, S.hidden2)
        tl.atomic_add(into.density_bias + copy, tl.sum(grad_raw, 0), sem="relaxed")

        grad_g = tl.where(g > 0, grad_g, 0.0)
        _add_vector(into.hidden_bias, copy, grad_g, S.hidden2)
        grad_h = _product_gradient(into.hidden, copy, h, grad_g, weights.hidden, S.hidden, S.hidden2, S)
        grad_h = tl.where(h > 0, grad_h, 0.0)
        _add_vector(into.bias, entry, grad_h, S.hidden)
        grad_found = _product_gradient(into.plane, copy, found, grad_h, weights.plane, S.channels, S.hidden, S)
        planes = into.planes + entry * 3 * S.height * S.width * S.channels
        scatter_planes(planes, grad_found, x, y, z, there, S.channels, S.height, S.width, S.columns, S.rows)

        if S.neighbours > 0:
            _add_vector(into.share, copy, share[:, None] * grad_h, S.hidden)
            grad_mixed = _product_gradient(into.mixed, copy, mixed, grad_h, weights.mixed, S.point, S.hidden, S)
            grad_mixed = grad_mixed / divisor[:, None]
            grad_code = ()
            for _ in tl.static_range(S.code // 16):
                grad_code = grad_code + (tl.full((16, S.point), 0.0, S.acc),)
            for k in range(S.neighbours):
                number, parts, layer, near = neighbour(
                    scene.cloud + entry * num_verts * 3, scene.numbers + slot * S.neighbours, scene.per_vertex,
                    weights.code, _clamped(x), _clamped(y), _clamped(z), there, k, S.neighbours, S.point, S.code,
                    S.octaves, S.turns, S.direction, S.square, S.reach, S.kind, S.acc,
                )  # fmt: skip
                grad_layer = tl.where(layer > 0, near[:, None] * grad_mixed, 0.0)
                at = number[:, None] * S.point + tl.arange(0, S.point)[None, :]
                tl.atomic_add(into.per_vertex + at, grad_layer, mask=there[:, None], sem="relaxed")
                more = ()
                for part in tl.static_range(S.code // 16):
                    more = more + (grad_code[part] + dot(tl.trans(parts[part]), grad_layer, S.kind, S.acc),)
                grad_code = more
            for part in tl.static_range(S.code // 16):
                at = (copy * (S.code // 16) + part) * 16 * S.point
                _add_matrix(into.code + at, 0, grad_code[part], 16, S.point)
    at = ray_lane[:, None] * S.colour + tl.arange(0, S.colour)[None, :]
    tl.store(into.ray + at, of_ray, mask=there_ray[:, None])
