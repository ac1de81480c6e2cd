"""How fast does a mesh become pixels on the CPU, and a synthetic person a picture?

python benchmarks/raster.py            # writes benchmarks/results/raster.{json,md}
python benchmarks/raster.py --json     # prints the JSON as well

Every step of numba is timed against its torch twin in the same run, on the open head. The best of the repeats counts:
on a shared machine the others measure its neighbours.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from json import dumps
from pathlib import Path

import torch
import tyro

from gpavatar.camera import Camera
from gpavatar.data.synthetic import SyntheticPerson, render
from gpavatar.face.open_head import OpenHead
from gpavatar.face.raster import interpolate, rasterize, to_screen
from gpavatar.face.uv import sample, texel_map, unproject
from gpavatar.version import code_version

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "numba", "numpy")


@dataclass(frozen=True)
class Step:
    """One step at one picture size, milliseconds; `torch_ms` is the readable twin's where there is one."""

    name: str
    size_px: int
    ms: float
    cpu_ms: float  # of all threads together: what does not depend on the machine's other work
    torch_ms: float | None = None


def best_ms(run: Callable[[], object], seconds: float) -> tuple[float, float]:
    """Shortest time of a call by the clock and of the processor, repeated after one that compiles and warms up."""
    run()
    clock, cpu = [], []
    end = time.perf_counter() + seconds
    while len(clock) < 3 or time.perf_counter() < end:
        start, start_cpu = time.perf_counter(), time.process_time()
        run()
        clock.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    return 1000 * min(clock), 1000 * min(cpu)


@torch.no_grad()
def measure(seconds: float) -> list[Step]:
    """All steps at 256² and 512²."""
    head, camera, steps = OpenHead.load(), Camera.frontal(4.6, 2.2), []
    faces, uv, uv_faces, verts = head.faces, head.uv, head.uv_faces, head.mean
    texture = torch.rand(4, 1024, 1024)

    def both(name: str, size: int, run: Callable[[str], object]) -> None:
        numba_ms, torch_ms = (best_ms(lambda b=b: run(b), seconds) for b in ("numba", "torch"))
        steps.append(Step(name, size, *numba_ms, torch_ms[0]))

    for size in (256, 512):
        screen = to_screen(verts, camera, size, size)
        seen = rasterize(screen, faces, size, size)
        both("rasterize", size, lambda b, s=screen, n=size: rasterize(s, faces, n, n, b))
        both("interpolate 3 channels", size, lambda b, f=seen: interpolate(f, verts, faces, b))
        both("sample RGBA texture 1024²", size, lambda b, f=seen: sample(texture, f, uv, uv_faces, b))
        texels, image = texel_map(head.topology, size), torch.rand(3, size, size)
        run = lambda i=image, t=texels: unproject(i, camera, verts, head.topology, t)  # noqa: E731
        steps.append(Step("unproject to as many texels", size, *best_ms(run, seconds)))
    person = SyntheticPerson.random(4, style="side")
    for size in (256, 512):
        run = lambda n=size: render(person, person.params(), camera, n)  # noqa: E731
        steps.append(Step("synthetic person, 4 samples a pixel", size, *best_ms(run, seconds)))
    run = lambda: SyntheticPerson.random(5, style="side")  # noqa: E731
    return [*steps, Step("a new synthetic person, texture 1024²", 0, *best_ms(run, 0))]


def benchmark(seconds: float = 1.0, threads: int = 1, json: tyro.conf.FlagCreatePairsOff[bool] = False) -> None:
    """Measure for `seconds` per step and write the table; `json` prints the JSON instead of the table.

    One thread by default: with more, torch's waits are measured as soon as the machine has anything else to do.
    """
    torch.set_num_threads(threads)
    steps = measure(seconds)
    report = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "commit": code_version(),
        "threads": threads,
        "load_per_core": round(os.getloadavg()[0] / (os.cpu_count() or 1), 2),
        "triangles": len(OpenHead.load().faces),
        "steps": [asdict(step) for step in steps],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "raster.json").write_text(dumps(report, indent=2) + "\n", encoding="utf-8")
    (RESULTS / "raster.md").write_text(table(steps, report), encoding="utf-8")
    print(dumps(report, indent=2) if json else table(steps, report))


def table(steps: list[Step], report: dict) -> str:
    """The report in Markdown."""
    rows = ["| step | size | ms | CPU ms | torch ms | times faster |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for step in steps:
        size = f"{step.size_px}²" if step.size_px else ""
        twin = f"{step.torch_ms:.1f} | {step.torch_ms / step.ms:.1f}" if step.torch_ms else " | "
        rows.append(f"| {step.name} | {size} | {step.ms:.2f} | {step.cpu_ms:.2f} | {twin} |")
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    about = (
        f"Open head, {report['triangles']} triangles, {report['threads']} thread(s). {report['machine']}; {versions}; "
        f"commit {report['commit']}; "
        f"load per core while measuring {report['load_per_core']}. Best of the repeats; numba and torch in one run."
    )
    return "\n".join(["# Rasteriser", "", about, "", *rows, ""])


if __name__ == "__main__":
    tyro.cli(benchmark)
