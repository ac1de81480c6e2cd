"""The state of a run on disk: one small JSON file per source and per clip, so that a killed run loses one step at most.

    OUT/work/lock                  held by the one run that writes here
    OUT/work/sources/NAME.json     written when all shots of a file are known: its clips, or why it is quarantined
    OUT/work/clips/CLIP.json       one record per stage that is done
    OUT/work/clips/CLIP.npz        the clip's track
    OUT/work/clips/CLIP.safetensors  the frames kept, encoded
    OUT/manifest.jsonl             at the end: one line per clip and per quarantined file

Every file is written beside its name and renamed when whole. A step whose file is there is not done again; all of them
depend on nothing but footage and config, so a run that was killed and begun again ends in the same bytes.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from gpavatar.media.files import whole_file
from gpavatar.types import GpavatarError, InputError

T = TypeVar("T")
DIGITS = 5  # significant digits of a figure


class OutputError(GpavatarError):
    """The place for results cannot be used: the run stops, no footage is blamed."""


@dataclass(frozen=True)
class CutRecord:
    """Stage cut: where the clip lies in its file. Frames count from the first that is read."""

    start_s: float
    end_s: float
    first_frame: int
    num_frames: int
    fps: float
    width_px: int
    height_px: int


@dataclass(frozen=True)
class VerifyRecord:
    """Stage verify: what the filters look at."""

    tracked: float
    others: float
    cut_off: float
    face_px: float
    sharpness: float


@dataclass(frozen=True)
class CropRecord:
    """Stage crop: the square that is kept, in pixels of the picture."""

    x_px: float
    y_px: float
    side_px: float


@dataclass(frozen=True)
class TrackRecord:
    """Stage track."""

    residual: float


@dataclass(frozen=True)
class ChooseRecord:
    """Stage choose: the frames that are kept, counted in the clip, and what they show."""

    frames: tuple[int, ...]
    yaw_deg: tuple[float, ...]
    pitch_deg: tuple[float, ...]
    jaw_open: tuple[float, ...]
    smile: tuple[float, ...]
    blink: tuple[float, ...]


@dataclass(frozen=True)
class MatteRecord:
    """Stage matte."""

    occluded: float
    covered: float  # mean alpha
    num_bytes: int  # of the encoded frames


@dataclass(frozen=True)
class ClipRecord:
    """A clip and the stages it has been through; `dropped` names the filter that it failed, `why` gives the figures."""

    clip: str
    source: str
    identity: str
    split: str
    tier: str
    licence: str
    kind: str
    cut: CutRecord
    verify: VerifyRecord | None = None
    crop: CropRecord | None = None
    track: TrackRecord | None = None
    choose: ChooseRecord | None = None
    matte: MatteRecord | None = None
    dropped: str = ""
    why: str = ""


@dataclass(frozen=True)
class SourceRecord:
    """A file (or an annotated stretch of one) and what became of it."""

    source: str
    file: str
    num_bytes: int
    modified_ns: int
    sha256: str
    frames: int
    seconds: float
    clips: tuple[str, ...] = ()
    quarantined: str = ""  # the reason
    broken_at_s: float | None = None


@dataclass(frozen=True)
class Workplace:
    """The folder that a run writes to."""

    out: Path

    def source_file(self, source: str) -> Path:
        """Where the record of a source is."""
        return self.out / "work" / "sources" / f"{source}.json"

    def clip_file(self, clip: str) -> Path:
        """Where the record of a clip is."""
        return self.out / "work" / "clips" / f"{clip}.json"

    def track_file(self, clip: str) -> Path:
        """Where its track is."""
        return self.clip_file(clip).with_suffix(".npz")

    def packed_file(self, clip: str) -> Path:
        """Where its encoded frames are."""
        return self.clip_file(clip).with_suffix(".safetensors")

    @contextmanager
    def held(self, config_sha256: str) -> Iterator[None]:
        """Make the folders, claim them for this run, and remove what a killed one left half-written.

        OutputError where another run holds them, they belong to a run with another config, or cannot be written.
        """
        work = self.out / "work"
        try:
            for folder in (work / "sources", work / "clips"):
                folder.mkdir(parents=True, exist_ok=True)
            lock = (work / "lock").open("a")
        except OSError as error:
            raise OutputError(f"{self.out}: cannot be written ({error.strerror}); choose another --out") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise OutputError(f"{self.out}: another run is writing here; wait for it or choose another") from error
            for folder in (self.out, work, work / "sources", work / "clips"):
                for leftover in folder.glob(".*.tmp*"):
                    leftover.unlink(missing_ok=True)
            stamp = work / "config.sha256"
            if stamp.exists() and stamp.read_text() != config_sha256:
                raise OutputError(f"{self.out}: holds work done with other settings; choose another --out or remove it")
            write_text(stamp, config_sha256)
            yield


@contextmanager
def output_errors() -> Iterator[None]:
    """For writing results: an InputError within comes out as an OutputError."""
    try:
        yield
    except InputError as error:
        raise OutputError(str(error)) from error


def write_text(path: Path, text: str) -> None:
    """OutputError where it cannot be written."""
    with output_errors(), whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_record(path: Path, record: ClipRecord | SourceRecord) -> None:
    """One line of JSON."""
    write_text(path, to_json(record) + "\n")


def read_record(path: Path, kind: type[T]) -> T | None:
    """The record, or None where there is none yet. InputError for a file that is not one (nothing here writes such)."""
    if not path.exists():
        return None
    try:
        return _typed(kind, json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: damaged ({error}); remove it and run again") from error


def to_json(record: Any) -> str:
    """Figures rounded to 5 significant digits, stages that are not done left out."""
    return json.dumps(_plain(asdict(record)), ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items() if item is not None}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _typed(kind: Any, value: Any) -> Any:
    inner = [option for option in get_args(kind) if is_dataclass(option)]
    kind = inner[0] if inner else kind
    if not is_dataclass(kind):
        return tuple(value) if isinstance(value, list) else value
    hints = get_type_hints(kind)
    missing = [f.name for f in fields(kind) if f.name not in value and f.default is MISSING]
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    return kind(**{name: _typed(hints[name], item) for name, item in value.items()})
