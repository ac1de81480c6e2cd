"""What an inverted person is judged by (InvertAvatar supplementary 6.2).

    E_latent      L1 + λ_lpips L_lpips + λ_id L_ID + L_adv (+ λ_δ L_δ, + λ_raw L_raw as released)          (Eq. 2)
    E_tex, E_tri  L1 + λ_lpips L_lpips + λ_tri L_tri + λ_tex L_tex + λ_raw L_raw + λ_adv L_adv              (Eq. 3)

L_tri, L_tex and L_raw compare planes, textures and rendered features with those of a synthetic person; of a real
one only the rendered picture is known. Where the prior learns too, its opacity is held to the matte. All terms are
means over the batch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor

from gpavatar.avatars.animatable_prior import Canonical, PriorOutput
from gpavatar.training.inversion_config import InversionTrainingConfig


@dataclass(frozen=True)
class InversionTerms:
    """Each term without its weight."""

    l1: Float[Tensor, ""]
    perceptual: Float[Tensor, ""]
    identity: Float[Tensor, ""]
    delta: Float[Tensor, ""]
    raw: Float[Tensor, ""]
    texture: Float[Tensor, ""]
    planes: Float[Tensor, ""]
    opacity: Float[Tensor, ""]

    @staticmethod
    def none(like: Tensor) -> InversionTerms:
        """Nothing wrong."""
        return InversionTerms(*[like.new_zeros(())] * len(fields(InversionTerms)))

    def total(self, config: InversionTrainingConfig) -> Float[Tensor, ""]:
        """Weighted sum; what the discriminator says comes on top."""
        return sum(getattr(config, name) * value for name, value in self.named().items())

    def named(self) -> dict[str, Float[Tensor, ""]]:
        """By name, for logs."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def plus(self, other: InversionTerms, share: float = 1.0) -> InversionTerms:
        """These, and a share of others."""
        return InversionTerms(*(mine + share * other.named()[name] for name, mine in self.named().items()))


def style_delta(styles: Float[Tensor, "batch layer style"]) -> Float[Tensor, ""]:
    """L_δ = mean over the batch of Σ_l ‖w_l − w_0‖₂ (Tov et al. 2021, Eq. 6): W+ stays near W."""
    return (styles[:, 1:] - styles[:, :1]).square().sum(2).add(1e-12).sqrt().sum(1).mean()


def texture_distance(person: Canonical, truth: Canonical) -> Float[Tensor, ""]:
    """L_tex: the mean over the parts of the neural texture of their mean absolute difference."""
    parts = [field.name for field in fields(person.texture)]
    pairs = [(getattr(person.texture, name), getattr(truth.texture, name)) for name in parts]
    return sum((found - true).abs().mean() for found, true in pairs) / len(pairs)


def plane_distance(person: Canonical, truth: Canonical) -> Float[Tensor, ""]:
    """L_tri: mean absolute difference of the static planes."""
    return (person.static - truth.static).abs().mean()


def raw_distance(
    out: PriorOutput, picture: Float[Tensor, "batch 3 size size"], truth: PriorOutput | None
) -> Float[Tensor, ""]:
    """L_raw: of all rendered features where a synthetic truth has them, else of the rendered picture."""
    if truth is not None:
        return (out.feats - truth.feats).abs().mean()
    return (out.raw - resized(picture, out.raw.shape[-1])).abs().mean()


def resized(
    image: Float[Tensor, "batch channel size size"], size_px: int
) -> Float[Tensor, "batch channel {size_px} {size_px}"]:
    """Bilinear, without aliases."""
    if image.shape[-1] == size_px:
        return image
    return functional.interpolate(image, (size_px, size_px), mode="bilinear", align_corners=False, antialias=True)
