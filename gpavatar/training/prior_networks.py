"""What the prior's training averages and exports: the generators and, where they are an auto-encoder, E_latent."""

from __future__ import annotations

import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor, nn

from gpavatar.avatars.animatable_prior import AnimatablePrior
from gpavatar.avatars.inversion_encoders import LatentEncoder
from gpavatar.avatars.invertavatar import InvertAvatarConfig


class PriorNetworks(nn.Module):
    """`latent` is None where people come from chance."""

    def __init__(self, config: InvertAvatarConfig, with_latent: bool):
        super().__init__()
        self.prior, self.latent, self.latent_px = AnimatablePrior(config.prior), None, config.inversion.picture_px
        if with_latent:
            style_dim = config.prior.backbone.style_dim
            self.latent = LatentEncoder(config.inversion.latent, self.prior.num_styles, style_dim)
            self.prior.mapping.requires_grad_(False)  # nobody asks it

    def styles_of(self, picture: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch layer style"]:
        """w = mean + E_latent(I), for people on black."""
        size = (self.latent_px, self.latent_px)
        picture = functional.interpolate(picture, size, mode="bilinear", align_corners=False, antialias=True)
        return self.prior.mean_styles(len(picture)) + self.latent(picture)
