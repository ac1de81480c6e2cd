"""Portraits -> shards: each photo is the target of pictures that `textured_mesh` made of it.

    python -m data_prep stills --in photos --out sets/stills

photo -> one usable face? -> fitted and matted -> avatar -> sources in other poses, expressions and lights -> looked at
by the detector -> packed as one clip: the photo untouched (role "target"), then its sources (role "source").

What is drawn depends on the seed and the photo's name only. A photo is refused, and listed with the reason, where it
shows no face or a second one, is too small, turned too far, cut off, covered or fits no head, where its avatar does not
look like it in its own pose, or where the detector does not see in enough of the sources what was drawn.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

from data_prep.find import Terms, find_folder
from data_prep.footage import Footage, Refused
from data_prep.manifest import Workplace, output_errors, write_text
from data_prep.parts import each, write_set
from data_prep.still_checks import (
    StillLimits,
    Unusable,
    check_cover,
    check_face,
    check_likeness,
    found_landmarks,
    looks_right,
)
from data_prep.still_light import StillLight
from data_prep.still_sources import DrawnSource, Variety, draw_source, drawn_poses
from gpavatar.avatars.textured_mesh import TexturedMesh
from gpavatar.config import load_config
from gpavatar.data.shards import ClipInfo, Encoding, HeadInfo, Sample, pack_clip
from gpavatar.face.open_head import OpenHead
from gpavatar.media.image import IMAGE_SUFFIXES, read_image, resize_u8, to_u8
from gpavatar.pretrained.detector import FaceDetector
from gpavatar.tracking.sources import MAX_SIDE_PX, SOURCE_PX, source_frame
from gpavatar.tracking.tracker import Tracker
from gpavatar.types import GpavatarError, InputError, SourceFrame

CAREFUL = Terms()


@dataclass(frozen=True)
class StillsConfig:
    """How many sources a photo gets, how different they are, and which photos are good enough."""

    sources: int = 4
    size_px: int = 256
    seed: int = 0
    variety: Variety = field(default_factory=Variety)
    limits: StillLimits = field(default_factory=StillLimits)
    min_right: float = 0.5  # share of the sources that must look right
    encoding: Encoding = field(default_factory=Encoding)

    @property
    def sha256(self) -> str:
        """Of all values."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class StillsReport:
    """What became of the photos."""

    kept: tuple[str, ...]  # clips in the set
    num_sources: int
    refused: tuple[Refused, ...]


def command(
    input: Annotated[Path, tyro.conf.arg(name="in")],
    out: Path,
    set: tuple[str, ...] = (),
    workers: int | None = None,
    terms: Terms = CAREFUL,
) -> None:
    """Photos of faces as training pairs: textured_mesh draws several sources for each, the photo is the target.

    Args:
        input: The folder with the photos; every file is a person.
        out: Where the set and its manifest go. Run again with the same arguments, a stopped run goes on.
        set: Single settings, e.g. --set sources=6 size_px=512 variety.yaw_deg=20.
        workers: Processes; all cores where left out.
        terms: What holds for all photos: licence, tier, split.
    """
    found = find_folder(input, out / "work" / "unpacked", terms)
    photos = [replace(one, identity=one.name) for one in found.footage if one.path.suffix.lower() in IMAGE_SUFFIXES]
    report = stills(photos, out, load_config(StillsConfig, overrides=set), workers)
    print(f"{out}: {len(report.kept)} photos with {report.num_sources} sources, {len(report.refused)} refused")


def stills(
    photos: Sequence[Footage], out: Path, config: StillsConfig | None = None, workers: int | None = None
) -> StillsReport:
    """Turn photos into a set. Run again with the same settings, a stopped run goes on.

    `manifest.jsonl` has a line for each photo. InputError where there are none, or none of them is usable;
    OutputError where `out` cannot be written, or holds work done with other settings.
    """
    config, place = config or StillsConfig(), Workplace(out)
    if not photos:
        raise InputError("no photos there; give --in a folder that holds some")
    photos = sorted(photos, key=lambda photo: photo.name)
    with place.held(config.sha256):
        missing = [photo for photo in photos if _verdict(photo, place) is None]
        each(partial(prepare, place=place, config=config), missing, "photos", workers)
        verdicts = [_verdict(photo, place) for photo in photos]
        write_text(out / "manifest.jsonl", "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in verdicts))
        refused = tuple(Refused(one["file"], one["why"]) for one in verdicts if one["verdict"] == "refused")
        kept = tuple(one["clip"] for one in verdicts if one["verdict"] == "kept")
        if not kept:
            raise InputError(f"none of {len(photos)} photos can be used; {refused[0].file}: {refused[0].why}")
        parts = [place.packed_file(clip) for clip in kept]
        write_set(parts, out, HeadInfo.of(_Tools.of_process().head), config.size_px, config.encoding)
    return StillsReport(kept, sum(one.get("sources", 0) for one in verdicts), refused)


def prepare(photo: Footage, place: Workplace, config: StillsConfig) -> None:
    """Make and encode the pair of one photo, or note why not; the note is written last."""
    note = {"file": photo.path.name, "clip": photo.name}
    stamp = _stamp(photo)
    try:
        samples = photo_samples(photo, config)
        info = ClipInfo(photo.name, photo.identity, photo.split, "still", photo.tier, photo.licence)
        packed = pack_clip(info, samples, HeadInfo.of(_Tools.of_process().head), config.size_px, config.encoding)
    except MemoryError:
        raise
    except Exception as error:  # a damaged photo can raise anything anywhere; it is listed, and the run goes on
        why = str(error) if isinstance(error, GpavatarError) else f"{type(error).__name__}: {error}"
        note |= {"verdict": "refused", "why": " ".join(why.removeprefix(f"{photo.path}: ").split())}
    else:
        note |= {"verdict": "kept", "sources": len(samples) - 1}
        with output_errors():
            packed.save(place.packed_file(photo.name))
    write_text(place.source_file(photo.name), json.dumps({"stamp": stamp, "verdict": note}, ensure_ascii=False))


def _verdict(photo: Footage, place: Workplace) -> dict | None:
    """The note of a photo, or None where there is none or the file has changed since."""
    path = place.source_file(photo.name)
    if not path.exists():
        return None
    known = json.loads(path.read_text(encoding="utf-8"))
    return known["verdict"] if known["stamp"] == _stamp(photo) else None


def _stamp(photo: Footage) -> list[int]:
    state = photo.path.stat()
    return [state.st_size, state.st_mtime_ns]


@torch.no_grad()
def photo_samples(photo: Footage, config: StillsConfig) -> list[Sample]:
    """The photo as target and its sources. Raises `Unusable`, or what reading and tracking raise."""
    tools = _Tools.of_process()
    image_u8 = read_image(photo.path, MAX_SIDE_PX)
    tracked = tools.tracker.track_image(image_u8, str(photo.path))
    faces, limits = tools.detector.detect(image_u8), config.limits
    check_face(image_u8, tracked, faces, tools.head, config.size_px, limits)
    frame = source_frame(image_u8, tracked, SOURCE_PX)
    check_cover(frame, limits)
    state = tools.model.encode([frame])
    check_likeness(frame, tools.model.render(state, frame.params, frame.camera, SOURCE_PX).image, limits)

    rng = photo_rng(photo.name, config.seed)
    poses = drawn_poses(frame, tools.head.expression_names, config.sources, config.variety, rng)
    lights = [StillLight.random(rng, config.variety.light) for _ in poses]
    drawn = [draw_source(tools.model, state, pose, light, SOURCE_PX) for pose, light in zip(poses, lights, strict=True)]
    samples = [_target(photo, frame, config)]
    for number, source in enumerate(drawn, 1):
        landmarks_px = found_landmarks(source, tools.detector)
        if landmarks_px is not None and looks_right(source, landmarks_px, tools.head, limits):
            samples.append(_source(photo, number, source, landmarks_px, config))
    right, asked = len(samples) - 1, max(1, math.ceil(config.min_right * len(drawn)))
    if right < asked:
        raise Unusable(f"{right} of {len(drawn)} sources look right, {asked} asked")
    return samples


def photo_rng(name: str, seed: int) -> np.random.Generator:
    """What is drawn for a photo comes from here: its name and the seed decide it, and no other photo."""
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])])


@dataclass(frozen=True)
class _Tools:
    head: OpenHead
    detector: FaceDetector
    tracker: Tracker
    model: TexturedMesh

    @staticmethod
    @cache
    def of_process() -> _Tools:
        """Loaded once."""
        head, detector = OpenHead.load(), FaceDetector()
        return _Tools(head, detector, Tracker(head, detector=detector), TexturedMesh(head=head))


def _target(photo: Footage, frame: SourceFrame, config: StillsConfig) -> Sample:
    size = config.size_px
    return Sample(
        clip=photo.name,
        identity=photo.identity,
        frame_index=0,
        time_s=0.0,
        image_u8=resize_u8(to_u8(frame.image), size, size),
        alpha_u8=_alpha_u8(frame.alpha, size),
        params=frame.params,
        camera=frame.camera,
        landmarks_px=frame.landmarks_px * (size / SOURCE_PX),
        role="target",
    )


def _source(
    photo: Footage, number: int, source: DrawnSource, landmarks_px: torch.Tensor, config: StillsConfig
) -> Sample:
    size = config.size_px
    return Sample(
        clip=photo.name,
        identity=photo.identity,
        frame_index=number,
        time_s=0.0,
        image_u8=resize_u8(to_u8(source.picture.image), size, size),
        alpha_u8=_alpha_u8(source.picture.alpha, size),
        params=source.pose.params,
        camera=source.pose.camera,
        landmarks_px=landmarks_px * (size / SOURCE_PX),
        role="source",
    )


def _alpha_u8(alpha: torch.Tensor, size: int) -> np.ndarray:
    small = torch.nn.functional.interpolate(alpha[None], (size, size), mode="bilinear", antialias=True)[0]
    return to_u8(small)
