"""Varied pictures for the discriminator, with a probability that may follow its confidence (Karras et al. 2020b)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor, nn

from gpavatar.training.prior_config import VariationConfig

GREY = (0.299, 0.587, 0.114)


class Variation(nn.Module):
    """Moves, scales, turns and recolours stacked pictures. `probability` is part of the training's state."""

    def __init__(self, config: VariationConfig):
        super().__init__()
        self.config = config
        start = {"none": 0.0, "fixed": config.probability, "adaptive": 0.0}[config.mode]
        self.register_buffer("probability", torch.tensor(start))

    def forward(
        self, stacked: Float[Tensor, "batch channel size size"], num_colours: int = 2
    ) -> Float[Tensor, "batch channel size size"]:
        """`stacked`: in [-1, 1], the first `num_colours` groups of three channels are colours, the others only move.

        Every picture's parts move together. Differentiable; what comes in from outside is the edge repeated.
        """
        if self.config.mode == "none":
            return stacked
        moved = functional.grid_sample(stacked, self._grid(stacked), padding_mode="border", align_corners=False)
        colours, rest = moved.split([3 * num_colours, moved.shape[1] - 3 * num_colours], 1)
        matrix, shift = self._colour(len(stacked), stacked.device)
        groups = colours.unflatten(1, (num_colours, 3))
        recoloured = torch.einsum("bij,bgjhw->bgihw", matrix, groups) + shift[:, None, None, None, None]
        return torch.cat([recoloured.flatten(1, 2), rest], 1)

    @torch.no_grad()
    def follow(self, real: Float[Tensor, " batch"]) -> None:
        """Adaptive: more where the discriminator is too sure of the real pictures, less where it is not."""
        if self.config.mode == "adaptive":
            step = torch.sign(real.sign().mean() - self.config.target) * len(real) / self.config.speed_images
            self.probability.add_(step).clamp_(0, 1)

    def _grid(self, stacked: Float[Tensor, "batch channel size size"]) -> Float[Tensor, "batch size size 2"]:
        config, batch, device = self.config, len(stacked), stacked.device
        angle = self._chosen(math.radians(config.turn_deg) * _uniform(batch, device))
        scale = torch.exp2(self._chosen(config.log_scale * torch.randn(batch, device=device)))
        shift = torch.stack([self._chosen(2 * config.shift * _uniform(batch, device)) for _ in range(2)], -1)
        cosine, sine = angle.cos() / scale, angle.sin() / scale
        rotation = torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], 1)
        return functional.affine_grid(torch.cat([rotation, shift[..., None]], 2), stacked.shape, align_corners=False)

    def _colour(self, batch: int, device: torch.device) -> tuple[Float[Tensor, "batch 3 3"], Float[Tensor, " batch"]]:
        config = self.config
        brightness = self._chosen(config.brightness * torch.randn(batch, device=device))
        contrast = torch.exp2(self._chosen(config.log_contrast * torch.randn(batch, device=device)))
        saturation = torch.exp2(self._chosen(config.log_saturation * torch.randn(batch, device=device)))
        eye, grey = torch.eye(3, device=device), torch.tensor(GREY, device=device).expand(3, 3)
        matrix = grey + saturation[:, None, None] * (eye - grey)
        return contrast[:, None, None] * matrix, brightness

    def _chosen(self, values: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """With the probability the value, else 0: nothing happens."""
        return values * (torch.rand_like(values) < self.probability)


def _uniform(batch: int, device: torch.device) -> Float[Tensor, " batch"]:
    return torch.rand(batch, device=device) * 2 - 1
