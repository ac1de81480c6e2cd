"""Whether a style could have come from the mapping network: keeps E_latent where the generators know people
(Nitzan et al. 2020; Tov et al. 2021; InvertAvatar supplementary 6.2.1)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gpavatar.synthesis.equalised import unit_normal
from gpavatar.synthesis.style_layers import leaky

DEPTH = 4


class LatentDiscriminator(nn.Module):
    """An MLP over single styles."""

    def __init__(self, style_dim: int):
        super().__init__()
        self.layers = nn.ModuleList(unit_normal(nn.Linear(style_dim, style_dim)) for _ in range(DEPTH - 1))
        self.out = unit_normal(nn.Linear(style_dim, 1))

    def forward(self, styles: Float[Tensor, "batch style"]) -> Float[Tensor, " batch"]:
        """Logits: positive for what looks as if mapped."""
        for layer in self.layers:
            styles = leaky(layer(styles)) * 2**0.5
        return self.out(styles)[:, 0]


class StylePool(nn.Module):
    """Styles of some steps ago: half of what comes in is given back as it is, half is exchanged for older ones, so
    that the discriminator does not forget what it has seen through (Shrivastava et al. 2017).

    Its content is part of a checkpoint.
    """

    def __init__(self, style_dim: int, size: int):
        super().__init__()
        self.size = size
        self.register_buffer("styles", torch.zeros(size + 1, style_dim))  # the last row takes what is not kept
        self.register_buffer("filled", torch.tensor(0))

    @torch.no_grad()
    def exchange(self, styles: Float[Tensor, "batch style"]) -> Float[Tensor, "batch style"]:
        """As many as come in; random numbers are torch's own. Nothing waits for the device."""
        count, device = len(styles), styles.device
        places = self.filled + torch.arange(count, device=device)
        room = places < self.size
        exchanged = ~room & (torch.rand(count, device=device) < 0.5)
        places = torch.where(room, places, torch.randint(self.size, (count,), device=device))
        given = torch.where(exchanged[:, None], self.styles[places], styles)
        self.styles[torch.where(room | exchanged, places, self.size)] = styles
        self.filled.add_(count).clamp_(max=self.size)
        return given
