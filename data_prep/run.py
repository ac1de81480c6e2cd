"""The pipeline: footage -> shards, manifest, report; on one core or on many, and again from where it was stopped."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from data_prep.clips import prepare, quarantine
from data_prep.footage import Found
from data_prep.manifest import Workplace, write_text
from data_prep.outcome import Outcome
from data_prep.pack import pack, records_of
from data_prep.report import write_report
from data_prep.scale import Cluster, each
from data_prep.settings import PrepConfig
from gpavatar.types import InputError


def run(found: Found, out: Path, config: PrepConfig | None = None, cluster: Cluster | None = None) -> Outcome:
    """Bring all footage through all stages into `out`, on this core or on those of `cluster`.

    Begun again after an interruption, with the same arguments, it goes on where it was and ends in the same files.
    InputError where there is no footage; OutputError where `out` cannot be used.
    """
    config = config or PrepConfig()
    if not found.footage and not found.refused:
        raise InputError("no videos or photos there; give --in a folder that holds some")
    place = Workplace(out)
    with place.held(config.sha256):
        with _progress() as progress:
            task = progress.add_task("preparing", total=len(found.footage))
            work, give_up = partial(prepare, out=out, config=config), partial(quarantine, place)
            for name in each(work, found.footage, cluster, give_up):
                progress.update(task, advance=1, description=name)
        sources, clips = records_of([footage.name for footage in found.footage], place)
        outcome = Outcome(sources, clips, found)
        write_text(out / "manifest.jsonl", outcome.manifest())
        pack(clips, place, config)
        write_report(outcome, place, config)
    return outcome


def _progress() -> Progress:
    columns = (SpinnerColumn(), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"))
    return Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))
