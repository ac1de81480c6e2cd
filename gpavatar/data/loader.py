"""Batches from shards: frames decoded by worker processes as they are needed, or all held decoded on a device.

    loader = PairLoader(schedule, StreamedFrames(sets), device="cuda", num_workers=4)     # any size of set
    loader = PairLoader(schedule, ResidentFrames.decode(sets, frames, "cuda"), device="cuda")   # a small one
    for batch in loader: ...      # to the end of the epoch; the next loop goes on with the next epoch

Both take the pairs of a schedule, and so follow the same law.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from gpavatar.data.augment import AugmentConfig, HeadMirror, augment
from gpavatar.data.batch import Batch, FrameStack, Pairs, zip_tensors
from gpavatar.data.sampling import PairFrames
from gpavatar.data.schedule import Schedule, seeded
from gpavatar.data.shards import ShardSet
from gpavatar.types import InputError, map_tensors


@runtime_checkable
class FrameSource(Protocol):
    """Where the pixels of the frames of a `PairFrames` come from."""

    def load(self, rows: Int64[Tensor, "*batch"]) -> FrameStack: ...


class StreamedFrames:
    """Frames read and decoded when asked for. Sets that are not in a folder are cached on disk, shard by shard."""

    def __init__(self, sets: list[ShardSet], frames: PairFrames):
        self.sets, self.frames = sets, frames

    def load(self, rows: Int64[Tensor, "*batch"]) -> FrameStack:
        """The frames of these rows; InputError where a shard is damaged."""
        numbers, places = self.frames.set_index[rows.flatten()], self.frames.set_row[rows.flatten()]
        pairs = zip(numbers.tolist(), places.tolist(), strict=True)
        stack = FrameStack.of([self.sets[number].sample(place, with_depth=False) for number, place in pairs])
        return map_tensors(stack, lambda tensor: tensor.unflatten(0, rows.shape))


class ResidentFrames:
    """All frames decoded in the memory of a device as 8-bit integers: 256 KiB each at 256 × 256."""

    def __init__(self, stack: FrameStack):
        self.stack = stack

    @staticmethod
    def decode(sets: list[ShardSet], frames: PairFrames, device: torch.device | str) -> ResidentFrames:
        """Read every frame that pairs are drawn from, once."""
        streamed = StreamedFrames(sets, frames)
        first = streamed.load(torch.tensor([0]))
        stack = map_tensors(first, lambda t: torch.empty(len(frames), *t.shape[1:], dtype=t.dtype, device=device))
        for rows in track(torch.arange(len(frames)).split(64), "decoding the set", transient=True):
            place = stack[int(rows[0]) : int(rows[-1]) + 1]  # a view
            zip_tensors(place, streamed.load(rows), Tensor.copy_)
        return ResidentFrames(stack)

    def load(self, rows: Int64[Tensor, "*batch"]) -> FrameStack:
        """The frames of these rows, which are on the same device; nothing waits for it."""
        return self.stack[rows]


@dataclass(frozen=True)
class RawBatch:
    """A batch as it travels from a worker: 8 bit, not yet varied."""

    source: FrameStack
    target: FrameStack
    pairs: Pairs

    def pin_memory(self) -> RawBatch:
        """What a data loader calls before a copy to a GPU."""
        return map_tensors(self, lambda tensor: tensor.pin_memory())


@dataclass(frozen=True)
class Place:
    """A batch of training."""

    epoch: int
    step: int


class PairLoader:
    """Iterates over the batches of an epoch from where it stands; `place` is the next batch to hand out.

    With a `StreamedFrames` source, `num_workers` processes decode ahead (0: this process decodes). A batch counts as
    handed out when the loop gets it, not when a worker begins it.
    """

    def __init__(
        self,
        schedule: Schedule,
        source: FrameSource,
        augmentation: AugmentConfig | None = None,
        mirror: HeadMirror | None = None,
        device: torch.device | str = "cpu",
        num_workers: int = 0,
        seed: int = 0,
        rank: int = 0,
        from_start: bool = False,
    ):
        """`from_start`: every loop begins at step 0, for validation, which may be left early."""
        self.from_start = from_start
        self.schedule, self.source, self.device = schedule, source, torch.device(device)
        self.augmentation, self.seed, self.rank = augmentation, seed, rank
        self.mirror = mirror.to(device) if mirror else None
        self._places, self._batches, self._workers = _Places(schedule), _RawBatches(schedule, source), None
        if num_workers and isinstance(source, StreamedFrames):
            self._workers = DataLoader(
                self._batches, None, sampler=self._places, num_workers=num_workers, collate_fn=_as_it_is,
                pin_memory=self.device.type == "cuda", prefetch_factor=4,
            )  # fmt: skip

    @property
    def place(self) -> Place:
        """The next batch to hand out; may be set."""
        return self._places.place

    @place.setter
    def place(self, place: Place) -> None:
        self._places.place = place

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self.schedule.num_steps

    def __iter__(self) -> Iterator[Batch]:
        if self.from_start:
            self.place = Place(0, 0)
        batches = map(self._batches.__getitem__, self._places) if self._workers is None else iter(self._workers)
        for place, raw in batches:
            if isinstance(raw, InputError):
                raise raw
            last = place.step + 1 == len(self)
            self.place = Place(place.epoch + 1, 0) if last else Place(place.epoch, place.step + 1)
            if last:
                next(batches, None)  # ends the workers: who knows the length never asks beyond it
            yield self._finish(raw, place)

    def batch(self, place: Place) -> Batch:
        """Any batch of training, whatever came before."""
        return self._finish(self._batches.load(place), place)

    def _finish(self, raw: RawBatch, place: Place) -> Batch:
        raw = map_tensors(raw, lambda tensor: tensor.to(self.device, non_blocking=True))
        batch = Batch(raw.source.to_views(), raw.target.to_views(), raw.pairs, place.epoch, place.step)
        if self.augmentation is None:
            return batch
        generator = seeded(self.device, self.seed, place.epoch, place.step, self.rank, 1)
        return augment(batch, self.augmentation, self.mirror, generator)


class _Places(Sampler):
    """From `place` to the end of its epoch."""

    def __init__(self, schedule: Schedule):
        self.num_steps, self.place = schedule.num_steps, Place(0, 0)

    def __iter__(self) -> Iterator[Place]:
        epoch, first = self.place.epoch, self.place.step
        return (Place(epoch, step) for step in range(first, self.num_steps))


class _RawBatches(Dataset):
    """What a worker process does: decode the frames of a batch."""

    def __init__(self, schedule: Schedule, source: FrameSource):
        self.schedule, self.source = schedule, source

    def load(self, place: Place) -> RawBatch:
        """The frames of a batch."""
        pairs = self.schedule.pairs(place.epoch, place.step)
        frames = self.source.load(torch.cat([pairs.source, pairs.target[:, None]], 1))
        return RawBatch(frames[:, :-1], frames[:, -1], pairs)

    def __getitem__(self, place: Place) -> tuple[Place, RawBatch | InputError]:
        try:
            return place, self.load(place)
        except InputError as error:  # as a value: raised in a worker it would come back as a page of traceback
            return place, error


def _as_it_is(item):
    return item
