"""Hierarchical volume rendering of a field: rays in, features, opacity and depth per ray out (GPAvatar section 3.4)."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from gpavatar.field.head_field import HeadField
from gpavatar.field.radiance import FieldSamples
from gpavatar.field.twin import Precision, Twin, choose_twin
from gpavatar.render.composite import accumulate, ray_weights
from gpavatar.render.rays import PixelGrid, Rays
from gpavatar.render.sampling import (
    even_edges,
    intervals_around,
    jittered,
    midpoints,
    sample_pdf,
    sample_released,
)


@runtime_checkable
class Field(Protocol):
    """Density and features at any point, seen from any direction."""

    def over_pass(self, points: Float[Tensor, "batch sample 3"]) -> Field:
        """The field for a pass over these points. A field is a function of the point alone, and returns itself; only
        the released weighting of GPAvatar's neighbours lets the points of a pass influence each other."""

    def __call__(
        self, points: Float[Tensor, "batch sample 3"], dirs: Float[Tensor, "batch sample 3"]
    ) -> FieldSamples: ...


CHUNK_CPU, CHUNK_GPU = 2**13, 2**18  # samples; on a CPU what fits its cache: 1.7 times as fast as 2**17


@dataclass(frozen=True)
class VolumeConfig:
    """How a field is looked at."""

    size_px: int = 128
    num_coarse: int = 32
    num_fine: int = 32
    step_length: bool = True
    """τ = σ δ. False: τ = σ whatever the distance between samples, as in the released code."""
    importance: Literal["pdf", "released"] = "pdf"
    """How the coarse weights decide where the fine samples lie; see `sample_pdf` and `sample_released`."""
    pixel_grid: PixelGrid = "centres"
    """Where in the picture a pixel looks; the released code puts the outermost ones on its edge ("corners")."""
    max_samples: int = 0
    """The field is asked for at most so many samples at once (per batch entry) when no gradient is needed; 0: as many
    as suit the device."""


@dataclass(frozen=True)
class RayOutput:
    """What one pass found along each ray."""

    feats: Float[Tensor, "batch ray channel"]  # on black
    opacity: Float[Tensor, "batch ray"]  # [0, 1]
    depth: Float[Tensor, "batch ray"]  # Σ w t / Σ w in head units; `far` where nothing was met
    alpha: Float[Tensor, "batch ray sample"]  # [0, 1], of each sample by itself; what Eq. 4 keeps low


@dataclass(frozen=True)
class VolumeOutput:
    """Both passes; the fine one has all samples."""

    coarse: RayOutput
    fine: RayOutput


@dataclass(frozen=True)
class _Pass:
    t: Float[Tensor, "batch ray sample"]
    samples: FieldSamples  # flat: ray * sample


def render_volume(
    field: Field,
    rays: Rays,
    config: VolumeConfig,
    *,
    jitter: bool = False,
    rng: torch.Generator | None = None,
    precision: Precision = "reference",
) -> VolumeOutput:
    """Two passes over every ray: evenly spaced samples, then as many where these have weight; the second composite
    takes all of them, sorted. `jitter` spreads samples at random within their intervals (training).

    `precision` other than "reference" asks for the fused twin, for fields that have one (`HeadField`).
    """
    if isinstance(field, HeadField) and not field.depends_on_pass:
        twin = choose_twin(precision, rays.near.device, torch.is_grad_enabled())
        if twin != "torch":
            return _fused(twin)(field, rays, config, jitter=jitter, rng=rng, precision=precision)
    edges = even_edges(rays.near, rays.far, config.num_coarse)
    t_coarse = jittered(edges, rng) if jitter else midpoints(edges)
    coarse = _look(field, rays, t_coarse, config)
    coarse_out, weights = _composite(coarse, rays, config)
    if config.importance == "pdf":
        t_fine = sample_pdf(edges, weights, config.num_fine, jitter=jitter, rng=rng)
    else:
        t_fine = sample_released(t_coarse, weights, config.num_fine, jitter=jitter, rng=rng)
    fine_out, _ = _composite(_merged(coarse, _look(field, rays, t_fine, config)), rays, config)
    return VolumeOutput(coarse_out, fine_out)


def _fused(twin: Twin) -> Callable[..., VolumeOutput]:
    """`render_volume` by another name; imported when asked for, since numba and triton are optional."""
    return importlib.import_module(f"gpavatar.render.volume_{twin}").render_volume


def _look(field: Field, rays: Rays, t: Float[Tensor, "batch ray sample"], config: VolumeConfig) -> _Pass:
    """Ask the field at every sample, in pieces where that saves memory."""
    points = rays.at(t)
    dirs = rays.dirs[..., None, :].expand_as(points).flatten(1, 2)
    points = points.flatten(1, 2)
    field = field.over_pass(points)
    chunk = config.max_samples or (CHUNK_CPU if t.device.type == "cpu" else CHUNK_GPU)
    if torch.is_grad_enabled() or points.shape[1] <= chunk:
        return _Pass(t, field(points, dirs))
    pieces = zip(points.split(chunk, 1), dirs.split(chunk, 1), strict=True)
    found = [field(*piece) for piece in pieces]
    sigma, feats = torch.cat([one.sigma for one in found], 1), torch.cat([one.feats for one in found], 1)
    return _Pass(t, FieldSamples(sigma, feats))


def _merged(first: _Pass, second: _Pass) -> _Pass:
    """The samples of both passes, sorted along each ray."""
    t, order = torch.cat([first.t, second.t], -1).sort(-1)

    def merged(one: Tensor, other: Tensor) -> Tensor:
        shapes = (*first.t.shape, -1), (*second.t.shape, -1)
        both = torch.cat([one.reshape(shapes[0]), other.reshape(shapes[1])], 2)
        return both.gather(2, order[..., None].expand(-1, -1, -1, both.shape[-1])).flatten(1, 2)

    sigma = merged(first.samples.sigma, second.samples.sigma)[..., 0]
    return _Pass(t, FieldSamples(sigma, merged(first.samples.feats, second.samples.feats)))


def _composite(seen: _Pass, rays: Rays, config: VolumeConfig) -> tuple[RayOutput, Float[Tensor, "batch ray sample"]]:
    t, sigma = seen.t, seen.samples.sigma.reshape(seen.t.shape)
    length = intervals_around(t, rays.near, rays.far).diff(dim=-1) if config.step_length else rays.hit[..., None]
    thickness = sigma * length
    weights = ray_weights(thickness)
    opacity = weights.sum(-1)
    feats = accumulate(weights, seen.samples.feats.reshape(*t.shape, -1))
    depth = ((weights * t).sum(-1) + rays.far * 1e-6) / (opacity + 1e-6)
    return RayOutput(feats, opacity, depth, -torch.expm1(-thickness)), weights
