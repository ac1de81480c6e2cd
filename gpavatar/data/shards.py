"""Training sets on disk: WebDataset tar files beside an index. This file writes and reads them; docs/data.md explains.

    with ShardWriter("sets/mine-256", HeadInfo.of(head), size_px=256) as writer:
        writer.add(ClipInfo("clip_0", "anna", "train", "real", "open", "CC0-1.0"), samples)

    shards = ShardSet.open("sets/mine-256")          # also http(s)://... and "pipe:aws s3 cp s3://bucket/set/{} -"
    for sample in shards.samples(split="train"): ...  # in order, as a stream
    sample = shards.sample(row=17)                    # any frame; the rows are those of shards.table
    for sample in read_shard("pipe:ssh host cat x.tar"): ...  # one tar file, no index needed

The same samples make the same files to the byte, whatever the clock, the user or the number of runs. The index appears
last: a folder without `shards.json` is no set.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from gpavatar.data.sample import Encoding, Role, Sample, decode_sample, encode_sample
from gpavatar.data.shard_index import (
    INDEX_FILE,
    MAX_INDEX_BYTES,
    TABLE_FILE,
    ClipInfo,
    FrameTable,
    HeadInfo,
    ShardIndex,
    ShardInfo,
    check_identities,
    max_table_bytes,
    parse_index,
    with_weights,
    write_index,
)
from gpavatar.data.shard_root import file_sha256, local_copy, open_file, open_stream
from gpavatar.data.tar_stream import END, RawSample, parse_block, read_samples, tar_block
from gpavatar.media.files import cannot_write, put_in_place, temporary_name, whole_file, write_tensors
from gpavatar.types import InputError

__all__ = [
    "ClipInfo", "Encoding", "FrameTable", "HeadInfo", "PackedClip", "Role", "Sample", "ShardIndex", "ShardInfo",
    "ShardSet", "ShardWriter", "pack_clip", "read_shard",
]  # fmt: skip

SHARD_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*-\d{5}\.tar")


@dataclass(frozen=True)
class PackedClip:
    """A clip encoded once, ready to be copied into a shard: what a resumable stage leaves behind for each clip."""

    info: ClipInfo
    head: HeadInfo
    size_px: int
    block: bytes  # a stretch of a tar file
    table: FrameTable  # `clip` is 0, `offset` counts from the start of the block

    def save(self, path: str | Path) -> None:
        """Write one file; under its name only when whole. The same to the byte for the same clip."""
        columns = {f.name: getattr(self.table, f.name) for f in fields(FrameTable)}
        columns["block"] = torch.frombuffer(bytearray(self.block), dtype=torch.uint8)
        about = json.dumps({"info": asdict(self.info), "head": asdict(self.head), "size_px": self.size_px})
        write_tensors(columns, Path(path), {"about": about})

    @staticmethod
    def load(path: str | Path) -> PackedClip:
        """Read what `save` wrote; InputError where the file is damaged. Meant for one's own intermediate files."""
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads(file.metadata()["about"])
                columns = {f.name: file.get_tensor(f.name) for f in fields(FrameTable)}
                block = file.get_tensor("block").numpy().tobytes()
            info, head = ClipInfo(**about["info"]), HeadInfo(**about["head"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: not a packed clip ({error}); delete it and run the stage again") from error
        return PackedClip(info, head, about["size_px"], block, FrameTable(**columns))


def pack_clip(
    info: ClipInfo, samples: Iterable[Sample], head: HeadInfo, size_px: int, encoding: Encoding | None = None
) -> PackedClip:
    """Encode the frames of one clip, in the order given.

    InputError for a clip without frames, a frame that belongs to another clip or identity or comes twice, is not
    `size_px` large, or whose parameters do not fit the head.
    """
    kept, blocks, offsets = [], [], []
    position = 0
    for sample in samples:
        _check_sample(sample, info, head, size_px, sample.key)
        blocks.append(tar_block(sample.key, encode_sample(sample, encoding or Encoding())))
        offsets.append(position)
        position += len(blocks[-1])
        # only the numbers are needed for the table
        kept.append(replace(sample, image_u8=sample.image_u8[:1, :1], alpha_u8=sample.alpha_u8[:1, :1], depth=None))
    if not kept or len({sample.frame_index for sample in kept}) != len(kept):
        raise InputError(f"clip {info.clip}: has no frames, or one of them twice; leave it out")
    table = FrameTable.of(kept, 0, offsets, [len(block) for block in blocks])
    return PackedClip(replace(info, num_frames=len(kept)), head, size_px, b"".join(blocks), table)


class ShardWriter:
    """Writes a set into a folder: shards `SPLIT-00000.tar` of whole clips, then the frame table, then the index.

    Use it in a `with` block. A block that ends with an exception, or a process that is killed, leaves no index, and the
    next writer clears what was left. Clips keep the order in which they are added.
    """

    def __init__(
        self,
        directory: str | Path,
        head: HeadInfo,
        size_px: int,
        encoding: Encoding | None = None,
        max_shard_mb: int = 256,
        overwrite: bool = False,
    ):
        """`max_shard_mb` bounds a shard unless one clip alone is larger. InputError where `directory` holds a set
        already and `overwrite` is off.
        """
        self.directory, self.head, self.size_px = Path(directory), head, size_px
        self.encoding, self.max_bytes = encoding or Encoding(), max_shard_mb << 20
        if (self.directory / INDEX_FILE).exists() and not overwrite:
            raise InputError(f"{directory}: there is a set already; choose another folder or ask to overwrite it")
        self._open: dict[str, _OpenShard] = {}
        self._shards: list[ShardInfo] = []
        self._clips: list[tuple[ClipInfo, FrameTable]] = []

    def __enter__(self) -> ShardWriter:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            (self.directory / INDEX_FILE).unlink(missing_ok=True)
            for path in self.directory.iterdir():
                left = path.name.startswith(".") and path.name.endswith(".tmp.tar")
                if left or SHARD_FILE.fullmatch(path.name) or path.name == TABLE_FILE:
                    path.unlink()
        except OSError as error:
            raise cannot_write(self.directory, error) from error
        return self

    def add(self, info: ClipInfo, samples: Iterable[Sample]) -> ClipInfo:
        """Encode and append one clip; InputError as of `pack_clip`, for a clip or identity that is in two splits."""
        return self.add_packed(pack_clip(info, samples, self.head, self.size_px, self.encoding))

    def add_packed(self, packed: PackedClip) -> ClipInfo:
        """Append a clip that was encoded before; InputError where it is of another head or size."""
        if (packed.head, packed.size_px) != (self.head, self.size_px):
            raise InputError(f"clip {packed.info.clip}: packed with another head or size than the set; pack it again")
        split = packed.info.split
        check_identities([clip for clip, _ in self._clips] + [packed.info], str(self.directory))
        shard = self._open.get(split)
        if shard and shard.num_bytes and shard.num_bytes + len(packed.block) + len(END) > self.max_bytes:
            self._shards.append(shard.finish())
            shard = None
        if shard is None:
            number = sum(done.split == split for done in self._shards)
            shard = self._open[split] = _OpenShard(self.directory / f"{split}-{number:05d}.tar", split)
        table = replace(packed.table, offset=packed.table.offset + shard.num_bytes)
        shard.append(packed.block, packed.info.num_frames)
        info = replace(packed.info, shard=shard.path.name)
        self._clips.append((info, table))
        return info

    def __exit__(self, kind, error, traceback) -> None:
        if kind is not None:
            for shard in self._open.values():
                shard.discard()
            return
        self._shards += [shard.finish() for shard in self._open.values()]
        if not self._clips:
            raise InputError(f"{self.directory}: no clip was added; nothing is written")
        ordered = sorted(self._clips, key=lambda clip: clip[0].shard)  # stable: the order in a shard stays
        tables = [replace(table, clip=torch.full_like(table.clip, i)) for i, (_, table) in enumerate(ordered)]
        content = FrameTable.concatenate(tables).to_bytes()
        with whole_file(self.directory / TABLE_FILE) as temporary:
            temporary.write_bytes(content)
        shards = tuple(sorted(self._shards, key=lambda shard: shard.file))
        clips = tuple(with_weights([clip for clip, _ in ordered]))
        digest = hashlib.sha256(content).hexdigest()
        write_index(self.directory, ShardIndex(self.head, self.size_px, digest, shards, clips))


class ShardSet:
    """A set to read from: a stream of all samples, or any frame by its row in `table`."""

    def __init__(self, root: str | Path, index: ShardIndex):
        self.root, self.index = root, index
        self._files: dict[str, int] = {}

    @staticmethod
    def open(root: str | Path, verify: bool = False) -> ShardSet:
        """Read the index of a folder, an http(s) address, or `pipe:COMMAND` with {} where the file's name belongs.

        InputError where there is no index, it is of another version or does not agree with itself; with `verify` also
        where a shard does not have its sha256.
        """
        with open_file(root, INDEX_FILE) as stream:
            data = stream.read(MAX_INDEX_BYTES)
        shards = ShardSet(root, parse_index(data, f"{root}: {INDEX_FILE}"))
        if verify:
            for shard in shards.index.shards:
                shards.verify(shard)
        return shards

    @cached_property
    def table(self) -> FrameTable:
        """One row per frame: where it lies and how the head stands; its sha256 is checked."""
        with open_file(self.root, TABLE_FILE) as stream:
            data = stream.read(max_table_bytes(self.index))
        if hashlib.sha256(data).hexdigest() != self.index.table_sha256:
            raise InputError(f"{self.root}: {TABLE_FILE} is not the file that the index means; copy or make it again")
        return FrameTable.from_bytes(data, self.index, f"{self.root}: {TABLE_FILE}")

    def verify(self, shard: ShardInfo) -> None:
        """InputError unless the shard has the sha256 that the index states."""
        with open_file(self.root, shard.file) as stream:
            if file_sha256(stream) != shard.sha256:
                raise InputError(f"{self.root}: {shard.file} has another sha256 than the index says; copy it again")

    def samples(self, split: str | None = None, with_depth: bool = True) -> Iterator[Sample]:
        """All samples, or those of a split, in the order of the shards, each shard read once from start to end."""
        for shard in self.index.shards:
            if split in (None, shard.split):
                yield from self.shard_samples(shard, with_depth)

    def shard_samples(self, shard: ShardInfo, with_depth: bool = True) -> Iterator[Sample]:
        """The samples of one shard; InputError where they are not those of the index, or damaged."""
        clips = {clip.clip: clip for clip in self.index.clips if clip.shard == shard.file}
        where, count = f"{self.root}: {shard.file}", 0
        with open_file(self.root, shard.file) as stream:
            for raw in read_samples(stream, where):
                sample = decode_sample(raw.key, raw.members, where, with_depth)
                if sample.clip not in clips:
                    raise InputError(f"{where}: {raw.key} is of no clip of the index; copy or make the set again")
                _check_sample(sample, clips[sample.clip], self.index.head, self.index.size_px, where)
                yield sample
                count += 1
        if count != shard.num_frames:
            raise InputError(f"{where}: holds {count} frames, the index says {shard.num_frames}; copy it again")

    def sample(self, row: int, with_depth: bool = True) -> Sample:
        """The frame of this row of `table`."""
        raw = self.raw(row)
        clip = self.index.clips[int(self.table.clip[row])]
        where = f"{self.root}: {clip.shard}"
        sample = decode_sample(raw.key, raw.members, where, with_depth)
        _check_sample(sample, clip, self.index.head, self.index.size_px, where)
        return sample

    def raw(self, row: int) -> RawSample:
        """The members of the frame of this row, not decoded. Shards that are not in a folder are cached whole."""
        shard = self.index.clips[int(self.table.clip[row])].shard
        if shard not in self._files:
            sha256 = next(known.sha256 for known in self.index.shards if known.file == shard)
            path = local_copy(self.root, shard, sha256)
            try:
                self._files[shard] = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise InputError(f"{path}: cannot be read ({error.strerror}); copy the set again") from error
        size, offset = int(self.table.num_bytes[row]), int(self.table.offset[row])
        return parse_block(os.pread(self._files[shard], size, offset), f"{self.root}: {shard}")

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_files": {}}  # open files do not travel to a worker process


def read_shard(url: str | Path, with_depth: bool = True) -> Iterator[Sample]:
    """The samples of one tar file, given by path, http(s) address or `pipe:COMMAND`, without an index."""
    with open_stream(url) as stream:
        for raw in read_samples(stream, str(url)):
            yield decode_sample(raw.key, raw.members, str(url), with_depth)


class _OpenShard:
    """A shard on its way, under a temporary name."""

    def __init__(self, path: Path, split: str):
        self.path, self.split = path, split
        self.num_bytes = self.num_frames = 0
        self._digest = hashlib.sha256()
        self._temporary = temporary_name(path)
        with self._disk():
            self._file = self._temporary.open("wb")

    def append(self, block: bytes, num_frames: int) -> None:
        with self._disk():
            self._file.write(block)
        self._digest.update(block)
        self.num_bytes += len(block)
        self.num_frames += num_frames

    def finish(self) -> ShardInfo:
        self.append(END, 0)
        with self._disk():
            self._file.close()
            put_in_place(self._temporary, self.path)
        return ShardInfo(self.path.name, self.split, self.num_frames, self.num_bytes, self._digest.hexdigest())

    def discard(self) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise cannot_write(self.path, error) from error


def _check_sample(sample: Sample, info: ClipInfo, head: HeadInfo, size_px: int, where: str) -> None:
    if (sample.clip, sample.identity) != (info.clip, info.identity):
        raise InputError(f"{where}: {sample.key} is of {sample.identity}, the clip {info.clip} of {info.identity}")
    if sample.image_u8.shape[0] != size_px:
        raise InputError(f"{where}: {sample.key} is {sample.image_u8.shape[0]} px large, the set {size_px}")
    if (len(sample.params.shape), len(sample.params.expression)) != (head.n_shape, head.n_expression):
        raise InputError(f"{where}: {sample.key} has parameters of another head than {head.name}; track it again")
