"""How fast does reenact run from the command to the finished file, tracking included?

python benchmarks/end_to_end.py                               # writes benchmarks/results/end_to_end.{json,md}
python benchmarks/end_to_end.py --model gpavatar_lite          # end_to_end_gpavatar_lite.{json,md}

Runs the program as a user does, a process per run, on the demo's photo and clip, and reads its sidecar. The best of the
repeats is reported: on a shared machine the others measure its neighbours.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from gpavatar.assets import fetch
from gpavatar.avatars.checkpoint import read_info
from gpavatar.config import run_program
from gpavatar.methods import WEIGHTS_SUFFIX, DrawnIn
from gpavatar.version import code_version

RESULTS = Path(__file__).parent / "results"
TARGETS = {  # frames/s on two cores
    "textured_mesh": {256: 20.0, 512: 10.0},
    "gpavatar_lite": {256: 8.0},
}


@dataclass(frozen=True)
class Run:
    """One run of the program."""

    size_px: int
    compare: bool
    frames: int
    fps: float  # by the sidecar: frames / total
    process_s: float  # by the clock, from the start of the process to its end
    cpu_s: float  # user and system, of all threads
    peak_memory_mb: float
    seconds: dict[str, float]


def end_to_end(
    sizes: Annotated[tuple[int, ...], tyro.conf.arg(aliases=["-s"])] = (256, 512),
    repeats: int = 3,
    model: str = "textured_mesh",
    precision: DrawnIn = "exact",
    seconds: float | None = None,
) -> None:
    """Measure every size, with and without `--compare`, and write the table. `seconds`: of the clip, else all of it."""
    options = ["--model", model, "--precision", precision, *(["--end", str(seconds)] if seconds else [])]
    runs = [_best(size, compare, options, repeats) for size in sizes for compare in (False, True)]
    machine, name = f"{os.cpu_count()} cores, {_cpu_name()}", method_name(model)
    report = {"machine": machine, "commit": code_version(), "load": os.getloadavg()[0], "method": name}
    report |= {"precision": precision, "runs": list(map(asdict, runs))}
    RESULTS.mkdir(exist_ok=True)
    file = "end_to_end" if name == "textured_mesh" else f"end_to_end_{name}"
    (RESULTS / f"{file}.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (RESULTS / f"{file}.md").write_text(_table(runs, report), encoding="utf-8")
    print(_table(runs, report))


def method_name(model: str) -> str:
    """The method, also of a file of weights."""
    return read_info(model).method if model.endswith(WEIGHTS_SUFFIX) else model


def _best(size_px: int, compare: bool, options: list[str], repeats: int) -> Run:
    return max((_run(size_px, compare, options) for _ in range(repeats)), key=lambda run: run.fps)


def _run(size_px: int, compare: bool, options: list[str]) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.mp4"
        command = [sys.executable, "-m", "gpavatar.reenact", str(fetch("astronaut")), str(fetch("pexels_clip"))]
        command += ["-o", str(out), "--size", str(size_px), "--device", "cpu", *options]
        command += ["--compare"] if compare else []
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start_s = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        process_s = time.perf_counter() - start_s
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        sidecar = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    kept = {name: sidecar[name] for name in ("frames", "fps", "peak_memory_mb", "seconds")}
    return Run(size_px, compare, process_s=round(process_s, 2), cpu_s=round(cpu_s, 2), **kept)


def _table(runs: list[Run], report: dict) -> str:
    stages = [stage for stage in runs[0].seconds if stage != "total"]
    head = ["size", "compare", "frames/s", "target", "process s", "CPU s", "bound", "memory MB", *stages]
    lines = [
        "# reenact, end to end",
        "",
        f"{report['method']} ({report['precision']}), the astronaut driven by {runs[0].frames} frames of the demo clip "
        "(640 x 360); tracking, loading and encoding included.",
        f"Machine: {report['machine']}; load when written {report['load']:.1f}; commit {report['commit']}.",
        "frames/s counts the whole program by the clock, beside whatever else the machine did; bound is what two cores",
        "of its own could give at most, 2 frames / CPU s. Stages run side by side, in busy seconds.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    for run in runs:
        least = TARGETS.get(report["method"], {}).get(run.size_px)
        target = f">= {least:g}" if least and not run.compare else ""
        cells = [f"{run.size_px}²", "yes" if run.compare else "", f"{run.fps:.1f}", target]
        cells += [
            f"{run.process_s:.1f}",
            f"{run.cpu_s:.1f}",
            f"{2 * run.frames / run.cpu_s:.1f}",
            f"{run.peak_memory_mb:.0f}",
        ]
        lines.append("| " + " | ".join([*cells, *(f"{run.seconds[stage]:.1f}" for stage in stages)]) + " |")
    return "\n".join(lines) + "\n"


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    sys.exit(run_program(end_to_end))
