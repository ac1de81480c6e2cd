"""What `python -m data_prep VERB` calls: the command line of the pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from data_prep import fetch as fetching
from data_prep.find import Terms, find_folder
from data_prep.footage import Found
from data_prep.hdtf import find_hdtf
from data_prep.own import SETS, make_own
from data_prep.run import run
from data_prep.scale import Cluster
from data_prep.settings import PrepConfig
from data_prep.vfhq import find_vfhq
from gpavatar.config import load_config


@dataclass(frozen=True)
class Options:
    """What every verb that prepares footage takes."""

    input: Annotated[Path, tyro.conf.arg(name="in")]
    """The folder with the footage."""
    out: Path
    """Where the set, its manifest and its report go. Run again with the same arguments, a stopped run goes on."""
    config: Path | None = None
    """A yaml with what differs from the defaults, see data_prep/settings.py."""
    set: tuple[str, ...] = ()
    """Single settings, e.g. --set size_px=256 choose.frames=12."""
    ray: str | None = None
    """Work on several cores: auto (the Ray cluster of this machine, else its cores), local, or a cluster's address."""
    workers: int | None = None
    """With --ray on this machine's cores: how many of them."""


@dataclass(frozen=True)
class FolderOptions(Options):
    """As above, and the terms of the footage."""

    tier: Literal["open", "research"] = "research"
    """open: may train anything; research: has terms."""
    licence: str = "not stated"
    """In words, for the record."""
    split: str = "train"
    """Which split all of it belongs to."""


def folder(options: Annotated[FolderOptions, tyro.conf.arg(name="")]) -> None:
    """Any folder of videos, photos, folders of frames and archives -> a set. A subfolder is a person."""
    terms = Terms(options.tier, options.licence, options.split)
    _prepare(find_folder(options.input, options.out / "work" / "unpacked", terms), options)


def vfhq(options: Annotated[Options, tyro.conf.arg(name="")]) -> None:
    """VFHQ's clip lists (Clip+*.txt), with the videos anywhere below the same folder -> a set."""
    _prepare(find_vfhq(options.input), options)


def hdtf(options: Annotated[Options, tyro.conf.arg(name="")]) -> None:
    """HDTF's lists (*_annotion_time.txt ...), with the videos anywhere below the same folder -> a set."""
    _prepare(find_hdtf(options.input), options)


@dataclass(frozen=True)
class FetchOptions:
    """What fetch takes."""

    input: Annotated[Path, tyro.conf.arg(name="in")]
    """The folder with the lists of VFHQ or HDTF."""
    out: Path
    """Where the videos go; the same folder is fine."""


def fetch(options: Annotated[FetchOptions, tyro.conf.arg(name="")]) -> None:
    """Download the videos that VFHQ's or HDTF's lists name, with yt-dlp. Dead ones are listed in OUT/fetch.jsonl."""
    results = fetching.fetch(options.input, options.out)
    dead = [one for one in results if not one.file]
    print(f"{options.out}: {len(results) - len(dead)} of {len(results)} videos there, {len(dead)} not")
    for one in dead[:20]:
        print(f"  {one.name}: {one.why}")


@dataclass(frozen=True)
class OwnOptions:
    """What own takes."""

    input: Annotated[Path, tyro.conf.arg(name="in")]
    """The folder with manifest.csv."""
    out: Path
    """The folder of the sets: each is made in a subfolder of its name."""
    only: tuple[str, ...] = tuple(SETS)
    """Which of them."""


def own(options: Annotated[OwnOptions, tyro.conf.arg(name="")]) -> None:
    """The project's own sets: lite-256, val-256, val-512, synthetic-val. OUT/sets.json has their sums and figures."""
    for one in make_own(options.input, options.out, options.only):
        print(f"{one.name}: {one.clips} clips of {one.identities} people, {one.frames} frames, {one.mib} MiB")


def _prepare(found: Found, options: Options) -> None:
    settings = load_config(PrepConfig, *([options.config] if options.config else []), overrides=options.set)
    cluster = None if options.ray is None else Cluster(options.ray, options.workers)
    outcome = run(found, options.out, settings, cluster)
    quarantined = sum(bool(source.quarantined) for source in outcome.sources) + len(outcome.found.refused)
    print(
        f"{options.out}: {len(outcome.kept)} of {len(outcome.clips)} clips kept, {quarantined} files quarantined; "
        f"see {options.out / 'report.html'}"
    )
