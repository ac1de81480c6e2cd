"""The second and third stage: E_tex and E_tri for one frame, then for any number (supplementary 6.2.2 and 6.2.3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gpavatar.avatars.animatable_prior import Canonical, PriorOutput
from gpavatar.avatars.inversion_encoders import FoundMaps
from gpavatar.avatars.invertavatar import Evidence
from gpavatar.data.shard_index import HeadInfo
from gpavatar.synthesis.equalised import equalised_groups
from gpavatar.synthesis.fusion_unet import WINDOW
from gpavatar.training.config import TrainConfig
from gpavatar.training.inversion import InversionTraining, Lesson, Understood
from gpavatar.training.prior_config import PriorTrainingConfig
from gpavatar.training.prior_judge import Pictures, PriorJudge, Verdict
from gpavatar.types import InputError, map_tensors


class PictureJudge(nn.Module):
    """Tells what the prior draws of its people from what the encoders make of these pictures."""

    def __init__(self, config: PriorTrainingConfig):
        super().__init__()
        self.judge = PriorJudge(config)

    def compare(self, real: Pictures, fake: Pictures, *, penalised: bool) -> Verdict:
        """See `gpavatar.training.inversion.Judge`."""
        return self.judge.compare(real, map_tensors(fake, Tensor.detach), 0.0, penalised=penalised)

    def fooling(self, fake: Pictures) -> Float[Tensor, ""]:
        """See `gpavatar.training.inversion.Judge`."""
        return self.judge.fooling(fake, 0.0)


class OneShotTraining(InversionTraining):
    """E_tex and E_tri, of the first source alone; prior and E_latent stand still, or learn along."""

    gatherings: tuple[str, ...] = ("mean",)

    def __init__(self, config: TrainConfig, info: HeadInfo, folder: Path):
        """As `InversionTraining`. InputError where frames are gathered in a way that this stage does not train."""
        inversion = config.invertavatar.inversion
        if inversion.gathering not in self.gatherings or not inversion.refined:
            raise InputError(
                f"{config.method} trains invertavatar.inversion.gathering={' or '.join(self.gatherings)} with refined="
                f"true, not {inversion.gathering} with refined={str(inversion.refined).lower()}"
            )
        super().__init__(config, info, folder)

    @property
    def prior_learns(self) -> bool:
        """Whether prior and E_latent do."""
        return self.settings.prior_learns

    @property
    def trained(self) -> list[nn.Module]:
        """Both encoders, trunks and all; the prior where it learns along."""
        encoders = [self.net.texture, self.net.plane]
        if not self.prior_learns:
            return encoders
        prior = self.net.prior
        generators = [prior.texture_generator, prior.static_generator, prior.face_generator]
        return [*encoders, self.net.latent, *generators, prior.decoder, prior.super_resolution]

    def groups(self) -> list[dict[str, Any]]:
        """Where the prior learns, it goes on at its own rates."""
        if not self.prior_learns:
            return super().groups()
        net, rates = self.net, self.config.prior_training
        encoders = [*net.texture.parameters(), *net.plane.parameters()]
        latent = {"params": list(net.latent.parameters()), "lr": rates.latent_lr}
        return [{"params": encoders}, latent, *equalised_groups(net.prior, rates.generator_lr)]

    def understood(self, lesson: Lesson, *, cycled: bool) -> Understood:
        """The first source's avatar."""
        coarse = self.coarse(lesson)
        if cycled and self.prior_learns and bool(torch.rand(()) < self.settings.coarse_share):
            return Understood(coarse, coarse.styles)
        evidence = self.net.evidence(coarse, lesson.sources[0], self.mesh)
        return Understood(self.net.person(coarse, self.net.single(evidence)), coarse.styles)

    def coarse(self, lesson: Lesson) -> Canonical:
        """A constant, unless the prior learns."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.prior_learns):
            return self.net.coarse(lesson.sources[0])

    def make_judge(self) -> nn.Module:
        """Of pictures."""
        return PictureJudge(self.settings.judge)

    def rivals(self, lesson: Lesson, found: Understood, outs: list[PriorOutput]) -> tuple[Pictures, Pictures] | None:
        """The target as the prior drew it, and as it was understood; real people are nobody's drawing."""
        if lesson.truth is None:
            return None
        real, fake = (self._pictures(out, lesson) for out in (lesson.truth_drawn[0], outs[0]))
        return real, fake

    @staticmethod
    def _pictures(out: PriorOutput, lesson: Lesson) -> Pictures:
        nothing = out.image.new_zeros(len(out.image), 3, 1, 1)  # this judge is not told of landmarks
        return Pictures(out.image, out.raw, nothing, lesson.drawn[0].camera)


class RecurrentTraining(OneShotTraining):
    """The decoders with their memories; the trunks stand still.

    A step draws the length of a sequence, the sources over and over. All but its last frames only bring the memory to
    where it would be after so many; so the decoders learn what h_0 ≠ 0 asks of them, with a short graph.
    """

    gatherings = ("recurrent", "window")
    prior_learns = False

    @property
    def trained(self) -> list[nn.Module]:
        """All of both encoders but the trunks."""
        texture, plane = self.net.texture, self.net.plane
        heads = [module for encoder in (texture, plane) for name, module in encoder.named_children() if name != "net"]
        return [*(part for e in (texture, plane) for part in (e.net.levels, e.net.fusions)), *heads]

    def understood(self, lesson: Lesson, *, cycled: bool) -> Understood:
        """The avatar of the sequence."""
        coarse, net = self.coarse(lesson), self.net
        with torch.no_grad():
            evidence = [net.evidence(coarse, frame, self.mesh) for frame in lesson.sources]
        order = self.sequence(len(evidence)) if cycled else list(range(len(evidence)))
        if net.config.gathering == "window":
            return Understood(net.person(coarse, net.window([evidence[at] for at in order[-WINDOW:]])), coarse.styles)
        memory = net.begin(evidence[0])
        memory = self._after(memory, [evidence[at] for at in order])
        return Understood(net.person(coarse, memory), coarse.styles)

    def sequence(self, count: int) -> list[int]:
        """Which sources follow each other: all of them in order, up to `frames` long by chance."""
        longest = max(count, self.settings.frames)
        length = int(torch.randint(count, longest + 1, ()))
        return [at % count for at in range(length)]

    def _after(self, memory: FoundMaps, evidence: list[Evidence]) -> FoundMaps:
        before = max(0, len(evidence) - self.settings.in_graph)
        with torch.no_grad():
            for one in evidence[:before]:
                memory = self.net.step(memory, one)
        for one in evidence[before:]:
            memory = self.net.step(memory, one)
        return memory
