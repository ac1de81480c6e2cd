"""The report: one HTML page that needs no network and no other file."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import numpy as np

from gpavatar.evaluation.figures import Line, curve_svg, legend, picture
from gpavatar.evaluation.metrics import FRAME
from gpavatar.evaluation.protocols import CROSS
from gpavatar.evaluation.published import published_tables
from gpavatar.evaluation.results import ClipScores, TakeScores
from gpavatar.evaluation.run import Evaluation
from gpavatar.evaluation.summary import ALL_METRICS, Summary
from gpavatar.evaluation.tables import TITLES, conditions_table, curve_table, task_tables, timings_table
from gpavatar.media.image import read_image, to_u8

CURVES = (("psnr", "full"), ("psnr", "foreground"), ("lpips", "foreground"), ("csim", FRAME), ("akd", FRAME))
RANKED_BY = {True: ("csim", FRAME), False: ("lpips", "foreground")}  # frames of the task cross, and of the others
STYLE = """
:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:1200px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{margin-top:2.5rem;border-bottom:1px solid #8886}table{border-collapse:collapse;font-size:13px}
th,td{padding:.25rem .6rem;text-align:left;border-bottom:1px solid #8883;font-variant-numeric:tabular-nums}
th{white-space:nowrap}td small{opacity:.65;white-space:nowrap}td strong{color:#dc2626}
td{vertical-align:top}.scroll{overflow-x:auto}.note{margin:.2rem 0;font-size:13px;opacity:.75}
.row{display:flex;flex-wrap:wrap;gap:.5rem;margin:.3rem 0 1rem}figure{margin:0;width:190px}
img{width:100%;display:block}
figcaption{font-size:12px;opacity:.8;overflow-wrap:anywhere}.curves{display:flex;flex-wrap:wrap;gap:1rem}
.curve{width:380px;max-width:100%}.curve polyline{fill:none;stroke-width:2}
.curve text{font:11px system-ui;fill:currentColor}
.curve .title{font-weight:600;font-size:13px}.curve .value{text-anchor:end}.curve .count{text-anchor:middle}
.grid{stroke:#8884}.legend span{margin-right:1.2rem}
.legend i{display:inline-block;width:.8em;height:.8em;margin-right:.4em}
"""


def report_html(evaluation: Evaluation, summary: Summary, results: Sequence[ClipScores]) -> str:
    """The whole page. Frames of clips that may not be passed on are in it: it belongs to whoever made it."""
    first = summary.conditions.sources[:1]
    parts = [f"<h1>{html.escape(summary.conditions.protocol)}</h1>", _tables([conditions_table(summary.conditions)])]
    for task in summary.tasks:
        parts += [f"<h2>{TITLES[task]}, N = {first[0]}</h2>", _tables(task_tables(summary, task, first))]
    curve = curve_table(summary)
    if curve:
        parts += ["<h2>More sources</h2>", legend(summary.methods)]
        for task in summary.tasks:
            parts += [f"<h3>{TITLES[task]}</h3>", f"<div class=curves>{''.join(_curves(summary, task))}</div>"]
        parts += [_tables([curve]), "<h2>All numbers of sources</h2>"]
        parts += [_tables(task_tables(summary, task)) for task in summary.tasks]
    if evaluation.config.published:
        different = "".join(f"<li>{html.escape(line)}</li>" for line in summary.conditions.differences)
        parts.append(f"<h2>Published figures</h2><p>Not by this protocol. What differs:</p><ul>{different}</ul>")
        parts.append(_tables(published_tables(evaluation.config.published)))
    parts.append("<h2>Frames</h2>")
    parts += [_frames(evaluation, summary, results, task) for task in summary.tasks]
    parts += ["<h2>Time</h2>", _tables([timings_table(results)])]
    head = f"<meta charset=utf-8><meta name=viewport content='width=device-width'><title>{_title(summary)}</title>"
    return (
        f"<!doctype html><html lang=en><head>{head}<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _title(summary: Summary) -> str:
    return html.escape(f"Evaluation {summary.conditions.protocol}")


def _tables(tables: Sequence) -> str:
    return "".join(table.html() for table in tables)


def _curves(summary: Summary, task: str) -> list[str]:
    drawn = []
    for metric, region in CURVES:
        lines = []
        for method in summary.methods:
            cells = [summary.cell(method, task, n, region, metric) for n in summary.conditions.sources]
            points = tuple((c.num_sources, c.value) for c in cells if c and not math.isnan(c.value.mean))
            lines += [Line(method, points)] if points else []
        if lines:
            place = "" if region == FRAME else f", {region}"
            drawn.append(curve_svg(f"{ALL_METRICS[metric].label}{place}", lines))
    return drawn


def _frames(evaluation: Evaluation, summary: Summary, results: Sequence[ClipScores], task: str) -> str:
    """Best, median and worst frame of each method, with what all the others made of it."""
    metric, region = RANKED_BY[task == CROSS]
    smallest = summary.conditions.sources[0]
    takes = [t for clip in results for t in clip.takes if (t.task, t.num_sources) == (task, smallest)]
    parts = [f"<h3>{TITLES[task]}: frames by {ALL_METRICS[metric].label} ({region})</h3>"]
    for method in summary.methods:
        ranked = _ranked([take for take in takes if take.method == method], region, metric)
        picks = {"best": 0, "median": len(ranked) // 2, "worst": len(ranked) - 1} if ranked else {}
        for label, place in picks.items():
            score, take, at = ranked[place]
            lead = f"{label} of {method}: {score:.4f}, {take.clip}, frame {take.frame_index[at]}"
            parts.append(f"<p class=note>{html.escape(lead)}</p>{_strip(evaluation, summary, take, at)}")
    return "".join(parts)


def _ranked(takes: Sequence[TakeScores], region: str, metric: str) -> list[tuple[float, TakeScores, int]]:
    """Frames from the best to the worst; those whose face was lost are the worst."""
    found = []
    for take in takes:
        for column in take.columns:
            if (column.region, column.metric) == (region, metric):
                found += [(float(value), take, at) for at, value in enumerate(column.scores.values)]
    better = -1 if ALL_METRICS[metric].higher_is_better else 1
    return sorted(
        (one for one in found if not math.isnan(one[0])), key=lambda one: (better * one[0], one[1].clip, one[2])
    )


def _strip(evaluation: Evaluation, summary: Summary, take: TakeScores, at: int) -> str:
    plan = next(plan for plan in evaluation.plans if plan.clip == take.clip)
    shown = [picture(_frame(evaluation, plan.sources[0][0]), "source")]
    shown.append(picture(_frame(evaluation, take.rows[at]), "driver" if take.task == CROSS else "truth"))
    for method in summary.methods:
        path = evaluation.pictures(method, take.clip) / take.picture_names[at]
        shown.append(picture(read_image(path), method))
    return f"<div class=row>{''.join(shown)}</div>"


def _frame(evaluation: Evaluation, row: int) -> np.ndarray:
    return to_u8(evaluation.shards.sample(row, with_depth=False).image)
