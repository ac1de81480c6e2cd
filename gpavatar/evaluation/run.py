"""All methods on all clips of a protocol. What is done is on disk: a stopped run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gpavatar.avatars.base import Avatar
from gpavatar.data.shards import ShardSet
from gpavatar.evaluation.conditions import Conditions, conditions
from gpavatar.evaluation.judge import Judge
from gpavatar.evaluation.metrics import Scorer
from gpavatar.evaluation.protocols import ClipPlan, ProtocolConfig, plan_clips
from gpavatar.evaluation.results import ClipScores, TakeScores
from gpavatar.types import InputError

LABEL = re.compile(r"[A-Za-z0-9][\w.-]{0,79}")
VERSION = "1"  # of how frames are drawn and scored; what another version left is not used


@dataclass(frozen=True)
class Unit:
    """A method on a clip."""

    method: int  # position among the methods
    clip: int  # position among the plans
    scores: Path
    pictures: Path


class Evaluation:
    """A protocol, its set, the methods, and the folder in which results gather."""

    def __init__(
        self,
        config: ProtocolConfig,
        methods: Sequence[Avatar],
        folder: Path,
        device: str = "cpu",
        labels: Sequence[str] | None = None,
    ):
        """`labels` are what the methods are called in tables and files; their own names where left out.

        InputError for a label that comes twice or is no plain name, and where the set cannot be opened.
        """
        self.config, self.methods, self.folder = config, tuple(methods), folder
        self.labels = tuple(labels or (method.name for method in methods))
        _check_labels(self.labels)
        self.shards = _open(config)
        self.plans: list[ClipPlan] = plan_clips(self.shards, config)
        self._device = device

    @cached_property
    def scorer(self) -> Scorer:
        """Loaded when first asked for."""
        return Scorer(self.config.identity, self.config.trunk, self.config.independent, self._device)

    @cached_property
    def judge(self) -> Judge:
        """Holds what is common to the methods, for one clip after the other."""
        return Judge(self.shards, self.config, self.scorer)

    @cached_property
    def conditions(self) -> Conditions:
        """The header of the tables."""
        return conditions(self.config, self.shards, self.plans, self.scorer.header)

    @cached_property
    def units(self) -> list[Unit]:
        """All there is to do, clip by clip."""
        return [
            Unit(method, clip, self._place(method, clip, "scores"), self._place(method, clip, "pictures"))
            for clip in range(len(self.plans))
            for method in range(len(self.methods))
        ]

    @property
    def missing(self) -> list[Unit]:
        """What is still to do."""
        return [unit for unit in self.units if not unit.scores.exists()]

    def do(self, unit: Unit) -> None:
        """Judge one method on one clip and write its scores, whole or not at all."""
        what = self.labels[unit.method], self.methods[unit.method], self.plans[unit.clip]
        judged = self.judge.clip(*what, unit.pictures)
        judged.save(unit.scores)

    def do_missing(self) -> Iterator[Unit]:
        """Everything that is missing, one after the other; gives each when it is done."""
        for unit in self.missing:
            self.do(unit)
            yield unit

    def results(self) -> list[ClipScores]:
        """Of all units, in order, methods first."""
        return [ClipScores.load(unit.scores) for unit in sorted(self.units, key=lambda unit: (unit.method, unit.clip))]

    def takes(self) -> list[TakeScores]:
        """Of all units."""
        return [take for clip in self.results() for take in clip.takes]

    def pictures(self, method: str, clip: str) -> Path:
        """The folder of the outputs of a method on a clip at the smallest N."""
        return self._place(self.labels.index(method), [plan.clip for plan in self.plans].index(clip), "pictures")

    def _place(self, method: int, clip: int, kind: str) -> Path:
        plan, name = self.plans[clip].clip, self.labels[method]
        place = self.folder / "work" / f"{name}-{self._key(method)}"
        return place / "scores" / f"{plan}.safetensors" if kind == "scores" else place / "pictures" / plan

    def _key(self, method: int) -> str:
        """Of protocol, set and method: scores of anything else lie elsewhere."""
        what = [VERSION, self.conditions.protocol_sha256, self.methods[method].name, self.methods[method].sha256]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def _check_labels(labels: tuple[str, ...]) -> None:
    for label in labels:
        if not LABEL.fullmatch(label):
            raise InputError(
                f"{label!r} cannot name a method in files; give LABEL=MODEL, of letters, digits, . - and _"
            )
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        raise InputError(f"two methods are called {twice[0]}; give one of them as LABEL=MODEL")


def _open(config: ProtocolConfig) -> ShardSet:
    """The set; InputError that says how to make it where there is none."""
    try:
        return ShardSet.open(config.set)
    except InputError as error:
        if "://" in config.set or config.set.startswith("pipe:") or Path(config.set).exists() or not config.made_by:
            raise
        raise InputError(f"{config.set}: no such set; make it with {config.made_by}, or give set=...") from error
