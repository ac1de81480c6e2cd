"""A run that is killed, at any instant, and begun again ends in the same bytes as one that was left alone."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_prep.find import find_folder
from data_prep.run import run
from tests.data_prep.conftest import SMALL

ROOT = Path(__file__).parents[2]


class Killed(BaseException):
    """Stands for SIGKILL inside a process: nothing but `finally` runs after it."""


def digests(out: Path) -> dict[str, str]:
    """The sums of all that a run leaves, but for the claim on the folder."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name != "lock"]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def undisturbed(two_clips, tmp_path_factory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("undisturbed") / "set"
    run(find_folder(two_clips, out / "work" / "unpacked"), out, SMALL)
    return digests(out)


def test_killed_after_any_number_of_files(two_clips, tmp_path, monkeypatch, undisturbed) -> None:
    """Each run gets to rename a few files, then dies on the next, and leaves that one half-written."""
    rng, renamed = random.Random(0), Path.replace
    out, left, runs = tmp_path / "set", 0, 0

    def replace(source: Path, target: Path) -> Path:
        nonlocal left
        if out not in Path(target).parents:
            return renamed(source, target)
        left -= 1
        if left < 0:
            source.with_name(source.name.replace(str(os.getpid()), "999999")).write_bytes(b"half")
            raise Killed
        return renamed(source, target)

    monkeypatch.setattr(Path, "replace", replace)
    finished: dict[str, int] = {}
    while True:
        left, runs = rng.randrange(7), runs + 1
        try:
            run(find_folder(two_clips, out / "work" / "unpacked"), out, SMALL)
            break
        except Killed:
            done = {path.name: path.stat().st_mtime_ns for path in (out / "work" / "clips").glob("*.safetensors")}
            assert done.items() >= finished.items()  # what was whole is not made again
            finished = done
    assert runs > 3
    assert digests(out) == undisturbed


def test_a_real_kill(two_clips, tmp_path, undisturbed) -> None:
    """The small version of benchmarks/data_pipeline.py, which does it twenty times."""
    out = tmp_path / "set"
    code = (
        "from pathlib import Path; from data_prep.find import find_folder; from data_prep.run import run\n"
        "from tests.data_prep.conftest import SMALL\n"
        f"out = Path({str(out)!r}); run(find_folder(Path({str(two_clips)!r}), out / 'work' / 'unpacked'), out, SMALL)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and not list(out.glob("work/clips/*.npz")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "shards.json").exists()
    run(find_folder(two_clips, out / "work" / "unpacked"), out, SMALL)
    assert digests(out) == undisturbed
