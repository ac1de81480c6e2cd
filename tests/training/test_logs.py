"""The CSV file survives kills; wandb stays on this machine."""

from __future__ import annotations

import os
from importlib import util
from pathlib import Path

import pytest

from gpavatar.training import logs
from gpavatar.training.config import LogConfig
from gpavatar.training.logs import CsvLog, wandb_log


def test_a_step_done_again_is_in_the_file_once(tmp_path: Path):
    path = tmp_path / "metrics.csv"
    log = CsvLog(path)
    for step in range(5):  # Lightning counts from 0
        log.log_metrics({"train/loss": step / 10, "epoch": 0}, step)
    with path.open("a") as stream:
        stream.write("6,17")  # killed while it wrote
    again = CsvLog(path)
    again.forget_after(3)
    again.log_metrics({"train/loss": 0.9, "val/psnr": 20.0}, 3)
    rows = [line.split(",") for line in path.read_text().splitlines()]
    assert rows[0] == ["step", "unix_time", "name", "value"]
    assert [(step, name, value) for step, _, name, value in rows[1:]] == [
        ("1", "train/loss", "0.0"), ("2", "train/loss", "0.1"), ("3", "train/loss", "0.2"),
        ("4", "train/loss", "0.9"), ("4", "val/psnr", "20.0"),
    ]  # fmt: skip


def test_what_was_logged_outlives_a_resuming_that_fails(tmp_path: Path, monkeypatch):
    path = tmp_path / "metrics.csv"
    CsvLog(path).log_metrics({"train/loss": 0.5}, 0)
    before = path.read_text()
    monkeypatch.setattr("csv.writer", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        CsvLog(path).forget_after(1)
    assert path.read_text() == before


@pytest.mark.skipif(util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_works_without_an_account_and_keeps_to_itself(tmp_path: Path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_ERROR_REPORTING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # nobody's key
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    run = tmp_path / "run"
    run.mkdir()
    log = wandb_log(run, LogConfig())
    log.log_metrics({"train/loss": 0.5}, 0)
    log.experiment.finish()
    assert log.experiment.settings._offline and not log.experiment.settings.save_code
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"  # its own telemetry
    (folder,) = (run / "wandb").glob("offline-run-*")
    assert {path.name for path in folder.glob("files/*")} <= {"output.log"}  # no machine, packages, code or changes
    assert len((run / "wandb_id.txt").read_text()) == 8
    assert wandb_log(run, LogConfig())._id == log._id


def test_wandb_need_not_be_there(tmp_path: Path, monkeypatch):
    assert wandb_log(tmp_path, LogConfig(wandb=False)) is None
    monkeypatch.setattr(logs, "find_spec", lambda name: None)
    assert wandb_log(tmp_path, LogConfig()) is None and list(tmp_path.iterdir()) == []
