"""Many broken files, each read under a limit of time and memory, in processes that may die of it.

A worker is a child that reads one case after the other; the parent watches its clock and memory from outside, so that
neither a loop in C nor a flood of memory can hide. Verdicts other than "read" and "refused" are findings.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fuzz.mutate import mutate

TIME_LIMIT_S = 10.0
WARM_UP_S = 60.0
MEMORY_LIMIT_MB = 2048.0
POLL_S = 0.02
_WARM: set[str] = set()


@dataclass(frozen=True)
class Case:
    """One broken file; the same three always make the same bytes. Numbers below 0 are the good files, unbroken."""

    target: str
    number: int
    seed: int = 0

    def write(self, seeds: Path, to: Path) -> Path:
        """Break one of the good files of `seeds`."""
        files = sorted(seeds.iterdir())
        if self.number < 0:
            return Path(shutil.copy(files[self.number], to / f"case{files[self.number].suffix}"))
        rng = np.random.default_rng([self.seed, self.number, zlib.crc32(self.target.encode())])
        chosen = files[rng.integers(len(files))]
        data = mutate(chosen.read_bytes(), rng, [file.read_bytes() for file in files if file != chosen])
        path = to / f"case{chosen.suffix}"
        path.write_bytes(data)
        return path


@dataclass(frozen=True)
class Verdict:
    """What became of a case."""

    case: Case
    kind: str  # read, refused; exception, lines, left, good (a good file refused), time, memory, crash
    detail: str
    seconds: float
    peak_mb: float

    @property
    def is_finding(self) -> bool:
        return self.kind not in ("read", "refused")


def judge(case: Case, seeds: Path, scratch: Path) -> Verdict:
    """Read the case in this process."""
    from fuzz.targets import TARGETS

    out = scratch / "out"
    if case.target not in _WARM:  # the first file of a kind pays for imports and compiled kernels
        _WARM.add(case.target)
        judge(dataclasses.replace(case, number=-1), seeds, scratch)
    shutil.rmtree(scratch, ignore_errors=True)
    out.mkdir(parents=True)
    path = case.write(seeds, scratch)
    reset_peak()
    start_s = time.perf_counter()
    kind, detail = "read", ""
    try:
        TARGETS[case.target].read(path, out)
    except BaseException as error:
        kind, detail = name_of(error)
        if kind == "refused" and not acceptable(str(error)):
            kind = "lines"
        left = [file.name for file in out.rglob("*") if file.is_file() and file.name != "lock"]
        if kind == "refused" and left:
            kind, detail = "left", f"{left[0]} left after: {detail}"
        if kind == "refused" and case.number < 0:
            kind = "good"
    return Verdict(case, kind, detail, round(time.perf_counter() - start_s, 3), round(peak_mb(), 1))


def name_of(error: BaseException) -> tuple[str, str]:
    """The kind of an error, and where it comes from."""
    from gpavatar.types import GpavatarError

    if isinstance(error, GpavatarError):
        return "refused", str(error)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/gpavatar/" in frame.filename]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "outside"
    return "exception", f"{type(error).__name__} at {place}: {str(error)[:200]!r}"


def acceptable(message: str) -> bool:
    """One clear line: no line break, nothing that drives a terminal, not endless."""
    return 0 < len(message) < 1500 and message.isprintable()


def reset_peak() -> None:
    """The kernel's mark of the most memory held goes down to what is held now."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mb(pid: int | str = "self") -> float:
    """The most memory held since `reset_peak`."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def work(seeds: Path, scratch: Path) -> None:
    """A child: cases come in on stdin, verdicts go out on stdout; what libraries print goes nowhere."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.chdir(scratch)
    import warnings

    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for line in sys.stdin:
        target, number, seed = line.split()
        verdict = judge(Case(target, int(number), int(seed)), seeds / target, scratch / "case")
        answers.write(
            "\t".join([verdict.kind, str(verdict.seconds), str(verdict.peak_mb), repr(verdict.detail)]) + "\n"
        )


class Worker:
    """The parent's end of a child."""

    def __init__(self, seeds: Path):
        self._seeds, self._scratch = seeds, Path(tempfile.mkdtemp(prefix="fuzz-"))
        self._process: subprocess.Popen | None = None

    def judge(self, case: Case) -> Verdict:
        """Have the child read the case; kill it when it takes too long or too much."""
        process = self._process = self._process or self._start()
        print(case.target, case.number, case.seed, file=process.stdin, flush=True)
        os.set_blocking(process.stdout.fileno(), False)
        start_s, answer = time.monotonic(), ""
        while not answer.endswith("\n"):
            answer += process.stdout.readline() or ""
            seconds = time.monotonic() - start_s
            if process.poll() is not None and not answer.endswith("\n"):
                return self._gone(Verdict(case, "crash", f"exit {process.returncode}", round(seconds, 3), 0.0))
            held_mb = resident_mb(process.pid)
            if seconds > TIME_LIMIT_S + (0 if case.target in self._warm else WARM_UP_S):
                return self._gone(Verdict(case, "time", "", round(seconds, 3), held_mb))
            if held_mb > 2 * MEMORY_LIMIT_MB:
                return self._gone(Verdict(case, "memory", "", round(seconds, 3), held_mb))
            if not answer.endswith("\n"):
                time.sleep(POLL_S if seconds > 0.2 else 0.001)
        self._warm.add(case.target)
        kind, seconds, peak, detail = answer.rstrip("\n").split("\t", 3)
        verdict = Verdict(case, kind, detail[1:-1], float(seconds), float(peak))
        if verdict.peak_mb > MEMORY_LIMIT_MB:
            return dataclasses.replace(verdict, kind="memory")
        return dataclasses.replace(verdict, kind="time") if verdict.seconds > TIME_LIMIT_S else verdict

    def close(self) -> None:
        """End the child."""
        if self._process:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _gone(self, verdict: Verdict) -> Verdict:
        self._process.kill()
        self._process.wait()
        self._process = None
        return verdict

    def _start(self) -> subprocess.Popen:
        self._warm = set()
        tests = Path(__file__).parents[1]
        command = [sys.executable, "-m", "fuzz.runner", str(self._seeds), str(self._scratch)]
        paths = os.pathsep.join([str(tests), str(tests.parent)])
        environment = {**os.environ, "PYTHONPATH": paths, "XDG_CONFIG_HOME": str(self._scratch)}
        environment |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment)


def resident_mb(pid: int) -> float:
    """What a process holds now."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, IndexError):  # it has just died
        return 0.0


def make_seeds(folder: Path, targets: Sequence[str]) -> None:
    """The good files of each target."""
    from fuzz.targets import TARGETS

    for name in targets:
        (folder / name).mkdir()
        TARGETS[name].seeds(folder / name)


def share_out(count: int, seeds: Path, seed: int) -> list[Case]:
    """Every good file as it is, and `count` broken ones over the targets by their weights."""
    from fuzz.targets import TARGETS

    targets = sorted(folder.name for folder in seeds.iterdir())
    total = sum(TARGETS[name].weight for name in targets)
    cases = []
    for name in targets:
        numbers = range(-len(list((seeds / name).iterdir())), round(count * TARGETS[name].weight / total))
        cases += [Case(name, number, seed) for number in numbers]
    return cases


def tally(verdicts: list[Verdict]) -> dict[str, collections.Counter]:
    """Kinds of verdicts per target."""
    counts: dict[str, collections.Counter] = {}
    for verdict in verdicts:
        counts.setdefault(verdict.case.target, collections.Counter())[verdict.kind] += 1
    return counts


if __name__ == "__main__":
    work(Path(sys.argv[1]), Path(sys.argv[2]))
