"""`render_volume` on the CPU: rays in tiles, each drawn from its first sample to its last in one thread's cache.

Rays that miss the cube cost nothing, nor do samples where nobody can be (`HeadField.occupancy`) or behind what is
opaque; their alpha is 0. Samples keep their places whether or not others are left out. Imported by `volume.py` only.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch

from gpavatar.bands import in_pieces
from gpavatar.field.head_field import HeadField
from gpavatar.field.head_field_numba import FusedField, array
from gpavatar.field.twin import Precision
from gpavatar.render import rays_numba as kernels
from gpavatar.render.rays import Rays
from gpavatar.render.volume import RayOutput, VolumeConfig, VolumeOutput

STOP = {"exact": 1e-6, "fast": 1e-3}  # light that may be lost behind what is opaque
SLABS = 4  # in which the coarse samples of a ray are looked at, front to back
BLOCK_PX = 16  # a tile of rays is a square of pixels, since these look at the same places


def render_volume(
    field: HeadField,
    rays: Rays,
    config: VolumeConfig,
    *,
    jitter: bool = False,
    rng: torch.Generator | None = None,
    precision: Precision = "exact",
) -> VolumeOutput:
    """See `gpavatar.render.volume.render_volume`; no gradients."""
    batch, num = rays.near.shape
    out_dim, both = field.radiance.config.out_dim, config.num_coarse + config.num_fine
    coarse, fine = _empty(batch, num, out_dim, config.num_coarse), _empty(batch, num, out_dim, both)
    shares = []  # where in its interval each sample lies
    for count in (config.num_coarse, config.num_fine):
        middles = torch.full((batch, 1, count), 0.5).expand(-1, num, -1)
        shares.append(torch.rand(batch, num, count, generator=rng) if jitter else middles)
    for entry in range(batch):
        draw = _Draw(
            FusedField(field, entry, rays.dirs, precision),
            config,
            None if field.occupancy is None else field.occupancy.filled.numpy(),
            -math.log(STOP[precision]),
            *(getattr(rays, name)[entry].float().contiguous().numpy() for name in ("origins", "dirs", "near", "far")),
            *(share[entry].numpy() for share in shares),
            *(_Views(*(getattr(out, name)[entry].numpy() for name in _VIEWS)) for out in (coarse, fine)),
        )
        order = pixel_blocks(num)
        order = order[rays.hit[entry].numpy()[order]]
        in_pieces(len(order), BLOCK_PX**2, lambda first, end, draw=draw, order=order: draw.tile(order[first:end]))
    return VolumeOutput(coarse, fine)


_VIEWS = ("feats", "opacity", "depth", "alpha")


@dataclass(frozen=True)
class _Views:
    """The memory of a `RayOutput`, of one entry of the batch."""

    feats: np.ndarray
    opacity: np.ndarray
    depth: np.ndarray
    alpha: np.ndarray


@dataclass(frozen=True)
class _Draw:
    """One entry of a batch, being drawn."""

    field: FusedField
    config: VolumeConfig
    filled: np.ndarray | None
    opaque: float  # optical thickness behind which nobody looks
    origins: np.ndarray
    dirs: np.ndarray
    near: np.ndarray
    far: np.ndarray
    coarse_shares: np.ndarray
    fine_shares: np.ndarray
    coarse: _Views
    fine: _Views

    def tile(self, rays: np.ndarray) -> None:
        """Draw the rays of these numbers, from first to last."""
        config, near, far = self.config, self.near[rays], self.far[rays]
        num, both = config.num_coarse, config.num_coarse + config.num_fine
        sigma = np.zeros((len(rays), both), np.float32)
        feats = array(torch.zeros(len(rays), both, self.field.out_dim, dtype=self.field.dtype))
        t = np.empty((len(rays), num), np.float32)
        kernels.even_samples(near, far, self.coarse_shares[rays], t)
        end = self._coarse(rays, t, sigma[:, :num], feats[:, :num])

        alpha, t_fine = np.empty_like(t), np.empty((len(rays), config.num_fine), np.float32)
        released, shares = config.importance == "released", self.fine_shares[rays]
        kernels.fine_samples(t, sigma, near, far, config.step_length, released, shares, alpha, t_fine)
        self._look(rays, t_fine, t_fine <= end[:, None], sigma[:, num:], feats[:, num:])
        t_all, order = np.empty(sigma.shape, np.float32), np.empty(sigma.shape, np.int64)
        kernels.merge(t, t_fine, order, t_all)
        # Among more samples each stands for less of the ray: what was opaque may let light through after all.
        before = kernels.thickness_before(t_all, order, sigma, rays, self.near, self.far, config.step_length, end)
        through = (np.isfinite(end) & (before <= self.opaque))[:, None]
        if through.any():
            self._look(rays, t, (t > end[:, None]) & through, sigma[:, :num], feats[:, :num])
            self._look(rays, t_fine, (t_fine > end[:, None]) & through, sigma[:, num:], feats[:, num:])

        as_looked_at = np.broadcast_to(np.arange(num), t.shape)
        self._composite(rays, t, as_looked_at, sigma, feats, self.coarse)
        self._composite(rays, t_all, order, sigma, feats, self.fine)

    def _coarse(self, rays: np.ndarray, t: np.ndarray, sigma: np.ndarray, feats: np.ndarray) -> np.ndarray:
        """Look at the coarse samples; where each ray ends, at something opaque if not at infinity."""
        num = t.shape[1]
        step = (self.far[rays] - self.near[rays]) / num if self.config.step_length else np.ones(len(rays), np.float32)
        end = np.full(len(rays), np.inf, np.float32)
        limits = [num * slab // SLABS for slab in range(SLABS + 1)]
        for first, last in itertools.pairwise(limits):
            slab = slice(first, last)
            lit = np.broadcast_to(np.isinf(end)[:, None], t[:, slab].shape)
            self._look(rays, t[:, slab], lit, sigma[:, slab], feats[:, slab])
            thickness = sigma[:, :last].sum(1) * step
            end = np.where(np.isinf(end) & (thickness > self.opaque), t[:, last - 1], end)
        return end

    def _look(self, rays: np.ndarray, t: np.ndarray, wanted: np.ndarray, sigma: np.ndarray, feats: np.ndarray) -> None:
        """Write σ and features of the wanted samples (ray sample) where somebody can be; others stay as they are."""
        rows, columns = np.nonzero(wanted)
        points, ray_of = np.empty((len(rows), 3), np.float32), rays[rows]
        kernels.places(self.origins, self.dirs, t[rows, columns], ray_of, points)
        if self.filled is not None:
            there = kernels.occupied(points, self.filled)
            rows, columns, points, ray_of = rows[there], columns[there], points[there], ray_of[there]
        found = array(torch.empty(len(rows), self.field.out_dim, dtype=self.field.dtype))
        dense = np.empty(len(rows), np.float32)
        self.field.look(points, ray_of, dense, found)
        sigma[rows, columns], feats[rows, columns] = dense, found

    def _composite(
        self, rays: np.ndarray, t: np.ndarray, order: np.ndarray, sigma: np.ndarray, feats: np.ndarray, out: _Views
    ) -> None:
        kernels.composite(
            t, order, sigma, feats, rays, self.near, self.far, self.config.step_length,
            out.feats, out.opacity, out.depth, out.alpha,
        )  # fmt: skip


def _empty(batch: int, num: int, out_dim: int, samples: int) -> RayOutput:
    """What a ray that misses the cube finds."""
    shapes = ((batch, num, out_dim), (batch, num), (batch, num), (batch, num, samples))
    return RayOutput(*(torch.from_numpy(np.zeros(shape, np.float32)) for shape in shapes))


def pixel_blocks(num: int) -> np.ndarray:
    """The numbers of the rays of a square picture, one square of `BLOCK_PX` pixels after the other; of other rays, as
    they come."""
    side = math.isqrt(num)
    if side * side != num or side % BLOCK_PX:
        return np.arange(num)
    blocks = np.arange(num).reshape(side // BLOCK_PX, BLOCK_PX, side // BLOCK_PX, BLOCK_PX)
    return np.ascontiguousarray(blocks.swapaxes(1, 2)).reshape(-1)
