"""The discriminator of the prior with all that stands in front of it: blur, landmarks, variation."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from gpavatar.camera import Camera
from gpavatar.synthesis.discriminator import DualDiscriminator
from gpavatar.synthesis.mapping import pose_code
from gpavatar.training.gan_losses import blurred, discriminator_loss, generator_loss, r1_penalty
from gpavatar.training.prior_config import PriorTrainingConfig
from gpavatar.training.variation import Variation


@dataclass(frozen=True)
class Pictures:
    """What the discriminator looks at, and what it is told of it."""

    image: Float[Tensor, "batch 3 size size"]
    raw: Float[Tensor, "batch 3 small small"]  # as rendered, or the image made as small
    landmarks: Float[Tensor, "batch 3 map map"]  # where they are to be, drawn
    camera: Camera


@dataclass(frozen=True)
class Verdict:
    """What came of a look at real and drawn pictures."""

    loss: Float[Tensor, ""]  # the discriminator's, R1 included where it was asked for
    real: Float[Tensor, ""]  # mean logit
    fake: Float[Tensor, ""]
    r1: Float[Tensor, ""] | None  # mean |∂D/∂picture|²


class PriorJudge(nn.Module):
    """See the head of this file."""

    def __init__(self, config: PriorTrainingConfig):
        super().__init__()
        self.config = config
        self.discriminator = DualDiscriminator(config.discriminator)
        self.variation = Variation(config.variation)

    def forward(self, pictures: Pictures, blur_px: float) -> Float[Tensor, " batch"]:
        """Logits: positive for what looks real."""
        return self._judge(self._look(pictures, blur_px), pictures.camera)

    def compare(self, real: Pictures, fake: Pictures, blur_px: float, *, penalised: bool) -> Verdict:
        """The discriminator's side; `fake` without gradient. R1 is lazy: asked for every few steps, it counts as often
        more. It is taken where the pictures enter, after their variation."""
        seen = self._look(real, blur_px).detach().requires_grad_(penalised)
        real_logits, fake_logits = self._judge(seen, real.camera), self(fake, blur_px)
        loss = discriminator_loss(real_logits, fake_logits)
        r1 = r1_penalty(real_logits, seen) if penalised else None
        if r1 is not None:
            loss = loss + self.config.r1_gamma / 2 * self.config.r1_every * r1
        self.variation.follow(real_logits.detach())
        return Verdict(loss, real_logits.mean(), fake_logits.mean(), r1)

    def fooling(self, fake: Pictures, blur_px: float) -> Float[Tensor, ""]:
        """The generators' side."""
        return generator_loss(self(fake, blur_px))

    def _look(self, pictures: Pictures, blur_px: float) -> Float[Tensor, "batch channel size size"]:
        landmarks = pictures.landmarks if self.config.discriminator.with_landmarks else None
        return self.variation(self.discriminator.stack(blurred(pictures.image, blur_px), pictures.raw, landmarks))

    def _judge(self, stacked: Float[Tensor, "batch channel size size"], camera: Camera) -> Float[Tensor, " batch"]:
        return self.discriminator.judge(stacked, pose_code(camera) if self.config.discriminator.with_pose else None)
