"""The Point-based Expression Field: what the head's moving vertices say of any place (GPAvatar section 3.2).

    f_exp(x) = Σ_i w_i / Σ_j w_j · L_p(f_i, γ(p_i − x)),    w_i = 1 / |p_i − x|          (Eq. 1)

over the K vertices p_i nearest to x in the whole space; f_i is a learnable feature of each vertex, γ a frequency code,
L_p two linear layers with a ReLU between. `PointField` computes this with less work, since the sum over neighbours and
the second layer commute:

    u_i = W_f f_i + b_1                                once per vertex
    h_i = relu(u_i + W_γ γ(p_i − x))                   per neighbour
    f_exp = W_2 Σ ŵ_i h_i + b_2 Σ ŵ_i                  once per sample, ŵ_i = w_i / Σ w_j

`literal_point_field` is the slow twin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as functional
from jaxtyping import Float, Int
from torch import Tensor, nn

from gpavatar.field.frequency import code_width, frequency_code
from gpavatar.field.knn import Backend, NearestIndex, nearest_index

TINY = 1e-6  # head units (0.2 µm): |p − x| is taken as √(|p − x|² + TINY²), so that a sample on a vertex has a weight


@dataclass(frozen=True)
class PointFieldConfig:
    """The size of the field, the ablations of the paper's Table 3, and what the released code does otherwise."""

    point_dim: int = 32
    hidden_dim: int = 64
    out_dim: int = 32
    num_neighbours: int = 8
    """K. Ablation "query 4 points"."""
    num_points: int = 0
    """The field uses this many vertices, drawn once at random; 0: all. Ablation "point cloud 2000"."""
    max_distance: float = math.inf
    """Neighbours farther than this (head units) have no say. Ablation "w/o global sample": 1/128."""
    octaves: int = 6
    code_of: Literal["offset", "direction"] = "offset"
    """γ of p − x, or (released) of the unit vector of x − p."""
    code_base: float = math.pi
    """γ's lowest frequency; released: 1."""
    weight: Literal["inverse", "inverse_square"] = "inverse"
    """w = 1/d, or (released) 1/d²."""
    normalised_over: Literal["neighbours", "pass"] = "neighbours"
    """Σ_j runs over the K neighbours of a sample, or (released) over all samples of a pass, for each rank of
    neighbour by itself: then the field depends on which rays are rendered together."""
    backend: Backend = "auto"


class PointField(nn.Module):
    """Eq. 1 for the vertices of one head; see the head of this file."""

    def __init__(self, num_verts: int, config: PointFieldConfig | None = None):
        super().__init__()
        self.config = config = config or PointFieldConfig()
        drawn = None
        if config.num_points:
            rng = torch.Generator("cpu").manual_seed(0)
            drawn = torch.randperm(num_verts, generator=rng, device="cpu")[: config.num_points]
        self.register_buffer("used", drawn)
        self.features = nn.Parameter(torch.randn(config.num_points or num_verts, config.point_dim))
        self.code_dim = code_width(3, config.octaves)
        self.first = nn.Linear(config.point_dim + self.code_dim, config.hidden_dim)
        self.second = nn.Linear(config.hidden_dim, config.out_dim)

    def forward(self, verts: Float[Tensor, "batch vert 3"], num_queries: int = 2**20) -> BoundPointField:
        """The field of one frame per batch entry, given where the head's vertices are.

        `num_queries` says how many points each will be asked for, roughly; it decides how neighbours are found.
        """
        cloud = self.cloud(verts)
        index = nearest_index(cloud, self.config.num_neighbours, self.config.backend, num_queries)
        from_feature = self.first.weight[:, : self.config.point_dim]
        return BoundPointField(self, cloud, index, functional.linear(self.features, from_feature, self.first.bias))

    def cloud(self, verts: Float[Tensor, "batch vert 3"]) -> Float[Tensor, "batch point 3"]:
        """The vertices that the field uses."""
        return verts if self.used is None else verts[:, self.used]


@dataclass(frozen=True)
class BoundPointField:
    """The field around one cloud per batch entry."""

    net: PointField
    cloud: Float[Tensor, "batch vert 3"]
    index: NearestIndex
    per_vertex: Float[Tensor, "vert hidden"]  # u
    pass_total: Float[Tensor, "batch 1 k"] | None = None  # Σ w over all samples of the pass

    def over_pass(self, points: Float[Tensor, "batch sample 3"], piece: int = 2**15) -> BoundPointField:
        """For the released normalisation: the field with the weights of all samples of a pass summed up."""
        if self.net.config.normalised_over == "neighbours":
            return self
        totals = [self.near(part).weights.sum(1, keepdim=True) for part in points.split(piece, 1)]
        return replace(self, pass_total=torch.stack(totals).sum(0))

    def __call__(self, points: Float[Tensor, "batch sample 3"]) -> Float[Tensor, "batch sample out"]:
        """f_exp at each point."""
        return self.of(self.near(points))

    def of(self, near: Neighbours) -> Float[Tensor, "batch sample out"]:
        """f_exp at points whose neighbours are known."""
        net, config = self.net, self.net.config
        total = near.weights.sum(-1, keepdim=True) if self.pass_total is None else self.pass_total
        weights = near.weights / total.clamp_min(torch.finfo(near.weights.dtype).tiny)
        vector = near.offsets if config.code_of == "offset" else functional.normalize(-near.offsets, dim=-1)
        code = frequency_code(vector, config.octaves, config.code_base)
        from_code = net.first.weight[:, config.point_dim :]
        hidden = functional.embedding(near.numbers, self.per_vertex) + functional.linear(code, from_code)
        hidden = functional.relu(hidden)
        mixed = (weights.to(hidden.dtype)[..., None, :] @ hidden)[..., 0, :]
        bias = weights.sum(-1, keepdim=True).to(hidden.dtype) * net.second.bias
        return functional.linear(mixed, net.second.weight) + bias

    def near(self, points: Float[Tensor, "batch sample 3"]) -> Neighbours:
        """The K nearest points of the cloud."""
        config = self.net.config
        numbers = self.index.query(points)
        offsets = _gather(self.cloud, numbers) - points[..., None, :]
        squared = offsets.square().sum(-1) + TINY**2
        weights = squared.rsqrt() if config.weight == "inverse" else squared.reciprocal()
        if not math.isinf(config.max_distance):
            weights = weights * (squared <= config.max_distance**2)
        return Neighbours(numbers, offsets, weights)


@dataclass(frozen=True)
class Neighbours:
    """The K neighbours of each sample."""

    numbers: Int[Tensor, "batch sample k"]
    offsets: Float[Tensor, "batch sample k 3"]  # p_i − x
    weights: Float[Tensor, "batch sample k"]  # w_i, not normalised


def literal_point_field(
    net: PointField, verts: Float[Tensor, "batch vert 3"], points: Float[Tensor, "batch sample 3"]
) -> Float[Tensor, "batch sample out"]:
    """Eq. 1 as it is written: both layers on each of the K (feature, code) pairs, then the weighted mean."""
    config, cloud = net.config, net.cloud(verts)
    distance = torch.cdist(points, cloud, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distance.topk(config.num_neighbours, largest=False).indices
    offset = _gather(cloud, nearest) - points[..., None, :]
    pair = torch.cat([net.features[nearest], frequency_code(offset, config.octaves, config.code_base)], -1)
    answers = net.second(functional.relu(net.first(pair)))
    weights = 1 / offset.norm(dim=-1)
    return (weights[..., None] * answers).sum(-2) / weights.sum(-1, keepdim=True)


def _gather(
    values: Float[Tensor, "batch vert axis"], index: Int[Tensor, "batch sample k"]
) -> Float[Tensor, "batch sample k axis"]:
    """values[b, index[b, s, k]]."""
    flat = index.flatten(1)[..., None].expand(-1, -1, values.shape[-1])
    return values.gather(1, flat).unflatten(1, index.shape[1:])
