"""What is each part of gpavatar_lite worth, trained for the same number of steps?

python -m benchmarks.ablation --steps 2000 --max-time 10:00     # of each; again: goes on where it was stopped
python -m benchmarks.ablation --only full mean -- trainer.precision=fp32

Trains configs/ablation_NAME.yaml, each on top of configs/gpavatar_lite.yaml, measures all by one protocol, and writes
benchmarks/results/ablation.{json,md} in the layout of GPAvatar's Table 3: one source, then two and four.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from gpavatar.avatars.checkpoint import read_info
from gpavatar.config import load_config, run_program
from gpavatar.eval import evaluate
from gpavatar.evaluation.tables import Table
from gpavatar.training.config import TrainConfig
from gpavatar.training.run import run_training
from gpavatar.training.run_directory import last_checkpoint, step_of
from gpavatar.types import InputError

ROOT = Path(__file__).parents[1]
CONFIGS, RESULTS = ROOT / "configs", ROOT / "benchmarks/results"
NAMES = {  # config -> row
    "no_pixel": "w/o pixel-aligned sources",
    "no_pef": "w/o PEF",
    "one_source": "trained with one source",
    "mean": "mean instead of MTA",
    "full": "full",
}
COLUMNS = {  # Table 3's -> metrics.json's
    "PSNR ↑": "psnr", "SSIM ↑": "ssim", "LPIPS ↓": "lpips", "CSIM ↑": "csim", "L1 ↓": "l1", "AED ↓": "aed",
    "APD ↓": "apd", "AKD ↓": "akd",
}  # fmt: skip
REGION, TASK = "foreground", "self"


@dataclass(frozen=True)
class Row:
    """One method at one number of sources."""

    name: str
    num_sources: int
    steps: int
    values: dict[str, float]


def ablation(
    settings: tyro.conf.Positional[tuple[str, ...]] = (),
    only: tuple[str, ...] = tuple(NAMES),
    steps: int = 2000,
    max_time: str = "",
    protocol: Path = CONFIGS / "eval_val.yaml",
    set: tuple[str, ...] = (),
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("outputs/ablation"),
) -> int:
    """Train every variant for the same number of steps, measure them, write the table.

    Args:
        settings: Of the training, for all variants, as key.sub=value.
        only: Which of configs/ablation_NAME.yaml.
        steps: Steps of each.
        max_time: Of each, [[D:]H:]M:S; who has done fewer steps by then is marked.
        protocol: What they are measured by.
        set: What differs from the protocol, e.g. --set set=sets/val-256 measured=[1].
        out: Folder of the trainings and the evaluation.
    """
    unknown = [name for name in only if name not in NAMES]
    if unknown:
        raise InputError(f"no ablation is called {unknown[0]!r}; there are: {', '.join(NAMES)}")
    budget = [f"trainer.max_steps={steps}", *([f"trainer.max_time={max_time}"] if max_time else [])]
    done, models = {}, []
    for name in only:
        folder = out / name
        files = CONFIGS / "gpavatar_lite.yaml", CONFIGS / f"ablation_{name}.yaml"
        code = run_training(load_config(TrainConfig, *files, overrides=[*budget, *settings]), folder)
        if code:
            return code
        done[name] = step_of(last_checkpoint(folder))
        models.append(f"{name}={folder / 'weights.safetensors'}")
    evaluate(protocol, tuple(models), set, out / "eval")
    measured = json.loads((out / "eval/metrics.json").read_text(encoding="utf-8"))
    rows = table_rows(measured["methods"], only, done)
    card = read_info(models[0].partition("=")[2]).card.partition("## Limits")[0]
    write(rows, measured["header"], card, RESULTS)
    return 0


def table_rows(methods: dict, names: Sequence[str], steps: dict[str, int]) -> list[Row]:
    """One source first, variants before the full method, as in Table 3."""
    numbers = sorted({int(n) for name in names for n in methods[name][TASK]})
    return [
        Row(name, number, steps[name], _values(methods[name][TASK][str(number)]))
        for number in numbers
        for name in NAMES
        if name in names
    ]


def _values(at: dict) -> dict[str, float]:
    """Pixels of the foreground; faces of the frame."""
    found = at[REGION] | at.get("frame", {})
    return {metric: found[metric] for metric in COLUMNS.values() if metric in found}


def write(rows: list[Row], header: dict, card: str, folder: Path) -> None:
    """ablation.json and ablation.md."""
    budget = max(row.steps for row in rows)

    def cells(row: Row) -> tuple[str, ...]:
        label = NAMES[row.name] + (f" ({row.steps} steps)" if row.steps < budget else "")
        shown = [row.values.get(metric) for metric in COLUMNS.values()]
        return (label, str(row.num_sources), *("–" if one is None else f"{one:.4g}" for one in shown))

    table = Table("Self-reenactment", ("method", "sources", *COLUMNS), tuple(map(cells, rows)), ())
    text = [
        "# What each part of gpavatar_lite is worth",
        "",
        f"`python -m benchmarks.ablation`; {budget} steps each; {header['protocol']} ({header['num_clips']} clips of "
        f"{header['num_identities']} people, {header['size_px']} px), self-reenactment, region {REGION}, faces of the "
        f"whole frame; commit {header['commit']}; {header['machine']}. In the layout of GPAvatar's Table 3, on other "
        "data and at another size: the two do not compare.",
        "",
        table.markdown().strip(),
        "",
        "## Training",
        "",
        card.strip(),
        "",
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ablation.md").write_text("\n".join(text), encoding="utf-8")
    content = {"header": header, "rows": [row.__dict__ for row in rows]}
    (folder / "ablation.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) == 1 and not (ROOT / "sets/lite-256").exists():
        print("no sets/lite-256 here (python -m data_prep own); nothing was measured")  # make bench
        sys.exit(0)
    sys.exit(run_program(ablation, prog="python -m benchmarks.ablation"))
