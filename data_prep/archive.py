"""Unpacking archives of strangers: only plain files, only below the given folder, never more than stated."""

from __future__ import annotations

import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from data_prep.manifest import OutputError
from gpavatar.assets import DISK_ERRORS
from gpavatar.media.files import cannot_write, remove_left_over, temporary_name
from gpavatar.types import InputError

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
MAX_MEMBERS = 200_000
MAX_BYTES = 256 << 30  # unpacked
MAX_RATIO = 200  # unpacked bytes per packed byte; pictures and videos hardly shrink
FREE_BYTES = 64 << 20  # below it the ratio does not matter
CHUNK = 1 << 20
# What the readers of archives raise at damage.
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, RuntimeError)


@dataclass(frozen=True)
class _Member:
    name: str
    is_plain: bool
    stream: IO[bytes] | None


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar or zip file into `folder`, which appears when all is there; nothing is done where it exists.

    InputError, and no folder, for an archive that is damaged, holds a path that leads out of the folder, a link or a
    device, or grows beyond `MAX_RATIO` times its size; OutputError where `folder` cannot be written.
    """
    if folder.exists():
        return
    work = temporary_name(folder)
    remove_left_over(folder)
    try:
        work.mkdir(parents=True)
    except OSError as error:
        raise OutputError(str(cannot_write(folder, error))) from error
    try:
        _unpack_into(archive, work)
        work.replace(folder)
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise OutputError(str(cannot_write(folder, error))) from error
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{archive}: damaged or not an archive ({said}); copy or download it again") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _unpack_into(archive: Path, folder: Path) -> None:
    room = max(min(MAX_BYTES, MAX_RATIO * archive.stat().st_size), FREE_BYTES)
    for count, member in enumerate(_members(archive), start=1):
        if count > MAX_MEMBERS:
            raise InputError(f"{archive}: more than {MAX_MEMBERS} files; unpack it yourself if you trust it")
        name = PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts or "\\" in member.name or "\0" in member.name:
            raise InputError(
                f"{archive}: {member.name[:80]!r} leads out of the archive; do not use files of this origin"
            )
        if not member.is_plain:
            raise InputError(f"{archive}: {member.name[:80]!r} is a link or a device; do not use files of this origin")
        if member.stream is None:
            continue
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            while chunk := member.stream.read(CHUNK):
                room -= len(chunk)
                if room < 0:
                    raise InputError(f"{archive}: grows without bound when unpacked; do not use files of this origin")
                file.write(chunk)


def _members(archive: Path) -> Iterator[_Member]:
    if archive.suffix.lower() == ".zip":
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                kind = info.external_attr >> 28  # of the Unix mode: 0 none, 4 folder, 8 plain file
                if info.is_dir():
                    yield _Member(info.filename, kind in (0, 4), None)
                    continue
                with file.open(info) as stream:
                    yield _Member(info.filename, kind in (0, 8), stream)
        return
    with tarfile.open(archive) as file:
        for info in file:
            stream = file.extractfile(info) if info.isreg() else None
            yield _Member(info.name, info.isreg() or info.isdir(), stream)
