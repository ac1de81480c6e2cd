"""What the three stages of InvertAvatar's encoders have in common (supplementary 6.2).

A step takes a lesson: frames of somebody, of whom a set has pictures or the prior knows everything, and frames to draw.
A stage says what it understands of the lesson (`understood`) and what a judge is to tell apart (`rivals`). What other
stages have learned stands still, and so does the prior, unless `prior_learns`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gpavatar.avatars.animatable_prior import Canonical, PriorOutput
from gpavatar.avatars.inversion_encoders import MapHead
from gpavatar.avatars.invertavatar import HeadMesh, InvertAvatar, PosedFrame
from gpavatar.data.batch import Batch, Views
from gpavatar.data.shard_index import HeadInfo
from gpavatar.face.open_head import OpenHead
from gpavatar.pretrained.identity_loss import IdentityDistance
from gpavatar.pretrained.perceptual import Perceptual
from gpavatar.training.adversarial import AdversarialTraining
from gpavatar.training.config import TrainConfig
from gpavatar.training.gpavatar import training_head
from gpavatar.training.inversion_losses import (
    InversionTerms,
    plane_distance,
    raw_distance,
    resized,
    style_delta,
    texture_distance,
)
from gpavatar.training.inversion_start import begin_with
from gpavatar.training.losses import on_black
from gpavatar.training.module import Exported, rate_factor, seed_step
from gpavatar.training.precision import in_bf16, run_compiled, run_in_bf16, use_channels_last
from gpavatar.training.prior_judge import Verdict
from gpavatar.training.sheet import Sheet, as_grey, enlarged
from gpavatar.training.validation import validation_metrics
from gpavatar.types import InputError, map_tensors

SMALLEST_PX = 32  # side of a picture that LPIPS still sees something of


@dataclass(frozen=True)
class Lesson:
    """Frames of a person, the first one first, and the frames that are to be drawn (which have the true pictures)."""

    sources: tuple[PosedFrame, ...]
    drawn: tuple[PosedFrame, ...]
    landmarks_px: tuple[Float[Tensor, "batch 478 2"], ...]  # of the drawn; pixels of their pictures
    mattes: tuple[Float[Tensor, "batch 1 size size"], ...]  # of the drawn
    truth: Canonical | None = None  # of a synthetic person ...
    truth_drawn: tuple[PriorOutput, ...] = ()  # ... and all that is known of the drawn frames


@dataclass(frozen=True)
class Understood:
    """What a stage made of a lesson's sources."""

    person: Canonical
    styles: Float[Tensor, "batch layer style"]


class Judge(Protocol):
    """A discriminator with its losses; an `nn.Module` whose state is part of a checkpoint."""

    def compare(self, real: Any, fake: Any, *, penalised: bool) -> Verdict:
        """Its own side; no gradient reaches `fake`."""

    def fooling(self, fake: Any) -> Float[Tensor, ""]:
        """The encoders' side."""


class InversionTraining(AdversarialTraining):
    """See the head of this file."""

    def __init__(self, config: TrainConfig, info: HeadInfo, folder: Path):
        """`info`: the head that the sets were fitted with. InputError for settings that do not go together."""
        settings, model = config.inversion_training, config.invertavatar
        if settings.perceptual and model.prior.super_resolution.out_size_px < SMALLEST_PX:
            raise InputError(
                f"inversion_training.perceptual needs pictures of at least {SMALLEST_PX} px; or set it to 0"
            )
        if config.trainer.accumulate != 1:
            raise InputError("trainer.accumulate: the encoders' steps cannot be gathered; set it to 1")
        head = training_head(model.head, info)
        super().__init__(config, InvertAvatar(model), folder)
        self.settings = settings
        begin_with(self.net, settings.start)
        self.net.requires_grad_(False)
        for part in self.trained:
            part.requires_grad_(True)
        self.judge = self.make_judge() if settings.adversarial_from >= 0 else None
        perceptual = Perceptual("alex") if settings.perceptual else None
        identity = IdentityDistance() if settings.identity else None
        self._constants = (head, HeadMesh.of(head.topology), perceptual, identity)  # neither saved nor counted

    @property
    @abstractmethod
    def trained(self) -> list[nn.Module]:
        """The parts of the network that this stage trains."""

    @abstractmethod
    def understood(self, lesson: Lesson, *, cycled: bool) -> Understood:
        """The person of the lesson's sources; `cycled`: sequences may be longer than there are sources."""

    @abstractmethod
    def make_judge(self) -> nn.Module:
        """Whom this stage learns against, a `Judge`."""

    @abstractmethod
    def rivals(self, lesson: Lesson, found: Understood, outs: list[PriorOutput]) -> tuple[Any, Any] | None:
        """Real and made, for the judge; None where a lesson has nothing to compare."""

    @property
    def perceptual(self) -> Perceptual | None:
        """LPIPS, on the device; None where it has no weight."""
        return self._constants[2]

    @property
    def mesh(self) -> HeadMesh:
        """What never changes of the head."""
        return self._constants[1]

    @property
    def exported(self) -> tuple[Exported, ...]:
        """Prior and encoders, whole after every stage."""
        return (Exported("invertavatar", self.config.invertavatar, self.net),)

    def setup(self, stage: str) -> None:
        """Bring the constants to the device and make the networks fast."""
        device, trainer = self.trainer.strategy.root_device, self.config.trainer

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device)

        head, _, perceptual, identity = self._constants
        head = head.to(device) if isinstance(head, OpenHead) else map_tensors(head, moved)
        nets = [net.to(device) if net is not None else None for net in (perceptual, identity)]
        self._constants = (head, HeadMesh.of(head.topology), *nets)
        if trainer.channels_last:
            use_channels_last([self.net] if self.judge is None else [self.net, self.judge])
        if trainer.precision == "bf16":
            self.use_bf16()
        if trainer.compile == "on" or (trainer.compile == "auto" and device.type == "cuda"):
            run_compiled([self.net.prior.super_resolution, self.net.prior.decoder])

    def use_bf16(self) -> None:
        """Networks compute in bf16; cameras, rays, lookups and compositing do not."""
        net, prior = self.net, self.net.prior
        prior.texture, prior.static = in_bf16(prior.texture), in_bf16(prior.static)
        run_in_bf16([prior.face_generator, prior.decoder, prior.super_resolution, net.latent])
        if net.config.refined:
            for encoder in (net.texture, net.plane):
                run_in_bf16([encoder.net.trunk, *encoder.net.levels, *encoder.net.fusions])
                run_in_bf16(module.layers for module in encoder.modules() if isinstance(module, MapHead))

    def training_step(self, batch: Batch) -> None:
        """A step of the encoders and, where there is one, of the judge, on the same pictures."""
        seed_step(self.config.seed, batch, self.global_rank)
        step, settings = self.global_step, self.settings
        synthetic = bool(torch.rand(()) < settings.synthetic_share)
        lesson = self.synthetic(self.lesson(batch), batch) if synthetic else self.lesson(batch)
        found = self.understood(lesson, cycled=True)
        outs = [self.drawing(found.person, one, jitter=self.config.trainer.jitter) for one in lesson.drawn]
        terms = self.compared(lesson, found, outs)
        loss, logs = terms.total(settings), terms.named()
        rivals = self.rivals(lesson, found, outs) if 0 <= settings.adversarial_from <= step else None
        if rivals is not None:
            penalised = step % settings.judge.r1_every == 0
            logs |= self.step_judge(lambda: self.judge.compare(*rivals, penalised=penalised))
            logs["fooling"] = self.judge.fooling(rivals[1])
            loss = loss + settings.adversarial * logs["fooling"]
        self.guard.watch(loss, batch, step)
        self.step_networks(loss)
        self.lr_schedulers().step()
        if self.global_step % self.config.trainer.log_every == 0:
            values = {f"train/{name}": value.detach() for name, value in (logs | {"loss": loss}).items()}
            self.log_dict(values, sync_dist=True, batch_size=len(batch.target.image))

    def validation_step(self, batch: Batch) -> None:
        """The targets of real people."""
        image, terms = self.terms(batch, jitter=False)
        found = validation_metrics(image, self._true_to_size(batch.target, image), self.perceptual)
        found |= {"loss": terms.total(self.settings)}
        options = {"on_step": False, "on_epoch": True, "sync_dist": True, "batch_size": len(image)}
        self.log_dict({f"val/{name}": value for name, value in found.items()}, **options)

    def terms(self, batch: Batch, *, jitter: bool) -> tuple[Float[Tensor, "batch 3 size size"], InversionTerms]:
        """See `AvatarTraining`: the target alone."""
        lesson = self.lesson(batch)
        one = {name: getattr(lesson, name)[:1] for name in ("drawn", "landmarks_px", "mattes")}
        lesson = replace(lesson, **one)
        found = self.understood(lesson, cycled=False)
        out = self.drawing(found.person, lesson.drawn[0], jitter=jitter)
        return out.image, self.compared(lesson, found, [out])

    def lesson(self, batch: Batch) -> Lesson:
        """The people of a batch: drawn are the target and, in random order, sources."""
        count = batch.source.image.shape[1]
        sources = tuple(self.posed(map_tensors(batch.source, lambda t, at=at: t[:, at])) for at in range(count))
        chosen = torch.randperm(len(sources))[: self.settings.drawn - 1].tolist()
        drawn = (self.posed(batch.target), *(sources[at] for at in chosen))
        landmarks = (batch.target.landmarks_px, *(batch.source.landmarks_px[:, at] for at in chosen))
        mattes = (batch.target.alpha, *(batch.source.alpha[:, at] for at in chosen))
        return Lesson(sources, drawn, landmarks, mattes)

    def posed(self, views: Views) -> PosedFrame:
        """Pictures with their meshes."""
        with torch.no_grad():
            return PosedFrame(on_black(views), self._constants[0].verts(views.params), views.camera)

    @torch.no_grad()
    def synthetic(self, lesson: Lesson, batch: Batch) -> Lesson:
        """The same poses and expressions, made by people of the prior."""
        prior, first = self.net.prior, lesson.sources[0]
        if self.settings.synthetic == "sampled":
            code = torch.randn(len(first.picture), prior.config.mapping.code_dim, device=first.picture.device)
            styles = prior.styles(code, first.camera, self.settings.truncation)
        else:
            styles = self.net.styles(first)
            share = torch.rand(len(styles), 1, 1, device=styles.device)
            styles = torch.lerp(styles, styles.roll(1, 0), share)
        truth = prior.canonical(styles)
        shown = [self.drawing(truth, one, jitter=False) for one in (*lesson.sources, *lesson.drawn)]
        frames = [
            replace(one, picture=out.image.clamp(0, 1))
            for one, out in zip((*lesson.sources, *lesson.drawn), shown, strict=True)
        ]
        count, size = len(lesson.sources), shown[0].image.shape[-1]
        points = tuple(
            p * (size / one.picture.shape[-1]) for p, one in zip(lesson.landmarks_px, lesson.drawn, strict=True)
        )
        mattes = tuple(out.opacity for out in shown[count:])
        return Lesson(tuple(frames[:count]), tuple(frames[count:]), points, mattes, truth, tuple(shown[count:]))

    def drawing(self, person: Canonical, frame: PosedFrame, *, jitter: bool) -> PriorOutput:
        """The person with the frame's face, from its camera."""
        prior = self.net.prior
        return prior.animate(person, prior.views(frame.verts, self.mesh.surface), frame.camera, jitter=jitter)

    def compared(self, lesson: Lesson, found: Understood, outs: list[PriorOutput]) -> InversionTerms:
        """All terms; those of pictures are means over the drawn frames."""
        settings, none = self.settings, InversionTerms.none(outs[0].image)
        terms = none
        for number, (out, frame) in enumerate(zip(outs, lesson.drawn, strict=True)):
            size = out.image.shape[-1]
            true, known = resized(frame.picture, size), lesson.truth_drawn[number] if lesson.truth is not None else None
            points = lesson.landmarks_px[number] * (size / frame.picture.shape[-1])
            _, _, perceptual, identity = self._constants
            matte = resized(lesson.mattes[number], out.opacity.shape[-1])
            one = replace(
                none,
                opacity=(out.opacity - matte).square().mean() if settings.opacity else none.opacity,
                l1=(out.image - true).abs().mean(),
                perceptual=perceptual(out.image, true).mean() if perceptual else none.perceptual,
                identity=identity(out.image, true, points).mean() if identity else none.identity,
                raw=raw_distance(out, frame.picture, known) if settings.raw else none.raw,
            )
            terms = terms.plus(one, 1 / len(outs))
        if settings.delta:
            terms = replace(terms, delta=style_delta(found.styles))
        if lesson.truth is not None:
            truth = lesson.truth
            terms = replace(
                terms, texture=texture_distance(found.person, truth), planes=plane_distance(found.person, truth)
            )
        return terms

    def draw(self, batch: Batch) -> Sheet:
        """See `AvatarTraining`: sources, target, coarse avatar, what this stage makes of it, and its depth."""
        lesson = self.lesson(batch)
        found, coarse = self.understood(lesson, cycled=False), self.net.coarse(lesson.sources[0])
        target = lesson.drawn[0]
        out, first = (self.drawing(person, target, jitter=False) for person in (found.person, coarse))
        size = out.image.shape[-1]
        near = torch.where(out.opacity > 0.5, -out.depth, -torch.inf)
        columns = [
            *((f"source {number + 1}", resized(one.picture, size)) for number, one in enumerate(lesson.sources[:4])),
            ("target", resized(target.picture, size)),
            ("coarse", first.image),
            ("output", out.image),
            ("raw", enlarged(out.raw, size)),
            ("nearness", enlarged(as_grey(near), size)),
        ]
        names, pictures = zip(*columns, strict=True)
        return Sheet(names, torch.stack([picture.clamp(0, 1).expand(-1, 3, -1, -1) for picture in pictures], 1))

    def configure_optimizers(self) -> Any:
        """Adam for the encoders and for the judge; the encoders' rate follows `rate_factor`."""
        config, settings = self.config.optim, self.settings
        options = {"betas": tuple(config.betas), "fused": self.device.type == "cuda"}
        optimizers = [torch.optim.Adam(self.groups(), config.lr, **options)]
        if self.judge is not None:
            rate = settings.judge.discriminator_lr
            optimizers.append(torch.optim.Adam(self.judge.parameters(), rate, **options))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizers[0], lambda step: rate_factor(step, config, self.config.trainer.max_steps)
        )
        return optimizers, [schedule]

    def groups(self) -> list[dict[str, Any]]:
        """Adam's parameter groups: all that learns at one rate."""
        return [{"params": [p for p in self.net.parameters() if p.requires_grad]}]

    def _true_to_size(self, target: Views, image: Float[Tensor, "batch 3 size size"]) -> Views:
        size = image.shape[-1]
        return replace(target, image=resized(target.image, size), alpha=resized(target.alpha, size))
