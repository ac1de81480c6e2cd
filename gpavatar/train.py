"""Train a method.

python -m gpavatar.train configs/gpavatar.yaml data.train='[{path: sets/vfhq-512}]' trainer.devices=2

Run again with the same arguments, a run that was stopped or killed goes on where it was.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import tyro

from gpavatar.config import load_config, run_program
from gpavatar.types import InputError

OUTPUTS = Path("outputs/train")


def train(config: tyro.conf.Positional[Path], settings: tyro.conf.Positional[tuple[str, ...]] = ()) -> int:
    """Train a method; a run in the same folder that was stopped or killed goes on where it was.

    Ctrl-C and SIGTERM end the step, keep its state and write the weights so far.

    Args:
        config: A yaml of configs/.
        settings: What differs from it, as key.sub=value, e.g. trainer.max_time=30:00 out=outputs/train/mine.
    """
    if find_spec("pytorch_lightning") is None:
        raise InputError("training needs more packages: pip install 'gpavatar[train]', or make setup EXTRAS=train")
    from gpavatar.training.config import TrainConfig
    from gpavatar.training.run import run_training

    asked = load_config(TrainConfig, config, overrides=settings)
    return run_training(asked, Path(asked.out) if asked.out else OUTPUTS / config.stem)


if __name__ == "__main__":
    sys.exit(run_program(train, prog="python -m gpavatar.train"))
