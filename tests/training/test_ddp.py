"""Two processes with half a batch each are one process with all of it."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from gpavatar.training.run import run_training

ROOT = Path(__file__).parents[2]
STILL = (
    "trainer.jitter=false", "gpavatar.encoder.net.noise=stored", "gpavatar.upsampler.net.noise=stored",
    "data.augment={flip: 0, brightness: 0, contrast: 0, saturation: 0, tint: 0}", "trainer.max_steps=3",
    "trainer.val_every=3", "data.val_per_clip=2",
)  # fmt: skip


def losses(folder: Path) -> list[tuple[str, float]]:
    with (folder / "metrics.csv").open(newline="") as stream:
        rows = [(row["step"] + row["name"], float(row["value"])) for row in csv.DictReader(stream)]
    return [(name, value) for name, value in rows if "speed" not in name]


def test_two_processes_are_one_with_the_double_batch(settings, debug, tmp_path, one_thread):
    """Through the program, gloo between the processes; nothing random that belongs to a process."""
    two, one = tmp_path / "two", tmp_path / "one"
    told = settings(two, *STILL, "trainer.devices=2", "data.batch_size=2")
    command = [sys.executable, "-m", "gpavatar.train", str(ROOT / "configs/debug.yaml"), *told]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("3 steps") == 1  # one of them speaks
    run_training(debug(one, *STILL, "data.batch_size=4"), one)
    ours, theirs = losses(two), losses(one)
    assert [name for name, _ in ours] == [name for name, _ in theirs]
    assert [value for _, value in ours] == pytest.approx([value for _, value in theirs], rel=1e-6)  # measured 1.7e-7
    ours, theirs = (load_file(folder / "weights.safetensors") for folder in (two, one))
    # measured 6e-8; a hundredth of a step, since Adam turns the noise of a gradient near zero into a part of one
    assert max(float((ours[name] - value).abs().max()) for name, value in theirs.items()) < 1e-6
