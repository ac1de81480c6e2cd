"""A head's field on the CPU: the folded form (`folded.py`) in tiles of samples that stay in the cache.

Kernels of numba search, gather and sum; matrix products are oneDNN's. `HeadField` is the readable twin. Imported by
`gpavatar.render.volume_numba` only.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from gpavatar.field.folded import FoldedField, folded
from gpavatar.field.head_field import HeadField
from gpavatar.field.knn_numba import CloudIndex, NumbaIndex
from gpavatar.field.point_field import TINY, BoundPointField
from gpavatar.field.point_field_numba import code_scales, frequency_codes, mix_neighbours, near_offsets, to_directions
from gpavatar.field.radiance_numba import add_ray_and_relu, colours, densities
from gpavatar.field.twin import Precision, has_bfloat16
from gpavatar.triplane.lookup import AXES
from gpavatar.triplane.lookup_numba import sum_planes

TILE = 4096  # samples: what a layer reads and writes of them is about as large as a second-level cache
ROWS = 256  # what a layer is asked of comes in multiples of so many rows; see `rows_for`
NEAR_TILE = 512  # samples whose neighbours, K times as many rows, go through the point field together


class FusedField:
    """The field of one entry of a batch, to be asked at samples of known rays. Any number of threads may ask it."""

    def __init__(self, field: HeadField, entry: int, dirs: Tensor, precision: Precision):
        """`dirs` (batch ray 3): of all rays, whose numbers samples will name."""
        self.dtype = torch.bfloat16 if precision == "fast" and has_bfloat16(dirs.device) else torch.float32
        with torch.no_grad():
            weights = folded(field, dirs)
        shapes = [weights.plane]
        self._points = None
        if field.points is not None:
            self._points = ExpressionField(field.points, entry, self.dtype)
            if field.occupancy is None:
                self._points.index.prepare_cube()
            else:
                self._points.index.prepare(field.occupancy.places().numpy())
            shapes += [weights.mixed, *([weights.share[None]] if self._points.counts_shares else [])]
        self._first = Layer(torch.cat(shapes), _first_bias(weights, entry, self._points), self.dtype, relu=True)
        self._second = Layer(weights.hidden, weights.hidden_bias, self.dtype, relu=True)
        self._colour = Layer(weights.colour, None, self.dtype)
        self._out = Layer(weights.out, weights.out_bias, self.dtype)
        self._density = array(weights.density.contiguous()), np.float32(weights.density_bias.item())
        self._ray = array(weights.ray[entry].contiguous())
        config = field.radiance.config
        self._beta, self._widen, self.out_dim = np.float32(config.softplus_beta), config.widened_sigmoid, config.out_dim
        # No copy of planes that come with the channel as the fastest axis.
        self._planes = array(field.planes[entry].permute(0, 2, 3, 1).to(self.dtype).contiguous())
        self._columns, self._rows = (
            np.array([AXES.index(name[axis]) for name in field.plane_names]) for axis in (0, 1)
        )

    def look(self, points: np.ndarray, ray_of: np.ndarray, sigma: np.ndarray, feats: np.ndarray) -> None:
        """Write σ (sample) and features (sample channel; `array` of a tensor of `dtype`) at `points` (sample 3), each
        on the ray of the number in `ray_of`."""
        for first in range(0, len(points), TILE):
            tile = slice(first, first + TILE)
            self._look(points[tile], ray_of[tile], sigma[tile], feats[tile])

    def _look(self, points: np.ndarray, ray_of: np.ndarray, sigma: np.ndarray, feats: np.ndarray) -> None:
        channels, num = self._planes.shape[-1], len(points)
        gathered = rows_for(self._first, num)
        columns = array(gathered)[:num]
        sum_planes(self._planes, self._columns, self._rows, points, columns[:, :channels])
        if self._points is not None:
            # What is outside the cube is masked later and need not be searched for far away.
            inside, numbers = np.clip(points, -1, 1), np.empty((len(points), self._points.k), np.int32)
            self._points.index.query(inside, numbers)
            self._points.look(inside, numbers, columns[:, channels:])
        trunk = self._second(self._first(gathered))
        densities(array(trunk)[:num], points, *self._density, self._beta, sigma)
        colour = self._colour(trunk)
        add_ray_and_relu(array(colour)[:num], self._ray, ray_of)
        colours(array(self._out(colour))[:num], self._widen, feats)


class ExpressionField:
    """Eq. 1 without its second layer, around the cloud of one frame."""

    def __init__(self, points: BoundPointField, entry: int, dtype: torch.dtype):
        config, net = points.net.config, points.net
        self.index, self.k = _index(points, entry), config.num_neighbours
        self._per_vertex = array(points.per_vertex.contiguous())
        self._layer = Layer(net.first.weight[:, config.point_dim :].T, None, dtype)
        self._scales = code_scales(config.octaves, config.code_base)
        self._directions, self._inverse = config.code_of == "direction", config.weight == "inverse"
        self._reach = np.float32(config.max_distance**2)
        self.counts_shares = not math.isinf(config.max_distance)

    def look(self, points: np.ndarray, numbers: np.ndarray, mixed: np.ndarray) -> None:
        """Σ ŵ_i relu(u_i + W_γ γ(p_i − x)) into `mixed`, and Σ ŵ_i behind it where that may be 0; `numbers` (sample k)
        are the nearest points."""
        for first in range(0, len(points), NEAR_TILE):
            tile = slice(first, first + NEAR_TILE)
            self._look(points[tile], numbers[tile], mixed[tile])

    def _look(self, points: np.ndarray, numbers: np.ndarray, mixed: np.ndarray) -> None:
        shares, offsets = np.empty(numbers.shape, np.float32), np.empty((numbers.size, 3), np.float32)
        near_offsets(
            points, numbers, self.index.cloud, np.float32(TINY**2), self._inverse, self._reach, offsets, shares
        )
        if self._directions:
            to_directions(offsets)
        codes = rows_for(self._layer, numbers.size)
        frequency_codes(offsets, self._scales, array(codes))
        mix_neighbours(array(self._layer(codes)), self._per_vertex, numbers, shares, mixed)


class Layer:
    """x W + b, and a ReLU if asked, by oneDNN, whose products in float32 are twice as fast as those torch takes."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, relu: bool = False):
        self.in_dim, self.dtype = len(weight), dtype
        self._weight = weight.detach().T.to(dtype).contiguous()
        self._bias = None if bias is None else bias.detach().to(dtype)
        self._relu = relu

    def __call__(self, x: Tensor) -> Tensor:
        if torch.backends.mkldnn.is_available():
            activation = "relu" if self._relu else "none"
            return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, activation, [], None)
        found = functional.linear(x, self._weight, self._bias)
        return found.relu_() if self._relu else found


def rows_for(layer: Layer, num: int) -> Tensor:
    """A table for `layer` of at least so many rows, the last ones zero: each number of rows that oneDNN has not met
    lately costs it a compilation, which takes ten times as long as the product."""
    rows = torch.empty(-(-num // ROWS) * ROWS, layer.in_dim, dtype=layer.dtype)
    rows[num:] = 0
    return rows


def _first_bias(weights: FoldedField, entry: int, points: ExpressionField | None) -> Tensor:
    """Where the shares of the neighbours always sum to 1, their layer's bias is part of it."""
    constant = points is not None and not points.counts_shares
    return weights.bias[entry] + weights.share if constant else weights.bias[entry]


def _index(points: BoundPointField, entry: int) -> CloudIndex:
    if isinstance(points.index, NumbaIndex):
        return points.index.clouds[entry]
    return CloudIndex(points.cloud[entry].detach().contiguous().numpy(), points.net.config.num_neighbours)


def array(tensor: Tensor) -> np.ndarray:
    """The memory of a tensor as kernels take it: bfloat16 as uint16."""
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()
