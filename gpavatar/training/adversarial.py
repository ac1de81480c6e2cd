"""Training of networks beside a judge that tells their pictures from real ones: a step of each on the same pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn

from gpavatar.training.config import TrainConfig
from gpavatar.training.module import AvatarTraining
from gpavatar.training.prior_judge import Verdict


class AdversarialTraining(AvatarTraining):
    """Two optimizers, stepped by hand; the judge's is the second and may be missing."""

    judge: nn.Module | None

    def __init__(self, config: TrainConfig, net: nn.Module, folder: Path):
        """See `AvatarTraining`."""
        super().__init__(config, net, folder)
        self.automatic_optimization = False

    def step_judge(self, compare: Callable[[], Verdict]) -> dict[str, Float[Tensor, ""]]:
        """The judge learns from what `compare` finds; the numbers for the log."""
        optimizer = self.optimizers()[1].optimizer  # not its wrapper: the trainer counts the networks' steps alone
        self.judge.requires_grad_(True)
        verdict = compare()
        optimizer.zero_grad(set_to_none=True)
        self.manual_backward(verdict.loss)
        optimizer.step()
        self.judge.requires_grad_(False)
        found = {"discriminator": verdict.loss, "real": verdict.real, "fake": verdict.fake}
        return found | ({"r1": verdict.r1} if verdict.r1 is not None else {})

    def step_networks(self, loss: Float[Tensor, ""]) -> None:
        """The networks learn, and the average follows."""
        optimizer = self.optimizers() if self.judge is None else self.optimizers()[0]
        optimizer.zero_grad(set_to_none=True)
        self.manual_backward(loss)
        if self.config.trainer.clip_norm:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.config.trainer.clip_norm)
        optimizer.step()
        if self.ema:
            self.ema.update()
