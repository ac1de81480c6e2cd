"""From a training to a weights file that `reenact --model` takes: the averaged weights, and a model card."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from gpavatar.avatars.checkpoint import ANY_HEAD, RESEARCH_ONLY, WeightsInfo, config_yaml, save_weights
from gpavatar.data.module import ShardDataModule
from gpavatar.media.files import whole_file
from gpavatar.training.checkpointing import Checkpoints
from gpavatar.training.config import TrainConfig
from gpavatar.training.module import AvatarTraining
from gpavatar.version import code_version

BEST = "val/ssim"  # as in the released code


@dataclass(frozen=True)
class Progress:
    """How far a training is."""

    steps: int
    seconds: float
    device: str
    metrics: dict[str, float]  # of the last validation


def export_weights(
    module: AvatarTraining, data: ShardDataModule, config: TrainConfig, progress: Progress, path: Path
) -> None:
    """Write the networks' present weights and their card, also beside them as .md. They appear only when whole.

    The first of `module.exported` is called `path`, any other `path`_METHOD.
    """
    card = model_card(config, data, progress)
    head_sha256 = ANY_HEAD if data.head.name == "flame" else data.head.sha256
    for part, made in enumerate(module.exported):
        info = WeightsInfo(made.method, data.head.name, head_sha256, config_yaml(made.config), card)
        save_weights(made.net.state_dict(), path.with_stem(f"{path.stem}_{made.method}") if part else path, info)
    with whole_file(path.with_suffix(".md")) as temporary:
        temporary.write_text(card, encoding="utf-8")


def model_card(config: TrainConfig, data: ShardDataModule, progress: Progress) -> str:
    """What the weights are made of and may be used for. Results and failures are for a person to add."""
    research = data.tier == "research"
    clips = data.clips
    kinds = ", ".join(f"{sum(clip.kind == kind for clip in clips)} {kind}" for kind in sorted({c.kind for c in clips}))
    tiers = ", ".join(f"{sum(clip.tier == tier for clip in clips)} {tier}" for tier in sorted({c.tier for c in clips}))
    licences = "; ".join(sorted({clip.licence for clip in clips}))
    use = (
        f"{RESEARCH_ONLY}: some of the clips were filmed for other purposes and may not serve commercial ones."
        if research
        else "Trained on clips of tier open alone."
    )
    metrics = "\n".join(f"| {name.removeprefix('val/')} | {value:.4f} |" for name, value in progress.metrics.items())
    return f"""# {config.method}

{use}

| | |
| --- | --- |
| clips | {len(clips)} of {len({clip.identity for clip in clips})} people: {kinds}; tier {tiers} |
| their licences | {licences} |
| head | {data.head.name} |
| steps | {progress.steps}, {config.data.batch_size * config.trainer.accumulate} pairs each per device |
| hardware | {config.trainer.num_nodes * config.trainer.devices} x {progress.device}, {progress.seconds / 3600:.2f} h |
| precision | {config.trainer.precision} |
| seed | {config.seed} |
| commit | {code_version()} |

Last validation (of the training, on the person on black; tables come from `gpavatar.eval`):

| metric | |
| --- | ---: |
{metrics or "| none | |"}

## Limits and failures

Not yet written: look at the worst frames of an evaluation and put pictures of its failures here.
"""


def progress_of(trainer: Trainer, seconds: float) -> Progress:
    """How far this training is."""
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    return Progress(trainer.global_step, seconds, name, metrics)


class Weights(Callback):
    """Exports the averaged weights at the end, and whenever a validation is the best so far."""

    def __init__(self, folder: Path, config: TrainConfig):
        self.last, self.path = folder / "weights.safetensors", folder / "best.safetensors"
        self.config, self.best, self.written = config, float("-inf"), False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The score of the file that is there, whatever the checkpoint knows of it."""
        note = self._note
        self.best = json.loads(note.read_text(encoding="utf-8"))[BEST] if note.exists() else float("-inf")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The module still has its averaged weights: it takes them away after all callbacks."""
        score = float(trainer.callback_metrics.get(BEST, -torch.inf))
        if trainer.is_global_zero and score > self.best:
            self.best = score
            self._export(trainer, pl_module, self.path)
            with whole_file(self._note) as temporary:
                temporary.write_text(json.dumps({BEST: score, "step": trainer.global_step}) + "\n", encoding="utf-8")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """However it came to an end, but for an error."""
        if trainer.is_global_zero:
            with pl_module.averaged():
                self._export(trainer, pl_module, self.last)
        self.written = True

    def _export(self, trainer: Trainer, pl_module: LightningModule, path: Path) -> None:
        seconds = next(one.total_seconds for one in trainer.callbacks if isinstance(one, Checkpoints))
        export_weights(pl_module, trainer.datamodule, self.config, progress_of(trainer, seconds), path)

    @property
    def _note(self) -> Path:
        return self.path.with_suffix(".json")
