"""`gpavatar.render.volume.render_volume` for a head's field, fused, with its gradient.

Two passes of `pass_triton.py`: the coarse samples, then all samples, of which the coarse ones are computed again rather
than kept. What is between (where the fine samples lie, neighbours) are a few small tensors. The host never waits for
the device and all sizes are known beforehand, so that the whole can be captured as a CUDA graph.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gpavatar.field.folded import FoldedField, folded
from gpavatar.field.head_field import HeadField
from gpavatar.field.knn import NearestIndex
from gpavatar.field.knn_triton import TritonIndex
from gpavatar.field.twin import Precision
from gpavatar.render import volume
from gpavatar.render.composite import ray_weights
from gpavatar.render.pass_triton import Place, draw_pass
from gpavatar.render.rays import Rays
from gpavatar.render.sampling import even_edges, intervals_around, jittered, midpoints, sample_pdf, sample_released

STOP = 1e-4  # light that may be lost in "fast" drawing without gradient


def render_volume(
    field: HeadField,
    rays: Rays,
    config: volume.VolumeConfig,
    *,
    jitter: bool = False,
    rng: torch.Generator | None = None,
    precision: Precision = "exact",
) -> volume.VolumeOutput:
    """See `gpavatar.render.volume.render_volume`. "exact": float32 throughout; "fast": products of bfloat16, summed in
    float32.

    Gradients reach planes, vertices' features and all weights of the field. Those of cameras and vertices' places are
    the reference's, which is taken when one is asked for.
    """
    moving = (rays.origins, rays.dirs, rays.near, rays.far, *([] if field.points is None else [field.points.cloud]))
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in moving):
        return volume.render_volume(field, rays, config, jitter=jitter, rng=rng, precision="reference")
    weights, fast = folded(field, rays.dirs), precision == "fast"
    edges = even_edges(rays.near, rays.far, config.num_coarse)
    t = jittered(edges, rng) if jitter else midpoints(edges)
    coarse, seen = _look(field, weights, rays, t, config, fast)
    if config.importance == "pdf":
        more = sample_pdf(edges, seen, config.num_fine, jitter=jitter, rng=rng)
    else:
        more = sample_released(t, seen, config.num_fine, jitter=jitter, rng=rng)
    fine, _ = _look(field, weights, rays, torch.cat([t, more], -1).sort(-1).values, config, fast)
    return volume.VolumeOutput(coarse, fine)


def _look(
    field: HeadField,
    weights: FoldedField,
    rays: Rays,
    t: Float[Tensor, "batch ray sample"],
    config: volume.VolumeConfig,
    fast: bool,
) -> tuple[volume.RayOutput, Float[Tensor, "batch ray sample"]]:
    """One pass over these samples, sorted along each ray; and what each of them weighs."""
    if config.step_length:
        length = intervals_around(t, rays.near, rays.far).diff(dim=-1)
    else:
        length = rays.hit[..., None].expand_as(t).to(t.dtype)
    numbers = None
    if field.points is not None:
        numbers = _numbers(field.points.index, rays.at(t).flatten(1, 2).clamp(-1, 1))
    stop = STOP if fast and not torch.is_grad_enabled() else -1.0
    drawn = draw_pass(field, weights, Place(rays, t, length, numbers), fast, stop)
    out = volume.RayOutput(drawn.feats, drawn.opacity, drawn.depth, -torch.expm1(-drawn.thickness))
    return out, ray_weights(drawn.thickness.detach())


def _numbers(index: NearestIndex, points: Float[Tensor, "batch sample 3"]) -> Int[Tensor, "batch sample k"]:
    """The neighbours of each sample, as int32."""
    return index.numbers(points) if isinstance(index, TritonIndex) else index.query(points).int()
