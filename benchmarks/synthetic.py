"""How fast are synthetic people drawn, and photos turned into training pairs?

python -m benchmarks.synthetic            # writes benchmarks/results/synthetic.{json,md}
python -m benchmarks.synthetic --json     # prints the JSON as well
python -m benchmarks.synthetic --sheet docs/synthetic_people.jpg  # draws the twelve people of the documents instead

Every hair style is drawn with one person in motion, at 256² with 2 × 2 samples a pixel, and counts as often as the
generator draws it. What a frame costs is processor time, which does not depend on the machine's other work; the rate
of two processes side by side is by the clock. Photos: one that anybody can have, again and again.
"""

from __future__ import annotations

import os
import platform
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from json import dumps
from multiprocessing import get_context
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import torch
import tyro

from data_prep.footage import Footage
from data_prep.stills import StillsConfig, photo_samples
from data_prep.synthetic import BENCHMARK_SEEDS, SYNTHETIC_TRAIN, TRAIN_SEEDS
from gpavatar.assets import fetch
from gpavatar.data.synthetic import SyntheticPerson, render
from gpavatar.data.synthetic_motion import random_camera, random_motion
from gpavatar.data.synthetic_person import STYLE_WEIGHTS
from gpavatar.media.image import to_u8, write_image
from gpavatar.version import code_version

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "numba", "numpy")
SIZE_PX, FRAMES = 256, 6
TEXTURE = SYNTHETIC_TRAIN.texture_size
GLASSES_EVERY = 5  # one person in so many
SHEET = (0, 2, 3, 4, 7, 9, 12, 13, 15, 20, 21, 22)  # of the training people, chosen for variety


@dataclass(frozen=True)
class Style:
    """What a frame with this hair costs."""

    name: str
    share: float  # of the people that are drawn
    frame_ms: float  # processor time
    person_ms: float  # to make the person, once


def style_cost(index: int, name: str, share: float) -> Style:
    """One person in motion; the first frame, which fills caches, is not counted."""
    start = time.process_time()
    person = _person(index, name)
    person_ms = 1000 * (time.process_time() - start)
    poses = _poses(index, person)
    render(person, *poses[0], SIZE_PX)
    start = time.process_time()
    for pose in poses[1:]:
        render(person, *pose, SIZE_PX)
    return Style(name, share, 1000 * (time.process_time() - start) / FRAMES, person_ms)


def rate(processes: int, seconds: float) -> float:
    """Frames a second of so many processes, each with the whole mix of styles, begun together."""
    context = get_context("spawn")
    barrier, counts = context.Barrier(processes), context.Queue()
    workers = [context.Process(target=_draw_for, args=(k, seconds, barrier, counts)) for k in range(processes)]
    for worker in workers:
        worker.start()
    total = sum(counts.get() for _ in workers)
    for worker in workers:
        worker.join()
    return total


def photo_s(repeats: int) -> float:
    """Least processor time from a photo to its target and four sources."""
    photo = Footage("astronaut", Path(fetch("astronaut")), "astronaut")
    costs = []
    for seed in range(repeats + 1):
        start = time.process_time()
        photo_samples(photo, replace(StillsConfig(), seed=seed))
        costs.append(time.process_time() - start)
    return min(costs[1:])


def _draw_for(worker: int, seconds: float, barrier: Barrier, counts: Queue) -> None:
    """Frames a second of this process over the mix; the rare styles come as rarely as they do."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(worker)
    drawn = rng.choice([*STYLE_WEIGHTS], 5, p=list(STYLE_WEIGHTS.values()))
    people = [_person(100 + 10 * worker + k, name) for k, name in enumerate(drawn)]
    takes = [_poses(k, person) for k, person in enumerate(people)]
    render(people[0], *takes[0][0], SIZE_PX)
    barrier.wait()
    start, count = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        turn, frame = count % len(people), count // len(people) % FRAMES
        render(people[turn], *takes[turn][frame], SIZE_PX)
        count += 1
    counts.put(count / (time.perf_counter() - start))


def _person(index: int, style: str) -> SyntheticPerson:
    glasses = float(index % GLASSES_EVERY == 0)
    seed = BENCHMARK_SEEDS.start + 500 + index
    return SyntheticPerson.random(seed, style=style, glasses=glasses, texture_size=TEXTURE)


def _poses(index: int, person: SyntheticPerson) -> list:
    rng = np.random.default_rng(index)
    return list(random_motion(rng, person, random_camera(rng, person), FRAMES + 1, 30.0))


def draw_sheet(path: Path) -> None:
    """Twelve people of the training set in three rows."""
    tiles = []
    for number in SHEET:
        seed = TRAIN_SEEDS.start + number
        person = SyntheticPerson.random(seed, spread=SYNTHETIC_TRAIN.spread, glasses=0.25)
        rng = np.random.default_rng([seed, 52])
        motion = random_motion(rng, person, random_camera(rng, person), 30, 30.0)
        tiles.append(render(person, *list(motion)[seed * 7 % 30], SIZE_PX).image)
    rows = [torch.cat(tiles[first : first + 4], 2) for first in range(0, len(tiles), 4)]
    write_image(path, to_u8(torch.cat(rows, 1)), quality=92)


def benchmark(
    seconds: float = 10.0, json: tyro.conf.FlagCreatePairsOff[bool] = False, sheet: Path | None = None
) -> None:
    """Measure and write the table; `seconds` for the processes side by side (0 on a busy machine: leave them out).

    `json` prints the JSON as well. With `sheet` nothing is measured.
    """
    torch.set_num_threads(1)
    if sheet is not None:
        return draw_sheet(sheet)
    style_cost(0, "short", 0.0)  # compiles
    styles = [style_cost(k, name, share) for k, (name, share) in enumerate(STYLE_WEIGHTS.items())]
    frame_ms = sum(style.share * style.frame_ms for style in styles)
    report = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "commit": code_version(),
        "load_per_core": round(os.getloadavg()[0] / (os.cpu_count() or 1), 2),
        "size_px": SIZE_PX,
        "samples_per_pixel": 4,
        "frame_cpu_ms": round(frame_ms, 1),
        "frames_per_cpu_s": round(1000 / frame_ms, 1),
        "frames_per_s_of_two_processes": round(rate(2, seconds), 1) if seconds else None,
        "photo_cpu_s": round(photo_s(1), 2),
        "styles": [asdict(style) for style in styles],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "synthetic.json").write_text(dumps(report, indent=2) + "\n", encoding="utf-8")
    (RESULTS / "synthetic.md").write_text(table(styles, report), encoding="utf-8")
    print(dumps(report, indent=2) if json else table(styles, report))


def table(styles: list[Style], report: dict) -> str:
    """The report in Markdown."""
    rows = ["| hair | share of people | CPU ms a frame | CPU s a new person |", "| --- | ---: | ---: | ---: |"]
    rows += [f"| {s.name} | {s.share:.0%} | {s.frame_ms:.0f} | {s.person_ms / 1000:.1f} |" for s in styles]
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    clock = report["frames_per_s_of_two_processes"]
    clock = [f"- two processes side by side, by the clock: {clock} frames/s;"] if clock else []
    return "\n".join([
        "# Synthetic people and stills", "",
        f"Synthetic people at {SIZE_PX}², 2 × 2 samples a pixel, one in {GLASSES_EVERY} with glasses, texture "
        f"{TEXTURE}². {report['machine']}; {versions}; commit {report['commit']}; "
        f"load per core {report['load_per_core']}.", "",
        f"- a frame takes {report['frame_cpu_ms']} ms of processor time in the generator's mix: "
        f"**{report['frames_per_cpu_s']} frames per second and core**, {2 * report['frames_per_cpu_s']:.0f} on two;",
        *clock,
        f"- a photo, 512², to its target and four relit sources: {report['photo_cpu_s']} s of processor time.", "",
        *rows, "",
    ])  # fmt: skip


if __name__ == "__main__":
    tyro.cli(benchmark)
