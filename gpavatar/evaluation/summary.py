"""Means of all scores with their intervals, the steps of the curve over the number of sources, and metrics.json."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from gpavatar.evaluation.conditions import Conditions
from gpavatar.evaluation.depth import DEPTH_METRICS
from gpavatar.evaluation.metrics import FRAME, METRICS, REGIONS, MetricInfo, fid
from gpavatar.evaluation.protocols import TASKS, ProtocolConfig
from gpavatar.evaluation.results import TakeScores
from gpavatar.evaluation.statistics import Estimate, estimate, paired

ALL_METRICS: dict[str, MetricInfo] = METRICS | DEPTH_METRICS
CURVE_METRICS = ("psnr", "lpips", "csim", "akd")
WORSE, UNPROVEN, HOLDS = "worse", "unproven", "holds"
FORMAT, VERSION = "gpavatar evaluation", 1


@dataclass(frozen=True)
class Cell:
    """One number of a results table."""

    method: str
    task: str
    num_sources: int
    region: str
    metric: str
    value: Estimate  # lost faces at their penalty
    found: float  # mean over the frames with a face in both, as papers report; NaN for metrics that cannot fail
    num_frames: int  # that count
    num_failed: int  # of them, whose face was lost
    num_undefined: int  # frames whose target shows the detector no face


@dataclass(frozen=True)
class Step:
    """What more sources change, on the same frames."""

    method: str
    task: str
    region: str
    metric: str
    fewer: int
    more: int
    change: Estimate
    verdict: str  # of PSNR against the protocol's threshold: WORSE, UNPROVEN, HOLDS; else empty


@dataclass(frozen=True)
class Summary:
    """All numbers of a run."""

    conditions: Conditions
    methods: tuple[str, ...]
    cells: tuple[Cell, ...]
    steps: tuple[Step, ...]

    def cell(self, method: str, task: str, num_sources: int, region: str, metric: str) -> Cell | None:
        """The one number; None where it was not measured."""
        wanted = (method, task, num_sources, region, metric)
        return next((c for c in self.cells if (c.method, c.task, c.num_sources, c.region, c.metric) == wanted), None)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Those that were measured."""
        return tuple(task for task in TASKS if any(cell.task == task for cell in self.cells))

    def columns(self, task: str) -> list[tuple[str, str]]:
        """(region, metric) of a task, in the order of a table."""
        there = {(cell.region, cell.metric) for cell in self.cells if cell.task == task}
        return [(region, metric) for region in (*REGIONS, FRAME) for metric in ALL_METRICS if (region, metric) in there]

    def to_json(self) -> str:
        """metrics.json: means at methods.<method>.<task>.<N>.<region>.<metric>, intervals at <metric>_ci."""
        methods: dict = {}
        for cell in self.cells:
            at = methods.setdefault(cell.method, {}).setdefault(cell.task, {}).setdefault(str(cell.num_sources), {})
            region = at.setdefault(cell.region, {})
            region[cell.metric] = _number(cell.value.mean)
            region[f"{cell.metric}_ci"] = [_number(cell.value.low), _number(cell.value.high)]
            if cell.region == FRAME:
                region[f"{cell.metric}_found"] = _number(cell.found)
                region[f"{cell.metric}_failed"] = cell.num_failed
                region[f"{cell.metric}_undefined"] = cell.num_undefined
        curve = [
            {k: v for k, v in asdict(step).items() if k != "change"}
            | {"change": _number(step.change.mean), "ci": [_number(step.change.low), _number(step.change.high)]}
            for step in self.steps
        ]
        content = {"format": FORMAT, "version": VERSION, "header": asdict(self.conditions)}
        return json.dumps(content | {"methods": methods, "curve": curve}, indent=1, allow_nan=False) + "\n"


@dataclass(frozen=True)
class _Column:
    """A metric in all frames of a method, task and number of sources."""

    values: np.ndarray
    failed: np.ndarray
    identities: list[str]


def summarize(takes: Sequence[TakeScores], conditions: Conditions, config: ProtocolConfig) -> Summary:
    """Means over identities, and the paired change of every step from fewer to more sources."""
    methods = tuple(dict.fromkeys(take.method for take in takes))
    groups = sorted({(take.method, take.task, take.num_sources) for take in takes}, key=_order(methods))
    cells, columns = [], {}
    for group in groups:
        of_group = [take for take in takes if (take.method, take.task, take.num_sources) == group]
        for region, metric in dict.fromkeys((c.region, c.metric) for take in of_group for c in take.columns):
            column = columns[*group, region, metric] = _column(of_group, region, metric)
            cells.append(_cell(group, region, metric, column, config))
        distance = _fid(of_group)
        if distance is not None:
            number = sum(len(take.features) for take in of_group)
            value = Estimate(distance, math.nan, math.nan, conditions.num_identities)
            cells.append(Cell(*group, "full", "fid", value, math.nan, number, 0, 0))
    steps = [
        _step(columns, (method, task, region, metric), fewer, more, config)
        for method in methods
        for task in TASKS
        for fewer, more in zip(conditions.sources, conditions.sources[1:], strict=False)
        for region in (*REGIONS, FRAME)
        for metric in CURVE_METRICS
        if all((method, task, n, region, metric) in columns for n in (fewer, more))
    ]
    return Summary(conditions, methods, tuple(cells), tuple(steps))


def _column(takes: Sequence[TakeScores], region: str, metric: str) -> _Column:
    values, failed, identities = [], [], []
    for take in takes:
        for column in take.columns:
            if (column.region, column.metric) == (region, metric):
                values.append(column.scores.values.double().numpy())
                failed.append(column.scores.failed.numpy())
                identities += [take.identity] * len(take.frame_index)
    return _Column(np.concatenate(values), np.concatenate(failed), identities)


def _cell(group: tuple[str, str, int], region: str, metric: str, column: _Column, config: ProtocolConfig) -> Cell:
    value = estimate(column.values, column.identities, config.resamples, config.seed)
    seen = np.where(column.failed, np.nan, column.values)
    found = estimate(seen, column.identities, 1, config.seed).mean if region == FRAME else math.nan
    undefined = int(np.isnan(column.values).sum())
    return Cell(
        *group, region, metric, value, found, len(column.values) - undefined, int(column.failed.sum()), undefined
    )


def _step(columns: dict, what: tuple[str, str, str, str], fewer: int, more: int, config: ProtocolConfig) -> Step:
    method, task, region, metric = what
    before, after = (columns[method, task, n, region, metric] for n in (fewer, more))
    change = paired(before.values, after.values, before.identities, config.resamples, config.seed)
    verdict = ""
    if metric == "psnr":
        limit = config.curve_threshold_db
        verdict = WORSE if change.high < limit else HOLDS if change.low >= limit else UNPROVEN
    return Step(*what, fewer, more, change, verdict)


def _fid(takes: Sequence[TakeScores]) -> float | None:
    kept = [take for take in takes if take.features.numel()]
    if sum(len(take.features) for take in kept) < 2:
        return None
    return fid(torch.cat([take.features for take in kept]), torch.cat([take.true_features for take in kept]))


def _order(methods: tuple[str, ...]):
    return lambda group: (methods.index(group[0]), TASKS.index(group[1]), group[2])


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
