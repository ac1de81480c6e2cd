"""Measure methods by a protocol: tables, a report, and the numbers behind them.

python -m gpavatar.eval --config configs/eval_val.yaml --model NAME      # the baselines are measured as well
python -m gpavatar.eval --compare outputs/eval/before outputs/eval/after # did a change help?
python -m gpavatar.eval --config configs/eval_val.yaml --blind textured_mesh NAME
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gpavatar.avatars.base import Avatar
from gpavatar.config import load_config, run_program
from gpavatar.evaluation.blind import write_pairs
from gpavatar.evaluation.compare import FRAMES_FILE, METRICS_FILE, compare, difference_table, read_side
from gpavatar.evaluation.protocols import ProtocolConfig
from gpavatar.evaluation.report import report_html
from gpavatar.evaluation.results import frames_csv
from gpavatar.evaluation.run import Evaluation, Unit
from gpavatar.evaluation.source_copy import SourceCopy
from gpavatar.evaluation.summary import Summary, summarize
from gpavatar.evaluation.tables import table_md
from gpavatar.media.files import whole_file
from gpavatar.methods import choose_device, load_model
from gpavatar.types import InputError

DEFAULT_CONFIG = Path("configs/eval_synthetic.yaml")
OUTPUTS = Path("outputs/eval")


def evaluate(
    config: Path = DEFAULT_CONFIG,
    model: tuple[str, ...] = (),
    set: tuple[str, ...] = (),
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    device: str = "auto",
    devices: int = 1,
    compare: tuple[str, str] | None = None,
    blind: tuple[str, str] | None = None,
    blind_seed: int | None = None,
) -> int:
    """Measure methods by a protocol. Run again with the same arguments, a stopped run goes on.

    Args:
        config: The protocol, one of configs/eval_*.yaml.
        model: Methods to be measured beside the baselines: NAME, FILE.safetensors, or LABEL=either.
        set: Single settings that differ from the protocol's, e.g. --set set=sets/mine tasks=[self].
        out: Folder of the results; outputs/eval/NAME where left out.
        device: auto, cpu, cuda, cuda:1.
        devices: Measure on so many devices side by side, through Lightning.
        compare: Instead: the paired differences of two results, each FOLDER or FOLDER:METHOD.
        blind: After measuring: pairs of the results of these two methods in random order, to be judged by eye.
        blind_seed: Makes the order of the pairs repeatable.
    """
    if compare:
        return _compare(*compare)
    protocol = load_config(ProtocolConfig, config, overrides=set)
    folder = out or OUTPUTS / protocol.name
    fabric = launched(devices, device) if devices > 1 else None  # before anything lies on a device
    labels, methods = load_methods([*protocol.baselines, *model], device)
    evaluation = Evaluation(protocol, methods, folder, str(choose_device(device)), labels)
    if fabric is None:
        measure(evaluation, evaluation.missing, len(evaluation.units))
    elif not share(evaluation, fabric):
        return 0
    summary = write_results(evaluation)
    print(f"{folder}/report.html  table.md  {METRICS_FILE}  {FRAMES_FILE}")
    if blind:
        number = write_pairs(evaluation, evaluation.results(), blind, folder / "blind", blind_seed)
        print(f"{folder}/blind: {number} pairs (source, target, left, right); which is which stands in key.csv")
    return 0 if summary.cells else 1


def load_methods(names: Sequence[str], device: str) -> tuple[list[str], list[Avatar]]:
    """What methods are called, and the methods: NAME, FILE.safetensors or LABEL=either, each once.

    InputError for one that is not known.
    """
    place = choose_device(device)
    labelled = [name.partition("=") if "=" in name else (Path(name).stem, "", name) for name in dict.fromkeys(names)]
    loaded = [SourceCopy(place) if name == SourceCopy.name else load_model(name, device) for _, _, name in labelled]
    return [label for label, _, _ in labelled], loaded


def write_results(evaluation: Evaluation) -> Summary:
    """metrics.json, frames.csv, table.md, report.html and timings.json of an evaluation that is complete."""
    results = evaluation.results()
    takes = [take for clip in results for take in clip.takes]
    if not takes:
        raise InputError(f"{evaluation.config.set}: the protocol scores none of its frames; loosen min_turn_deg")
    summary = summarize(takes, evaluation.conditions, evaluation.config)
    timings = {f"{c.takes[0].method}/{c.takes[0].clip}": c.seconds for c in results if c.takes}
    contents = {
        METRICS_FILE: summary.to_json(),
        FRAMES_FILE: frames_csv(takes),
        "table.md": table_md(summary, results),
        "timings.json": json.dumps(timings, indent=1) + "\n",
        "report.html": report_html(evaluation, summary, results),
    }
    for name, content in contents.items():
        with whole_file(evaluation.folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return summary


def measure(evaluation: Evaluation, units: Sequence[Unit], total: int, shown: bool = True) -> None:
    """One unit after the other, with a progress bar on which the others of `total` are done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not shown) as progress:
        task = progress.add_task("measuring", total=total, completed=total - len(units))
        for unit in units:
            evaluation.do(unit)
            done = f"{evaluation.labels[unit.method]}, {evaluation.plans[unit.clip].clip}"
            progress.update(task, advance=1, description=done)


def launched(devices: int, device: str):
    """A process for each device from here on, by Lightning's launcher: the same program, each on a device of its own.

    Not its Trainer, which there is nothing to train for, and which resets the process's signal handlers.
    """
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator="gpu" if choose_device(device).type == "cuda" else "cpu", devices=devices)
    fabric.launch()
    return fabric


def share(evaluation: Evaluation, fabric) -> bool:
    """Do this process's part of what is missing; True in the process that goes on to write the results.

    A clip's methods stay in one process, which reads what is true of the clip once. The bar is of the first process.
    """
    missing = fabric.broadcast(evaluation.missing)
    clips = sorted({unit.clip for unit in missing})[fabric.global_rank :: fabric.world_size]
    own = [unit for unit in missing if unit.clip in clips]
    measure(evaluation, own, len(own), fabric.is_global_zero)
    fabric.barrier()
    return fabric.is_global_zero


def _compare(a: str, b: str) -> int:
    sides = read_side(a), read_side(b)
    print(difference_table(*sides, compare(*sides)).markdown())
    return 0


if __name__ == "__main__":
    sys.exit(run_program(evaluate, prog="python -m gpavatar.eval"))
