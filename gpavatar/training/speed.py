"""How fast a training is, how much memory it takes, and how long it waits for data."""

from __future__ import annotations

import resource
import sys
import time

import torch
from pytorch_lightning import Callback, LightningModule, Trainer


class Speed(Callback):
    """Logs, over the steps since the last log: examples per second of all devices, the share of time in which the loop
    waited for a batch, and the most memory held so far (of the device, or on a CPU of the process), GB.

    Validation does not count. Stands after the callbacks that work, so that checkpoints and sheets count as such.
    """

    def __init__(self, log_every: int):
        self.log_every = log_every

    def on_train_start(self, trainer: Trainer, *_) -> None:
        """The clock starts with the first batch."""
        self._step = trainer.global_step
        self._restart(None)

    def on_train_batch_start(self, *_) -> None:
        """A batch has come."""
        now = time.perf_counter()
        if self._ended is None:
            self._began = now
        else:
            self._waited += now - self._ended

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs, batch, batch_idx) -> None:
        """A batch was worked through; the last one of a step may log."""
        self._ended = now = time.perf_counter()
        self._examples += len(batch.target.image) * trainer.world_size
        before, self._step = self._step, trainer.global_step
        if self._step != before and self._step % self.log_every == 0:
            elapsed = now - self._began
            found = {"samples_per_s": self._examples / elapsed, "loader_wait": self._waited / elapsed}
            pl_module.log_dict({f"speed/{k}": v for k, v in (found | {"memory_gb": memory_gb()}).items()})
            self._restart(now)

    def on_validation_start(self, *_) -> None:
        """The clock stops."""
        self._stopped = time.perf_counter()

    def on_validation_end(self, *_) -> None:
        """The clock goes on."""
        pause = time.perf_counter() - self._stopped
        if self._ended is not None:
            self._began, self._ended = self._began + pause, self._ended + pause

    def _restart(self, now: float | None) -> None:
        self._began, self._ended, self._waited, self._examples = now or 0.0, now, 0.0, 0


def memory_gb() -> float:
    """The most memory held so far: of the CUDA device, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9
