"""Which frames stand together in a batch: clips by weight, sources at random, the target preferably far from them.

    clips     each epoch visits clip c about num_draws · w_c / Σ w times, to within one; w_c is the weight of its set
              times 1 / (clips of its identity), over the sum of these in its set
    sources   N different frames of the clip, all sets of N equally likely
    target    p(t | S) ∝ floor + min_{s ∈ S} d(s, t)^power,  d(s, t) = θ(s, t) / angle_deg + |ψ_s − ψ_t| / expression

θ is the angle between the two head poses as the camera sees them, ψ expression and jaw. Nothing here looks at pixels;
all of `draw_pairs` is torch without a wait for the device, so that streaming and resident sets draw by the same law.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from gpavatar.camera import rotation_angle_deg
from gpavatar.data.batch import Pairs
from gpavatar.data.sample import ROLES
from gpavatar.data.shard_index import ClipInfo, FrameTable
from gpavatar.data.shards import ShardSet
from gpavatar.types import InputError, map_tensors


@dataclass(frozen=True)
class SamplingConfig:
    """How pairs are drawn."""

    num_sources: list[float] = field(default_factory=lambda: [1.0, 1.0, 1.0, 1.0])  # relative odds of 1, 2, ... sources
    angle_deg: float = 15.0  # a turn of the head that counts as much as ...
    expression: float = 0.5  # ... this change of the expression (norm of the difference)
    power: float = 2.0  # how much far targets are preferred; 0: all targets alike
    floor: float = 0.1  # odds of a target that equals a source, where 1 are those at distance 1


@dataclass(frozen=True)
class PairFrames:
    """The clips to draw from, of one or several sets, and their frames one after the other."""

    first: Int64[Tensor, " clip"]  # row of the clip's first frame
    count: Int64[Tensor, " clip"]
    weight: Float[Tensor, " clip"]  # float64, sums to 1
    identity: Int64[Tensor, " clip"]
    num_choices: Int64[Tensor, " clip"]  # most different sources that leave a target
    set_index: Int64[Tensor, " frame"]  # which set a frame is from ...
    set_row: Int64[Tensor, " frame"]  # ... and its row in the table of that set
    rotation: Float[Tensor, "frame 9"]  # head -> camera axes
    motion: Float[Tensor, "frame n_motion"]  # expression, jaw
    is_source: Bool[Tensor, " frame"]  # may be one
    is_target: Bool[Tensor, " frame"]
    max_count: int
    clips: tuple[ClipInfo, ...]

    def to(self, device: torch.device | str) -> PairFrames:
        """All tensors on `device`."""
        return map_tensors(self, lambda tensor: tensor.to(device))

    def __len__(self) -> int:
        return self.rotation.shape[0]


def pair_frames(
    sets: list[ShardSet],
    weights: list[float],
    split: str,
    open_only: bool = False,
    wanted: Callable[[int, ClipInfo], bool] = lambda number, clip: True,
) -> PairFrames:
    """All clips of `split` (of tier open, with `open_only`) that hold a source and another frame as its target.

    `wanted` says of each clip of the set of a number whether to take it.

    InputError where the sets differ in head or size, a weight is not positive, or a set has no such clip.
    """
    if len({(shards.index.head, shards.index.size_px) for shards in sets}) != 1:
        names = " and ".join(str(shards.root) for shards in sets) or "no set"
        raise InputError(f"{names}: sets that are mixed need one head and one size; give sets made alike")
    if len(weights) != len(sets) or min(weights) <= 0:
        raise InputError(f"weights of sets {weights}: must be positive, one for each of the {len(sets)} sets")
    clips, weight, choices, set_index, rows, tables = [], [], [], [], [], []
    for number, shards in enumerate(sets):
        chosen = [
            (clip, frames, sources)
            for clip, frames in _frames_of_clips(shards)
            if clip.split == split and not (open_only and clip.tier != "open") and wanted(number, clip)
            if (sources := _num_choices(shards.table.role[frames])) > 0
        ]
        if not chosen:
            asked = f"split {split!r}" + (" of tier open" if open_only else "")
            there = f"the set has the splits {', '.join(shards.index.splits)}"
            if split in shards.index.splits:
                there = "tier, kinds and the people kept aside leave none, or clips are too short"
            raise InputError(f"{shards.root}: no clip with pairs in {asked}; {there}")
        total = sum(clip.weight for clip, _, _ in chosen)
        clips += [clip for clip, _, _ in chosen]
        weight += [clip.weight / total * weights[number] / sum(weights) for clip, _, _ in chosen]
        choices += [sources for _, _, sources in chosen]
        row = torch.cat([torch.arange(frames.start, frames.stop) for _, frames, _ in chosen])
        rows.append(row)
        tables.append(shards.table[row])
        set_index.append(torch.full_like(row, number))
    table, count = FrameTable.concatenate(tables), torch.tensor([clip.num_frames for clip in clips])
    numbers = {name: number for number, name in enumerate(sorted({clip.identity for clip in clips}))}
    return PairFrames(
        clips=tuple(clips),
        first=count.cumsum(0) - count,
        count=count,
        weight=torch.tensor(weight, dtype=torch.float64),
        identity=torch.tensor([numbers[clip.identity] for clip in clips]),
        num_choices=torch.tensor(choices),
        set_index=torch.cat(set_index),
        set_row=torch.cat(rows),
        rotation=table.rotation.flatten(1),
        motion=torch.cat([table.expression, table.jaw_pose], 1),
        is_source=table.role != ROLES.index("target"),
        is_target=table.role != ROLES.index("source"),
        max_count=int(count.max()),
    )


def reweighted(frames: PairFrames, weights: list[float]) -> PairFrames:
    """The same clips, sets weighing otherwise; a set of weight 0 is left out. InputError where none has any."""
    if len(weights) != int(frames.set_index.max()) + 1 or min(weights) < 0 or not sum(weights) > 0:
        raise InputError(f"weights of sets {weights}: must be one for each set, not negative, and not all 0")
    number, new = frames.set_index[frames.first], torch.tensor(weights, dtype=torch.float64)
    before = torch.zeros_like(new).index_add(0, number, frames.weight)
    return replace(frames, weight=frames.weight * (new / new.sum() / before)[number])


def _frames_of_clips(shards: ShardSet) -> Iterator[tuple[ClipInfo, slice]]:
    start = 0
    for clip in shards.index.clips:
        yield clip, slice(start, start + clip.num_frames)
        start += clip.num_frames


def _num_choices(role: UInt8[Tensor, " frame"]) -> int:
    """How many different sources a pair of this clip can have; 0: there is no pair."""
    only_source, only_target = (int((role == ROLES.index(name)).sum()) for name in ("source", "target"))
    both = len(role) - only_source - only_target
    if only_target:
        return only_source + both
    return only_source + both - 1 if both else 0


def epoch_clips(frames: PairFrames, num_draws: int, rng: np.random.Generator) -> Int64[Tensor, " draw"]:
    """The clips of one epoch in random order.

    Systematic sampling: with all clips laid along [0, num_draws) by weight, identity beside identity in random order,
    the clips at u, u + 1, u + 2, ... are taken. A clip, an identity or a set comes as often as its weight says, to
    within one; a clip of large weight comes several times.
    """
    keys = rng.permutation(int(frames.identity.max()) + 1)[frames.identity.numpy()]
    order = np.lexsort((rng.random(len(keys)), keys, frames.set_index[frames.first].numpy()))
    ends = frames.weight.numpy()[order].cumsum() * num_draws
    taken = np.searchsorted(ends, np.arange(num_draws) + rng.random(), side="right").clip(max=len(order) - 1)
    return torch.from_numpy(rng.permutation(order[taken]))


def draw_num_sources(config: SamplingConfig, generator: torch.Generator) -> int:
    """N of one batch; `generator` is on the CPU."""
    odds = torch.tensor(config.num_sources, dtype=torch.float32)
    if len(odds) == 0 or not bool((odds >= 0).all()) or not float(odds.sum()) > 0:
        raise InputError(f"num_sources {list(config.num_sources)}: must be odds of 1, 2, ... sources, such as [1, 1]")
    return int(torch.multinomial(odds, 1, generator=generator)) + 1


def draw_pairs(
    frames: PairFrames,
    clip: Int64[Tensor, " batch"],
    num_sources: int,
    config: SamplingConfig,
    generator: torch.Generator,
) -> Pairs:
    """Sources and target of each example by the law at the head of this file; twin: `target_probabilities`.

    A clip with fewer than `num_sources` different sources gives some of them twice. Sources come first out of a uniform
    order of the frames; the target wins the race arg max p / e, e exponential. `generator` is on the frames' device.
    """
    slots = torch.arange(frames.max_count, device=clip.device)
    there = slots < frames.count[clip, None]
    rows = torch.where(there, frames.first[clip, None] + slots, frames.first[clip, None])
    may_source, may_target = frames.is_source[rows] & there, frames.is_target[rows] & there

    noise = torch.rand((2, *rows.shape), generator=generator, device=clip.device)
    # One frame that can be the target is kept from the sources, rather one that cannot be a source anyway.
    kept = torch.where(may_target, noise[0] + 2.0 * ~may_source, -1.0).argmax(1, keepdim=True)
    order = torch.where(may_source.scatter(1, kept, False), noise[1], 2.0).argsort(1)
    position = torch.arange(num_sources, device=clip.device) % frames.num_choices[clip, None]
    chosen = order.gather(1, position)
    source = rows.gather(1, chosen)

    taken = torch.zeros_like(there).scatter(1, chosen, True)
    odds = target_odds(frames, source, rows, config)
    odds = torch.where(may_target & ~taken, odds, 0.0)
    noise = torch.empty_like(odds).exponential_(generator=generator)
    target = rows.gather(1, (odds / noise).argmax(1, keepdim=True))[:, 0]
    return Pairs(clip, source, target)


def target_odds(
    frames: PairFrames,
    source: Int64[Tensor, "batch source"],
    rows: Int64[Tensor, "batch frame"],
    config: SamplingConfig,
) -> Float[Tensor, "batch frame"]:
    """floor + min_{s ∈ S} d(s, t)^power of every frame t among `rows`."""
    trace = frames.rotation[source] @ frames.rotation[rows].transpose(1, 2)  # of R_sᵀ R_t = 1 + 2 cos θ
    angle_deg = ((trace - 1) / 2).clamp(-1, 1).acos().rad2deg()
    change = torch.cdist(frames.motion[source], frames.motion[rows])
    distance = angle_deg / config.angle_deg + change / config.expression
    return distance.amin(1) ** config.power + config.floor


def target_probabilities(
    frames: PairFrames, clip: int, source: list[int], config: SamplingConfig
) -> Float[Tensor, " frame"]:
    """Slow twin: p(t | S) of every frame of one clip, straight from the law at the head of this file."""
    first, count = int(frames.first[clip]), int(frames.count[clip])
    odds = torch.zeros(count)
    for slot in range(count):
        target = first + slot
        if not frames.is_target[target] or target in source:
            continue
        distances = []
        for row in source:
            a, b = frames.rotation[row].view(3, 3), frames.rotation[target].view(3, 3)
            change = (frames.motion[row] - frames.motion[target]).norm()
            distances.append(rotation_angle_deg(a, b) / config.angle_deg + change / config.expression)
        odds[slot] = config.floor + min(distances) ** config.power
    return odds / odds.sum()
