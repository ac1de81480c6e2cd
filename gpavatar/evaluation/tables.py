"""Results as tables: in Markdown for documents, in HTML for the report."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from gpavatar.evaluation.conditions import Conditions
from gpavatar.evaluation.metrics import FRAME, REGIONS
from gpavatar.evaluation.results import ClipScores
from gpavatar.evaluation.statistics import Estimate
from gpavatar.evaluation.summary import ALL_METRICS, HOLDS, UNPROVEN, WORSE, Cell, Summary

TITLES = {"self": "Self-reenactment", "cross": "Cross-identity reenactment", "novel_view": "Novel views"}
INTERVAL = re.compile(r"^(\S+) (\[\S+, \S+\])")
VERDICTS = {HOLDS: "holds", UNPROVEN: "not shown", WORSE: "WORSE", "": ""}


@dataclass(frozen=True)
class Table:
    """Text in rows and columns."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """With its title as a heading."""
        lines = [f"### {self.title}", "", _line(self.head), "|" + "---|" * len(self.head), *map(_line, self.rows), ""]
        return "\n".join(lines + [f"- {note}" for note in self.notes] + ([""] if self.notes else []))

    def html(self) -> str:
        """With its title as a heading; every text escaped."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.head)
        rows = "".join(f"<tr>{''.join(f'<td>{_marked_up(cell)}</td>' for cell in row)}</tr>" for row in self.rows)
        notes = "".join(f"<p class=note>{html.escape(note)}</p>" for note in self.notes)
        head, title = f"<thead><tr>{head}</tr></thead>", f"<h3>{html.escape(self.title)}</h3>"
        return f"{title}<div class=scroll><table>{head}<tbody>{rows}</tbody></table></div>{notes}"


def conditions_table(conditions: Conditions) -> Table:
    """The header: what the numbers hold for."""
    c = conditions
    rows = [
        ("protocol", f"{c.protocol}: {c.about}"),
        ("set", f"{c.set}: {c.num_clips} clips of {c.num_identities} people, {c.size_px} px, sha256 {c.set_sha256}"),
        ("crop", c.crop),
        ("background", c.background),
        ("sources", f"N = {', '.join(map(str, c.sources))}"),
        ("scored", c.targets),
        *(("metrics", line) for line in c.metrics),
        ("reductions", c.reductions),
        ("intervals", c.intervals),
        ("clips without a scored frame", ", ".join(c.no_targets) or "none"),
        ("clips", ", ".join(c.clips)),
        *([("videos that the set lacks", ", ".join(c.absent))] if c.absent else []),
        ("code", c.commit),
        ("machine", f"{c.machine}; {', '.join(c.versions)}"),
    ]
    return Table("Conditions", ("what", "value"), tuple(rows))


def task_tables(summary: Summary, task: str, numbers: Sequence[int] | None = None) -> list[Table]:
    """A task's numbers: pixels by region, then faces, for these numbers of sources (None: all)."""
    numbers = [n for n in summary.conditions.sources if numbers is None or n in numbers]
    columns = summary.columns(task)
    pixels = list(dict.fromkeys(metric for region, metric in columns if region != FRAME))
    faces = [metric for region, metric in columns if region == FRAME]
    tables = []
    if pixels:
        rows = [
            (method, str(n), region, *(_value(summary.cell(method, task, n, region, metric)) for metric in pixels))
            for region in REGIONS
            for n in numbers
            for method in summary.methods
        ]
        head = ("method", "N", "region", *(_label(metric) for metric in pixels))
        tables.append(Table(f"{TITLES[task]}: pixels", head, tuple(rows)))
    if faces:
        rows = [
            (method, str(n), *(_face(summary.cell(method, task, n, FRAME, metric)) for metric in faces))
            for n in numbers
            for method in summary.methods
        ]
        undefined = [
            f"{_label(metric)}: frames whose target itself shows the detector no face: {cell.num_undefined}"
            for metric in faces
            if (cell := summary.cell(summary.methods[0], task, numbers[0], FRAME, metric)) and cell.num_undefined
        ]
        lost = "lost: frames whose face the detector finds in the target and not in the output; they count as stated"
        head = ("method", "N", *(_label(metric) for metric in faces))
        notes = (*_judges(faces), lost, *undefined)
        tables.append(Table(f"{TITLES[task]}: faces", head, tuple(rows), notes))
    return tables


def curve_table(summary: Summary) -> Table | None:
    """What each step to more sources changes, on the same frames; None for a single N.

    A method in which nothing changes at all (the source copy) is named below the table.
    """
    steps = list(dict.fromkeys((step.fewer, step.more) for step in summary.steps))
    cells: dict[tuple[str, ...], dict[tuple[int, int], str]] = {}
    for step in summary.steps:
        row = (step.method, step.task, step.region, _label(step.metric, arrow=False))
        said = f"{_estimate(step.change, step.metric, sign=True)} {VERDICTS[step.verdict]}"
        cells.setdefault(row, {})[step.fewer, step.more] = said.strip()
    same = [m for m in summary.methods if all(_nothing(step.change) for step in summary.steps if step.method == m)]
    rows = [(*row, *(of.get(step, "–") for step in steps)) for row, of in cells.items() if row[0] not in same]
    notes = [
        "paired by frame, mean over identities, 95 % interval",
        "PSNR: holds where the whole interval is above −0.05 dB, WORSE where all of it is below, else not shown",
        *(f"{method}: the same at every number of sources" for method in same),
    ]
    head = ("method", "task", "region", "metric", *(f"{fewer} → {more}" for fewer, more in steps))
    return Table("From fewer to more sources", head, tuple(rows), tuple(notes)) if steps else None


def timings_table(results: Sequence[ClipScores]) -> Table:
    """Seconds by stage: encoding a person, drawing a frame, and what measuring costs."""
    stages = list(dict.fromkeys(stage for clip in results for stage in clip.seconds))
    methods = list(dict.fromkeys(clip.takes[0].method for clip in results if clip.takes))
    rows = []
    for method in methods:
        of_method = [clip for clip in results if clip.takes and clip.takes[0].method == method]
        frames = sum(len(take.rows) for clip in of_method for take in clip.takes)
        seconds = [sum(clip.seconds.get(stage, 0.0) for clip in of_method) for stage in stages]
        rows.append((method, str(len(of_method)), str(frames), *(f"{value:.1f}" for value in seconds)))
    notes = ("seconds by the clock, of all clips; processor: seconds of all cores; truth is made once for all methods",)
    return Table("Time by stage", ("method", "clips", "frames", *stages), tuple(rows), notes)


def table_md(summary: Summary, results: Sequence[ClipScores]) -> str:
    """The whole of table.md."""
    tables = [conditions_table(summary.conditions)]
    tables += [table for task in summary.tasks for table in task_tables(summary, task)]
    curve = curve_table(summary)
    tables += [curve] if curve else []
    parts = [f"# {summary.conditions.protocol}", *(table.markdown() for table in [*tables, timings_table(results)])]
    return "\n".join([parts[0], "", *parts[1:]])


def _value(cell: Cell | None) -> str:
    return _estimate(cell.value, cell.metric) if cell else "–"


def _face(cell: Cell | None) -> str:
    lost = f" ({cell.num_failed} lost)" if cell and cell.num_failed else ""
    return _value(cell) + lost


def _estimate(value: Estimate, metric: str, sign: bool = False) -> str:
    if math.isnan(value.mean):
        return "–"
    form = f"{'+' if sign else ''}.{ALL_METRICS[metric].decimals}f"
    return f"{value.mean:{form}}" + (f" [{value.low:{form}}, {value.high:{form}}]" if not math.isnan(value.low) else "")


def _judges(metrics: Sequence[str]) -> list[str]:
    """Whose detector each metric rests on."""
    of: dict[str, list[str]] = {}
    for metric in metrics:
        of.setdefault(ALL_METRICS[metric].detector, []).append(_label(metric, arrow=False))
    return [f"judged by {detector}: {', '.join(labels)}" for detector, labels in of.items() if detector]


def _nothing(change: Estimate) -> bool:
    return change.mean == change.low == change.high == 0


def _label(metric: str, arrow: bool = True) -> str:
    info = ALL_METRICS[metric]
    return info.label + ((" ↑" if info.higher_is_better else " ↓") if arrow else "")


def _marked_up(cell: str) -> str:
    """Escaped, an interval in a line of its own, what must not be overlooked marked."""
    cell = INTERVAL.sub(r"\1<br><small>\2</small>", html.escape(cell))
    return cell.replace(VERDICTS[WORSE], f"<strong>{VERDICTS[WORSE]}</strong>")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
