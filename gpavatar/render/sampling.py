"""Where to look along a ray: evenly first, then where the first look found something (GPAvatar section 3.4).

`edges` are the ends of the intervals of a ray, one more than there are samples.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

PDF_FLOOR = 1e-5  # added to every weight, so that an empty ray is sampled evenly


def even_edges(
    near: Float[Tensor, "batch ray"], far: Float[Tensor, "batch ray"], num: int
) -> Float[Tensor, "batch ray edge"]:
    """The ends of `num` intervals of equal length between near and far."""
    steps = torch.linspace(0, 1, num + 1, dtype=near.dtype, device=near.device)
    return near[..., None] + (far - near)[..., None] * steps


def midpoints(edges: Float[Tensor, "*batch edge"]) -> Float[Tensor, "*batch edge-1"]:
    """The middle of each interval."""
    return (edges[..., 1:] + edges[..., :-1]) / 2


def jittered(edges: Float[Tensor, "batch ray edge"], rng: torch.Generator | None) -> Float[Tensor, "batch ray sample"]:
    """One sample per interval, uniform in it: the stratified sampling of NeRF (Mildenhall et al. 2020, Eq. 2)."""
    low, high = edges[..., :-1], edges[..., 1:]
    return low + (high - low) * _uniform(low, rng)


def intervals_around(
    t: Float[Tensor, "batch ray sample"], near: Float[Tensor, "batch ray"], far: Float[Tensor, "batch ray"]
) -> Float[Tensor, "batch ray edge"]:
    """Intervals whose ends are half-way between sorted samples; they fill [near, far] without gap or overlap."""
    return torch.cat([near[..., None], midpoints(t), far[..., None]], -1)


def sample_pdf(
    edges: Float[Tensor, "batch ray edge"],
    weights: Float[Tensor, "batch ray sample"],
    num: int,
    *,
    jitter: bool = False,
    rng: torch.Generator | None = None,
) -> Float[Tensor, "batch ray fine"]:
    """Sorted samples of the density that is constant in each interval and proportional to its weight: t = cdf⁻¹(u).

    u are the middles of `num` equal parts of [0, 1]; with `jitter` uniform in each part. Not differentiable.
    Source: NeRF, section 5.2.
    """
    pdf = weights.detach() + PDF_FLOOR
    cdf = (pdf / pdf.sum(-1, keepdim=True)).cumsum(-1)
    cdf = torch.cat([torch.zeros_like(cdf[..., :1]), cdf[..., :-1], torch.ones_like(cdf[..., :1])], -1)
    u = torch.arange(num, dtype=cdf.dtype, device=cdf.device).expand(*cdf.shape[:-1], num)
    u = (u + (_uniform(u, rng) if jitter else 0.5)) / num
    return _invert(cdf, edges.detach(), u)


def sample_released(
    t: Float[Tensor, "batch ray sample"],
    weights: Float[Tensor, "batch ray sample"],
    num: int,
    *,
    jitter: bool = False,
    rng: torch.Generator | None = None,
) -> Float[Tensor, "batch ray fine"]:
    """The importance sampling of the authors' released code, which differs from `sample_pdf` in three ways.

    The coarse samples themselves serve as the interval ends; the cdf has no leading zero, so that the first weight is
    never drawn from; and what is returned are the middles of intervals around the draws (n + 1 ends: half-way between
    neighbours, the outer two half a step out, none outside the coarse samples).
    """
    pdf = weights.detach() + PDF_FLOOR
    cdf = (pdf / pdf.sum(-1, keepdim=True)).cumsum(-1)
    t = t.detach()
    steps = torch.arange(num, dtype=cdf.dtype, device=cdf.device).expand(*cdf.shape[:-1], num)
    steps = (steps + (_uniform(steps, rng) if jitter else 0.5)) / num
    drawn = _invert(cdf, t, cdf[..., :1] + steps * (cdf[..., -1:] - cdf[..., :1]))
    middle = midpoints(drawn)
    first = drawn[..., :1] - (drawn[..., 1:2] - drawn[..., :1]) / 2
    last = drawn[..., -1:] + (drawn[..., -1:] - drawn[..., -2:-1]) / 2
    edges = torch.cat([first, middle, last], -1)
    return midpoints(torch.minimum(torch.maximum(edges, t[..., :1]), t[..., -1:]))


def _invert(
    cdf: Float[Tensor, "batch ray edge"], edges: Float[Tensor, "batch ray edge"], u: Float[Tensor, "batch ray fine"]
) -> Float[Tensor, "batch ray fine"]:
    """The place at which the piecewise linear cdf reaches u."""
    inner = cdf[..., :-1].contiguous()
    right = torch.searchsorted(inner, u.contiguous(), right=True).clamp(1, cdf.shape[-1] - 1)
    left = right - 1
    low, high = cdf.gather(-1, left), cdf.gather(-1, right)
    start, end = edges.gather(-1, left), edges.gather(-1, right)
    share = torch.where(high > low, (u - low) / (high - low), 0.5)
    return start + share.clamp(0, 1) * (end - start)


def _uniform(like: Tensor, rng: torch.Generator | None) -> Tensor:
    return torch.rand(like.shape, dtype=like.dtype, device=like.device, generator=rng)
