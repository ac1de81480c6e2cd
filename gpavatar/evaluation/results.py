"""Scores of a method on a clip, as one file: what a stopped run goes on from, and what all means are taken from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gpavatar.evaluation.face_metrics import FrameScores
from gpavatar.evaluation.metrics import Column
from gpavatar.media.files import write_tensors
from gpavatar.types import InputError


@dataclass(frozen=True)
class TakeScores:
    """One task of a clip with one number of sources, by one method."""

    method: str
    task: str
    num_sources: int
    clip: str  # whose person is drawn
    identity: str
    driving: str  # clip
    rows: tuple[int, ...]  # of the set's table
    frame_index: tuple[int, ...]  # in the driving clip
    columns: tuple[Column, ...]
    features: Float[Tensor, "frame feature"]  # Inception's of the outputs, for FID; no frames where not asked for
    true_features: Float[Tensor, "frame feature"]

    @property
    def picture_names(self) -> tuple[str, ...]:
        """Of the outputs where they were kept, in the clip's folder of pictures."""
        return tuple(f"{self.task}-{index:06d}.jpg" for index in self.frame_index)


@dataclass(frozen=True)
class ClipScores:
    """All that a method was asked about one clip, and how long it took by stage."""

    takes: tuple[TakeScores, ...]
    seconds: dict[str, float]

    def save(self, path: Path) -> None:
        """Write one file; under its name only when whole."""
        tensors, about = {}, []
        for number, take in enumerate(self.takes):
            tensors[f"{number}.values"] = torch.stack([column.scores.values.float() for column in take.columns])
            tensors[f"{number}.failed"] = torch.stack([column.scores.failed for column in take.columns])
            tensors[f"{number}.features"] = take.features
            tensors[f"{number}.true_features"] = take.true_features
            kept = {name: getattr(take, name) for name in NAMES}
            about.append(kept | {"columns": [(column.region, column.metric) for column in take.columns]})
        write_tensors(tensors, path, {"about": json.dumps({"takes": about, "seconds": self.seconds})})

    @staticmethod
    def load(path: Path) -> ClipScores:
        """Read what `save` wrote; InputError where the file is damaged."""
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads(file.metadata()["about"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: not the scores of a clip ({error}); delete it and run again") from error
        takes = tuple(_take(entry, number, tensors) for number, entry in enumerate(about["takes"]))
        return ClipScores(takes, about["seconds"])


NAMES = ("method", "task", "num_sources", "clip", "identity", "driving", "rows", "frame_index")


def _take(entry: dict, number: int, tensors: dict[str, Tensor]) -> TakeScores:
    values: Float[Tensor, "column frame"] = tensors[f"{number}.values"]
    failed: Bool[Tensor, "column frame"] = tensors[f"{number}.failed"]
    columns = tuple(
        Column(region, metric, FrameScores(values[at], failed[at]))
        for at, (region, metric) in enumerate(entry["columns"])
    )
    plain = {name: tuple(entry[name]) if isinstance(entry[name], list) else entry[name] for name in NAMES}
    return TakeScores(
        **plain,
        columns=columns,
        features=tensors[f"{number}.features"],
        true_features=tensors[f"{number}.true_features"],
    )


def frames_csv(takes: Sequence[TakeScores]) -> str:
    """A row per scored frame: what it is, the metrics by region, and the metrics for which its face was lost."""
    names = sorted({(column.region, column.metric) for take in takes for column in take.columns})
    head = ["method", "task", "num_sources", "identity", "clip", "driving", "frame_index"]
    lines = [",".join([*head, *(f"{region}.{metric}" for region, metric in names), "lost"])]
    for take in takes:
        of = {(column.region, column.metric): column.scores for column in take.columns}
        for at, index in enumerate(take.frame_index):
            plain = [take.method, take.task, take.num_sources, take.identity, take.clip, take.driving, index]
            values = [_cell(of[name].values[at]) if name in of else "" for name in names]
            lost = " ".join(metric for (_, metric), scores in of.items() if scores.failed[at])
            lines.append(",".join([*map(str, plain), *values, lost]))
    return "\n".join(lines) + "\n"


def _cell(value: Tensor) -> str:
    return "" if value.isnan() else repr(float(value))
