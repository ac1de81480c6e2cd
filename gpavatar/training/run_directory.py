"""The folder of a run.

config.yaml    every setting, defaults too            metrics.csv           all numbers
commit.txt     the code's commit, and packages        sheets/               sample images
changes.diff   what differed from that commit         checkpoints/          states to go on from
resumed_N/     these three files of a later start     weights.safetensors   what came of it; .md is its card
                                                      best.safetensors      the same of the best validation
"""

from __future__ import annotations

import dataclasses
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from gpavatar.config import load_config
from gpavatar.media.files import check_writable, whole_file
from gpavatar.training.config import TrainConfig
from gpavatar.types import InputError
from gpavatar.version import code_changes, code_version

CONFIG, COMMIT, CHANGES = "config.yaml", "commit.txt", "changes.diff"
PACKAGES = ("torch", "pytorch-lightning", "numpy")


def last_checkpoint(folder: Path) -> Path | None:
    """The newest state of a run."""
    return max(folder.glob("checkpoints/step_*.ckpt"), default=None)


def step_of(checkpoint: Path) -> int:
    """How many steps had been taken."""
    return int(checkpoint.stem.removeprefix("step_"))


def open_run(folder: Path, config: TrainConfig) -> None:
    """Write down what is run. InputError where the folder has a run of another model, or cannot be written."""
    check_writable(folder / CONFIG)
    if (folder / CONFIG).exists():
        _check_same_model(load_config(TrainConfig, folder / CONFIG), config, folder)
    if last_checkpoint(folder):
        number = 1 + len(list(folder.glob("resumed_*")))
        folder = folder / f"resumed_{number}"
        folder.mkdir()
    texts = {
        CONFIG: OmegaConf.to_yaml(OmegaConf.structured(config)),
        COMMIT: _versions(),
        CHANGES: code_changes(),
    }
    for name, text in texts.items():
        with whole_file(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _versions() -> str:
    packages = [f"{name} {version(name)}" for name in PACKAGES]
    return "\n".join([f"gpavatar {code_version()}", f"python {platform.python_version()}", *packages]) + "\n"


def _check_same_model(old: TrainConfig, new: TrainConfig, folder: Path) -> None:
    if old.method != new.method:
        raise InputError(f"{folder}: holds a run of {old.method}; give another out=")
    before, after = (_flat(dataclasses.asdict(config.model), new.method) for config in (old, new))
    for key, value in after.items():
        if before.get(key) != value:
            raise InputError(f"{folder}: its run has {key}={before.get(key)}, not {value}; give another out=")


def _flat(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}.{name}"
        found |= _flat(value, key) if isinstance(value, dict) else {key: value}
    return found
