"""Where the numbers of a training go: always into a CSV file, and to wandb where it is wanted and installed."""

from __future__ import annotations

import csv
import os
import secrets
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from gpavatar.media.files import whole_file
from gpavatar.training.config import LogConfig

COLUMNS = ("step", "unix_time", "name", "value")


class CsvLog(Logger):
    """One row per number, appended as it comes: step, unix_time, name, value."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path

    @property
    def name(self) -> str:
        """Lightning's word for the file."""
        return self.path.stem

    @property
    def version(self) -> str:
        """There is one file, whatever how often the run was stopped."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """They are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append the numbers of a step, which Lightning counts from 0; the file says how many were taken."""
        step = (step or 0) + 1
        rows = [(step, round(time.time(), 2), name, value) for name, value in metrics.items() if name != "epoch"]
        head = [] if self.path.exists() else [COLUMNS]
        with self.path.open("a", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([*head, *rows])

    @rank_zero_only
    def forget_after(self, step: int) -> None:
        """Leave out what came after this step: a resumed run does it again."""
        if self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as stream:
                rows = [row for row in list(csv.reader(stream))[1:] if len(row) == len(COLUMNS) and int(row[0]) <= step]
            with whole_file(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
                csv.writer(stream).writerows([COLUMNS, *rows])


def wandb_log(folder: Path, config: LogConfig) -> WandbLogger | None:
    """A wandb run in `folder`; None where it is not wanted or not installed.

    Nothing leaves the machine unless the user is logged in (key in the environment or in ~/.netrc). Code, git state,
    machine data and error reports are never sent. A resumed run stays the same run.
    """
    if not config.wandb or find_spec("wandb") is None:
        return None
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read while wandb is imported
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    offline = not wandb.login(prompt=False, verify=False)  # looks for a key, asks nobody
    settings = wandb.Settings(
        mode="offline" if offline else "online", console="off", disable_code=True, disable_git=True,
        disable_job_creation=True, save_code=False, x_disable_machine_info=True, x_disable_meta=True,
        x_disable_stats=True, x_disable_viewer=True, x_save_requirements=False,
    )  # fmt: skip
    name = folder.resolve().name
    identity = folder / "wandb_id.txt"
    if not identity.exists():
        identity.write_text(secrets.token_hex(4), encoding="utf-8")
    return WandbLogger(
        name=name, save_dir=folder, project=config.project, id=identity.read_text(encoding="utf-8"),
        resume="allow", offline=offline, settings=settings,
    )  # fmt: skip
