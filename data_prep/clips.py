"""One source through all stages but the last: cut, verify, crop, track, choose, then matte the frames that are kept.

The footage is decoded twice: small, to see who is where; and in full, for the pictures that are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from data_prep.choose import choose
from data_prep.crop import crop_of, following_crops
from data_prep.cut import AttentiveDetector, Shot, shots
from data_prep.footage import Footage, frames_of, full_size
from data_prep.manifest import (
    ChooseRecord,
    ClipRecord,
    CutRecord,
    MatteRecord,
    OutputError,
    SourceRecord,
    TrackRecord,
    Workplace,
    output_errors,
    read_record,
    write_record,
)
from data_prep.matte import MattedFrame, matted_frame
from data_prep.settings import PrepConfig
from data_prep.verify import OCCLUDED, RESIDUAL, measure, residual, verdict
from gpavatar.data.shards import ClipInfo, HeadInfo, pack_clip
from gpavatar.face.open_head import OpenHead
from gpavatar.media.align import CropBox
from gpavatar.media.files import sha256_of
from gpavatar.streaming import prefetch
from gpavatar.tracking.sources import yaw_pitch_deg
from gpavatar.tracking.track_file import TrackSource, load_track, save_track
from gpavatar.tracking.tracker import Tracker, as_track
from gpavatar.types import GpavatarError, InputError, Track


@dataclass(frozen=True)
class Tools:
    """What a process loads once."""

    head: OpenHead
    detector: AttentiveDetector
    tracker: Tracker

    @staticmethod
    @cache
    def of_process() -> Tools:
        """One thread: sums must not depend on the number of cores, and other processes use them."""
        torch.set_num_threads(1)
        head, detector = OpenHead.load(), AttentiveDetector()
        return Tools(head, detector, Tracker(head, detector=detector))


def prepare(footage: Footage, out: Path, config: PrepConfig) -> str:
    """Do what is not done yet for one source; returns its name. A file that cannot be used is quarantined.

    OutputError where results cannot be written.
    """
    Tools.of_process()  # what fails here is not the footage's fault
    place = Workplace(out)
    source = read_record(place.source_file(footage.name), SourceRecord)
    try:
        if source is None or _changed(source, footage):
            _forget(place, source)
            source = _look(footage, place, config)
            write_record(place.source_file(footage.name), source)
        records = [read_record(place.clip_file(name), ClipRecord) for name in source.clips]
        _keep([record for record in records if not record.dropped and record.matte is None], footage, place, config)
    except (OutputError, MemoryError):
        raise
    except Exception as error:  # damaged footage can raise anything anywhere; it is listed, and the run goes on
        why = str(error) if isinstance(error, GpavatarError) else f"{type(error).__name__}: {error}"
        _forget(place, source)
        quarantine(place, footage, why)
    return footage.name


def quarantine(place: Workplace, footage: Footage, why: str) -> None:
    """Put on record that a source cannot be used."""
    write_record(place.source_file(footage.name), replace(_unread(footage), quarantined=" ".join(why.split())))


def _look(footage: Footage, place: Workplace, config: PrepConfig) -> SourceRecord:
    """Stages cut to choose: all clips of a source, with their records and tracks written."""
    tools = Tools.of_process()
    width_px, height_px, fps = full_size(footage)
    digest = sha256_of(footage.path)
    records, frames, seconds = [], 0, 0.0
    every = list(shots(footage, tools.detector, config.cut))
    for number, shot in enumerate(every):
        clip = f"{footage.name}_{number}"
        scale = width_px / shot.frames[0].sighting.width_px
        first = shot.frames[0].sighting.index
        size = len(shot.frames)
        cut = CutRecord(shot.start_s, shot.end_s, first, size, fps, width_px, height_px)
        known = footage.identity_known or len(every) == 1
        identity = footage.identity if known else f"{footage.identity}_{number}"
        record = ClipRecord(
            clip, footage.name, identity, footage.split, footage.tier, footage.licence, "real", cut,
            measure(shot, scale, config.filters),
        )  # fmt: skip
        record = _judged(record, shot, scale, TrackSource(footage.path.name, digest), place, config, len(every) == 1)
        write_record(place.clip_file(clip), record)
        records.append(record)
        frames, seconds = frames + size, seconds + shot.end_s - shot.start_s + 1 / fps
    names = tuple(record.clip for record in records)
    return replace(_unread(footage), sha256=digest, frames=frames, seconds=seconds, clips=names)


def _judged(
    record: ClipRecord, shot: Shot, scale: float, source: TrackSource, place: Workplace, config: PrepConfig,
    alone: bool,
) -> ClipRecord:  # fmt: skip
    """Stages verify to choose of one clip; where it passes, its track is written."""
    crop = crop_of(shot, scale) if shot.seen else None
    found = verdict(record.cut, record.verify, crop, config.filters, config.size_px, alone)
    record = replace(record, crop=crop, dropped=found.dropped, why=found.why)
    if record.dropped:
        return record
    tools = Tools.of_process()
    sighting = shot.frames[0].sighting
    tracked = list(tools.tracker.track_sightings(iter([frame.sighting for frame in shot.frames])))
    track = as_track(tracked, sighting.width_px, sighting.height_px, tools.head)
    error = residual(track, tools.head)
    record = replace(record, track=TrackRecord(error))
    if error > config.filters.max_residual:
        return replace(record, dropped=RESIDUAL, why=f"{error:.3f}, {config.filters.max_residual:g} allowed")
    kept = choose(track, torch.tensor([frame.sharpness for frame in shot.frames]), config.choose)
    with output_errors():
        save_track(place.track_file(record.clip), track, source)
    return replace(record, choose=_what_is_shown(track, kept, tools.head))


def _what_is_shown(track: Track, kept: list[int], head: OpenHead) -> ChooseRecord:
    angles = [yaw_pitch_deg(track.camera[index]) for index in kept]
    names, weights = head.expression_names, track.params.expression[kept]

    def pair(name: str) -> tuple[float, ...]:
        both = [names.index(name + side) for side in ("Left", "Right")]
        return tuple(weights[:, both].mean(1).tolist())

    return ChooseRecord(
        frames=tuple(kept),
        yaw_deg=tuple(yaw for yaw, _ in angles),
        pitch_deg=tuple(pitch for _, pitch in angles),
        jaw_open=tuple(weights[:, names.index("jawOpen")].tolist()),
        smile=pair("mouthSmile"),
        blink=pair("eyeBlink"),
    )


def _keep(records: list[ClipRecord], footage: Footage, place: Workplace, config: PrepConfig) -> None:
    """Stage matte for these clips, in one pass over the footage."""
    if not records:
        return
    with closing(_pictures(footage, records)) as pictures:
        for record in records:
            track = load_track(place.track_file(record.clip))
            boxes = _boxes(record, track, config)
            # one full picture at a time: at 4K those of a clip would take a gigabyte
            matted = [
                matted_frame(next(pictures), record, track, index, boxes[index], config)
                for index in record.choose.frames
            ]
            _write_part(record, matted, place, config)


def _boxes(record: ClipRecord, track: Track, config: PrepConfig) -> list[CropBox]:
    """The square of every frame."""
    if config.crop.rule == "head":
        return following_crops(track, Tools.of_process().head, record.cut.width_px / track.width_px)
    return [CropBox(record.crop.x_px, record.crop.y_px, record.crop.side_px)] * len(track)


def _pictures(footage: Footage, records: list[ClipRecord]) -> Iterator[np.ndarray]:
    """The full pictures that the clips keep, in order."""
    wanted = {record.cut.first_frame + index for record in records for index in record.choose.frames}
    last = max(wanted)
    with closing(prefetch(frames_of(footage))) as frames:
        for frame in frames:
            if frame.index in wanted:
                yield frame.image_u8
            if frame.index >= last:
                return
    raise InputError(f"{footage.path}: could be read to its end only once; copy or download it again")


def _write_part(record: ClipRecord, matted: list[MattedFrame], place: Workplace, config: PrepConfig) -> None:
    """The encoded frames first, then the record that says that they are there."""
    occluded = float(np.median([frame.occluded for frame in matted]))
    covered = float(np.mean([frame.sample.alpha_u8.mean() / 255 for frame in matted]))
    info = ClipInfo(record.clip, record.identity, record.split, record.kind, record.tier, record.licence)
    head = HeadInfo.of(Tools.of_process().head)
    packed = pack_clip(info, [frame.sample for frame in matted], head, config.size_px, config.encoding)
    done = replace(record, matte=MatteRecord(occluded, covered, len(packed.block)))
    if occluded > config.filters.max_occluded:
        why = f"{occluded:.0%} of the face is hidden, {config.filters.max_occluded:.0%} allowed"
        done = replace(done, dropped=OCCLUDED, why=why)
    else:
        with output_errors():
            packed.save(place.packed_file(record.clip))
    write_record(place.clip_file(record.clip), done)


def _unread(footage: Footage) -> SourceRecord:
    """What can be said of a source without opening it."""
    num_bytes, modified_ns = _stamp(footage.path)
    return SourceRecord(footage.name, footage.path.name, num_bytes, modified_ns, "", 0, 0.0)


def _changed(source: SourceRecord, footage: Footage) -> bool:
    """Whether the file is another one than when it was looked at."""
    return (source.num_bytes, source.modified_ns) != _stamp(footage.path)


def _stamp(path: Path) -> tuple[int, int]:
    files = [path] if path.is_file() else sorted(path.iterdir())
    stats = [file.stat() for file in files]
    return sum(stat.st_size for stat in stats), max((stat.st_mtime_ns for stat in stats), default=0)


def _forget(place: Workplace, source: SourceRecord | None) -> None:
    """Remove what was made of a source whose file has changed since."""
    for name in () if source is None else source.clips:
        for file in (place.clip_file(name), place.track_file(name), place.packed_file(name)):
            file.unlink(missing_ok=True)
