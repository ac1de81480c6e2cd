"""Fuzz every reader: `make fuzz N=10000`, or `PYTHONPATH=tests python -m fuzz --cases 10000 --targets video track`.

Prints each finding once per place, and a table; `--json` adds the figures of this run to a file. One case again, its
file kept: `--targets video --case 123 --keep folder`.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated

import tyro
from fuzz.runner import MEMORY_LIMIT_MB, TIME_LIMIT_S, Case, Verdict, Worker, make_seeds, share_out, tally
from fuzz.targets import TARGETS
from rich.progress import track as progress

from gpavatar.config import did_you_mean, run_program
from gpavatar.types import InputError

FINDINGS = ("exception", "lines", "left", "good", "time", "memory", "crash")


@dataclass(frozen=True)
class Options:
    """What the command line takes."""

    cases: int = 1000
    """How many broken files, over all targets."""
    targets: tuple[str, ...] = tuple(TARGETS)
    """Which readers."""
    seed: int = 0
    """Other seeds give other files."""
    workers: int = 2
    """Processes side by side."""
    case: int | None = None
    """Only this number, of one target."""
    keep: Path | None = None
    """Write the files of the findings here."""
    json: Path | None = None
    """Add the figures to this file, and write the table of all runs in it beside it (.md)."""


def fuzz(options: Annotated[Options, tyro.conf.arg(name="")]) -> int:
    """Give broken files to every reader; exit code 1 where one of them does anything but read or refuse."""
    for name in options.targets:
        if name not in TARGETS:
            raise InputError(f"no target is called {name!r}; {did_you_mean(name, list(TARGETS))}")
    start_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="seeds-") as folder:
        make_seeds(Path(folder), options.targets)
        cases = share_out(options.cases, Path(folder), options.seed)
        if options.case is not None:
            cases = [Case(options.targets[0], options.case, options.seed)]
        verdicts = run(cases, Path(folder), options.workers)
        findings = [verdict for verdict in verdicts if verdict.is_finding]
        if options.keep is not None:
            options.keep.mkdir(parents=True, exist_ok=True)
            for finding in findings:
                written = finding.case.write(Path(folder) / finding.case.target, options.keep)
                written.replace(options.keep / f"{finding.case.target}_{finding.case.number}{written.suffix}")
    report(verdicts, findings)
    if options.json is not None:
        runs = json.loads(options.json.read_text())["runs"] if options.json.exists() else []
        runs.append(summary(verdicts, findings, options.seed, time.monotonic() - start_s))
        options.json.write_text(json.dumps({"runs": runs}, indent=1) + "\n")
        options.json.with_suffix(".md").write_text(page(runs))
    return 1 if findings else 0


def run(cases: list[Case], seeds: Path, num_workers: int) -> list[Verdict]:
    """The verdicts, in the order of the cases."""
    idle: SimpleQueue[Worker] = SimpleQueue()
    workers = [Worker(seeds) for _ in range(num_workers)]
    for worker in workers:
        idle.put(worker)

    def judged(case: Case) -> Verdict:
        worker = idle.get()
        try:
            return worker.judge(case)
        finally:
            idle.put(worker)

    try:
        with ThreadPoolExecutor(num_workers) as pool:
            return list(progress(pool.map(judged, cases), "fuzzing", len(cases), disable=not sys.stderr.isatty()))
    finally:
        for worker in workers:
            worker.close()


def report(verdicts: list[Verdict], findings: list[Verdict]) -> None:
    """The findings, one of each place, and the table."""
    shown = set()
    for finding in findings:
        place = (finding.case.target, finding.kind, finding.detail.split(": ")[0])
        if place not in shown:
            shown.add(place)
            where = f"{finding.case.target} {finding.case.number}"
            print(f"{where}: {finding.kind} {finding.detail} ({finding.seconds:g} s, {finding.peak_mb:g} MB)")
    print(f"{'target':<12}{'cases':>7}{'read':>7}{'refused':>9}{'findings':>10}{'slowest s':>11}{'peak MB':>9}")
    for target, kinds in tally(verdicts).items():
        own = [verdict for verdict in verdicts if verdict.case.target == target]
        slowest, peak = max(verdict.seconds for verdict in own), max(verdict.peak_mb for verdict in own)
        bad = len(own) - kinds["read"] - kinds["refused"]
        print(f"{target:<12}{len(own):>7}{kinds['read']:>7}{kinds['refused']:>9}{bad:>10}{slowest:>11.2f}{peak:>9.0f}")


def summary(verdicts: list[Verdict], findings: list[Verdict], seed: int, seconds: float) -> dict:
    """The figures of a run."""
    return {
        "seed": seed,
        "cases": len(verdicts),
        "findings": len(findings),
        "seconds": round(seconds, 1),
        "limits": {"seconds": TIME_LIMIT_S, "memory_mb": MEMORY_LIMIT_MB},
        "commit": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "targets": {
            target: {
                **dict(sorted(kinds.items())),
                "slowest_s": max(v.seconds for v in verdicts if v.case.target == target),
                "peak_mb": max(v.peak_mb for v in verdicts if v.case.target == target),
            }
            for target, kinds in tally(verdicts).items()
        },
    }


def commit() -> str:
    """Of the checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=9", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"


def page(runs: list[dict]) -> str:
    """All runs of a file in one table."""
    names = sorted({name for run in runs for name in run["targets"]})
    rows = []
    for name in names:
        found = [run["targets"][name] for run in runs if name in run["targets"]]
        read, refused = (sum(one.get(kind, 0) for one in found) for kind in ("read", "refused"))
        others = sum(sum(count for kind, count in one.items() if kind in FINDINGS) for one in found)
        slowest, peak = max(one["slowest_s"] for one in found), max(one["peak_mb"] for one in found)
        rows.append(
            f"| {name} | {read + refused + others} | {read} | {refused} | {others} | {slowest:.2f} | {peak:.0f} |"
        )
    cases, findings = (sum(run[key] for run in runs) for key in ("cases", "findings"))
    commits = ", ".join(dict.fromkeys(run["commit"] for run in runs))
    return f"""# Broken files

`make fuzz N=10000`: {cases} files, {findings} findings; commit {commits}; {runs[-1]["machine"]}, shared with others.

Good files of every kind are broken in one place or several, half of the time inside their container with its checksums
made right, and read as a program reads them: all frames on into a writer with sound, an avatar until it is drawn. A
reader may read the file or refuse it in one line (`GpavatarError`), within {TIME_LIMIT_S:g} s and
{MEMORY_LIMIT_MB:.0f} MB, and leave nothing behind; anything else is a finding. Peaks are of the whole process, PyTorch
and compiled kernels included.

| reader | files | read | refused | findings | slowest, s | peak, MB |
|---|---|---|---|---|---|---|
{chr(10).join(rows)}

Found and mended on the way to this table: docs/decisions/0043 and 0045.
"""


if __name__ == "__main__":
    sys.exit(run_program(fuzz, prog="python -m fuzz"))
