"""The training of the animatable prior (InvertAvatar section 3.1, supplementary 6.1).

    adversarial      people come from chance, and a discriminator compares them with real ones
    reconstruction   people come from E_latent of one frame, and another frame is the truth; a discriminator comes in at
                     the end, if at all

Each step is one of the discriminator, where there is one, and one of the generators, on the same drawn pictures. Random
numbers belong to a batch's place in the data. The trainer counts the generators' steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor

from gpavatar.avatars.animatable_prior import AnimatablePrior, PlaneField, PriorOutput
from gpavatar.camera import Camera
from gpavatar.data.batch import Batch, Views, zip_tensors
from gpavatar.data.shard_index import HeadInfo
from gpavatar.face.landmark_map import landmark_map
from gpavatar.face.open_head import OpenHead
from gpavatar.face.plane_views import FaceSurface
from gpavatar.pretrained.perceptual import Perceptual
from gpavatar.synthesis.equalised import equalised_groups
from gpavatar.training.adversarial import AdversarialTraining
from gpavatar.training.config import TrainConfig
from gpavatar.training.gan_losses import density_roughness
from gpavatar.training.gpavatar import training_head
from gpavatar.training.losses import on_black
from gpavatar.training.module import Exported, rate_factor, seed_step
from gpavatar.training.precision import in_bf16, run_compiled, run_in_bf16, use_channels_last
from gpavatar.training.prior_judge import Pictures, PriorJudge
from gpavatar.training.prior_losses import PriorTerms, reconstruction_terms
from gpavatar.training.prior_networks import PriorNetworks
from gpavatar.training.prior_schedule import PriorSchedule
from gpavatar.training.prior_sheet import prior_sheet
from gpavatar.training.sheet import Sheet
from gpavatar.training.validation import validation_metrics
from gpavatar.types import InputError, map_tensors

LAZY = ("r1", "roughness")  # terms of a few steps only


@dataclass(frozen=True)
class Drawn:
    """A batch of people as the generators draw them."""

    out: PriorOutput
    field: PlaneField
    asked: Views  # how they were to be posed, and seen from where
    verts: Float[Tensor, "batch vert 3"]  # of these


class PriorTraining(AdversarialTraining):
    """See the head of this file."""

    def __init__(self, config: TrainConfig, info: HeadInfo, folder: Path):
        """`info`: the head that the sets were fitted with. InputError for settings that do not go together."""
        _check(config)
        head = training_head(config.invertavatar.prior.head, info)
        super().__init__(config, PriorNetworks(config.invertavatar, config.prior == "reconstruction"), folder)
        self.settings, self.schedule = config.prior_training, PriorSchedule(config)
        self.judge = PriorJudge(self.settings) if self.schedule.adversarial_ever else None
        perceptual = Perceptual("alex") if self.net.latent and self.settings.perceptual else None
        self._constants = (head, FaceSurface.of(head.topology), perceptual)  # neither saved nor counted

    @property
    def prior(self) -> AnimatablePrior:
        """The generators."""
        return self.net.prior

    @property
    def perceptual(self) -> Perceptual | None:
        """LPIPS, on the device; None where it has no weight."""
        return self._constants[2]

    @property
    def exported(self) -> tuple[Exported, ...]:
        """The prior, and E_latent beside it."""
        model = self.config.invertavatar
        prior = Exported("invertavatar_prior", model.prior, self.prior)
        if self.net.latent is None:
            return (prior,)
        return prior, Exported("invertavatar_latent", model.inversion.latent, self.net.latent)

    def setup(self, stage: str) -> None:
        """Bring the constants to the device and make the networks fast."""
        device, trainer = self.trainer.strategy.root_device, self.config.trainer
        head, surface, perceptual = self._constants
        head = head.to(device) if isinstance(head, OpenHead) else map_tensors(head, lambda tensor: tensor.to(device))
        surface = map_tensors(surface, lambda tensor: tensor.to(device))
        self._constants = (head, surface, perceptual.to(device) if perceptual else None)
        if trainer.channels_last:
            use_channels_last([self.net] if self.judge is None else [self.net, self.judge])
        if trainer.precision == "bf16":
            self.use_bf16()
        if trainer.compile == "on" or (trainer.compile == "auto" and device.type == "cuda"):
            run_compiled([self.prior.super_resolution, self.prior.decoder])  # R1 needs more than compiled networks have

    def use_bf16(self) -> None:
        """Networks compute in bf16; cameras, rays, lookups and compositing do not."""
        prior = self.prior
        prior.texture, prior.static = in_bf16(prior.texture), in_bf16(prior.static)
        run_in_bf16([prior.face_generator, prior.decoder, prior.super_resolution])
        if self.net.latent is not None:
            run_in_bf16([self.net.latent])
        if self.judge is not None:
            self.judge.discriminator.judge = in_bf16(self.judge.discriminator.judge)

    def training_step(self, batch: Batch) -> None:
        """See the head of this file."""
        seed_step(self.config.seed, batch, self.global_rank)
        self._set_rates()
        step, settings = self.global_step, self.settings
        drawn = self.draw_people(batch, jitter=self.config.trainer.jitter)
        terms = self._reconstruction(drawn.out, batch)
        loss, found = terms.total(settings), terms.named()
        if self.schedule.adversarial_at(step):
            fake = self.fake(drawn)
            blur_px, penalised = self.schedule.blur_px(self._images(batch)), step % settings.r1_every == 0
            pictures = self.real(batch, fake), map_tensors(fake, Tensor.detach)
            found |= self.step_judge(lambda: self.judge.compare(*pictures, blur_px, penalised=penalised))
            found["fooling"] = self.judge.fooling(fake, blur_px)
            loss = loss + settings.adversarial * found["fooling"]
        if step % settings.density_every == 0:
            found["roughness"] = density_roughness(drawn.field, len(drawn.out.image), device=self.device)
            loss = loss + settings.density * settings.density_every * found["roughness"]
        self.guard.watch(loss, batch, step)
        self.step_networks(loss)
        said = found | {"loss": loss}
        if self.global_step % self.config.trainer.log_every:
            said = {name: said[name] for name in LAZY if name in said}  # the last one is what a log shows
        self.log_dict(
            {f"train/{name}": value.detach() for name, value in said.items()}, batch_size=len(drawn.out.image)
        )

    def validation_step(self, batch: Batch) -> None:
        """Where there is a truth, how near it is; where there is a discriminator, what it makes of people that it does
        not know."""
        seed_step(self.config.seed, batch, self.global_rank)
        drawn, found = self.draw_people(batch, jitter=False), {}
        if self.net.latent is not None:
            found = validation_metrics(drawn.out.image, batch.target, self.perceptual)
            found["loss"] = self._reconstruction(drawn.out, batch).total(self.settings)
        if self.schedule.adversarial_at(self.global_step):
            fake, blur_px = self.fake(drawn), self.schedule.blur_px(self._images(batch))
            found["real"], found["fake"] = (self.judge(one, blur_px).mean() for one in (self.real(batch, fake), fake))
        options = {"on_step": False, "on_epoch": True, "sync_dist": True, "batch_size": len(drawn.out.image)}
        self.log_dict({f"val/{name}": value for name, value in found.items()}, **options)

    def terms(self, batch: Batch, *, jitter: bool) -> tuple[Float[Tensor, "batch 3 size size"], PriorTerms]:
        """What is wrong with the pictures of a batch, as far as a truth can tell."""
        drawn = self.draw_people(batch, jitter=jitter)
        return drawn.out.image, self._reconstruction(drawn.out, batch)

    def draw(self, batch: Batch) -> Sheet:
        """See `prior_sheet`; the seeds are always the same."""
        head, surface, _ = self._constants
        if self.net.latent is not None:
            styles = self.net.styles_of(on_black(batch.source)[:, 0])
            mean = styles.mean(0, keepdim=True).expand_as(styles)  # of those who are shown: nobody else is known
        else:
            rng = torch.Generator(self.device).manual_seed(self.config.seed)
            styles = self.prior.sample_styles(batch.target.camera, rng)
            mean = self.prior.mean_styles(len(styles))
        raw_px = self.schedule.raw_px(self._images(batch))
        return prior_sheet(self.prior, styles, mean, batch.target, head, surface, raw_px)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for the generators and for the discriminator, with equalised rates; both follow `rate_factor`."""
        config, settings = self.config.optim, self.settings

        def share(name: str) -> float:
            return settings.mapping_rate if name.startswith("mapping.") else 1.0

        groups = equalised_groups(self.prior, settings.generator_lr, share)
        if self.net.latent is not None:
            groups.append({"params": list(self.net.latent.parameters()), "lr": settings.latent_lr})
        options = {"betas": tuple(config.betas), "fused": self.device.type == "cuda"}
        optimizers = [torch.optim.Adam(groups, **options)]
        if self.judge is not None:
            optimizers.append(torch.optim.Adam(equalised_groups(self.judge, settings.discriminator_lr), **options))
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["initial_lr"] = group["lr"]
        return optimizers

    def _set_rates(self) -> None:
        """Of this step; Lightning's schedulers would ask for a step of the judge in each."""
        factor = rate_factor(self.global_step, self.config.optim, self.config.trainer.max_steps)
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor

    def draw_people(self, batch: Batch, *, jitter: bool) -> Drawn:
        """Where there is a truth, as it is posed; else as the first source, which no real picture of the batch is."""
        asked = batch.target if self.net.latent is not None else map_tensors(batch.source, lambda tensor: tensor[:, 0])
        head, surface, _ = self._constants
        with torch.no_grad():
            verts = head.verts(asked.params)
        styles = self._styles(batch, asked.camera)
        planes = self.prior.planes(self.prior.canonical(styles), self.prior.views(verts, surface))
        size_px = self.schedule.raw_px(self._images(batch))
        out = self.prior.render(planes, styles[:, -1], asked.camera, size_px=size_px, jitter=jitter)
        return Drawn(out, PlaneField(self.prior.decoder, planes), asked, verts)

    def fake(self, drawn: Drawn) -> Pictures:
        """What was drawn, for the judge."""
        landmarks = self._landmarks(drawn.asked, drawn.verts)
        return Pictures(drawn.out.image, drawn.out.raw, landmarks, drawn.asked.camera)

    def real(self, batch: Batch, fake: Pictures) -> Pictures:
        """The targets, for the judge: their raw part as small as that of what is drawn."""
        target, image = batch.target, on_black(batch.target)
        raw = functional.interpolate(image, fake.raw.shape[-2:], mode="bilinear", align_corners=False, antialias=True)
        with torch.no_grad():
            landmarks = self._landmarks(target, self._constants[0].verts(target.params))
        return Pictures(image, raw, landmarks, target.camera)

    def _styles(self, batch: Batch, camera: Camera) -> Float[Tensor, "batch layer style"]:
        """Of the first source's person, or of somebody by chance, who may be told another's pose."""
        if self.net.latent is not None:
            return self.net.styles_of(on_black(batch.source)[:, 0])
        swapped = torch.rand(len(camera.c2w), device=self.device) < self.settings.pose_swap
        others = map_tensors(camera, lambda tensor: tensor.roll(1, 0))
        told = zip_tensors(camera, others, lambda own, other: torch.where(_like(swapped, own), other, own))
        code = torch.randn(len(swapped), self.prior.config.mapping.code_dim, device=self.device)
        styles = self.prior.styles(code, told)
        if self.training:
            self.prior.mapping.follow(styles[:, 0])
        return styles

    def _landmarks(self, views: Views, verts: Float[Tensor, "batch vert 3"]) -> Float[Tensor, "batch 3 map map"]:
        topology = self._constants[0].topology
        return landmark_map(
            views.camera.project(topology.mediapipe.on(verts, topology.faces)), self.settings.landmark_px
        )

    def _reconstruction(self, out: PriorOutput, batch: Batch) -> PriorTerms:
        if self.net.latent is None:
            return PriorTerms.none(out.image)
        return reconstruction_terms(out, batch.target, self.perceptual)

    def _images(self, batch: Batch) -> int:
        return self.global_step * len(batch.target.image) * self.trainer.world_size


def _check(config: TrainConfig) -> None:
    made, judged = config.invertavatar.prior.super_resolution.out_size_px, config.prior_training.discriminator.size_px
    if config.trainer.accumulate != 1:
        raise InputError(f"trainer.accumulate={config.trainer.accumulate}: steps of this method cannot be gathered; 1")
    if made != judged:
        raise InputError(f"prior_training.discriminator.size_px={judged}: pictures have {made} px; make them equal")


def _like(chosen: Tensor, tensor: Tensor) -> Tensor:
    return chosen.reshape(-1, *[1] * (tensor.ndim - 1))
