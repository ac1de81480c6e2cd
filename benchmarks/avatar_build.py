"""How long does InvertAvatar take to make an avatar, and to take in one more frame?

python benchmarks/avatar_build.py                     # configs/invertavatar_lite.yaml, weights by chance
python benchmarks/avatar_build.py --size small        # that of configs/invertavatar_small.yaml, for a CPU
python benchmarks/avatar_build.py --size paper        # the paper's size; an accelerator is wanted
python benchmarks/avatar_build.py --device cuda

From fitted and matted frames (which is not timed) to an avatar that can be drawn. Beside the recurrent model stands the
reference: every frame inverted by itself and the mean taken. Writes benchmarks/results/avatar_build*.{json,md}.
Published for the paper's size (Table 2): 0.20 s from 2 frames, 0.32 s from 4; the mean 0.36 s and 0.71 s.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.progress import track

from gpavatar.avatars.checkpoint import WeightsInfo, config_yaml, save_weights
from gpavatar.avatars.invertavatar import InvertAvatar, InvertAvatarConfig
from gpavatar.avatars.invertavatar_method import InvertAvatarMethod
from gpavatar.camera import Camera, axis_angle_to_matrix
from gpavatar.config import load_config
from gpavatar.face.open_head import OpenHead
from gpavatar.training.config import TrainConfig
from gpavatar.types import HeadParams, SourceFrame
from gpavatar.version import code_version

RESULTS = Path(__file__).parent / "results"
CONFIGS = Path(__file__).parents[1] / "configs"
SIZES = {"small": "invertavatar_small.yaml", "lite": "invertavatar_lite.yaml", "paper": "invertavatar_recurrent.yaml"}
SETTLED = 8  # frames that an avatar has seen before one more is timed


@dataclass(frozen=True)
class Row:
    """Seconds of one way to gather frames; medians."""

    gathering: str
    two_s: float
    four_s: float
    further_s: float  # one more frame, after `SETTLED`
    two_cpu_s: float  # processor seconds of all threads: what remains comparable on a machine that does other things
    four_cpu_s: float
    further_cpu_s: float
    state_mb: float


def frames(count: int, size_px: int) -> list[SourceFrame]:
    """Noise in the shape of a head that turns and moves its face."""
    generator, head = torch.Generator().manual_seed(0), OpenHead.load()
    steps = torch.linspace(-1, 1, size_px)
    inside = ((steps[:, None] ** 2 + steps**2) < 0.5).float()[None]
    made, front = [], Camera.frontal(8.0, 3.0)
    for number in range(count):
        params = HeadParams.neutral(head.n_shape, head.n_expression)
        params = replace(params, expression=0.5 * torch.rand(head.n_expression, generator=generator))
        turn = torch.eye(4)
        turn[:3, :3] = axis_angle_to_matrix(torch.tensor([0.0, 0.1 * (number - count / 2), 0.0]))
        picture = torch.rand(3, size_px, size_px, generator=generator)
        camera = Camera(turn @ front.c2w, front.intrinsics)
        made.append(SourceFrame(picture, *[inside] * 4, params, camera, torch.full((478, 2), size_px / 2)))
    return made


def model(config: InvertAvatarConfig, device: str) -> InvertAvatarMethod:
    """The method with weights by chance."""
    head = OpenHead.load()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        info = WeightsInfo("invertavatar", head.name, head.sha256, config_yaml(config))
        save_weights(InvertAvatar(config).state_dict(), path, info)
        return InvertAvatarMethod(device, path)


def timed(work: Callable[[], object], repeats: int, device: str) -> tuple[float, float]:
    """Median seconds by the clock and of the processors, after one run that is not counted."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    work()
    wait()
    clock, processor = [], []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        work()
        wait()
        clock.append(time.perf_counter() - start[0])
        processor.append(time.process_time() - start[1])
    return statistics.median(clock), statistics.median(processor)


def measure(config: InvertAvatarConfig, gathering: str, device: str, repeats: int) -> Row:
    """All times of one way to gather frames."""
    method = model(replace(config, inversion=replace(config.inversion, gathering=gathering)), device)
    given = frames(SETTLED + 1, 256)
    settled = method.encode(given[:SETTLED])
    jobs = (
        lambda: method.encode(given[:2]),
        lambda: method.encode(given[:4]),
        lambda: method.update(settled, given[-1]),
    )
    found = [timed(job, repeats, device) for job in jobs]
    with tempfile.TemporaryDirectory() as folder:
        method.save(settled, Path(folder) / "avatar.safetensors")
        size_mb = (Path(folder) / "avatar.safetensors").stat().st_size / 2**20
    return Row(gathering, *(seconds for seconds, _ in found), *(cpu for _, cpu in found), size_mb)


def benchmark(
    size: Literal["small", "lite", "paper"] = "lite",
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    repeats: int = 5,
) -> None:
    """Measure and write the table.

    Args:
        size: Whose config.
        device: cpu or cuda.
        repeats: Runs of which the median is taken.
    """
    config = load_config(TrainConfig, CONFIGS / SIZES[size]).invertavatar
    rows = [measure(config, gathering, device, repeats) for gathering in track(("recurrent", "mean"), transient=True)]
    gpu = torch.cuda.get_device_name() if device.startswith("cuda") else None
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in InvertAvatar(config).parameters())
    report = {
        "machine": gpu or f"{os.cpu_count()} cores, {torch.get_num_threads()} used, {platform.machine()}",
        "torch": torch.__version__,
        "commit": code_version(),
        "load_per_core": round(os.getloadavg()[0] / (os.cpu_count() or 1), 2),
        "size": size,
        "million_parameters": round(parameters / 1e6, 2),
        "weights": "by chance",
        "ratio_of_a_further_frame": rows[0].further_cpu_s / rows[1].further_cpu_s,
        "rows": [asdict(row) for row in rows],
    }
    name = "avatar_build" + ("" if size == "lite" else f"_{size}") + ("_gpu" if gpu else "")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (RESULTS / f"{name}.md").write_text(table(rows, report), encoding="utf-8")
    print(table(rows, report))


def table(rows: list[Row], report: dict) -> str:
    """The report in Markdown."""
    lines = [
        "| | processor s: from 2 frames | from 4 | one more frame | clock s: from 2 | from 4 | one more | state, MB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        name = "recurrent" if row.gathering == "recurrent" else "mean of each frame by itself (reference)"
        seconds = (row.two_cpu_s, row.four_cpu_s, row.further_cpu_s, row.two_s, row.four_s, row.further_s)
        lines.append(f"| {name} | {' | '.join(f'{value:.2f}' for value in seconds)} | {row.state_mb:.0f} |")
    about = (
        f"InvertAvatar at the size {report['size']} ({report['million_parameters']} M parameters, weights by chance), "
        f"from fitted frames to an avatar; medians. {report['machine']}; load {report['load_per_core']} per core ("
        f"times by the clock are too long by about as much where it is above 1); torch {report['torch']}; commit "
        f"{report['commit']}. A further frame costs {report['ratio_of_a_further_frame']:.2f} of what it costs the "
        "reference. Published for the paper's size: 0.20 s from 2 frames and 0.32 s from 4, the mean 0.36 s and 0.71 s."
    )
    return "\n".join([about, "", *lines, ""])


if __name__ == "__main__":
    tyro.cli(benchmark)
