"""Which pairs every batch is made of: a pure function of seed, epoch, step and rank.

So the position in training is two numbers, a run that is resumed sees the very batches that it would have seen, and it
plays no part which worker process decodes a batch, or how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from gpavatar.data.batch import Pairs
from gpavatar.data.sampling import (
    PairFrames,
    SamplingConfig,
    draw_num_sources,
    draw_pairs,
    epoch_clips,
    reweighted,
)


@runtime_checkable
class Schedule(Protocol):
    """The batches of one rank."""

    frames: PairFrames

    @property
    def num_steps(self) -> int: ...

    def pairs(self, epoch: int, step: int) -> Pairs: ...


@dataclass(frozen=True)
class Stage:
    """From this epoch on the sets weigh so."""

    epoch: int
    weights: list[float]


class TrainSchedule:
    """Every epoch in another order, clips as often as they weigh.

    Batch b of an epoch belongs to rank b mod `world_size`. Every rank has the same number of steps, all batches are
    full, and the examples left over (others each epoch) are left out.
    """

    def __init__(
        self,
        frames: PairFrames,
        sampling: SamplingConfig,
        batch_size: int,
        num_draws: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        stages: Sequence[Stage] = (),
    ):
        """`num_draws`: examples of an epoch, of all ranks together. `device`: where pairs are drawn. `stages` weigh
        the sets otherwise from some epoch on."""
        self.frames, self.sampling, self.batch_size, self.num_draws = frames, sampling, batch_size, num_draws
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.device = torch.device(device)
        self._drawn_from = [(0, frames), *((stage.epoch, reweighted(frames, stage.weights)) for stage in stages)]
        self._there = frames.to(device)
        self._epoch, self._clips = -1, torch.empty(0)

    @property
    def num_steps(self) -> int:
        """Batches of this rank in an epoch."""
        return self.num_draws // (self.batch_size * self.world_size)

    def pairs(self, epoch: int, step: int) -> Pairs:
        """Sources and target of each example of a batch.

        The number of sources is that of the step on every rank, so that no rank waits for one with more work.
        """
        first = (step * self.world_size + self.rank) * self.batch_size
        clips = self._clips_of(epoch)[first : first + self.batch_size]
        num_sources = draw_num_sources(self.sampling, seeded("cpu", self.seed, epoch, step))
        generator = seeded(self.device, self.seed, epoch, step, self.rank)
        return draw_pairs(self._there, clips, num_sources, self.sampling, generator)

    def _clips_of(self, epoch: int) -> Int64[Tensor, " draw"]:
        if epoch != self._epoch:
            rng = np.random.default_rng([self.seed, epoch])
            frames = [frames for first, frames in self._drawn_from if first <= epoch][-1]
            self._epoch, self._clips = epoch, epoch_clips(frames, self.num_draws, rng).to(self.device)
        return self._clips


class FixedSchedule:
    """The same pairs in every epoch: each clip `per_clip` times, in order, with `num_sources` sources.

    Ranks share the batches without overlap and without loss, so that one of them may have a batch more than another and
    the last batch may be smaller.
    """

    def __init__(
        self,
        frames: PairFrames,
        sampling: SamplingConfig,
        batch_size: int,
        per_clip: int,
        num_sources: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.frames, self.sampling, self.batch_size, self.num_sources = frames, sampling, batch_size, num_sources
        self.rank, self.world_size = rank, world_size
        self._clips = torch.arange(len(frames.clips)).repeat_interleave(per_clip)

    @property
    def num_steps(self) -> int:
        """Batches of this rank."""
        num_batches = -(-len(self._clips) // self.batch_size)
        return len(range(self.rank, num_batches, self.world_size))

    def pairs(self, epoch: int, step: int) -> Pairs:
        """Sources and target of each example of a batch, whatever the epoch."""
        batch = step * self.world_size + self.rank
        clips = self._clips[batch * self.batch_size : (batch + 1) * self.batch_size]
        return draw_pairs(self.frames, clips, self.num_sources, self.sampling, seeded("cpu", batch))


def seeded(device: torch.device | str, *numbers: int) -> torch.Generator:
    """A generator whose stream belongs to these numbers."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))
