"""Where a set lies: a folder, an http(s) address, or a command that prints a file.

    /data/vfhq-256                                 a folder
    https://example.org/vfhq-256                   files under an address
    "pipe:aws s3 cp s3://bucket/vfhq-256/{} -"     a shell command for {} = shards.json, train-00000.tar, ...

A command comes only from the user's own command line or config: nothing that is read from a set is ever run, and file
names from an index are plain names.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import re
import shlex
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path

from gpavatar.assets import cache_dir
from gpavatar.media.files import cannot_write, whole_file
from gpavatar.types import InputError

FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9]+)+")  # no path, no dots in a row, nothing hidden
TIMEOUT_S = 60
CHUNK = 1 << 20


def is_local(root: str | Path) -> bool:
    """Whether the files of `root` lie in a folder."""
    return not str(root).startswith(("pipe:", "http://", "https://"))


@contextmanager
def open_file(root: str | Path, name: str) -> Iterator[BufferedIOBase]:
    """The file `name` of a set as a stream of bytes; InputError where it cannot be had."""
    if not FILE_NAME.fullmatch(name):
        raise InputError(f"{root}: {name[:80]!r} is not the name of a file in a set; do not use sets of this origin")
    if str(root).startswith("pipe:"):
        with open_pipe(str(root).removeprefix("pipe:").replace("{}", shlex.quote(name))) as stream:
            yield stream
    elif not is_local(root):
        with _open_url(f"{str(root).rstrip('/')}/{name}") as stream:
            yield stream
    else:
        path = Path(root) / name
        try:
            stream = path.open("rb")
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
        with stream:
            yield stream


@contextmanager
def open_stream(url: str | Path) -> Iterator[BufferedIOBase]:
    """One file by its path, http(s) address or `pipe:` command, e.g. a single shard."""
    text = str(url)
    if text.startswith("pipe:"):
        with open_pipe(text.removeprefix("pipe:")) as stream:
            yield stream
    elif not is_local(text):
        with _open_url(text) as stream:
            yield stream
    else:
        with open_file(Path(url).parent, Path(url).name) as stream:
            yield stream


@contextmanager
def open_pipe(command: str) -> Iterator[BufferedIOBase]:
    """What a shell command prints; InputError where it fails. Left early, the command is ended."""
    process = subprocess.Popen(command, shell=True, stdout=subprocess.PIPE)
    try:
        yield process.stdout
        left_early = bool(process.stdout.read(1))
    except BaseException:
        process.kill()
        raise
    finally:
        process.stdout.close()
        code = process.wait()
    if code and not left_early:
        raise InputError(f"pipe:{command}: ended with exit code {code}; try the command in a shell")


@contextmanager
def _open_url(url: str) -> Iterator[BufferedIOBase]:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as stream:
            yield stream
    except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise InputError(f"{url}: cannot be read ({getattr(error, 'reason', error)}); check the address") from error


def local_copy(root: str | Path, name: str, sha256: str) -> Path:
    """The file itself in a folder, otherwise a verified copy in the cache, made at the first call.

    Several processes may ask at once: one of them downloads. InputError where the copy has another sha256.
    """
    if is_local(root):
        return Path(root) / name
    path = cache_dir() / "shards" / sha256 / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = (path.parent / "lock").open("w")
    except OSError as error:
        raise cannot_write(path, error) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            with open_file(root, name) as stream, whole_file(path) as temporary, temporary.open("wb") as file:
                digest = hashlib.sha256()
                while chunk := stream.read(CHUNK):
                    digest.update(chunk)
                    file.write(chunk)
                if digest.hexdigest() != sha256:
                    raise InputError(f"{root}: {name} is not the file that the index means; make or publish it again")
    return path


def file_sha256(stream: BufferedIOBase) -> str:
    """Digest of what is left of a stream."""
    return hashlib.file_digest(stream, "sha256").hexdigest()
