"""What changes in the course of the prior's training, as functions of steps and images seen."""

from __future__ import annotations

from dataclasses import dataclass

from gpavatar.training.config import TrainConfig


@dataclass(frozen=True)
class PriorSchedule:
    """All follow from the config and the place in the training; there is no other state."""

    config: TrainConfig

    @property
    def adversarial_ever(self) -> bool:
        """Whether there is a discriminator at all."""
        return self.config.prior == "adversarial" or self.config.prior_training.adversarial_from >= 0

    def adversarial_at(self, step: int) -> bool:
        """Whether it has its say: from the start, or, after a reconstruction, at the end."""
        starts = 0 if self.config.prior == "adversarial" else self.config.prior_training.adversarial_from
        return self.adversarial_ever and step >= starts

    def blur_px(self, images: int) -> float:
        """Standard deviation of the blur on pictures of the discriminator's size: fades linearly."""
        settings = self.config.prior_training
        if not settings.blur_images:
            return 0.0
        return settings.blur_px * max(0.0, 1 - images / settings.blur_images)

    def raw_px(self, images: int) -> int:
        """Side of the raw rendering: the first one, and from `raw_fades_at` linearly up to the model's own."""
        settings, last = self.config.prior_training, self.config.invertavatar.prior.volume.size_px
        first = min(settings.first_raw_px, last)
        share = (images - settings.raw_fades_at) / max(1, settings.raw_fades_over)
        return round(first + (last - first) * min(1.0, max(0.0, share)))
