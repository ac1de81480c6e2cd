"""How near an auto-encoded person is to the truth (supplementary 6.2.1, without the identity network)."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor

from gpavatar.avatars.animatable_prior import PriorOutput
from gpavatar.data.batch import Views
from gpavatar.training.losses import Distance, on_black
from gpavatar.training.prior_config import PriorTrainingConfig

SMALLEST_PX = 32  # side of a picture that LPIPS still sees something of


@dataclass(frozen=True)
class PriorTerms:
    """Each term without its weight."""

    l1: Float[Tensor, ""]  # image + raw rendering
    perceptual: Float[Tensor, ""]  # the same two, where they are large enough
    opacity: Float[Tensor, ""]

    @staticmethod
    def none(like: Tensor) -> PriorTerms:
        """Where there is no truth."""
        zero = like.new_zeros(())
        return PriorTerms(zero, zero, zero)

    def total(self, config: PriorTrainingConfig) -> Float[Tensor, ""]:
        """Weighted sum."""
        return config.reconstruction * self.l1 + config.perceptual * self.perceptual + config.opacity * self.opacity

    def named(self) -> dict[str, Float[Tensor, ""]]:
        """By name, for logs."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def reconstruction_terms(out: PriorOutput, target: Views, perceptual: Distance | None = None) -> PriorTerms:
    """L1 and LPIPS of image and raw rendering against the person on black, (opacity − matte)².

    All terms are means over the batch. The square is what keeps an empty field from being an answer: of all constant
    opacities it likes the mean of the mattes best, an absolute difference their median, which is often 0.
    """
    truth = on_black(target)
    pairs = [(out.image, truth), (out.raw, _shrunk(truth, out.raw.shape[-1]))]
    visible = [(image, true) for image, true in pairs if image.shape[-1] >= SMALLEST_PX]
    return PriorTerms(
        sum((image - true).abs().mean() for image, true in pairs),
        sum((perceptual(image, true).mean() for image, true in visible), start=truth.new_zeros(()))
        if perceptual
        else truth.new_zeros(()),
        (out.opacity - _shrunk(target.alpha, out.opacity.shape[-1])).square().mean(),
    )


def _shrunk(
    image: Float[Tensor, "batch channel size size"], size_px: int
) -> Float[Tensor, "batch channel {size_px} {size_px}"]:
    return functional.interpolate(image, (size_px, size_px), mode="bilinear", align_corners=False, antialias=True)
