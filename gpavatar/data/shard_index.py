"""`shards.json` and `frames.safetensors`: what a set holds, without opening a shard. This file owns both.

The index is small and readable. The frame table has one row per frame, in the order of the shards: where the frame lies
and how the head stands in it, so that pairs are drawn, and any frame found, without reading pictures.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import torch
from jaxtyping import Float, Int32, Int64, UInt8
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from gpavatar.data.sample import NAME, ROLES, Sample
from gpavatar.data.shard_root import FILE_NAME
from gpavatar.face.morphable import MorphableHead
from gpavatar.media.files import whole_file
from gpavatar.types import InputError, map_tensors

FORMAT = "gpavatar shards"
VERSION = 1
INDEX_FILE, TABLE_FILE = "shards.json", "frames.safetensors"
MAX_INDEX_BYTES = 256 << 20

Kind = Literal["real", "still", "synthetic"]
Tier = Literal["open", "research"]
T = TypeVar("T")


@dataclass(frozen=True)
class HeadInfo:
    """Which head the parameters of a set belong to."""

    name: str
    sha256: str
    n_shape: int
    n_expression: int

    @staticmethod
    def of(head: MorphableHead) -> HeadInfo:
        """That of a loaded head."""
        return HeadInfo(head.name, head.sha256, head.n_shape, head.n_expression)


@dataclass(frozen=True)
class ClipInfo:
    """A stretch of frames of one person in one appearance: a video, or the pictures made from one photo.

    The maker of a set gives the first six; `ShardWriter` fills in the rest. Pairs are drawn inside a clip.
    """

    clip: str  # letters, digits, - and _; once in a set
    identity: str  # as above; in one split only
    split: str  # "train", "val", ...
    kind: Kind
    tier: Tier  # "open" may train anything; "research" has terms
    licence: str  # in words, or its SPDX name
    shard: str = ""  # file name
    num_frames: int = 0
    weight: float = 0.0  # 1 / (clips of the identity): every identity counts once


@dataclass(frozen=True)
class ShardInfo:
    """A tar file of whole clips of one split."""

    file: str
    split: str
    num_frames: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardIndex:
    """The content of `shards.json`."""

    head: HeadInfo
    size_px: int
    table_sha256: str
    shards: tuple[ShardInfo, ...]
    clips: tuple[ClipInfo, ...]  # in the order in which they lie in the shards

    @property
    def splits(self) -> dict[str, tuple[str, ...]]:
        """The identities of each split, sorted."""
        names = sorted({clip.split for clip in self.clips})
        return {name: tuple(sorted({c.identity for c in self.clips if c.split == name})) for name in names}

    @property
    def num_frames(self) -> int:
        """Of all clips."""
        return sum(clip.num_frames for clip in self.clips)


@dataclass(frozen=True)
class FrameTable:
    """One row per frame, clip after clip as in the index. Head poses are float32 here and float16 in the file."""

    clip: Int32[Tensor, " frame"]  # position in `ShardIndex.clips`
    frame_index: Int32[Tensor, " frame"]
    offset: Int64[Tensor, " frame"]  # bytes from the start of the shard
    num_bytes: Int32[Tensor, " frame"]
    role: UInt8[Tensor, " frame"]  # position in `ROLES`
    view: Int32[Tensor, " frame"]  # -1: none
    instant: Int32[Tensor, " frame"]  # -1: none
    rotation: Float[Tensor, "frame 3 3"]  # head -> camera axes
    expression: Float[Tensor, "frame n_expression"]
    jaw_pose: Float[Tensor, "frame 3"]

    def __len__(self) -> int:
        return self.clip.shape[0]

    def __getitem__(self, rows) -> FrameTable:
        """Some of the rows."""
        return map_tensors(self, lambda column: column[rows])

    @staticmethod
    def of(samples: list[Sample], clip: int, offsets: list[int], num_bytes: list[int]) -> FrameTable:
        """The rows of one clip's frames, which lie at these places of their shard."""

        def ints(values, dtype=torch.int32) -> Tensor:
            return torch.tensor([-1 if value is None else value for value in values], dtype=dtype)

        return FrameTable(
            ints([clip] * len(samples)),
            ints(s.frame_index for s in samples),
            ints(offsets, torch.int64),
            ints(num_bytes),
            ints((ROLES.index(s.role) for s in samples), torch.uint8),
            ints(s.view for s in samples),
            ints(s.instant for s in samples),
            torch.stack([s.camera.w2c[:3, :3] for s in samples]),
            torch.stack([s.params.expression for s in samples]).half().float(),
            torch.stack([s.params.jaw_pose for s in samples]),
        )

    @staticmethod
    def concatenate(tables: list[FrameTable]) -> FrameTable:
        """The rows of all of them, in order."""
        names = [field.name for field in fields(FrameTable)]
        return FrameTable(*(torch.cat([getattr(table, name) for table in tables]) for name in names))

    def to_bytes(self) -> bytes:
        """The content of `frames.safetensors`; the same to the byte for the same table."""
        columns = {field.name: getattr(self, field.name).contiguous() for field in fields(self)}
        return save(columns | {"expression": self.expression.half()})

    @staticmethod
    def from_bytes(data: bytes, index: ShardIndex, where: str) -> FrameTable:
        """Read and check against the index; InputError where they disagree."""
        try:
            columns = load(data)
        except (SafetensorError, ValueError, KeyError) as error:
            raise InputError(f"{where}: cannot be read ({error}); copy or make the set again") from error
        _check_columns(columns, index, where)
        columns["expression"] = columns["expression"].float()
        return FrameTable(*(columns[field.name] for field in fields(FrameTable)))


def write_index(directory: Path, index: ShardIndex) -> None:
    """Write `shards.json`; the last step of making a set."""
    counts = {"frames": index.num_frames, "clips": len(index.clips), "shards": len(index.shards)}
    counts |= {"identities": len({clip.identity for clip in index.clips})}
    content = {"format": FORMAT, "version": VERSION, "counts": counts, "splits": index.splits} | asdict(index)
    with whole_file(directory / INDEX_FILE) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def parse_index(data: bytes, where: str) -> ShardIndex:
    """Read `shards.json` and check that it agrees with itself.

    InputError for another format or version, a value of the wrong kind, a file name with a path in it, a clip without
    shard, an identity in two splits.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not readable ({error}); copy or make the set again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{where}: not the index of a set; make one with python -m data_prep")
    if content.get("version") != VERSION:
        raise InputError(f"{where}: version {content.get('version')}, this program reads {VERSION}; make the set again")
    index = _typed(ShardIndex, content, where)
    _check_index(index, where)
    if content.get("splits") != {split: list(identities) for split, identities in index.splits.items()}:
        raise InputError(f"{where}: the splits do not fit the clips; copy or make the set again")
    return index


def max_table_bytes(index: ShardIndex) -> int:
    """More than `frames.safetensors` can be long: what may be read of a stream that does not end."""
    return index.num_frames * (128 + 2 * index.head.n_expression) + (1 << 16)


def with_weights(clips: list[ClipInfo]) -> list[ClipInfo]:
    """Each clip weighs 1 / (number of clips of its identity)."""
    clips_of = Counter(clip.identity for clip in clips)
    return [replace(clip, weight=1 / clips_of[clip.identity]) for clip in clips]


def check_identities(clips: tuple[ClipInfo, ...] | list[ClipInfo], where: str) -> None:
    """InputError where a clip comes twice or an identity is in two splits."""
    split_of: dict[str, str] = {}
    for clip in clips:
        if split_of.setdefault(clip.identity, clip.split) != clip.split:
            pair = f"{split_of[clip.identity]} and {clip.split}"
            raise InputError(f"{where}: identity {clip.identity} is in the splits {pair}; keep it in one")
    twice = [name for name, count in Counter(clip.clip for clip in clips).items() if count > 1]
    if twice:
        raise InputError(f"{where}: clip {twice[0]} is there twice; give each clip its own name")


def _check_index(index: ShardIndex, where: str) -> None:
    bad = [shard.file for shard in index.shards if not FILE_NAME.fullmatch(shard.file)]
    bad += [name for clip in index.clips for name in (clip.clip, clip.identity, clip.split) if not NAME.fullmatch(name)]
    if bad:
        raise InputError(f"{where}: {bad[0][:80]!r} is not a name; do not use sets of this origin")
    check_identities(index.clips, where)
    shards = {shard.file: shard for shard in index.shards}
    for clip in index.clips:
        if clip.shard not in shards or shards[clip.shard].split != clip.split:
            raise InputError(f"{where}: clip {clip.clip} has no shard of its split; make the set again")
        if clip.num_frames < 1 or not 0 <= clip.weight < 1e6:
            raise InputError(f"{where}: clip {clip.clip} has {clip.num_frames} frames and weight {clip.weight}")
    frames = Counter()
    for clip in index.clips:
        frames[clip.shard] += clip.num_frames
    for shard in index.shards:
        if frames[shard.file] != shard.num_frames:
            raise InputError(f"{where}: {shard.file} has {shard.num_frames} frames, its clips {frames[shard.file]}")


def _check_columns(columns: dict[str, Tensor], index: ShardIndex, where: str) -> None:
    n = index.num_frames
    kinds = {"clip": torch.int32, "frame_index": torch.int32, "offset": torch.int64, "num_bytes": torch.int32}
    kinds |= {"role": torch.uint8, "view": torch.int32, "instant": torch.int32, "rotation": torch.float32}
    kinds |= {"expression": torch.float16, "jaw_pose": torch.float32}
    shapes = {"rotation": (n, 3, 3), "expression": (n, index.head.n_expression), "jaw_pose": (n, 3)}
    for name, dtype in kinds.items():
        column = columns.get(name)
        if column is None or column.dtype != dtype or tuple(column.shape) != shapes.get(name, (n,)):
            raise InputError(f"{where}: column {name} does not fit the index; copy or make the set again")
        if not column.isfinite().all():
            raise InputError(f"{where}: column {name} does not fit the index, it is not finite; make the set again")
    clip, offset, num_bytes = columns["clip"], columns["offset"], columns["num_bytes"]
    counts = torch.tensor([clip.num_frames for clip in index.clips])
    size_of = {shard.file: shard.num_bytes for shard in index.shards}
    room = torch.tensor([size_of[clip.shard] for clip in index.clips])
    fits = torch.equal(clip, torch.repeat_interleave(torch.arange(len(counts)), counts).int())
    fits = fits and bool((offset >= 0).all() and (num_bytes > 0).all() and (columns["role"] < len(ROLES)).all())
    if not fits or bool((offset > room[clip.long()] - num_bytes).any()):
        raise InputError(f"{where}: does not fit the index; copy or make the set again")


def _typed(kind: Any, value: Any, where: str) -> Any:
    """JSON -> the type `kind`: dataclasses, tuples, literals and plain values. Keys that no field bears are ignored."""
    origin = get_origin(kind)
    if origin is tuple and isinstance(value, list):
        return tuple(_typed(get_args(kind)[0], item, where) for item in value)
    if origin is Literal and value in get_args(kind):
        return value
    if hasattr(kind, "__dataclass_fields__") and isinstance(value, dict):
        hints = get_type_hints(kind)
        missing = [name for name in hints if name not in value]
        if missing:
            raise InputError(f"{where}: {missing[0]} is missing; copy or make the set again")
        return kind(**{name: _typed(hint, value[name], f"{where}: {name}") for name, hint in hints.items()})
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is kind:
        return value
    raise InputError(f"{where}: {str(value)[:80]!r} is of the wrong kind; copy or make the set again")
