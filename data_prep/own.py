"""The project's own sets, from a folder of data with a `manifest.csv` and from synthetic people.

    lite-256        train: real clips and portraits with what can be made of them, and synthetic people; small
    val-256         the clips of the split val: frames to start from, and others to be judged on
    val-512         those of them that have 512 px
    synthetic-val   people who never existed, seen from several sides at once, with depth

The manifest has one row per file: file, kind (clip, image, raw clip), split, identity, px, licence, tier.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path

from data_prep.footage import Footage, Found, safe_name
from data_prep.manifest import output_errors, write_text
from data_prep.pack import clips_of_set
from data_prep.run import run
from data_prep.settings import ChooseConfig, FilterConfig, PrepConfig
from data_prep.stills import StillsConfig, stills
from data_prep.synthetic import SYNTHETIC_TRAIN, SYNTHETIC_VAL, synthetic
from gpavatar.data.shards import Encoding, HeadInfo, PackedClip, ShardSet, ShardWriter
from gpavatar.face.open_head import OpenHead
from gpavatar.types import InputError

RESERVE_BYTES, ROW_BYTES = 256 << 10, 200  # of a set's index: for the clips, and for each frame
SET_SUFFIXES = (".tar", ".json", ".safetensors")
COLUMNS = ("file", "kind", "split", "identity", "px", "licence", "tier")
# Clips that somebody chose by hand: what is left of the filters is what would spoil a measurement.
CHOSEN = FilterConfig(min_room=1.1, min_side=0.8, max_occluded=0.6)
# Sources at N = 1, 2, 4, 8 are among eight frames evenly spaced; as many again and more to be judged on.
VAL_FRAMES = ChooseConfig(frames=28, even=8)
VAL_256 = PrepConfig(size_px=256, filters=CHOSEN, choose=VAL_FRAMES)
VAL_512 = PrepConfig(size_px=512, filters=CHOSEN, choose=VAL_FRAMES)

LITE_BYTES = 36 << 20  # all of lite-256 together
LITE_ENCODING = Encoding("webp", 82, "jpeg", 85)
LITE_CLIPS = PrepConfig(size_px=256, filters=CHOSEN, choose=ChooseConfig(frames=8, even=2), encoding=LITE_ENCODING)
LITE_STILLS = StillsConfig(sources=2, size_px=256, encoding=LITE_ENCODING)
LITE_SYNTHETIC = replace(SYNTHETIC_TRAIN, people=44, instants=6, views=2, encoding=LITE_ENCODING)
LITE_PHOTOS = 120


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


@dataclass(frozen=True)
class SetFigures:
    """What a set holds, and the sums by which another copy of it is known."""

    name: str
    size_px: int
    clips: int
    identities: int
    frames: int
    frames_by_kind: dict[str, int]
    frames_by_tier: dict[str, int]
    mib: float
    sha256: dict[str, str]  # by file


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


def footage_of(data: Path, rows: list[Row], kind: str, split: str) -> Found:
    """The rows of a kind and split, under the names of their files."""
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
        if (row.kind, row.split) == (kind, split)
    ]
    return Found.of(footage)


def val_256(data: Path, out: Path) -> None:
    """All clips of the split val."""
    run(footage_of(data, read_rows(data), "clip", "val"), out, VAL_256)


def val_512(data: Path, out: Path) -> None:
    """Those with at least 512 px."""
    rows = [row for row in read_rows(data) if row.kind == "clip" and int(row.px) >= 512]
    run(footage_of(data, rows, "clip", "val"), out, VAL_512)


def synthetic_val(_data: Path, out: Path) -> None:
    """People who never existed."""
    synthetic(out, SYNTHETIC_VAL, workers=1)


def lite_256(data: Path, out: Path) -> None:
    """Real clips first; then photos with their pictures, and synthetic people, in turn, while there is room."""
    rows, work = read_rows(data), out / "work"
    run(footage_of(data, rows, "clip", "train"), work / "clips", LITE_CLIPS)
    photos = footage_of(data, rows, "image", "train").footage
    at = [round(index * (len(photos) - 1) / max(LITE_PHOTOS - 1, 1)) for index in range(min(LITE_PHOTOS, len(photos)))]
    stills([photos[index] for index in at], work / "stills", LITE_STILLS, workers=1)
    synthetic(work / "synthetic", LITE_SYNTHETIC, workers=1)
    real, *others = (clips_of_set(work / name) for name in ("clips", "stills", "synthetic"))
    in_turn = [clip for pair in zip_longest(*others) for clip in pair if clip is not None]
    with output_errors(), ShardWriter(out, HeadInfo.of(OpenHead.load()), 256, LITE_ENCODING, overwrite=True) as writer:
        for clip in within([*real, *in_turn], LITE_BYTES):
            writer.add_packed(clip)


def within(clips: Sequence[PackedClip], num_bytes: int) -> Iterator[PackedClip]:
    """The clips, in order, that fit into a set of so many bytes with its index."""
    room = num_bytes - RESERVE_BYTES
    for clip in clips:
        need = len(clip.block) + ROW_BYTES * len(clip.table)
        if need <= room:
            room -= need
            yield clip


SETS: dict[str, Callable[[Path, Path], None]] = {
    "val-256": val_256,
    "lite-256": lite_256,
    "synthetic-val": synthetic_val,
    "val-512": val_512,
}


def make_own(data: Path, out: Path, names: Sequence[str]) -> list[SetFigures]:
    """Make the sets of these names, each in a subfolder of `out`, and write the figures of all that are there.

    InputError for a name that is none of `SETS`.
    """
    for name in names:
        if name not in SETS:
            raise InputError(f"--only {name}: the sets are {', '.join(SETS)}")
        if not (out / name / "shards.json").exists():
            SETS[name](data, out / name)
    figures = [figures_of(name, out / name) for name in SETS if (out / name / "shards.json").exists()]
    write_text(out / "sets.json", json.dumps([asdict(one) for one in figures], indent=1) + "\n")
    return figures


def figures_of(name: str, folder: Path) -> SetFigures:
    """Read from the set's index."""
    index = ShardSet.open(folder).index
    kinds, tiers = Counter(), Counter()
    for clip in index.clips:
        kinds[clip.kind] += clip.num_frames
        tiers[clip.tier] += clip.num_frames
    num_bytes = sum(path.stat().st_size for path in folder.iterdir() if path.suffix in SET_SUFFIXES)
    return SetFigures(
        name=name,
        size_px=index.size_px,
        clips=len(index.clips),
        identities=len({clip.identity for clip in index.clips}),
        frames=index.num_frames,
        frames_by_kind=dict(sorted(kinds.items())),
        frames_by_tier=dict(sorted(tiers.items())),
        mib=round(num_bytes / 2**20, 2),
        sha256={shard.file: shard.sha256 for shard in index.shards} | {"frames.safetensors": index.table_sha256},
    )
