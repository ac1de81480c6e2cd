"""How fast is the data pipeline, does a second worker help, and does it survive being killed?

    python -m benchmarks.data_pipeline --only speed     # one process, one Ray worker, two Ray workers, at 512 px
    python -m benchmarks.data_pipeline --only kill      # SIGKILL at random moments, twenty times, the bytes compared

    python -m benchmarks.data_pipeline --only verdicts --footage FOLDER       # what becomes of the clips of a folder
    python -m benchmarks.data_pipeline --only sets --sets SETS    # what `python -m data_prep own --out SETS` made

The first three write what they measured into benchmarks/results/data_prep.json and .md, and leave the other figures.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

from data_prep.find import find_folder
from data_prep.run import run
from data_prep.scale import Cluster
from data_prep.settings import ChooseConfig, PrepConfig
from gpavatar.assets import fetch
from gpavatar.config import run_program
from gpavatar.media.align import resample_u8
from gpavatar.media.video import open_video
from gpavatar.media.writer import VideoWriter
from gpavatar.types import InputError
from gpavatar.version import code_version

RESULTS = Path(__file__).parent / "results"
TARGET_FPS, TARGET_GAIN, TARGET_KILLS = 15.0, 1.5, 20
SHARES = (0.6, 0.68, 0.76, 0.84, 0.92, 1.0)  # of the demo clip at which the clips of the measurement begin
JUDGED_PX = (256, 512)
KILL_CONFIG = PrepConfig(size_px=128, matte_px=128, choose=ChooseConfig(frames=6))


@dataclass(frozen=True)
class Speed:
    """One way of running."""

    workers: str
    frames: int
    kept: int  # of a clip
    wall_s: float
    cpu_s: float | None  # None: Ray's workers do not tell
    steady_fps: float | None  # input frames per second once every worker has finished a clip
    load: float  # of the machine while it ran

    @property
    def fps(self) -> float:
        """Input frames per second by the clock."""
        return self.frames / self.wall_s

    def cells(self) -> tuple[str, ...]:
        """Of the table; the bound is what two cores of its own could give at most."""
        cpu, bound = (f"{self.cpu_s:.1f}", f"{2 * self.frames / self.cpu_s:.1f}") if self.cpu_s else ("", "")
        steady = f"{self.steady_fps:.1f}" if self.steady_fps else ""
        plain = (self.workers, self.frames, self.kept, f"{self.wall_s:.1f}", cpu, f"{self.fps:.1f}", bound, steady)
        return *map(str, plain), f"{self.load:g}"


@dataclass(frozen=True)
class Kills:
    """What came of killing."""

    kills: int
    sets: int  # made of the runs that were killed
    identical: int  # of them, to the byte, with one that was left alone
    done_twice: int  # clips that were made again although they were whole
    lost: int  # clips that are missing


@dataclass(frozen=True)
class Judged:
    """A clip and what became of it at each of `JUDGED_PX`."""

    clip: str
    size: str
    verdicts: tuple[str, ...]


def main(
    only: tuple[Literal["speed", "kill", "verdicts", "sets"], ...] = ("speed", "kill"),
    workers: tuple[int, ...] = (0, 1, 2),
    kept: int = 30,
    clip_frames: int = 236,
    sets: Path | None = None,
    footage: Path | None = None,
) -> None:
    """Measure. For speed: `workers`, 0 for this process alone, `kept` frames of clips of `clip_frames`; for verdicts:
    `footage`; for sets: `sets`.
    """
    RESULTS.mkdir(exist_ok=True)
    if "sets" in only:
        if sets is None:
            raise InputError("--sets is missing: the folder that python -m data_prep own wrote to")
        write_sets(sets)
        return
    path = RESULTS / "data_prep.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        if "speed" in only:
            clips(Path(folder) / "fast" / "in", clip_frames)
            done = {row["workers"]: row for row in report.get("speed", [])}
            done |= {
                row["workers"]: row for row in (asdict(speed(Path(folder) / "fast", count, kept)) for count in workers)
            }
            report["speed"] = [done[name] for name in sorted(done)]
        if "kill" in only:
            clips(Path(folder) / "killed" / "in", frames=40, side_px=160)
            report["kill"] = asdict(kill(Path(folder) / "killed"))
        if "verdicts" in only:
            if footage is None:
                raise InputError("--footage is missing: a folder of clips")
            known = {row["clip"]: row for row in report.get("verdicts", [])}
            known |= {row.clip: asdict(row) for row in verdicts(footage, Path(folder) / "judged")}
            report["verdicts"] = [known[name] for name in sorted(known)]
    report |= {"commit": code_version(), "machine": f"{os.cpu_count()} cores, {_cpu_name()}"}
    path.write_text(json.dumps(report, indent=1) + "\n")
    text = _page(report)
    (RESULTS / "data_prep.md").write_text(text)
    print(text)


def clips(folder: Path, frames: int, side_px: int = 512) -> None:
    """Square clips of the demo's person, from several places of the demo clip."""
    folder.mkdir(parents=True)
    source = list(open_video(fetch("pexels_clip")))
    for number, share in enumerate(SHARES):
        start = round(share * (len(source) - frames))
        with VideoWriter(folder / f"clip{number}.mp4", side_px, side_px, fps=25.0) as writer:
            for frame in source[start : start + frames]:
                height, width = frame.image_u8.shape[:2]
                writer.write(resample_u8(frame.image_u8, width - height, 0, width, height, side_px, side_px))


def speed(folder: Path, workers: int, kept: int) -> Speed:
    """The whole pipeline at 512 px with the default settings, loading of models and start of workers included."""
    out = folder / f"out{workers}"
    before, began = _cpu_s(), time.perf_counter()
    cluster = Cluster("local", workers) if workers else None
    config = PrepConfig(choose=ChooseConfig(frames=kept))
    outcome = run(find_folder(folder / "in", out / "work" / "unpacked"), out, config, cluster)
    wall_s, cpu_s = time.perf_counter() - began, _cpu_s() - before
    if len(outcome.kept) != len(SHARES):
        raise InputError(f"only {len(outcome.kept)} clips were kept: {[clip.why for clip in outcome.clips]}")
    frames = sum(source.frames for source in outcome.sources)
    name = f"{workers} Ray" if workers else "in process"
    done = sorted(path.stat().st_mtime for path in (out / "work" / "clips").glob("*.safetensors"))
    warm = max(workers, 1)
    steady_fps = frames * (1 - warm / len(done)) / (done[-1] - done[warm - 1])
    cpu_s = None if workers else round(cpu_s, 2)
    return Speed(name, frames, kept, round(wall_s, 2), cpu_s, round(steady_fps, 2), round(os.getloadavg()[0], 1))


def kill(folder: Path, kills: int = TARGET_KILLS) -> Kills:
    """Start the pipeline, kill it a random while after it began, begin again, until it has been killed enough.

    Every set that comes to its end is compared with one whose run was left alone.
    """
    rng = random.Random(0)
    began = time.perf_counter()
    _killed_run(folder / "in", folder / "whole", None)
    longest_s = time.perf_counter() - began
    expected = _digests(folder / "whole")
    done = sets = identical = twice = lost = 0
    while done < kills:
        out, whole, killed = folder / f"set{sets}", {}, True
        while killed:
            killed = _killed_run(folder / "in", out, rng.uniform(0, longest_s) if done < kills else None)
            now = {path.name: path.stat().st_mtime_ns for path in (out / "work" / "clips").glob("*.safetensors")}
            twice += sum(now.get(name) != stamp for name, stamp in whole.items())
            whole, done = now, done + killed
            print(f"{done} kills, {sets} sets", file=sys.stderr)
        found = _digests(out)
        sets, identical, lost = sets + 1, identical + (found == expected), lost + len(expected.keys() - found.keys())
    return Kills(done, sets, identical, twice, lost)


def verdicts(footage: Path, out: Path) -> list[Judged]:
    """What the default filters say of every clip of a folder, for sets of 256 and 512 px."""
    rows: dict[str, list[str]] = {}
    for size_px in JUDGED_PX:
        config = PrepConfig(size_px=size_px, choose=ChooseConfig(frames=4))
        place = out / str(size_px)
        for clip in run(find_folder(footage, place / "work" / "unpacked"), place, config).clips:
            cut = clip.cut
            size = f"{cut.width_px}x{cut.height_px}, {cut.fps:.4g} frames/s, {cut.num_frames} frames"
            rows.setdefault(clip.clip, [size]).append(f"{clip.dropped}: {clip.why}" if clip.dropped else "kept")
    return [Judged(clip, size, tuple(said)) for clip, (size, *said) in rows.items()]


def _killed_run(source: Path, out: Path, after_s: float | None) -> bool:
    """Whether it was killed before it came to its end. None: leave it alone."""
    process = get_context("fork").Process(target=_prepare, args=(source, out))
    process.start()
    process.join(after_s)
    process.kill()
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise InputError(f"the run ended by itself with exit code {process.exitcode}")
    return process.exitcode != 0


def _prepare(source: Path, out: Path) -> None:
    run(find_folder(source, out / "work" / "unpacked"), out, KILL_CONFIG)


def write_sets(sets: Path) -> None:
    """The figures and sums of the project's own sets."""
    figures = json.loads((sets / "sets.json").read_text())
    (RESULTS / "own_sets.json").write_text(json.dumps(figures, indent=1) + "\n")
    lines = [
        "# The project's own sets",
        "",
        "Made by `python -m data_prep own`; the sums of their files are in own_sets.json. Clips weigh so that each",
        "identity counts once.",
        "",
        "| set | px | clips | identities | frames | by kind | by tier | MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in figures:
        kinds, tiers = (
            ", ".join(f"{count} {name}" for name, count in row[key].items())
            for key in ("frames_by_kind", "frames_by_tier")
        )
        cells = (row["name"], row["size_px"], row["clips"], row["identities"], row["frames"], kinds, tiers, row["mib"])
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    text = "\n".join(lines) + "\n"
    (RESULTS / "own_sets.md").write_text(text)
    print(text)


def _digests(out: Path) -> dict[str, str]:
    """Of all that a run leaves, the report with its name of the folder aside."""
    files = [path for path in _files(out) if path.name not in ("lock", "report.html")]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _cpu_s() -> float:
    """Of this process and of all that it started and waited for."""
    times = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in times)


def _page(report: dict) -> str:
    lines = ["# The data pipeline", "", f"Machine: {report['machine']}; commit {report['commit']}.", ""]
    if "speed" in report:
        rows = [Speed(**row) for row in report["speed"]]
        lines += [
            f"## Speed at 512 px (aims: {TARGET_FPS:g} input frames/s on two cores, {TARGET_GAIN:g} times from one "
            "worker to two)",
            "",
            "By the clock, loading of models and start of workers included. Bound: 2 frames / CPU second, what two",
            "cores of its own could give. Steady: once every worker has finished a clip. Load: of the machine, with",
            "other work on it, when the row ended: where it is far above the number of cores, the clock says little.",
            "",
            "| workers | frames | kept of a clip | wall s | CPU s | frames/s | bound | steady | load |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [f"| {' | '.join(row.cells())} |" for row in rows]
        steady = {row.workers: row.steady_fps for row in rows}
        if {"1 Ray", "2 Ray"} <= steady.keys():
            lines += ["", f"From one Ray worker to two: {steady['2 Ray'] / steady['1 Ray']:.2f} times as fast, steady."]
        lines.append("")
    if "kill" in report:
        kills = Kills(**report["kill"])
        lines += [
            f"## Killed (aim: {TARGET_KILLS} times, the same bytes)",
            "",
            f"SIGKILL at {kills.kills} random moments while {kills.sets} sets were made: {kills.identical} of them are "
            f"identical to the byte with one whose run was",
            f"left alone (shards, index, manifest, all intermediate files); {kills.done_twice} clips done twice, "
            f"{kills.lost} lost.",
            "",
        ]
    if "verdicts" in report:
        lines += ["## Verdicts, default filters", ""]
        lines += [f"| clip | footage | {' | '.join(f'for {px} px' for px in JUDGED_PX)} |", "|---|---|---|---|"]
        lines += [f"| {row['clip']} | {row['size']} | {' | '.join(row['verdicts'])} |" for row in report["verdicts"]]
        lines.append("")
    return "\n".join(lines)


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    sys.exit(run_program(main))
