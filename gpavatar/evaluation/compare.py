"""Did a change help? Two methods, of one run or of two, on the same frames: paired differences with intervals."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpavatar.config import did_you_mean
from gpavatar.evaluation.metrics import FRAME, REGIONS
from gpavatar.evaluation.protocols import TASKS
from gpavatar.evaluation.statistics import Estimate, paired
from gpavatar.evaluation.summary import ALL_METRICS
from gpavatar.evaluation.tables import Table
from gpavatar.types import InputError

FRAMES_FILE, METRICS_FILE = "frames.csv", "metrics.json"
PLAIN = ("method", "task", "num_sources", "identity", "clip", "driving", "frame_index", "lost")


@dataclass(frozen=True)
class Side:
    """A method of a run, with its rows of frames.csv."""

    run: Path
    method: str
    protocol_sha256: str
    resamples: int
    rows: tuple[dict[str, str], ...]


@dataclass(frozen=True)
class Difference:
    """B less A."""

    task: str
    num_sources: int
    region: str
    metric: str
    change: Estimate

    @property
    def verdict(self) -> str:
        """Whether the interval says that B is better or worse; empty where it includes 0."""
        if math.isnan(self.change.low) or self.change.low <= 0 <= self.change.high:
            return ""
        return "better" if (self.change.low > 0) == ALL_METRICS[self.metric].higher_is_better else "worse"


def read_side(text: str) -> Side:
    """`FOLDER` or `FOLDER:METHOD`; without a method the last of the run. InputError where there is no such result."""
    folder, _, method = text.rpartition(":") if ":" in text and not Path(text).exists() else (text, "", "")
    run = Path(folder)
    try:
        header = json.loads((run / METRICS_FILE).read_text(encoding="utf-8"))["header"]
        with (run / FRAMES_FILE).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{run}: no finished evaluation ({error}); give the folder of one") from error
    methods = list(dict.fromkeys(row["method"] for row in rows))
    method = method or methods[-1]
    if method not in methods:
        raise InputError(f"{run}: no method is called {method!r}; {did_you_mean(method, methods)}")
    resamples = int(header["intervals"].split()[-2])
    return Side(run, method, header["protocol_sha256"], resamples, tuple(r for r in rows if r["method"] == method))


def compare(a: Side, b: Side) -> list[Difference]:
    """B less A for every metric, on the same frames. InputError where the two were not measured alike."""
    if a.protocol_sha256 != b.protocol_sha256:
        raise InputError(f"{a.run} and {b.run} differ in set, frames or metrics; measure both by one protocol")
    rows_b = {_key(row): row for row in b.rows}
    pairs = [(row, rows_b[_key(row)]) for row in a.rows if _key(row) in rows_b]
    names = [(region, metric) for region in (*REGIONS, FRAME) for metric in ALL_METRICS]
    groups = sorted({(row["task"], int(row["num_sources"])) for row, _ in pairs}, key=_group_order)
    found = []
    for task, number in groups:
        of_group = [pair for pair in pairs if (pair[0]["task"], int(pair[0]["num_sources"])) == (task, number)]
        identities = [row["identity"] for row, _ in of_group]
        for region, metric in names:
            before, after = (_values([pair[side] for pair in of_group], f"{region}.{metric}") for side in (0, 1))
            change = paired(before, after, identities, a.resamples)
            if change.num_identities:
                found.append(Difference(task, number, region, metric, change))
    return found


def difference_table(a: Side, b: Side, differences: list[Difference]) -> Table:
    """As a table of text."""
    rows = []
    for one in differences:
        info = ALL_METRICS[one.metric]
        form = f"+.{info.decimals}f"
        interval = f"[{one.change.low:{form}}, {one.change.high:{form}}]" if not math.isnan(one.change.low) else "–"
        plain = (one.task, str(one.num_sources), one.region, info.label)
        rows.append((*plain, f"{one.change.mean:{form}}", interval, str(one.change.num_identities), one.verdict))
    head = ("task", "N", "region", "metric", "B − A", "95 %", "people", "B is")
    notes = ("paired by frame; mean over identities; interval of the bootstrap over identities",)
    title = f"A = {a.method} ({a.run.name}), B = {b.method} ({b.run.name})"
    return Table(title, head, tuple(rows), notes)


def _key(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in PLAIN if name not in ("method", "lost"))


def _group_order(group: tuple[str, int]) -> tuple[int, int]:
    return TASKS.index(group[0]), group[1]


def _values(rows: list[dict[str, str]], name: str) -> np.ndarray:
    return np.array([float(row.get(name) or "nan") for row in rows])
