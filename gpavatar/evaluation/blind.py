"""Pairs of results to be judged by eye, in an order that nobody knows: which side is which stands in the key file."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gpavatar.config import did_you_mean
from gpavatar.evaluation.results import ClipScores, TakeScores
from gpavatar.evaluation.run import Evaluation
from gpavatar.media.files import whole_file
from gpavatar.media.image import read_image, to_u8, write_image
from gpavatar.types import InputError

GAP_PX = 8
MAX_PAIRS = 60


def write_pairs(
    evaluation: Evaluation, results: Sequence[ClipScores], methods: tuple[str, str], folder: Path, seed: int | None
) -> int:
    """`pair-001.png` …: source, target (the driver in the task cross), one result, the other; and `key.csv`.

    Up to 60 frames of all tasks at the smallest N, as many of each clip as of any other. `seed` None draws anew each
    time, so that nobody can work out the order. Gives the number of pairs; InputError for a method that is not there.
    """
    for name in methods:
        if name not in evaluation.labels:
            raise InputError(f"no method of this run is called {name!r}; {did_you_mean(name, evaluation.labels)}")
    draw = random.Random(seed)
    takes = _common(results, methods[0], evaluation.config.numbers[0])
    frames = [(take, at) for take in takes for at in range(len(take.rows))]
    draw.shuffle(frames)
    frames = _spread(frames)[:MAX_PAIRS]
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("pair-*.png"):
        old.unlink()
    key = io.StringIO()
    writer = csv.writer(key, lineterminator="\n")
    writer.writerow(["pair", "left", "right", "task", "clip", "frame_index"])
    for number, (take, at) in enumerate(frames, 1):
        order = list(methods)
        draw.shuffle(order)
        write_image(folder / f"pair-{number:03d}.png", _pair(evaluation, take, at, order))
        writer.writerow([f"{number:03d}", *order, take.task, take.clip, take.frame_index[at]])
    with whole_file(folder / "key.csv") as temporary:
        temporary.write_text(key.getvalue(), encoding="utf-8")
    return len(frames)


def _common(results: Sequence[ClipScores], method: str, num_sources: int) -> list[TakeScores]:
    """The takes of one of the two; the other has the same."""
    return [t for clip in results for t in clip.takes if (t.method, t.num_sources) == (method, num_sources)]


def _spread(frames: list[tuple[TakeScores, int]]) -> list[tuple[TakeScores, int]]:
    """The first of each clip, then the second of each, and so on."""
    seen: dict[str, int] = {}
    ranked = []
    for take, at in frames:
        seen[take.clip] = seen.get(take.clip, 0) + 1
        ranked.append((seen[take.clip], take, at))
    return [(take, at) for _, take, at in sorted(ranked, key=lambda one: one[0])]


def _pair(evaluation: Evaluation, take: TakeScores, at: int, order: list[str]) -> np.ndarray:
    plan = next(plan for plan in evaluation.plans if plan.clip == take.clip)
    shown = [
        to_u8(evaluation.shards.sample(row, with_depth=False).image) for row in (plan.sources[0][0], take.rows[at])
    ]
    shown += [read_image(evaluation.pictures(name, take.clip) / take.picture_names[at]) for name in order]
    gap = np.full((shown[0].shape[0], GAP_PX, 3), 255, np.uint8)
    parts = [part for picture in shown for part in (picture, gap)]
    return np.concatenate(parts[:-1], axis=1)
