"""Tar files of plain members, written the same to the byte every time and read without trust.

Only what a shard needs: regular files of ustar, one folder, names KEY.suffix, members of one KEY side by side. Links,
folders, extended headers and names with a path are refused. The same code reads a stream and a place in a file.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase

from gpavatar.types import InputError

BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)
MAX_MEMBER_BYTES = 64 << 20
MEMBER = re.compile(r"(?P<key>[A-Za-z0-9][A-Za-z0-9_-]{0,79})(?P<suffix>(\.[a-z0-9]+)+)")


@dataclass(frozen=True)
class RawSample:
    """The members of one sample by suffix, and where they lie in the shard."""

    key: str
    members: dict[str, bytes]
    offset: int  # bytes from the start of the shard
    num_bytes: int  # with headers and padding


def tar_block(key: str, members: dict[str, bytes]) -> bytes:
    """The members as a stretch of a tar file, without the end mark; time, owner and mode are fixed."""
    parts = []
    for suffix, data in members.items():
        info = tarfile.TarInfo(key + suffix)
        info.size, info.mode = len(data), 0o644
        parts += [info.tobuf(tarfile.USTAR_FORMAT), data, bytes(-len(data) % BLOCK)]
    return b"".join(parts)


def read_samples(stream: BufferedIOBase, where: str, offset: int = 0) -> Iterator[RawSample]:
    """Samples from `stream`, which stands at `offset` of its shard, to the end mark.

    InputError for a file that is cut off or holds what a shard never holds; `where` names it.
    """
    key, members, start, position = None, {}, offset, offset
    while (header := _exactly(stream, BLOCK, where)) != bytes(BLOCK):
        member_key, suffix, size = _parse(header, where)
        if member_key != key:
            if key is not None:
                yield RawSample(key, members, start, position - start)
            key, members, start = member_key, {}, position
        if suffix in members:
            raise InputError(f"{where}: {key}{suffix} is there twice; copy or make the set again")
        padded = size + -size % BLOCK
        members[suffix] = _exactly(stream, padded, where)[:size]
        position += BLOCK + padded
        if sum(map(len, members.values())) > MAX_MEMBER_BYTES:
            raise InputError(f"{where}: {key} is larger than {MAX_MEMBER_BYTES >> 20} MiB; no sample is")
    if key is not None:
        yield RawSample(key, members, start, position - start)
    rest = stream.read(tarfile.RECORDSIZE)
    if rest.strip(b"\0") or stream.read(1):
        raise InputError(f"{where}: goes on after its end; copy or make the set again")


def parse_block(block: bytes, where: str) -> RawSample:
    """The one sample that `block` (`RawSample.num_bytes` from its offset) is. Slow twin: `read_samples`."""
    keys, members, position = set(), {}, 0
    while position < len(block):
        key, suffix, size = _parse(block[position : position + BLOCK], where)
        members[suffix] = block[position + BLOCK : position + BLOCK + size]
        position += BLOCK + size + -size % BLOCK
        keys.add(key)
    if len(keys) != 1 or position != len(block):
        raise InputError(f"{where}: the index does not fit the shard; copy or make the set again")
    return RawSample(keys.pop(), members, 0, position)


def _parse(header: bytes, where: str) -> tuple[str, str, int]:
    """Key, suffix and size of a member."""
    try:
        info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
    except (tarfile.TarError, UnicodeDecodeError) as error:
        raise InputError(f"{where}: not a tar file, or damaged ({error}); copy or make the set again") from error
    name = MEMBER.fullmatch(info.name)
    if not info.isreg() or info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or not name:
        raise InputError(f"{where}: member {info.name[:80]!r} has no place in a shard; do not use files of this origin")
    if not 0 <= info.size <= MAX_MEMBER_BYTES:
        raise InputError(f"{where}: member {info.name!r} claims {info.size} bytes; no sample is as large")
    return name["key"], name["suffix"], info.size


def _exactly(stream: BufferedIOBase, size: int, where: str) -> bytes:
    parts, missing = [], size
    while missing:
        part = stream.read(missing)
        if not part:
            raise InputError(f"{where}: ends too early; copy or download it again")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
