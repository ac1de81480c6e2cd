"""How long does a frame take, as the paper writes it and as it is drawn here, and how far is each from exact?

python benchmarks/render.py                              # writes benchmarks/results/render_paper_cpu.{json,md}
python benchmarks/render.py --size lite                  # render_lite_cpu
python benchmarks/render.py --device cuda --json         # prints one object; ms, ratio and rel_error per variant

All variants run in one process, one after the other, with weights at random (fog: nothing can be skipped):

    literal    Eq. 1 as it is written, both layers for each of the K neighbours, in torch; neighbours by FAISS's
               exhaustive search (on CUDA, where FAISS is not, by torch.cdist). The reference of `ratio`
    k-d tree   the cheap form of Eq. 1 in torch, neighbours by scipy's cKDTree (on CUDA by voxels in torch)
    exact      fused, float32
    fast       fused, products of bfloat16

`ms` is by the clock with all cores, the best of the repeats; `cpu_ms` what all threads computed, for machines that have
other things to do; the split by stage is on one core. `rel_error` is ‖features − features in float64‖ / ‖…‖ of what the
rays find. The floor is what the operations take at the rate of a matrix product measured in the same run, and what
planes, weights and results take to be moved once.
"""

from __future__ import annotations

import gc
import os
import platform
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from json import dumps
from pathlib import Path
from typing import Literal

import torch
import tyro
from parts.lite import LiteScene
from parts.scenes import PaperScene, stage_functions

from gpavatar.config import run_program
from gpavatar.field.twin import Precision
from gpavatar.version import code_version

Scene = PaperScene | LiteScene
RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "numba", "faiss-cpu", "scipy", "triton")


@dataclass(frozen=True)
class Variant:
    """A way to draw."""

    name: str
    precision: Precision
    literal: bool = False
    nearest: str = "auto"


VARIANTS = (
    Variant("literal", "reference", literal=True),
    Variant("k-d tree", "reference", nearest="tree"),
    Variant("exact", "exact"),
    Variant("fast", "fast"),
)


@dataclass(frozen=True)
class Row:
    """What one variant takes."""

    variant: str
    ms: float
    cpu_ms: float
    ratio: float  # by the clock, of the literal's time to this one's
    cpu_ratio: float
    rel_error: float
    stages: dict[str, float]  # CPU milliseconds on one core


@dataclass(frozen=True)
class Floor:
    """What cannot be undercut, of the fused form."""

    gflop: float
    float32_gflops: float  # measured
    bfloat16_gflops: float
    exact_ms: float
    fast_ms: float
    mb: float
    gb_per_s: float  # measured
    memory_ms: float


class StageClock:
    """CPU seconds by stage, without those of the stages within, where one thread does everything but what a library
    does in threads of its own."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = threading.local()

    def timed(self, stage: str, function: Callable) -> Callable:
        """The same function, with its time added to `stage`."""

        def wrapped(*args, **options):
            outer, self._inner.s = getattr(self._inner, "s", 0.0), 0.0
            start = time.process_time()
            try:
                return function(*args, **options)
            finally:
                took = time.process_time() - start
                self.seconds[stage] += took - self._inner.s
                self._inner.s = outer + took

        return wrapped

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Time the stages in the block."""
        before = [(owner, name, getattr(owner, name)) for _, owner, name in stage_functions()]
        for stage, owner, name in stage_functions():
            setattr(owner, name, self.timed(stage, getattr(owner, name)))
        try:
            yield
        finally:
            for owner, name, function in before:
                setattr(owner, name, function)


def measure(scene: Scene, variant: Variant, repeats: int) -> tuple[float, float, dict[str, float]]:
    """Milliseconds by the clock and of all threads, and by stage."""
    scene.use(variant)
    slow = variant.precision == "reference" and scene.device.type == "cpu"
    if not slow:
        scene.draw()  # compiles
    best = cpu = float("inf")
    for _ in range(1 if slow else repeats):
        gc.collect()
        scene.wait()
        start, cpu_start = time.perf_counter(), time.process_time()
        scene.draw()
        scene.wait()
        best, cpu = min(best, time.perf_counter() - start), min(cpu, time.process_time() - cpu_start)
    return 1e3 * best, 1e3 * cpu, split(scene, slow) if scene.device.type == "cpu" else {}


def split(scene: Scene, slow: bool) -> dict[str, float]:
    """CPU milliseconds by stage on one core; of a slow variant from some rays, scaled up."""
    clock, threads = StageClock(), torch.get_num_threads()
    torch.set_num_threads(1)
    with clock.watching():
        clock.timed("rays", scene.draw_some if slow else scene.draw)()
    torch.set_num_threads(threads)
    return {
        stage: round(1e3 * s * (scene.one_in if slow and stage != "picture" else 1), 2)
        for stage, s in clock.seconds.items()
    }


def floor_of(scene: Scene) -> Floor:
    """See the head of this file."""
    rates = [_matrix_gflops(scene, dtype) for dtype in (torch.float32, torch.bfloat16)]
    source = torch.ones(2**26, device=scene.device)
    target = torch.empty_like(source)
    seconds = _best(lambda: target.copy_(source), scene)
    rate = 2 * source.numel() * 4 / seconds / 1e9
    gflop, mb = scene.gflop(), scene.megabytes()
    return Floor(gflop, *rates, *(1e3 * gflop / rate for rate in rates), mb, rate, mb / rate)


def _matrix_gflops(scene: Scene, dtype: torch.dtype) -> float:
    from gpavatar.field.head_field_numba import Layer

    size = 2048 if scene.device.type == "cpu" else 8192
    x = torch.randn(size, size, device=scene.device).to(dtype)
    product = Layer(torch.randn(size, size), None, dtype) if scene.device.type == "cpu" else lambda x: x @ x
    return 2 * size**3 / _best(lambda: product(x), scene) / 1e9


def _best(work: Callable, scene: Scene, times: int = 5) -> float:
    best = float("inf")
    for _ in range(times):
        scene.wait()
        start = time.perf_counter()
        work()
        scene.wait()
        best = min(best, time.perf_counter() - start)
    return best


def benchmark(
    size: Literal["paper", "lite"] = "paper",
    device: Literal["cpu", "cuda"] = "cpu",
    weights: Path | None = None,
    part: int = 1,
    repeats: int = 3,
    json: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Measure every variant and write the table; `json` prints the JSON instead.

    `weights` of the lite model (default: at random). `part`: draw one in so many rays of the paper's frame (nothing is
    written).
    """
    torch.set_grad_enabled(False)
    place = torch.device(device)
    scene = PaperScene(place, part) if size == "paper" else LiteScene(place, weights)
    rows: list[Row] = []
    for variant in VARIANTS:
        ms, cpu_ms, stages = measure(scene, variant, repeats)
        first = rows[0] if rows else None
        ratios = (first.ms / ms, first.cpu_ms / cpu_ms) if first else (1.0, 1.0)
        rows.append(Row(variant.name, ms, cpu_ms, *ratios, scene.error(), stages))
        print(f"{variant.name}: {ms:.0f} ms, {cpu_ms:.0f} CPU ms", file=sys.stderr)
    report = {
        "size": scene.about,
        "device": torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} cores, {cpu_name()}",
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "commit": code_version(),
        "load_per_core": round(os.getloadavg()[0] / (os.cpu_count() or 1), 2),
        "variants": {row.variant: asdict(row) for row in rows},
        "fast_psnr_db": scene.psnr_db(*VARIANTS[2:]),
        "floor": asdict(floor_of(scene)),
    }
    if part == 1:
        RESULTS.mkdir(exist_ok=True)
        name = f"render_{size}_{device}"
        (RESULTS / f"{name}.json").write_text(dumps(report, indent=2) + "\n", encoding="utf-8")
        (RESULTS / f"{name}.md").write_text(table(rows, report), encoding="utf-8")
    print(dumps(report, indent=2) if json else table(rows, report))


def table(rows: list[Row], report: dict) -> str:
    """The report in Markdown."""
    stages = list(dict.fromkeys(stage for row in rows for stage in row.stages))
    head = ["variant", "ms", "ratio", "CPU ms", "CPU ratio", "error", *stages]
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    for row in rows:
        cells = [row.variant, f"{row.ms:.1f}", f"{row.ratio:.1f}", f"{row.cpu_ms:.0f}", f"{row.cpu_ratio:.1f}"]
        cells += [f"{row.rel_error:.1e}", *(f"{row.stages.get(stage, 0):.1f}" for stage in stages)]
        lines.append(f"| {' | '.join(cells)} |")
    floor, versions = report["floor"], ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    about = (
        f"# A frame\n\n{report['size']}. {report['device']}, {report['threads']} threads; load "
        f"{report['load_per_core']} per core (times by the clock are too long by about as much where it is above 1); "
        f"{versions}; commit {report['commit']}.\n\n`ratio` is to the literal form in the same run; `error` is "
        "relative, against float64; stages are CPU ms on one core.\n"
    )
    end = (
        f"\nFloor of the fused form: {floor['gflop']:.0f} GFLOP are {floor['exact_ms']:.1f} ms at the "
        f"{floor['float32_gflops']:.0f} GFLOP/s of float32 and {floor['fast_ms']:.1f} ms at the "
        f"{floor['bfloat16_gflops']:.0f} GFLOP/s of bfloat16 that a matrix product reached in this run; "
        f"{floor['mb']:.0f} MB are {floor['memory_ms']:.1f} ms at {floor['gb_per_s']:.0f} GB/s. "
        f"`fast` is {report['fast_psnr_db']:.1f} dB from `exact` (PSNR of the picture).\n"
    )
    return "\n".join([about, *lines, end])


def cpu_name() -> str:
    """As the system calls the processor."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except ModuleNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(run_program(benchmark))
