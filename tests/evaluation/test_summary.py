"""Means, verdicts and distances of made-up scores; metrics.json is plain JSON."""

from __future__ import annotations

import json

import pytest
import torch

from gpavatar.evaluation.conditions import Conditions
from gpavatar.evaluation.distribution import fid
from gpavatar.evaluation.metrics import Column, FrameScores
from gpavatar.evaluation.protocols import ProtocolConfig
from gpavatar.evaluation.results import TakeScores, frames_csv
from gpavatar.evaluation.summary import HOLDS, UNPROVEN, WORSE, summarize
from gpavatar.evaluation.tables import curve_table, task_tables

CONFIG = ProtocolConfig(name="made_up", about="-", set="-", crop="-", sources={1: [0.0], 2: [0.0, 1.0]}, resamples=200)
CONDITIONS = Conditions(
    **dict.fromkeys(("protocol", "about", "crop", "background", "set", "set_sha256", "targets", "reductions"), "-"),
    **dict.fromkeys(("intervals", "protocol_sha256", "commit", "machine"), "-"),
    **dict.fromkeys(("clips", "no_targets", "absent", "metrics", "differences", "versions"), ()),
    size_px=1, num_clips=6, num_identities=6, sources=(1, 2),
)  # fmt: skip


def take(
    method: str, number: int, person: int, psnr: list[float], failed: list[bool], features: torch.Tensor | None = None
) -> TakeScores:
    none = torch.zeros(0, 0)
    lost = torch.tensor(failed)
    columns = (
        Column("full", "psnr", FrameScores.of_pixels(torch.tensor(psnr))),
        Column("frame", "aed", FrameScores(torch.where(lost, 1.0, 0.25), lost)),
    )
    rows = tuple(range(len(psnr)))
    kept = (none, none) if features is None else (features, features + 1.0)
    return TakeScores(method, "self", number, f"c{person}", f"p{person}", f"c{person}", rows, rows, columns, *kept)


def summary_of(change: list[float]):
    """Six people whose PSNR changes by these with a second source."""
    takes = [take("one", 1, n, [20.0 + n, 22.0 + n], [False, False]) for n in range(6)]
    takes += [take("one", 2, n, [20.0 + n + change[n], 22.0 + n + change[n]], [False, n == 0]) for n in range(6)]
    return summarize(takes, CONDITIONS, CONFIG)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ([0.1, 0.2, 0.1, 0.2, 0.1, 0.2], HOLDS),
        ([0.0] * 6, HOLDS),
        ([-0.04] * 6, HOLDS),
        ([-0.06] * 6, WORSE),
        ([-0.3, -0.2, -0.1, -0.2, -0.3, -0.1], WORSE),
        ([-1.0, 1.0, -1.0, 1.0, -1.0, 1.0], UNPROVEN),
    ],
)
def test_the_verdict_is_about_the_whole_interval(change, verdict):
    summary = summary_of(change)
    step = next(step for step in summary.steps if step.metric == "psnr")
    assert step.change.mean == pytest.approx(sum(change) / 6, abs=1e-5)
    assert step.verdict == verdict
    table = curve_table(summary)
    said = {HOLDS: " holds", WORSE: " WORSE", UNPROVEN: " not shown"}[verdict]
    if any(change):
        assert [row[4].endswith(said) for row in table.rows] == [True]
    else:
        assert not table.rows and table.notes[-1] == "one: the same at every number of sources"


def test_a_lost_face_costs_and_the_mean_over_found_faces_stands_beside_it():
    cell = summary_of([0.0] * 6).cell("one", "self", 2, "frame", "aed")
    assert cell.value.mean == pytest.approx((5 * 0.25 + (0.25 + 1.0) / 2) / 6)
    assert cell.found == 0.25 and (cell.num_frames, cell.num_failed) == (12, 1)
    text = [table.markdown() for table in task_tables(summary_of([0.0] * 6), "self")]
    assert "(1 lost)" in text[1] and "(1 lost)" not in text[0]


def test_fid_is_that_of_all_frames_and_has_no_interval():
    features = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    takes = [take("one", 1, n, [20.0, 21.0], [False, False], features[2 * n : 2 * n + 2]) for n in range(6)]
    summary = summarize(takes, CONDITIONS, CONFIG)
    assert summary.cell("one", "self", 1, "full", "fid").value.mean == pytest.approx(fid(features, features + 1.0))
    region = json.loads(summary.to_json())["methods"]["one"]["self"]["1"]["full"]
    assert region["fid"] == pytest.approx(3.0, abs=1e-4) and region["fid_ci"] == [None, None]


def test_rows_keep_what_is_undefined_empty_and_name_what_is_lost():
    takes = [take("one", 1, 0, [float("nan"), 20.5], [True, False])]
    head, first, second = frames_csv(takes).splitlines()
    assert head.split(",")[-3:] == ["frame.aed", "full.psnr", "lost"]
    assert first.endswith(",0,1.0,,aed") and second.endswith(",1,0.25,20.5,")
