"""How do time and memory of a frame grow with samples, points, K, picture, photos and the length of the clip?

python benchmarks/scaling.py            # writes benchmarks/results/scaling.{json,md}
python benchmarks/scaling.py --json     # prints the JSON instead

Exact drawing on the CPU. One thing changes at a time; from the paper's sizes, with fewer rays (32²), since all grows in
proportion to them. CPU milliseconds of all threads, the least of the repeats, for they hardly depend on what else the
machine does; memory is the most that a frame adds to what the process holds. Rendering must not depend on the number of
photos, which are fused before, nor memory on the length of the clip.
"""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from json import dumps, loads
from pathlib import Path
from typing import Annotated

import torch
import tyro
from parts.lite import LiteScene
from parts.scenes import Plain

from gpavatar.avatars.gpavatar import GPAvatar, GPAvatarConfig, HeadSignal
from gpavatar.camera import Camera
from gpavatar.config import run_program
from gpavatar.face.open_head import OpenHead
from gpavatar.reenact import peak_memory_mb
from gpavatar.version import code_version

RESULTS = Path(__file__).parent / "results"
RAYS_PX = 32


@dataclass(frozen=True)
class Row:
    """A frame, or a clip, of one size."""

    what: str
    size: int
    cpu_ms: float
    memory_mb: float


def config(**volume: int) -> GPAvatarConfig:
    """The paper's, with fewer rays."""
    whole = GPAvatarConfig()
    return replace(whole, volume=replace(whole.volume, size_px=RAYS_PX, **volume))


def frames() -> Iterator[tuple[str, int, Callable[[], object]]]:
    """What grows, how large it is, and a frame of that."""
    for num in (8, 16, 32, 64):
        yield "samples per ray", 2 * num, _frame(config(num_coarse=num, num_fine=num))
    for num in (1000, 2000, 4000, 8000):
        yield "points", num, _frame(replace(config(), point_field=replace(config().point_field, num_points=num)))
    for k in (2, 4, 8, 16):
        yield "K", k, _frame(replace(config(), point_field=replace(config().point_field, num_neighbours=k)))
    for size in (16, 32, 64):
        volume = replace(config().volume, size_px=size)
        yield "side of the rays", size, _frame(replace(config(), volume=volume))
    for photos in (1, 2, 4, 8):
        yield "photos, fused", photos, _frame(config(), photos)
    for photos in (1, 2, 4, 8):
        scene = LiteScene(torch.device("cpu"), photos=photos)
        scene.use(Plain("exact"))
        yield "photos, lite model", photos, scene.draw


def _frame(sizes: GPAvatarConfig, photos: int = 1) -> Callable[[], object]:
    torch.manual_seed(0)
    head = OpenHead.load()
    net = GPAvatar(sizes, len(head.mean), 61).eval().requires_grad_(False)
    plane_dim, plane_size = sizes.attention.plane_dim, sizes.attention.plane_size
    planes = net.fuse(torch.randn(1, photos, 3, plane_dim, plane_size, plane_size))
    signal, camera = HeadSignal(head.mean[None], torch.zeros(1, 61)), Camera.frontal(5.0, 2.6)[None]
    return lambda: net.look(planes, signal, camera, precision="exact")


def measured(what: str, size: int, draw: Callable[[], object], repeats: int) -> Row:
    """The least CPU time, and the memory added by a frame (a second one: the first compiles)."""
    draw()
    times = []
    for _ in range(repeats):
        gc.collect()
        start = time.process_time()
        draw()
        times.append(time.process_time() - start)
    return Row(what, size, 1e3 * min(times), _added_mb(draw))


def _added_mb(draw: Callable[[], object]) -> float:
    """The most that is held while drawing, beyond what is held before; Linux forgets earlier peaks when asked."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else what the last frame gave back still counts as held
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_mb("VmRSS")
    draw()
    return max(0.0, _status_mb("VmHWM") - before)


def _status_mb(name: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def clip(num_frames: int) -> Row:
    """A clip of so many frames in a process of its own: its CPU time per frame and its peak memory."""
    command = [sys.executable, __file__, "--only-clip", str(num_frames)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Row(**loads(done.stdout.splitlines()[-1]))


def _drawn_clip(num_frames: int) -> Row:
    scene = LiteScene(torch.device("cpu"))
    scene.use(Plain("exact"))
    scene.draw()
    start = time.process_time()
    for _ in range(num_frames):
        scene.draw()
    return Row("frames of a clip", num_frames, 1e3 * (time.process_time() - start) / num_frames, peak_memory_mb())


def scaling(
    repeats: int = 3,
    json: tyro.conf.FlagCreatePairsOff[bool] = False,
    only_clip: Annotated[int, tyro.conf.arg(help="draw so many frames and print one row")] = 0,
) -> None:
    """Measure and write the table; `json` prints the JSON instead."""
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    if only_clip:
        print(dumps(asdict(_drawn_clip(only_clip))))
        return
    rows = [measured(*frame, repeats) for frame in frames()]
    rows += [clip(num) for num in (10, 40, 160)]
    report = {
        "machine": f"{os.cpu_count()} cores, one used, {platform.machine()}, torch {torch.__version__}",
        "commit": code_version(),
        "load_per_core": round(os.getloadavg()[0] / (os.cpu_count() or 1), 2),
        "rows": [asdict(row) for row in rows],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "scaling.json").write_text(dumps(report, indent=2) + "\n", encoding="utf-8")
    (RESULTS / "scaling.md").write_text(table(rows, report), encoding="utf-8")
    print(dumps(report, indent=2) if json else table(rows, report))


def table(rows: list[Row], report: dict) -> str:
    """The report in Markdown."""
    lines = [
        "# How a frame grows\n",
        f"GPAvatar at the paper's sizes with {RAYS_PX}² rays, without the super-resolution, exact; one thing changes "
        f"at a time. Of a clip (lite model, a process of its own): CPU ms per frame, peak memory. {report['machine']}, "
        f"load {report['load_per_core']} per core, commit {report['commit']}.\n",
        "| what grows | to | CPU ms | memory, MB |",
        "|---|---:|---:|---:|",
    ]
    lines += [f"| {row.what} | {row.size} | {row.cpu_ms:.0f} | {row.memory_mb:.0f} |" for row in rows]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(run_program(scaling))
