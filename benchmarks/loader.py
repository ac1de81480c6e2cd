"""How many examples of a training set does one core decode in a second?

python benchmarks/loader.py            # writes benchmarks/results/loader.{json,md}
python benchmarks/loader.py --json     # prints the JSON as well

A pair is one source and one target of 256 x 256 with alpha, parameters, camera and landmarks, from tar file to float
tensors. The pictures are synthetic people. The reference is webdataset's own decoding of the same shard, which pairs
nothing. Everything runs in this one process; times are of the processor, the best of the repeats.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from json import dumps
from pathlib import Path

import torch
import tyro
import webdataset
from rich.progress import track

from gpavatar.data.augment import AugmentConfig, HeadMirror
from gpavatar.data.loader import PairLoader, Place, ResidentFrames, StreamedFrames
from gpavatar.data.sampling import SamplingConfig, pair_frames
from gpavatar.data.schedule import TrainSchedule
from gpavatar.data.shards import ClipInfo, Encoding, HeadInfo, Sample, ShardSet, ShardWriter
from gpavatar.data.synthetic import SyntheticPerson, synthetic_clip
from gpavatar.face.open_head import OpenHead
from gpavatar.media.image import to_u8
from gpavatar.version import code_version

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "pillow", "webdataset")
SIZE, BATCH = 256, 8
ENCODINGS = {
    "JPEG 95, alpha PNG": Encoding(),
    "WebP 90, alpha PNG": Encoding("webp", 90, "png"),
    "JPEG 95, alpha JPEG 90": Encoding("jpeg", 95, "jpeg"),
    "WebP 90, alpha JPEG 90": Encoding("webp", 90, "jpeg"),
}


@dataclass(frozen=True)
class Row:
    """One way of keeping a set, one core."""

    encoding: str
    kib_per_frame: float
    pairs_per_s: float  # decoded and stacked
    varied_pairs_per_s: float  # also mirrored and recoloured
    webdataset_pairs_per_s: float  # reference: decoded, not paired, two frames counting as one pair
    resident_pairs_per_s: float  # decoded beforehand; mirrored and recoloured


def people(num_people: int, num_frames: int) -> list[tuple[ClipInfo, list[Sample]]]:
    """Short clips of synthetic people."""
    clips = []
    for seed in track(range(num_people), "drawing people", transient=True):
        name, samples = f"person_{seed}", []
        person = SyntheticPerson.random(seed)
        for i, frame in enumerate(synthetic_clip(seed, num_frames, SIZE, person=person)):
            points = person.head.topology.mediapipe.on(frame.verts, person.head.faces)
            marks = frame.camera.project_px(points, SIZE, SIZE)
            image_u8, alpha_u8 = to_u8(frame.image), to_u8(frame.alpha)
            samples.append(Sample(name, name, i, i / 25, image_u8, alpha_u8, frame.params, frame.camera, marks))
        clips.append((ClipInfo(name, name, "train", "synthetic", "open", "CC0-1.0"), samples))
    return clips


def per_second(run: Callable[[int], object], seconds: float) -> float:
    """Calls per second of processor time: the best of five stretches after one to warm up."""
    run(0)
    best, calls = 0.0, 1
    for _ in range(5):
        count, start, end = 0, time.process_time(), time.perf_counter() + seconds / 5
        while time.perf_counter() < end or count < 3:
            run(calls)
            count, calls = count + 1, calls + 1
        best = max(best, count / (time.process_time() - start))
    return best


def measure(name: str, encoding: Encoding, clips: list[tuple[ClipInfo, list[Sample]]], seconds: float) -> Row:
    """Write the set and read it in every way."""
    with tempfile.TemporaryDirectory() as folder:
        with ShardWriter(folder, HeadInfo.of(OpenHead.load()), SIZE, encoding) as writer:
            for info, samples in clips:
                writer.add(info, samples)
        shards = ShardSet.open(folder)
        frames = pair_frames([shards], [1.0], "train")
        schedule = TrainSchedule(frames, SamplingConfig(num_sources=[1.0]), BATCH, 100_000 * BATCH)
        streamed, mirror = StreamedFrames([shards], frames), HeadMirror.of(shards.index.head)
        resident = ResidentFrames.decode([shards], frames, "cpu")
        loaders = (
            PairLoader(schedule, streamed),
            PairLoader(schedule, streamed, AugmentConfig(), mirror),
            PairLoader(schedule, resident, AugmentConfig(), mirror),
        )
        plain, varied, held = (
            BATCH * per_second(lambda step, loader=loader: loader.batch(Place(0, step)), seconds) for loader in loaders
        )
        url = str(Path(folder) / shards.index.shards[0].file)
        reference = webdataset.WebDataset(url, shardshuffle=False).decode("torchrgb8")
        rounds = per_second(lambda _: sum(1 for _ in reference), seconds)
        size = sum(shard.num_bytes for shard in shards.index.shards) / len(frames) / 1024
        return Row(name, size, plain, varied, rounds * len(frames) / 2, held)


def benchmark(
    num_people: int = 6, num_frames: int = 8, seconds: float = 2.0, json: tyro.conf.FlagCreatePairsOff[bool] = False
) -> None:
    """Measure for `seconds` per figure and write the table; `json` prints the JSON instead of the table."""
    torch.set_num_threads(1)
    clips = people(num_people, num_frames)
    rows = [measure(name, encoding, clips, seconds) for name, encoding in ENCODINGS.items()]
    report = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "commit": code_version(),
        "load_per_core": round(os.getloadavg()[0] / (os.cpu_count() or 1), 2),
        "frames": num_people * num_frames,
        "rows": [asdict(row) for row in rows],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "loader.json").write_text(dumps(report, indent=2) + "\n", encoding="utf-8")
    (RESULTS / "loader.md").write_text(table(rows, report), encoding="utf-8")
    print(dumps(report, indent=2) if json else table(rows, report))


def table(rows: list[Row], report: dict) -> str:
    """The report in Markdown."""
    lines = [
        "| kept as | KiB a frame | pairs/s | mirrored, recoloured too | webdataset | ratio to it | held decoded |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        ratio = row.pairs_per_s / row.webdataset_pairs_per_s
        lines.append(
            f"| {row.encoding} | {row.kib_per_frame:.1f} | {row.pairs_per_s:.0f} | {row.varied_pairs_per_s:.0f} "
            f"| {row.webdataset_pairs_per_s:.0f} | {ratio:.2f} | {row.resident_pairs_per_s:.0f} |"
        )
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    about = (
        f"Pairs of {SIZE}² a second on one core, by the processor's time: from the tar file to float tensors, and for "
        "a set held decoded from 8 bit to float, mirrored and recoloured. A pair is a source and a target with alpha, "
        "parameters, camera and landmarks. webdataset decodes the same shard in the same run and pairs nothing; two of "
        f"its frames count as a pair. {report['frames']} frames of synthetic people. {report['machine']}; {versions}; "
        f"commit {report['commit']}; load per core while measuring {report['load_per_core']}."
    )
    return "\n".join(["# Loader", "", about, "", *lines, ""])


if __name__ == "__main__":
    tyro.cli(benchmark)
