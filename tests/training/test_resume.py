"""Killed and resumed is uninterrupted, to the bit; a state kept small is close."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gpavatar.training.run import run_training

ROOT = Path(__file__).parents[2]
CHANGES = ("data.val=[]", "data.augment.brightness=0.3", "log.sheet_examples=1", "optim.ema_decay=0.9")


def train_until_killed(arguments: list[str], folder: Path, steps: int) -> None:
    """Start the program in a process of its own and kill it once it has kept so many steps."""
    command = [sys.executable, "-m", "gpavatar.train", str(ROOT / "configs/debug.yaml"), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as run:
        end = time.monotonic() + 300
        while not (folder / f"checkpoints/step_{steps:08d}.ckpt").exists():
            assert run.poll() is None, run.stderr.read().decode()
            assert time.monotonic() < end
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL


def test_killed_and_resumed_is_uninterrupted(settings, debug, state, tmp_path, one_thread):
    """Over the end of an epoch (4 steps), with fresh noise, jitter and colours in every step."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    train_until_killed(settings(killed, *CHANGES, "trainer.max_steps=1000"), killed, steps=3)
    steps = int(max((killed / "checkpoints").glob("step_*")).stem[5:]) + 3
    for folder in (killed, whole):
        assert run_training(debug(folder, *CHANGES, f"trainer.max_steps={steps}"), folder) == 0
    ours, theirs = (state(folder / f"checkpoints/step_{steps:08d}.ckpt") for folder in (killed, whole))
    assert ours.keys() == theirs.keys() and any(name.startswith(".optimizer_states") for name in ours)
    for name, value in theirs.items():
        same = torch.equal(ours[name], value) if isinstance(value, torch.Tensor) else ours[name] == value
        assert same, name
    ours, theirs = (load_file(folder / "weights.safetensors") for folder in (killed, whole))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    rows = [
        [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()] for folder in (killed, whole)
    ]
    told = [[(step, name, value) for step, _, name, value in each if not name.startswith("speed")] for each in rows]
    # each step once; those of the state's own step are written after it, and so may be missing
    at_state = [row for row in told[1] if row[0] == str(steps - 3)]
    assert told[0] in (told[1], [row for row in told[1] if row not in at_state])
    assert (killed / "resumed_1/config.yaml").exists() and not list(whole.glob("resumed_*"))


def test_a_small_state_is_close(debug, state, tmp_path, one_thread):
    exact, small = tmp_path / "exact", tmp_path / "small"
    for folder, changes in ((exact, ()), (small, ("checkpoint.small=true",))):
        for steps in (2, 3):
            run_training(debug(folder, *CHANGES, *changes, f"trainer.max_steps={steps}", "optim.lr=1e-3"), folder)
    sizes = [(folder / "checkpoints/step_00000002.ckpt").stat().st_size for folder in (exact, small)]
    assert sizes[1] < 0.75 * sizes[0]
    state_2, ours, theirs = (
        state(folder / f"checkpoints/step_0000000{step}.ckpt") for folder, step in ((exact, 2), (small, 3), (exact, 3))
    )
    step = difference = 0.0
    for name, value in theirs.items():
        if name.startswith(".state_dict.net") and value.is_floating_point():
            step = max(step, float((value - state_2[name]).abs().max()))
            difference = max(difference, float((value - ours[name]).abs().max()))
    assert 0 < difference < 0.05 * step


@pytest.mark.parametrize("field", ["state_dict", "callbacks"])
def test_a_state_that_would_run_something_is_not_read(debug, tmp_path, field):
    """A pickle that calls os.system is refused before it does."""
    run_training(debug(tmp_path, *CHANGES, "trainer.max_steps=1"), tmp_path)
    path = tmp_path / "checkpoints/step_00000001.ckpt"
    content = torch.load(path, weights_only=True)

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'was_here'}",)

    torch.save(content | {field: Evil()}, path)
    with pytest.raises(Exception, match=r"posix.system|Unsupported"):
        run_training(debug(tmp_path, *CHANGES, "trainer.max_steps=2"), tmp_path)
    assert not (tmp_path / "was_here").exists()
