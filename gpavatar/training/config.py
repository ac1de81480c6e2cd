"""What a training is: everything that `python -m gpavatar.train` can be told, with its defaults.

A yaml in configs/ holds what differs; `key.sub=value` on the command line wins over it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from gpavatar.avatars.gpavatar import GPAvatarConfig
from gpavatar.avatars.gpavatar_lite import GPAvatarLiteConfig
from gpavatar.avatars.invertavatar import InvertAvatarConfig
from gpavatar.data.module import DataConfig
from gpavatar.training.inversion_config import InversionTrainingConfig
from gpavatar.training.losses import LossConfig
from gpavatar.training.prior_config import PriorTrainingConfig
from gpavatar.types import InputError


@dataclass(frozen=True)
class OptimConfig:
    """Adam with a rate that changes by the step, and the average of the weights."""

    lr: float = 1e-4
    betas: tuple[float, float] = (0.0, 0.99)  # as released; StyleGAN's
    slow: list[str] = field(default_factory=lambda: ["style_mlp", "to_style"])
    """Parameters with one of these in their name learn at `slow_factor` times the rate, as released."""
    slow_factor: float = 0.1
    only: list[str] = field(default_factory=list)
    """Parameters whose names begin so are trained, the others stay as they are; left out: all."""
    warmup_steps: int = 0  # the rate rises linearly
    milestones: list[int] = field(default_factory=lambda: [130_000, 160_000])  # steps; as released
    gamma: float = 0.2  # factor on the rate at each milestone
    cosine: bool = False  # falls to zero at trainer.max_steps along half a cosine
    ema_decay: float = 0.999  # of the averaged weights, which are what is drawn, validated and exported; 0: none


@dataclass(frozen=True)
class TrainerConfig:
    """How long, on what, and how fast."""

    max_steps: int = 150_000  # of the optimizer
    max_time: str = ""  # of this start, [[D:]H:]M:S; then a checkpoint and the end. "": as long as it takes
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1  # per node
    num_nodes: int = 1
    precision: Literal["bf16", "fp32"] = "bf16"  # of the networks; geometry and compositing are always fp32
    accumulate: int = 1  # batches per step
    clip_norm: float = 1.0  # longest gradient; 0: any
    jitter: bool = True  # samples along rays at random within their intervals
    channels_last: bool = True
    fused: bool = True  # field and compositing by the fused kernels, where the device has them (CUDA); gpavatar only
    compile: Literal["auto", "on", "off"] = "auto"  # the 2-D networks and the radiance head; auto: on CUDA
    log_every: int = 50  # steps; only then does the program wait for the device
    val_every: int = 2_000  # steps
    progress: bool = True


@dataclass(frozen=True)
class CheckpointConfig:
    """When the state of the training is kept."""

    every_minutes: float = 10.0
    every_steps: int = 0  # 0: by time only
    keep: int = 2  # newest ones
    small: bool = False
    """Moments, and the difference of the averaged weights to the current ones, in bf16: 10 instead of 16 bytes per
    parameter. A resumed run is then close to, but not exactly, the uninterrupted one."""


@dataclass(frozen=True)
class LogConfig:
    """Who is told. The CSV file is always written."""

    wandb: bool = True  # if installed; on this machine only (offline) unless the user is logged in
    project: str = "gpavatar"
    sheets_to_wandb: bool = False  # pictures of people leave the machine only when asked
    sheet_minutes: float = 5.0  # between sheets of sample images
    sheet_examples: int = 6


@dataclass(frozen=True)
class TrainConfig:
    """A training."""

    method: Literal[
        "gpavatar",
        "gpavatar_lite",
        "invertavatar_prior",
        "invertavatar_latent",
        "invertavatar_oneshot",
        "invertavatar_recurrent",
    ] = "gpavatar"
    out: str = ""  # folder of the run; outputs/train/NAME of the config where left out
    seed: int = 0
    start: str = ""  # FILE.safetensors, exported by a training of the same network: its weights are begun with
    gpavatar: GPAvatarConfig = field(default_factory=GPAvatarConfig)
    gpavatar_lite: GPAvatarLiteConfig = field(default_factory=GPAvatarLiteConfig)
    invertavatar: InvertAvatarConfig = field(default_factory=InvertAvatarConfig)
    prior: Literal["adversarial", "reconstruction"] = "adversarial"
    """How `invertavatar_prior` learns: from random people against a discriminator, or as an auto-encoder."""
    prior_training: PriorTrainingConfig = field(default_factory=PriorTrainingConfig)
    inversion_training: InversionTrainingConfig = field(default_factory=InversionTrainingConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)

    @property
    def model(self) -> Any:
        """The config of the networks that are trained."""
        if self.method == "invertavatar_prior":
            return self.invertavatar.prior
        return self.invertavatar if self.method.startswith("invertavatar_") else getattr(self, self.method)


def seconds_of(text: str) -> float:
    """The seconds of a time "[[D:]H:]M:S"; infinite for "". InputError for anything else."""
    if not text:
        return float("inf")
    if not re.fullmatch(r"\d+(:\d+){1,3}", text):
        raise InputError(f"trainer.max_time={text}: must be minutes and seconds such as 27:30, [[D:]H:]M:S")
    units = (1, 60, 3600, 86400)
    return float(sum(unit * int(part) for unit, part in zip(units, reversed(text.split(":")), strict=False)))
