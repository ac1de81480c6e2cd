"""The first stage: E_latent (InvertAvatar supplementary 6.2.1)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gpavatar.avatars.animatable_prior import PriorOutput
from gpavatar.synthesis.latent_discriminator import LatentDiscriminator, StylePool
from gpavatar.training.gan_losses import discriminator_loss, generator_loss
from gpavatar.training.inversion import InversionTraining, Lesson, Understood
from gpavatar.training.inversion_config import InversionTrainingConfig
from gpavatar.training.prior_judge import Verdict


class StyleJudge(nn.Module):
    """D_W: tells mapped styles from encoded ones, each layer's style by itself."""

    def __init__(self, config: InversionTrainingConfig, style_dim: int):
        super().__init__()
        self.config = config.judge
        self.discriminator = LatentDiscriminator(style_dim)
        self.pool = StylePool(style_dim, config.pool)

    def compare(
        self, real: Float[Tensor, "batch layer style"], fake: Float[Tensor, "batch layer style"], *, penalised: bool
    ) -> Verdict:
        """See `gpavatar.training.inversion.Judge`. R1 is lazy: asked for every few steps, it counts as often more."""
        seen = real.flatten(0, 1).detach().requires_grad_(penalised)
        real_logits = self.discriminator(seen)
        fake_logits = self.discriminator(self.pool.exchange(fake.detach().flatten(0, 1)))
        loss = discriminator_loss(real_logits, fake_logits)
        r1 = None
        if penalised:
            (gradient,) = torch.autograd.grad(real_logits.sum(), seen, create_graph=True)
            r1 = gradient.square().sum(1).mean()
            loss = loss + self.config.r1_gamma / 2 * self.config.r1_every * r1
        return Verdict(loss, real_logits.mean(), fake_logits.mean(), r1)

    def fooling(self, fake: Float[Tensor, "batch layer style"]) -> Float[Tensor, ""]:
        """See `gpavatar.training.inversion.Judge`."""
        return generator_loss(self.discriminator(fake.flatten(0, 1)))


class LatentTraining(InversionTraining):
    """The first source's styles draw the source itself and the target."""

    @property
    def trained(self) -> list[nn.Module]:
        """E_latent."""
        return [self.net.latent]

    def understood(self, lesson: Lesson, *, cycled: bool) -> Understood:
        """The coarse avatar."""
        styles = self.net.styles(lesson.sources[0])
        return Understood(self.net.prior.canonical(styles), styles)

    def make_judge(self) -> nn.Module:
        """D_W."""
        return StyleJudge(self.settings, self.config.invertavatar.prior.backbone.style_dim)

    def rivals(
        self, lesson: Lesson, found: Understood, outs: list[PriorOutput]
    ) -> tuple[Float[Tensor, "batch layer style"], Float[Tensor, "batch layer style"]]:
        """As many mapped styles as there are encoded ones."""
        prior, (batch, layers, _) = self.net.prior, found.styles.shape
        code = torch.randn(batch * layers, prior.config.mapping.code_dim, device=found.styles.device)
        camera = lesson.sources[0].camera
        with torch.no_grad():
            mapped = [prior.styles(part, camera)[:, 0] for part in code.split(batch)]
        return torch.stack(mapped, 1), found.styles
