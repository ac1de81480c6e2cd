"""A loss that is not finite stops the training, and what it was computed from is kept."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gpavatar.data.batch import Batch
from gpavatar.media.files import write_tensors
from gpavatar.types import GpavatarError


class TrainingError(GpavatarError):
    """The training cannot go on as it is set."""


@dataclass(frozen=True)
class _Watched:
    """A step whose loss has not been looked at yet."""

    step: int
    batch: Batch
    finite: Bool[Tensor, ""]  # on the CPU, there once `copied` is
    copied: torch.cuda.Event | None

    def known(self) -> bool:
        return self.copied is None or self.copied.query()


class LossGuard:
    """Looks at every loss without making the program wait for the device.

    Whether a loss is finite is copied to the host behind the step's back and looked at when it is there, at the latest
    `DEPTH` steps later: also the farthest that the host runs ahead of the device.
    """

    DEPTH = 8

    def __init__(self, folder: Path, rank: int = 0):
        self.folder, self.rank = folder, rank
        self._waiting: deque[_Watched] = deque()

    def watch(self, loss: Float[Tensor, ""], batch: Batch, step: int) -> None:
        """Remember a loss, and look at those that are known by now. Raises TrainingError for one that is not finite."""
        finite = loss.detach().isfinite()
        copied = None
        if finite.is_cuda:
            finite = torch.empty((), dtype=torch.bool, pin_memory=True).copy_(finite, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        self._waiting.append(_Watched(step, batch, finite, copied))
        self.check(wait=len(self._waiting) > self.DEPTH)

    def check(self, wait: bool = True) -> None:
        """Look at all losses that are known, and (`wait`) at least at the oldest; see `watch`."""
        while self._waiting and (wait or self._waiting[0].known()):
            watched = self._waiting.popleft()
            if watched.copied is not None:
                watched.copied.synchronize()
            if not watched.finite:
                self._stop(watched)
            wait = False

    def check_all(self) -> None:
        """Wait until every loss is known; see `watch`."""
        while self._waiting:
            self.check()

    def _stop(self, watched: _Watched) -> None:
        path = self.folder / f"not_finite_step_{watched.step}_rank_{self.rank}.safetensors"
        save_batch(watched.batch, path, watched.step)
        raise TrainingError(
            f"the loss is not finite at step {watched.step} (rank {self.rank}); its batch is in {path}. Run again to "
            "go on from the last checkpoint, with a lower optim.lr or trainer.clip_norm, or precision=fp32"
        )


def save_batch(batch: Batch, path: Path, step: int) -> None:
    """A batch as safetensors: its tensors by their field ("source.params.jaw_pose"), its place as metadata."""
    place = {"step": step, "data_epoch": batch.epoch, "data_step": batch.step}
    write_tensors(dict(_tensors(batch)), path, {name: str(number) for name, number in place.items()})


def _tensors(value: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for field in dataclasses.fields(value):
        part, name = getattr(value, field.name), prefix + field.name
        if isinstance(part, Tensor):
            yield name, part
        elif dataclasses.is_dataclass(part):
            yield from _tensors(part, f"{name}.")
