"""What every reader and writer shares: checks of what the user gave, and files that appear only when whole."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from gpavatar.types import InputError


def check_file(path: Path) -> None:
    """InputError unless `path` is a file with something in it."""
    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    if path.is_dir():
        raise InputError(f"{path}: is a directory, a file is needed")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty; copy or download it again")


def check_range(path: Path, start_s: float | None, end_s: float | None) -> None:
    """InputError unless 0 <= start < end."""
    if (start_s or 0.0) < 0 or (end_s is not None and end_s <= (start_s or 0.0)):
        raise InputError(f"{path}: start {start_s} s and end {end_s} s enclose nothing; 0 <= start < end is needed")


def fit_size(width: int, height: int, max_side_px: int | None) -> tuple[int, int]:
    """(width, height) scaled down, never up, so that no side is longer than `max_side_px`."""
    scale = min(1.0, max_side_px / max(width, height)) if max_side_px else 1.0
    return max(1, round(width * scale)), max(1, round(height * scale))


@contextmanager
def whole_file(path: Path, on_disk: bool = True) -> Iterator[Path]:
    """A temporary name in the same directory, renamed to `path` when the block ends well, removed when it does not.

    InputError (one line) where the place cannot be written or the disk is full. With `on_disk` what stands under the
    name stands there after a power cut too; that takes some 10 ms, too long for what is written by the thousand.
    """
    temporary = temporary_name(path)
    remove_left_over(path)
    try:
        yield temporary
        put_in_place(temporary, path, on_disk)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):  # a parent that is a file: nothing was written
            temporary.unlink(missing_ok=True)


def put_in_place(temporary: Path, path: Path, on_disk: bool = True) -> None:
    """Rename a file that is whole to the name it was made for; with `on_disk`, after its content has reached the disk.

    Of a directory only the name is brought to the disk. OSError where any of this fails.
    """
    if on_disk and not temporary.is_dir():
        _sync(temporary)
    temporary.replace(path)
    if on_disk:
        with suppress(OSError):  # some network disks cannot sync a directory, and the file is there already
            _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, and its directory where there is none; under its name only when whole.

    The entries are copied to the CPU and made contiguous. InputError where the file cannot be written. safetensors' own
    `save_file` writes under a name that a killed process leaves for ever, for the user alone to read.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(save(plain, dict(metadata)))


def check_writable(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Make the directory of `path`, before any work is done for it.

    InputError where a file cannot be written there, or one of the `inputs` would be lost.
    """
    temporary = temporary_name(path)
    if any(path.resolve() == other.resolve() for other in inputs):
        raise InputError(f"{path}: is an input too; choose another name for the output")
    if path.suffix and path.is_dir():
        raise InputError(f"{path}: is a directory; name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise cannot_write(path, error) from error


def temporary_name(path: Path, step: str = "") -> Path:
    """A hidden name beside `path`, with the same suffix, that no other process uses; it says whose it is.

    `step` (letters) tells several apart, where a file goes through more than one before it is whole. InputError for a
    path without a name, such as `.` or `/`.
    """
    if not path.name:
        raise InputError(f"{path}: is a directory; name a file")
    return path.with_name(f".{path.stem}.{_host()}.{os.getpid()}.tmp{step}{path.suffix}")


def sha256_of(path: Path) -> str:
    """The sha256 of a file; of a directory that of the `sha256sum` lines of its files, by name."""
    if path.is_file():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    files = sorted(file for file in path.iterdir() if file.is_file())
    return hashlib.sha256("".join(f"{sha256_of(file)}  {file.name}\n" for file in files).encode()).hexdigest()


def remove_left_over(path: Path) -> None:
    """Remove what processes of this machine that were killed while writing `path` left beside it."""
    name = re.compile(rf"\.{re.escape(path.stem)}\.{re.escape(_host())}\.(\d+)\.tmp[a-z]*{re.escape(path.suffix)}")
    with suppress(OSError):  # no such directory, or another process was faster
        for beside in path.parent.iterdir():
            found = name.fullmatch(beside.name)
            if not found or _is_running(int(found[1])):
                continue
            if beside.is_dir() and not beside.is_symlink():
                shutil.rmtree(beside, ignore_errors=True)
            else:
                beside.unlink(missing_ok=True)


def _host() -> str:
    """Which machine a process number belongs to: on a shared disk the same number runs elsewhere."""
    return re.sub(r"[^\w-]", "-", platform.node())[:32]


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def cannot_write(path: Path, error: OSError) -> InputError:
    """The one line for a file that could not be written."""
    return InputError(f"{path}: cannot be written ({error.strerror or error}); choose another place or free some space")
