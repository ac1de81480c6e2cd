"""A set of pictures that take no time, and trainings on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from generated_set import HEAD, LOSSLESS, SIZE, make_sample
from torch import Tensor

from gpavatar.config import load_config
from gpavatar.data.shards import ClipInfo, ShardWriter
from gpavatar.training.config import TrainConfig

DEBUG = Path(__file__).parents[2] / "configs/debug.yaml"


@pytest.fixture(scope="session")
def pairs(tmp_path_factory) -> Path:
    """Eight people to train on and two to validate with, each a single source and a single target: which frames stand
    together does not depend on how a batch is shared out."""
    path = tmp_path_factory.mktemp("training") / "set"
    with ShardWriter(path, HEAD, SIZE, LOSSLESS) as writer:
        for number in range(10):
            clip, split = f"clip{number}", "train" if number < 8 else "val"
            samples = [
                make_sample(clip, f"p{number}", i, number, role=role) for i, role in enumerate(["source", "target"])
            ]
            samples = [
                dataclasses.replace(s, params=dataclasses.replace(s.params, shape=samples[0].params.shape))
                for s in samples
            ]
            writer.add(ClipInfo(clip, f"p{number}", split, "real", "open", "CC0-1.0"), samples)
    return path


@pytest.fixture(scope="session")
def settings(pairs) -> Callable[..., list[str]]:
    """What stands behind configs/debug.yaml on the command line."""

    def told(out: Path, *changes: str) -> list[str]:
        sets = [f"data.train=[{{path: {pairs}}}]", f"data.val=[{{path: {pairs}}}]"]
        return [*sets, "data.examples_per_epoch=8", "data.sampling.num_sources=[1]", f"out={out}", *changes]

    return told


@pytest.fixture(scope="session")
def debug(settings) -> Callable[..., TrainConfig]:
    """configs/debug.yaml with changes."""
    return lambda out, *changes: load_config(TrainConfig, DEBUG, overrides=settings(out, *changes))


@pytest.fixture
def one_thread():
    """Sums in one order, whatever the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _flat(value, prefix: str = "") -> dict[str, Tensor | float]:
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for name, part in items for k, v in _flat(part, f"{prefix}.{name}").items()}
    return {prefix: value}


@pytest.fixture(scope="session")
def state() -> Callable[[Path], dict[str, Tensor | float]]:
    """All that a checkpoint holds but the clock, by its place in it; nothing in the file is run."""

    def read(path: Path) -> dict[str, Tensor | float]:
        flat = _flat(torch.load(path, weights_only=True))
        return {name: value for name, value in flat.items() if not name.endswith(".seconds")}

    return read
