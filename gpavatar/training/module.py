"""What the training of every method has in common, as a LightningModule.

A method adds its networks (`net`), what a batch costs (`terms`) and what it draws (`draw`).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from gpavatar.avatars.checkpoint import read_weights
from gpavatar.data.batch import Batch
from gpavatar.training.config import OptimConfig, TrainConfig
from gpavatar.training.ema import Ema
from gpavatar.training.guard import LossGuard
from gpavatar.training.losses import Distance, LossTerms
from gpavatar.training.sheet import Sheet
from gpavatar.training.validation import validation_metrics
from gpavatar.types import InputError

SMALL = ("exp_avg", "exp_avg_sq")  # Adam's moments


@dataclass(frozen=True)
class Exported:
    """Networks that become a weights file."""

    method: str
    config: Any  # the dataclass that the networks are made from
    net: nn.Module


class AvatarTraining(LightningModule):
    """Optimizer, rate, averaged weights, random numbers, and what a checkpoint holds of them."""

    def __init__(self, config: TrainConfig, net: nn.Module, folder: Path):
        """`folder` takes the batch of a loss that is not finite."""
        super().__init__()
        self.config, self.net, self.folder = config, net, folder
        if config.start:
            begin_with(self.exported[0], config.start)
        for name, parameter in net.named_parameters():
            if config.optim.only and not name.startswith(tuple(config.optim.only)):
                parameter.requires_grad_(False)  # a method may hold back some of its own
        self.ema = Ema(net, config.optim.ema_decay) if config.optim.ema_decay else None
        self.guard = LossGuard(folder)

    @abstractmethod
    def terms(self, batch: Batch, *, jitter: bool) -> tuple[Tensor, LossTerms]:
        """The pictures drawn for the targets of a batch, and what is wrong with them."""

    @property
    @abstractmethod
    def perceptual(self) -> Distance | None:
        """The perceptual distance, where the loss has one."""

    @abstractmethod
    def draw(self, batch: Batch) -> Sheet:
        """The pictures that a sheet of samples shows."""

    @property
    def exported(self) -> tuple[Exported, ...]:
        """What the training makes: a weights file each, the first under the plain name."""
        return (Exported(self.config.method, self.config.model, self.net),)

    def on_fit_start(self) -> None:
        """The weights are where they will stay."""
        self.guard = LossGuard(self.folder, self.global_rank)
        if self.ema:
            self.ema.to_parameters()

    def training_step(self, batch: Batch) -> Float[Tensor, ""]:
        """Eq. 5 of a batch. Random numbers belong to its place in the data: there is no other state of them."""
        seed_step(self.config.seed, batch, self.global_rank)
        _, terms = self.terms(batch, jitter=self.config.trainer.jitter)
        loss = terms.total(self.config.loss)
        self.guard.watch(loss, batch, self.global_step)
        if (self.global_step + 1) % self.config.trainer.log_every == 0:
            found = {"loss": loss} | terms.named()
            options = {"sync_dist": True, "batch_size": len(batch.target.image)}
            self.log_dict({f"train/{name}": value.detach() for name, value in found.items()}, **options)
        return loss

    def validation_step(self, batch: Batch) -> None:
        """Means over all validation pairs of all ranks, which may have different numbers of batches."""
        image, terms = self.terms(batch, jitter=False)
        found = validation_metrics(image, batch.target, self.perceptual) | {"loss": terms.total(self.config.loss)}
        options = {"on_step": False, "on_epoch": True, "sync_dist": True, "batch_size": len(image)}
        self.log_dict({f"val/{name}": value for name, value in found.items()}, **options)

    def on_validation_start(self) -> None:
        """Validated is the average."""
        if self.ema:
            self.ema.exchange()

    def on_validation_end(self) -> None:
        """Back to the weights that learn."""
        if self.ema:
            self.ema.exchange()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block: averaged weights, nothing random, no gradients."""
        training = self.net.training
        self.net.eval()
        try:
            with torch.no_grad(), self.ema.applied() if self.ema else nullcontext():
                yield
        finally:
            self.net.train(training)

    def configure_optimizers(self) -> dict[str, Any]:
        """Adam; the rate follows `rate_factor`."""
        config = self.config.optim
        slow = [any(word in name for word in config.slow) for name, _ in self.net.named_parameters()]
        parameters = list(self.net.parameters())
        groups = [
            {"params": [p for p, is_slow in zip(parameters, slow, strict=True) if is_slow == chosen], "lr": lr}
            for chosen, lr in ((False, config.lr), (True, config.lr * config.slow_factor))
        ]
        groups = [group for group in groups if group["params"]]
        optimizer = torch.optim.Adam(groups, lr=config.lr, betas=tuple(config.betas), fused=self.device.type == "cuda")
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate_factor(step, config, self.config.trainer.max_steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        """Shorten the gradient to `trainer.clip_norm`; its length is logged."""
        longest = self.config.trainer.clip_norm or math.inf
        self.log("train/grad_norm", nn.utils.clip_grad_norm_(self.net.parameters(), longest))

    def optimizer_step(self, *args, **kwargs) -> None:
        """A step, and the average follows."""
        super().optimizer_step(*args, **kwargs)
        if self.ema:
            self.ema.update()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Plain tensors and numbers alone, so that a checkpoint is read without running anything in it."""
        self.guard.check_all()
        small = self.config.checkpoint.small
        if self.ema:
            checkpoint["ema"] = self.ema.state(small)
        for optimizer in checkpoint.get("optimizer_states", []) if small else []:
            optimizer["state"] = {
                number: {name: v.bfloat16() if name in SMALL else v for name, v in state.items()}
                for number, state in optimizer["state"].items()
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The averages; Lightning brings back the rest. (The optimizer widens its moments itself.)"""
        if self.ema and "ema" in checkpoint:
            state = checkpoint["state_dict"]
            weights = {name.removeprefix("net."): state[name] for name in state if name.startswith("net.")}
            self.net.load_state_dict(weights)
            self.ema.load(checkpoint["ema"])


def begin_with(made: Exported, start: str) -> None:
    """Take the weights of the file `start`. InputError where they are not those of this network."""
    read = read_weights(start, type(made.config))
    if read.info.method != made.method or read.config != made.config:
        raise InputError(f"start={start}: is not the same network ({read.info.method}); give its own weights")
    made.net.load_state_dict(read.tensors)


def seed_step(seed: int, batch: Batch, rank: int) -> None:
    """Set torch's generators, of all devices, to the stream that belongs to this batch."""
    sequence = np.random.SeedSequence([seed, batch.epoch, batch.step, rank, 2])  # the data's own end otherwise
    torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1)))


def rate_factor(step: int, config: OptimConfig, max_steps: int) -> float:
    """The rate of a step over `config.lr`: warmup × gamma^(milestones passed) × (1 + cos π step/max_steps) / 2."""
    factor = min(1.0, (step + 1) / (config.warmup_steps + 1))
    factor *= config.gamma ** sum(step >= milestone for milestone in config.milestones)
    return factor * (0.5 + 0.5 * math.cos(math.pi * min(step / max_steps, 1.0))) if config.cosine else factor
