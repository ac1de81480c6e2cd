"""Sets into training with Lightning; the only file in this folder that knows it.

data:
  train:
    - {path: sets/vfhq-256, weight: 3}
    - {path: sets/synthetic-256}
  val: [{path: sets/val-256}]
  batch_size: 8
  sampling: {num_sources: [1, 1]}
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from pytorch_lightning import LightningDataModule

from gpavatar.config import MISSING
from gpavatar.data.augment import AugmentConfig, HeadMirror
from gpavatar.data.batch import Batch
from gpavatar.data.loader import PairLoader, Place, ResidentFrames, StreamedFrames
from gpavatar.data.sampling import PairFrames, SamplingConfig, pair_frames, reweighted
from gpavatar.data.schedule import FixedSchedule, Stage, TrainSchedule
from gpavatar.data.shard_index import ClipInfo, HeadInfo, Tier
from gpavatar.data.shards import ShardSet
from gpavatar.types import InputError


@dataclass(frozen=True)
class SetConfig:
    """A set and how much of the training it is."""

    path: str = MISSING  # folder, http(s) address, or "pipe:COMMAND {}"
    weight: float = 1.0  # of all examples this share, once divided by the sum of the weights
    later: list[float] = field(default_factory=list)  # the weight in each of data.stages; left out: as before
    kinds: list[str] = field(default_factory=list)  # clips of these alone (real, still, synthetic); left out: all


@dataclass(frozen=True)
class DataConfig:
    """What is trained and validated on."""

    train: list[SetConfig] = field(default_factory=list)
    val: list[SetConfig] = field(default_factory=list)
    stages: list[int] = field(default_factory=list)  # epochs from which on the sets have their later weights
    keep_aside: int = 0
    """So many people with real clips are not trained on: without `val`, validation takes them. Always the same."""
    train_split: str = "train"
    val_split: str = "val"
    open_only: bool = False  # leave out clips of tier "research"
    batch_size: int = 8  # of one rank
    examples_per_epoch: int = 0  # all ranks together; 0: as many as there are frames
    num_workers: int = 2
    resident: bool = False  # decode all frames once and keep them on the device: small sets, short trainings
    val_sources: int = 1
    val_per_clip: int = 4  # pairs of each clip, the same in every validation
    seed: int = 0
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)


class ShardDataModule(LightningDataModule):
    """(N sources, 1 target) of one person per example, as `Batch` on the trainer's device.

    Its state is the position in training, so that a run that was stopped in the middle of an epoch goes on with the
    batch after the last one. Each rank gets its own batches; see `TrainSchedule` and `FixedSchedule`.
    """

    def __init__(self, config: DataConfig):
        super().__init__()
        self.config = config
        self._sets: dict[str, list[ShardSet]] = {}
        self._loader: PairLoader | None = None
        self._place = Place(0, 0)

    @property
    def head(self) -> HeadInfo:
        """The head of the training sets; InputError where there are none."""
        return self._opened("train")[0].index.head

    @property
    def clips(self) -> tuple[ClipInfo, ...]:
        """What is trained on; their position is what `Pairs.clip` says."""
        return self._frames("train").clips

    @property
    def tier(self) -> Tier:
        """ "research" as soon as one clip of training is: what a checkpoint must then be labelled."""
        tiers = {clip.tier for clip in self.clips}
        return "research" if "research" in tiers else "open"

    def train_dataloader(self) -> PairLoader:
        """Batches of training from where it stands."""
        config, frames, device = self.config, self._frames("train"), self._device()
        rank, world_size = self._ranks()
        num_draws = config.examples_per_epoch or len(frames)
        mirror = HeadMirror.of(self.head) if config.augment.flip else None
        on = device if config.resident else torch.device("cpu")
        schedule = TrainSchedule(
            frames, config.sampling, config.batch_size, num_draws, config.seed, rank, world_size, on, self._stages()
        )
        if schedule.num_steps == 0:
            raise InputError(f"{num_draws} examples are less than a batch of {config.batch_size} on {world_size} ranks")
        sets = self._opened("train")
        source = ResidentFrames.decode(sets, frames, device) if config.resident else StreamedFrames(sets, frames)
        self._loader = PairLoader(
            schedule, source, config.augment, mirror, device, config.num_workers, config.seed, rank
        )
        self._loader.place = self._place
        return self._loader

    def val_dataloader(self) -> PairLoader | list:
        """The pairs of validation, as they are; none without validation sets."""
        config = self.config
        if not (config.val or config.keep_aside):
            return []
        frames, (rank, world_size) = self._frames("val"), self._ranks()
        if len(frames.clips) * config.val_per_clip <= (world_size - 1) * config.batch_size:
            raise InputError(
                f"validation has fewer batches than there are ranks ({world_size}); raise data.val_per_clip"
            )
        schedule = FixedSchedule(
            frames, config.sampling, config.batch_size, config.val_per_clip, config.val_sources, rank, world_size
        )
        source = StreamedFrames(self._opened("val"), frames)
        return PairLoader(schedule, source, device=self._device(), num_workers=config.num_workers, from_start=True)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Lightning's own way does not know frozen values; the loader has brought the batch there already."""
        return batch.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Epoch and the examples in it that were handed out, by all ranks together."""
        place = self._loader.place if self._loader else self._place
        return {"epoch": place.epoch, "examples": place.step * self._examples_per_step()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on there. With another batch size or number of ranks, at the nearest batch before."""
        self._place = Place(state_dict["epoch"], state_dict["examples"] // self._examples_per_step())
        if self._loader:
            self._loader.place = self._place

    def _examples_per_step(self) -> int:
        return self.config.batch_size * self._ranks()[1]

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def _opened(self, name: str) -> list[ShardSet]:
        if name not in self._sets:
            configs = self._configs(name)
            if not configs:
                raise InputError(f"no set to {name} on; give data.{name}, a list of sets with their path")
            self._sets[name] = [ShardSet.open(each.path) for each in configs]
        return self._sets[name]

    def _frames(self, name: str) -> PairFrames:
        config, sets, configs = self.config, self._opened(name), self._configs(name)
        weights, given = [each.weight for each in configs], name == "val" and bool(config.val)
        held_out, aside = name == "val", set() if given else self._aside()

        def wanted(number: int, clip: ClipInfo) -> bool:
            of_kind = not configs[number].kinds or clip.kind in configs[number].kinds
            return of_kind and (given or (clip.identity in aside) == held_out)

        if given:
            return pair_frames(sets, weights, config.val_split, config.open_only, wanted)
        frames = pair_frames(sets, [1.0] * len(sets), config.train_split, config.open_only, wanted)
        return frames if held_out else reweighted(frames, weights)

    def _configs(self, name: str) -> list[SetConfig]:
        """Validation without sets of its own takes real clips of those training sets that have people kept aside."""
        if name == "train" or self.config.val:
            return self.config.train if name == "train" else self.config.val
        aside = self._aside()
        found = [one for one, real in self._real_clips() if any(clip.identity in aside for clip in real)]
        return [replace(one, kinds=["real"]) for one in found]

    def _aside(self) -> set[str]:
        """The people that are kept aside: those whose names' SHA-256 are smallest."""
        wanted = self.config.keep_aside
        if not wanted:
            return set()
        people = {clip.identity for _, real in self._real_clips() for clip in real}
        if len(people) <= wanted:
            raise InputError(f"data.keep_aside={wanted}: there are only {len(people)} people in real clips")
        return set(sorted(people, key=lambda name: hashlib.sha256(name.encode()).digest())[:wanted])

    def _real_clips(self) -> list[tuple[SetConfig, list[ClipInfo]]]:
        """Of each training set that may give real clips, those that may be trained on."""

        def usable(clip: ClipInfo) -> bool:
            allowed = clip.tier == "open" or not self.config.open_only
            return clip.kind == "real" and clip.split == self.config.train_split and allowed

        sets = zip(self.config.train, self._opened("train"), strict=True)
        real = [(one, shards) for one, shards in sets if not one.kinds or "real" in one.kinds]
        return [(one, list(filter(usable, shards.index.clips))) for one, shards in real]

    def _stages(self) -> list[Stage]:
        config, count = self.config, len(self.config.stages)
        if config.stages != sorted(config.stages):
            raise InputError(f"data.stages {list(config.stages)}: must be epochs in the order in which they come")
        if any(each.later and len(each.later) != count for each in config.train):
            raise InputError(f"data.train: later must have a weight for each of the {count} stages in data.stages")
        return [
            Stage(epoch, [each.later[number] if each.later else each.weight for each in config.train])
            for number, epoch in enumerate(config.stages)
        ]
