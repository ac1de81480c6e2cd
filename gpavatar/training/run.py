"""One training from its config: the folder, the data, the module, the trainer, and what comes of it."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from gpavatar.data.module import ShardDataModule
from gpavatar.training.checkpointing import Checkpoints, WholeFiles
from gpavatar.training.config import TrainConfig, seconds_of
from gpavatar.training.export import Weights
from gpavatar.training.gpavatar import GPAvatarTraining
from gpavatar.training.gpavatar_lite import GPAvatarLiteTraining
from gpavatar.training.invertavatar_images import OneShotTraining, RecurrentTraining
from gpavatar.training.invertavatar_latent import LatentTraining
from gpavatar.training.invertavatar_prior import PriorTraining
from gpavatar.training.logs import CsvLog, wandb_log
from gpavatar.training.module import AvatarTraining
from gpavatar.training.progress import StepProgress
from gpavatar.training.run_directory import last_checkpoint, open_run, step_of
from gpavatar.training.sheet import Sheets
from gpavatar.training.speed import Speed
from gpavatar.types import InputError, one_line

MODULES: dict[str, type[AvatarTraining]] = {
    "gpavatar": GPAvatarTraining,
    "gpavatar_lite": GPAvatarLiteTraining,
    "invertavatar_prior": PriorTraining,
    "invertavatar_latent": LatentTraining,
    "invertavatar_oneshot": OneShotTraining,
    "invertavatar_recurrent": RecurrentTraining,
}


def run_training(config: TrainConfig, folder: Path) -> int:
    """Train in `folder`, from where a run there was stopped; returns the exit code (130: asked to stop).

    Every process of a training calls this. InputError for settings that cannot be; TrainingError for a loss that is not
    finite.
    """
    max_seconds = seconds_of(config.trainer.max_time)
    quieten()
    seed_everything(config.seed, workers=False, verbose=False)  # every process begins with the same weights
    data = ShardDataModule(config.data)
    module = MODULES[config.method](config, data.head, folder)
    checkpoint = last_checkpoint(folder)
    main = rank_zero_only.rank == 0
    if main:
        open_run(folder, config)
    checkpoints, weights = Checkpoints(folder, config.checkpoint, max_seconds), Weights(folder, config)
    try:
        trainer = make_trainer(config, folder, [checkpoints, weights], checkpoint)
    except MisconfigurationException as error:  # more devices than there are, an accelerator that is not there
        raise InputError(f"trainer: {one_line(error)}") from error
    if main:
        print(f"{folder}: {about(module, config)}" + (f"; goes on at step {step_of(checkpoint)}" if checkpoint else ""))
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    if not weights.written:  # all steps were done before
        module.on_fit_start()
        weights.on_train_end(trainer, module)
    if trainer.is_global_zero:
        print(f"{folder}: {trainer.global_step} steps; the weights are in {weights.last}")
    return 130 if checkpoints.asked_to_stop else 0


def make_trainer(config: TrainConfig, folder: Path, callbacks: list[Callback], checkpoint: Path | None) -> Trainer:
    """Lightning's trainer, told everything."""
    settings, log = config.trainer, config.log
    csv_log = CsvLog(folder / "metrics.csv")
    csv_log.forget_after(step_of(checkpoint) if checkpoint else 0)
    loggers = [csv_log, wandb_log(folder, log)] if rank_zero_only.rank == 0 else [csv_log]
    # One source leaves the attention out, so that some parameters have no gradient in some steps. Buffers never change.
    ddp = DDPStrategy(find_unused_parameters=True, gradient_as_bucket_view=True, broadcast_buffers=False)
    several = settings.devices * settings.num_nodes > 1
    return Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=ddp if several else "auto",
        precision="32-true",  # bf16 is the module's own affair: see precision.py
        max_steps=settings.max_steps,
        max_epochs=-1,
        accumulate_grad_batches=settings.accumulate,
        log_every_n_steps=settings.log_every,
        val_check_interval=settings.val_every * settings.accumulate,
        check_val_every_n_epoch=None,
        limit_val_batches=1.0 if config.data.val or config.data.keep_aside else 0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the data module shares the data out
        benchmark=True,
        default_root_dir=folder,
        logger=[each for each in loggers if each],
        callbacks=[
            *callbacks,
            Sheets(folder, log),
            Speed(settings.log_every),
            *([StepProgress(settings.log_every)] if settings.progress else []),
        ],
        plugins=[WholeFiles()],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )


def about(module: AvatarTraining, config: TrainConfig) -> str:
    """The training in a line."""
    millions = sum(parameter.numel() for parameter in module.net.parameters()) / 1e6
    ranks = config.trainer.devices * config.trainer.num_nodes
    return (
        f"{config.method}, {millions:.2f} M parameters, {config.trainer.precision}, {ranks} process"
        f"{'es' if ranks > 1 else ''} x {config.data.batch_size * config.trainer.accumulate} pairs a step"
    )


def quieten() -> None:
    """Keep back what Lightning says on every start and what does not hold here."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*dataloader is not resumable.*",  # ours stands where the data module put it
        ".*does not have many workers.*",
        ".*is smaller than the logging interval.*",
        ".*LeafSpec.*",  # Lightning's own affair with torch
    ):
        warnings.filterwarnings("ignore", message)
