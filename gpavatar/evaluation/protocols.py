"""Which frames are drawn from which sources, and which of them count: the protocol of an evaluation as code.

A protocol is a yaml over `ProtocolConfig` (configs/eval_*.yaml) that runs on a set of shards. `plan_clips` turns it
into the frames of every clip, the same in every run. Places in a clip are shares of the way from its first frame to
its last, by frame number unless told otherwise: 0 the first, 1 the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gpavatar.camera import rotation_angle_deg
from gpavatar.config import MISSING
from gpavatar.data.shards import Sample, ShardSet
from gpavatar.types import InputError

SELF, CROSS, NOVEL_VIEW = "self", "cross", "novel_view"
TASKS = (SELF, CROSS, NOVEL_VIEW)
FRONT = 0  # the view that targets, and as a rule sources, are taken from where an instant has several
OUTER_CORNERS = (33, 263)  # of the eyes among MediaPipe's 478 points


@dataclass(frozen=True)
class ProtocolConfig:
    """What is measured on which set, and how the means are taken."""

    name: str = MISSING  # of the results' folder
    about: str = MISSING  # whose protocol it is, in words
    set: str = MISSING  # folder or address of the shards
    crop: str = MISSING  # how its pictures were cut, in words
    made_by: str = ""  # how the set is made, in words or as a command
    split: str = "val"  # of the set; empty: all of it
    tasks: list[str] = field(default_factory=lambda: [SELF, CROSS])
    sources: dict[int, list[float]] = field(default_factory=dict)  # N -> where its N sources stand, the first first
    along: Literal["time", "frames"] = "time"  # what places are shares of: time, or the frames that the set has
    source_views: Literal["front", "all"] = "front"  # whether the other cameras' pictures of an instant are places too
    measured: list[int] = field(default_factory=list)  # those of the N that are measured; none: all
    videos: list[str] = field(default_factory=list)  # of each the first clip that is called so and _; none: all clips
    clips: int = 0  # the first so many of them; 0: all
    frames: int = 0  # of each clip, evenly spaced, sources and targets among them; 0: all
    sources_within: int = 0  # sources stand among the first so many frames; 0: anywhere
    targets_last: int = 0  # only the last so many frames are scored; 0: any
    targets: int = 0  # of the frames that may be scored so many, evenly spaced; 0: all
    min_turn_deg: float = 0.0  # a scored frame differs from the first source by so much head rotation,
    min_shift: float = 0.0  # or by so much of the distance between the eyes in the mean of its landmarks
    driver: Literal["half", "next"] = "half"  # in the task cross: the clip half the list further on, or the next one
    identity: str = "arcface"  # network of CSIM: arcface, or sface, which is free for every use
    trunk: str = "alex"  # of LPIPS: alex or vgg
    independent: bool = True  # also dlib's points, an extra package
    fid: bool = False
    baselines: list[str] = field(default_factory=lambda: ["source_copy", "textured_mesh"])
    published: list[str] = field(default_factory=list)  # tables of `published.py` to stand beside
    differences: list[str] = field(default_factory=list)  # from the protocol of those tables, in words
    resamples: int = 2000  # of the bootstrap
    seed: int = 0
    curve_threshold_db: float = -0.05  # more sources may not change PSNR by less

    @property
    def numbers(self) -> tuple[int, ...]:
        """The N that are measured."""
        return tuple(sorted(self.measured or self.sources))


@dataclass(frozen=True)
class Take:
    """Frames of one task that a source clip's avatar is asked for, as rows of the set's table."""

    task: str
    driving: str  # clip that moves it: the same but in the task cross
    reference: int  # row in which the driver stands as the source does in its own: the driver's first source
    rows: tuple[int, ...]


@dataclass(frozen=True)
class ClipPlan:
    """What a method is asked about one clip."""

    clip: str
    identity: str
    sources: tuple[tuple[int, ...], ...]  # rows, one tuple per N, in the order of N
    takes: tuple[Take, ...]

    @property
    def num_frames(self) -> int:
        """Pictures that a method draws for it."""
        return len(self.sources) * sum(len(take.rows) for take in self.takes)


@dataclass(frozen=True)
class _Clip:
    """A clip on the way to its plan."""

    name: str
    identity: str
    sources: tuple[tuple[int, ...], ...]
    targets: tuple[int, ...]
    other_views: tuple[int, ...]


def plan_clips(shards: ShardSet, config: ProtocolConfig) -> list[ClipPlan]:
    """The frames of every clip of the split, clips in the order of their names.

    A frame that is a source at any N is scored at no N, so that all N are scored on the same frames. In the task cross
    each clip is driven by the clip that `driver` says, or the next one after that of somebody else. The task
    novel_view asks for the first source's instant as the other cameras saw it. Raises InputError for a protocol that
    the set cannot serve.
    """
    _check(config, shards)
    names = sorted(clip.clip for clip in shards.index.clips if config.split in ("", clip.split) and clip.num_frames > 1)
    names = _of_videos(names, config.videos)[: config.clips or None]
    if not names:
        raise InputError(f"{shards.root}: no clips in the split {config.split!r}; give split=... or videos=[...]")
    position = {clip.clip: index for index, clip in enumerate(shards.index.clips)}
    clips = [_choose(shards, position[name], config) for name in names]
    step = len(clips) // 2 if config.driver == "half" else 1
    return [_plan(clip, _driver(clips, at, step), config) for at, clip in enumerate(clips)]


def absent_videos(clips: Sequence[str], videos: Sequence[str]) -> tuple[str, ...]:
    """The videos of a protocol of which there is no clip: those that no longer can be had."""
    return tuple(video for video in videos if not any(clip.startswith(f"{video}_") for clip in clips))


def differs(source: Sample, samples: Sequence[Sample], min_turn_deg: float, min_shift: float) -> Bool[Tensor, " frame"]:
    """Whether each frame is more than the source over again.

    It is where the head is turned by at least `min_turn_deg`, or where the landmarks' mean distance is at least
    `min_shift` of the distance between the outer corners of the source's eyes. A frame without landmarks is not.
    """
    turned = torch.stack([sample.camera.w2c[:3, :3] for sample in samples])
    turn_deg = rotation_angle_deg(source.camera.w2c[:3, :3].expand_as(turned), turned)
    moved_px = torch.stack([sample.landmarks_px for sample in samples]) - source.landmarks_px
    left, right = source.landmarks_px[list(OUTER_CORNERS)]
    shift: Float[Tensor, " frame"] = moved_px.norm(dim=-1).mean(-1) / (left - right).norm()
    return ((turn_deg >= min_turn_deg) | (shift >= min_shift)) & ~shift.isnan()


def evenly(rows: Sequence[int], count: int) -> list[int]:
    """`count` of the rows, evenly spaced, the first and the last among them; all where there are no more."""
    if count == 0 or len(rows) <= count:
        return list(rows)
    return [rows[at] for at in torch.linspace(0, len(rows) - 1, count).round().long().tolist()]


def _of_videos(clips: list[str], videos: Sequence[str]) -> list[str]:
    """The first clip of each video; all clips where no videos are named."""
    of = [next((clip for clip in clips if clip.startswith(f"{video}_")), None) for video in videos]
    return sorted(clip for clip in of if clip is not None) if videos else clips


def _choose(shards: ShardSet, clip: int, config: ProtocolConfig) -> _Clip:
    table, info = shards.table, shards.index.clips[clip]
    rows = torch.where(table.clip == clip)[0]
    rows = rows[table.frame_index[rows].argsort()]
    front = evenly(rows[table.view[rows] <= FRONT].tolist(), config.frames)
    seen = front if config.source_views == "front" else rows.tolist()
    before = seen[: config.sources_within or None]
    placed = {n: _placed(shards, before, places, info.clip, config.along) for n, places in config.sources.items()}
    used = set().union(*placed.values())
    sources = tuple(placed[n] for n in config.numbers)
    first = sources[0][0]
    free = [row for row in front[-config.targets_last :] if row not in used]
    if free and (config.min_turn_deg or config.min_shift):
        samples = [shards.sample(row, with_depth=False) for row in free]
        keep = differs(shards.sample(first, with_depth=False), samples, config.min_turn_deg, config.min_shift)
        free = [row for row, kept in zip(free, keep.tolist(), strict=True) if kept]
    others = rows[(table.view[rows] > FRONT) & (table.instant[rows] == table.instant[first])]
    return _Clip(info.clip, info.identity, sources, tuple(evenly(free, config.targets)), tuple(others.tolist()))


def _placed(shards: ShardSet, rows: list[int], places: list[float], clip: str, along: str) -> tuple[int, ...]:
    """The rows nearest to these places, by frame number or by their position among the rows."""
    numbers = shards.table.frame_index[rows].double() if along == "time" else torch.arange(len(rows)).double()
    at = [int((numbers - (numbers[0] + place * (numbers[-1] - numbers[0]))).abs().argmin()) for place in places]
    if len(set(at)) < len(places):
        raise InputError(f"{shards.root}: clip {clip} has too few frames for {len(places)} sources; ask for fewer")
    return tuple(rows[index] for index in at)


def _driver(clips: list[_Clip], at: int, step: int) -> _Clip | None:
    """Whom the clip at this place is driven by: a fixed one of somebody else; None where nobody else has targets."""
    around = [clips[(at + step + more) % len(clips)] for more in range(len(clips))]
    return next((one for one in around if one.identity != clips[at].identity and one.targets), None)


def _plan(clip: _Clip, driver: _Clip | None, config: ProtocolConfig) -> ClipPlan:
    own = clip.sources[0][0]
    takes = [
        Take(SELF, clip.name, own, clip.targets),
        Take(CROSS, driver.name if driver else "", driver.sources[0][0] if driver else own, driver.targets)
        if driver
        else None,
        Take(NOVEL_VIEW, clip.name, own, clip.other_views),
    ]
    asked = tuple(take for take in takes if take is not None and take.rows and take.task in config.tasks)
    return ClipPlan(clip.name, clip.identity, clip.sources, asked)


def _check(config: ProtocolConfig, shards: ShardSet) -> None:
    unknown = sorted(set(config.tasks) - set(TASKS))
    if unknown or not config.tasks:
        raise InputError(f"tasks: {unknown[0] if unknown else 'none'}; there are: {', '.join(TASKS)}")
    bad = [n for n, places in config.sources.items() if len(places) != n or not all(0 <= at <= 1 for at in places)]
    if bad or not config.sources:
        raise InputError(f"sources: {bad[0] if bad else 'none'}; give each N as many places in [0, 1]")
    unplaced = sorted(set(config.measured) - set(config.sources))
    if unplaced:
        raise InputError(f"measured: {unplaced[0]} sources have no places; there are: {sorted(config.sources)}")
    firsts = {places[0] for places in config.sources.values()}
    if len(firsts) > 1:
        raise InputError("sources: the first place differs between N; it is the view that all start from")
    if NOVEL_VIEW in config.tasks and not bool((shards.table.view > FRONT).any()):
        raise InputError(f"{shards.root}: no instant was seen from several sides; leave out the task {NOVEL_VIEW}")
