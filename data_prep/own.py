"""The project's own sets, from a folder of data with a `manifest.csv` and from synthetic people.

    lite-256        train: real clips and portraits with what can be made of them, and synthetic people; small
    val-256         the clips of the split val: frames to start from, and others to be judged on
    val-512         those of them that have 512 px
    synthetic-val   people who never existed, seen from several sides at once, with depth

The manifest has one row per file: file, kind (clip, image, raw clip), split, identity, px, licence, tier.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.footage import Footage, Found, safe_name
from data_prep.run import run
from data_prep.settings import ChooseConfig, FilterConfig, PrepConfig
from gpavatar.types import InputError

COLUMNS = ("file", "kind", "split", "identity", "px", "licence", "tier")
# Clips that somebody chose by hand: what is left of the filters is what would spoil a measurement.
CHOSEN = FilterConfig(min_room=1.1, min_side=0.8, max_occluded=0.6)
# Sources at N = 1, 2, 4, 8 are among eight frames evenly spaced; as many again and more to be judged on.
VAL_FRAMES = ChooseConfig(frames=28, even=8)
VAL_256 = PrepConfig(size_px=256, filters=CHOSEN, choose=VAL_FRAMES)
VAL_512 = PrepConfig(size_px=512, matte_px=512, filters=CHOSEN, choose=VAL_FRAMES)


@dataclass(frozen=True)
class Row:
    """A line of the manifest."""

    file: str
    kind: str
    split: str
    identity: str
    px: str
    licence: str
    tier: str


def read_rows(data: Path) -> list[Row]:
    """The manifest of a folder of data; InputError where it is none."""
    path = data / "manifest.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); give --in the folder that holds it") from error
    missing = [name for name in COLUMNS if rows and name not in rows[0]]
    if missing or not rows:
        raise InputError(f"{path}: has no column {missing[0]}" if missing else f"{path}: has no rows")
    return [Row(*(row[name] for name in COLUMNS)) for row in rows]


def clips_of(data: Path, rows: list[Row], wanted: Callable[[Row], bool]) -> Found:
    """Footage of the rows that are wanted, under the names of their files."""
    footage = [
        Footage(
            name=safe_name(Path(row.file).stem),
            path=data / row.file,
            identity=safe_name(row.identity),
            split=row.split,
            tier=row.tier,
            licence=row.licence,
        )
        for row in rows
        if wanted(row)
    ]
    return Found.of(footage)


def val_256(data: Path, out: Path) -> None:
    """`val-256`: all clips of the split val."""
    run(clips_of(data, read_rows(data), lambda row: (row.kind, row.split) == ("clip", "val")), out, VAL_256)


def val_512(data: Path, out: Path) -> None:
    """`val-512`: those with at least 512 px."""
    rows = [row for row in read_rows(data) if (row.kind, row.split) == ("clip", "val")]
    run(clips_of(data, rows, lambda row: int(row.px) >= 512), out, VAL_512)


SETS: dict[str, Callable[[Path, Path], None]] = {"val-256": val_256, "val-512": val_512}


def make_own(data: Path, out: Path, names: Sequence[str]) -> None:
    """Make the sets of these names, each in a subfolder of `out`."""
    for name in names:
        SETS[name](data, out / name)
