"""How long is a training step of GPAvatar, with and without the fused kernels, and does it wait for its data?

python benchmarks/train_step.py            # writes benchmarks/results/train_step.{json,md}
python benchmarks/train_step.py --json     # prints the JSON as well

The whole program runs (`gpavatar.train`, without validation and sheets) on synthetic people, at a size that a CPU
takes; with --size paper at the paper's, for which an accelerator is needed, or with --size lite that of gpavatar_lite.
Numbers are those that every run logs, the median of its log steps after the first: with frames decoded by this process,
by workers, and held decoded; and, where there is a GPU, held decoded with the field and its compositing by torch (the
reference of `ratio`) and by the kernels.
"""

from __future__ import annotations

import csv
import os
import platform
import statistics
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import version
from json import dumps
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.progress import track

from gpavatar.config import load_config
from gpavatar.data.shards import ClipInfo, HeadInfo, Sample, ShardWriter
from gpavatar.data.synthetic import SyntheticPerson, synthetic_clip
from gpavatar.face.open_head import OpenHead
from gpavatar.media.image import to_u8
from gpavatar.training.config import TrainConfig
from gpavatar.training.run import run_training
from gpavatar.version import code_version

RESULTS = Path(__file__).parent / "results"
CONFIGS = Path(__file__).parents[1] / "configs"
PACKAGES = ("torch", "pytorch-lightning")
LOADERS = {"this process": (0, False), "two workers": (2, False), "held decoded": (0, True)}
REFERENCE, FUSED = "held decoded, torch", "held decoded, fused"  # on a GPU; there "held decoded" is fused as well


@dataclass(frozen=True)
class Size:
    """What is trained."""

    name: str
    picture_px: int
    settings: tuple[str, ...]  # beside those of the config
    config: str = "gpavatar.yaml"


TOY = Size("64² pictures, planes of 32², 16² rays with 16 + 16 samples, width 1/8", 64, (
    "gpavatar.encoder.net={in_size_px: 64, out_size_px: 32, style_dim: 64, width: 0.125, mlp_depth: 4, out_dim: 48}",
    "gpavatar.attention={plane_dim: 16, plane_size: 32}", "gpavatar.volume={size_px: 16, num_coarse: 16, num_fine: 16}",
    "gpavatar.point_field={point_dim: 16, out_dim: 16}", "gpavatar.radiance={hidden_dim: 32, out_dim: 16}",
    "gpavatar.upsampler.net={in_size_px: 64, out_size_px: 64, in_dim: 16, style_dim: 64, width: 0.125, mlp_depth: 4}",
    "data.batch_size=2", "loss.perceptual=0", "gpavatar.head=open_head",
))  # fmt: skip
PAPER = Size("the paper's, 512²", 512, ("data.batch_size=8", "gpavatar.head=open_head"))
LITE = Size("gpavatar_lite, 256², which has no kernels of its own", 256, (), "gpavatar_lite.yaml")
SIZES = {"toy": TOY, "paper": PAPER, "lite": LITE}


@dataclass(frozen=True)
class Row:
    """One way of loading."""

    frames_from: str
    samples_per_s: float
    loader_wait: float  # share of the time
    memory_gb: float


def make_set(folder: Path, size_px: int, people: int = 4, frames: int = 6) -> None:
    """Short clips of synthetic people."""
    with ShardWriter(folder, HeadInfo.of(OpenHead.load()), size_px) as writer:
        for seed in track(range(people), "drawing people", transient=True):
            name, samples = f"person_{seed}", []
            person = SyntheticPerson.random(seed)
            for i, frame in enumerate(synthetic_clip(seed, frames, size_px, person=person)):
                points = person.head.topology.mediapipe.on(frame.verts, person.head.faces)
                marks = frame.camera.project_px(points, size_px, size_px)
                images = to_u8(frame.image), to_u8(frame.alpha)
                samples.append(Sample(name, name, i, i / 25, *images, frame.params, frame.camera, marks))
            writer.add(ClipInfo(name, name, "train", "synthetic", "open", "CC0-1.0"), samples)


def measure(size: Size, frames_from: str, data: Path, out: Path, steps: int) -> Row:
    """A training of so many steps."""
    workers, resident = LOADERS.get(frames_from, (0, True))
    every = max(1, steps // 6)
    settings = (
        *size.settings, f"data.train=[{{path: {data}}}]", f"data.num_workers={workers}", f"data.resident={resident}",
        f"trainer.fused={str(frames_from != REFERENCE).lower()}",
        "data.examples_per_epoch=100000", f"trainer.max_steps={steps}",
        f"trainer.log_every={every}", "trainer.progress=false", "log={wandb: false, sheet_examples: 0}",
    )  # fmt: skip
    run_training(load_config(TrainConfig, CONFIGS / size.config, overrides=settings), out)
    with (out / "metrics.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if int(row["step"]) > every]
    middle = {
        name: statistics.median(float(row["value"]) for row in rows if row["name"] == f"speed/{name}")
        for name in ("samples_per_s", "loader_wait", "memory_gb")
    }
    return Row(frames_from, **middle)


def benchmark(
    steps: int = 24,
    size: Literal["toy", "paper", "lite"] = "toy",
    json: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Measure over `steps` steps for each way of loading and write the table; `json` prints the JSON instead."""
    chosen = SIZES[size]
    torch.set_num_threads(1 if not torch.cuda.is_available() else torch.get_num_threads())
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "set"
        make_set(data, chosen.picture_px)
        names = [*LOADERS, *([REFERENCE, FUSED] if torch.cuda.is_available() else [])]
        rows = [measure(chosen, name, data, Path(folder) / name, steps) for name in names]
    speed = {row.frames_from: row.samples_per_s for row in rows}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    report = {
        "machine": gpu or f"{os.cpu_count()} cores, one used, {platform.machine()}, {platform.system()}",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "commit": code_version(),
        "load_per_core": round(os.getloadavg()[0] / (os.cpu_count() or 1), 2),
        "size": chosen.name,
        "settings": chosen.settings,
        "steps": steps,
        "ratio": speed[FUSED] / speed[REFERENCE] if FUSED in speed else None,
        "rows": [asdict(row) for row in rows],
    }
    RESULTS.mkdir(exist_ok=True)
    name = "train_step" if size == "toy" else f"train_step_{size}"
    (RESULTS / f"{name}.json").write_text(dumps(report, indent=2) + "\n", encoding="utf-8")
    (RESULTS / f"{name}.md").write_text(table(rows, report), encoding="utf-8")
    print(dumps(report, indent=2) if json else table(rows, report))


def table(rows: list[Row], report: dict) -> str:
    """The report in Markdown."""
    lines = ["| frames from | pairs/s | waiting for data | memory, GB |", "| --- | ---: | ---: | ---: |"]
    for row in rows:
        lines.append(
            f"| {row.frames_from} | {row.samples_per_s:.2f} | {100 * row.loader_wait:.1f} % | {row.memory_gb:.2f} |"
        )
    ratio = report["ratio"]
    ratio = f" Fused kernels: {ratio:.2f} times the steps of torch." if ratio else " No GPU, no fused step."
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    about = (
        f"Training steps of GPAvatar: {report['size']}; one or two sources; median of the log steps of "
        f"{report['steps']} steps, by the clock. {report['machine']}; load {report['load_per_core']} per core (times "
        f"are too long by about as much where it is above 1); {versions}; commit {report['commit']}."
        f"{ratio}"
    )
    return "\n".join([about, "", *lines, ""])


if __name__ == "__main__":
    tyro.cli(benchmark)
