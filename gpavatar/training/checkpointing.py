"""When the state of a training is kept, and when a training ends before its last step.

A checkpoint is written under a temporary name and renamed; read, it is taken for plain tensors and numbers and nothing
else. What it does not hold is a function of what it holds: random numbers belong to the place in the data.
"""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.plugins import TorchCheckpointIO

from gpavatar.media.files import whole_file
from gpavatar.training.config import CheckpointConfig

AGREE_EVERY = 10  # steps between the moments at which several processes ask each other whether it is time
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class WholeFiles(TorchCheckpointIO):
    """Checkpoints that are there whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write and rename. InputError where it cannot be written."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            torch.save(checkpoint, temporary)


class Checkpoints(Callback):
    """Saves every so many minutes or steps, at the last step, when the time is up, and when asked to stop.

    SIGTERM and Ctrl-C let the step finish; a second Ctrl-C does not wait.
    """

    def __init__(self, folder: Path, config: CheckpointConfig, max_seconds: float):
        self.folder, self.config, self.max_seconds = folder / "checkpoints", config, max_seconds
        self.seconds, self.asked_to_stop = 0.0, False
        self._start: float | None = None
        self._handlers: dict[int, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """Part of every checkpoint."""
        return {"seconds": self.total_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.seconds = state_dict["seconds"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The clocks start."""
        self._start = self._saved = time.monotonic()
        self._step = trainer.global_step
        if threading.current_thread() is threading.main_thread():  # only there may signals be arranged
            self._handlers = {number: signal.signal(number, self._ask_to_stop) for number in SIGNALS}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_) -> None:
        """Is it time?"""
        step, now = trainer.global_step, time.monotonic()
        if step == self._step:  # of several batches of a step only the last one ends it
            return
        self._step = step
        stop = self._any(trainer, self.asked_to_stop or now - self._start >= self.max_seconds)
        due = self._any(trainer, now - self._saved >= 60 * self.config.every_minutes)
        due |= bool(self.config.every_steps) and step % self.config.every_steps == 0
        if stop or due or step >= trainer.max_steps:
            self.save(trainer)
        if stop:
            trainer.should_stop = True
            if self.asked_to_stop:
                trainer.limit_val_batches = 0  # whoever stops us does not wait for a last validation

    def save(self, trainer: Trainer) -> None:
        """The state after this step; the oldest states go."""
        trainer.save_checkpoint(self.folder / f"step_{trainer.global_step:08d}.ckpt")
        self._saved = time.monotonic()
        if trainer.is_global_zero:
            for old in sorted(self.folder.glob("step_*.ckpt"))[: -self.config.keep]:
                old.unlink()

    def on_train_end(self, *_) -> None:
        """Signals do again what they did."""
        self.seconds, self._start = self.total_seconds, None
        self._give_signals_back()

    def on_exception(self, *_) -> None:
        """As at the end."""
        self._give_signals_back()

    @property
    def total_seconds(self) -> float:
        """How long the run has trained, over all its starts."""
        return self.seconds + (time.monotonic() - self._start if self._start is not None else 0.0)

    def _give_signals_back(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _any(self, trainer: Trainer, wish: bool) -> bool:
        """Whether any process wishes it; asked only every few steps, since all must wait for the answer."""
        if trainer.world_size == 1:
            return wish
        return trainer.global_step % AGREE_EVERY == 0 and trainer.strategy.reduce_boolean_decision(wish, all=False)

    def _ask_to_stop(self, number: int, frame: Any) -> None:
        if self.asked_to_stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked_to_stop = True
