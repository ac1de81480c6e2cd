"""What comes in: stretches of files in which a person is to be found."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from gpavatar.data.sample import NAME
from gpavatar.media.files import fit_size
from gpavatar.media.frames import open_frames
from gpavatar.media.image import resize_u8
from gpavatar.media.video import VideoFrame
from gpavatar.types import InputError

MAX_NAME = 48


@dataclass(frozen=True)
class Region:
    """The part of the picture in which an annotation saw the person, in pixels of frames `of_height_px` high.

    None: as high as the file's frames are.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    of_height_px: int | None = None


@dataclass(frozen=True)
class Footage:
    """A file, or an annotated stretch of one. `identity` is one person's in the whole run."""

    name: str  # letters, digits, - and _; once in a run
    path: Path
    identity: str
    identity_known: bool = True  # False: only guessed from the file, so every shot counts as somebody else
    start_s: float | None = None
    end_s: float | None = None
    region: Region | None = None
    split: str = "train"
    tier: Literal["open", "research"] = "research"
    licence: str = "not stated"


@dataclass(frozen=True)
class Refused:
    """Something among the inputs that is not even opened, and why."""

    file: str
    why: str


@dataclass(frozen=True)
class Found:
    """Stage find."""

    footage: tuple[Footage, ...]
    refused: tuple[Refused, ...] = ()

    @staticmethod
    def of(footage: Iterable[Footage], refused: Iterable[Refused] = ()) -> Found:
        """In the order of names; where two are called the same, each gets some letters of the sum of its path."""
        footage = list(footage)
        count = Counter(one.name for one in footage)
        own = [one if count[one.name] == 1 else replace(one, name=f"{one.name}-{_mark(one)}") for one in footage]
        ordered = sorted(refused, key=lambda one: (one.file, one.why))
        return Found(tuple(sorted(own, key=lambda one: one.name)), tuple(ordered))


def safe_name(text: str) -> str:
    """`text` as a name for files and clips: what is no letter, digit, - or _ becomes _."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_") or "unnamed"
    name = name if name[0].isalnum() else f"x{name}"
    if len(name) > MAX_NAME:
        name = f"{name[: MAX_NAME - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    assert NAME.fullmatch(name)
    return name


def frames_of(footage: Footage, max_side_px: int | None = None) -> Iterator[VideoFrame]:
    """The frames of the stretch, cut to the region with a quarter of its size of room to every side.

    With `max_side_px` larger ones are scaled down.
    """
    if footage.region is None:
        yield from open_frames(footage.path, max_side_px=max_side_px, start_s=footage.start_s, end_s=footage.end_s)
        return
    for frame in open_frames(footage.path, start_s=footage.start_s, end_s=footage.end_s):
        height, width = frame.image_u8.shape[:2]
        left, top, right, bottom = _pixels(footage.region, width, height)
        part = frame.image_u8[top:bottom, left:right]
        width, height = fit_size(right - left, bottom - top, max_side_px)
        yield replace(frame, image_u8=np.ascontiguousarray(resize_u8(part, width, height)))


def full_size(footage: Footage) -> tuple[int, int, float]:
    """Width and height of the frames of `frames_of` without a limit, and how many there are in a second.

    InputError for a file that cannot be read, and for a region that lies outside of its picture.
    """
    info = open_frames(footage.path, start_s=footage.start_s, end_s=footage.end_s).info
    if footage.region is None:
        return info.width_px, info.height_px, info.fps
    left, top, right, bottom = _pixels(footage.region, info.width_px, info.height_px)
    if right - left < 16 or bottom - top < 16:
        raise InputError(f"{footage.path}: the annotated box lies outside of its picture; get the file that was meant")
    return right - left, bottom - top, info.fps


def _pixels(region: Region, width: int, height: int) -> tuple[int, int, int, int]:
    scale = height / (region.of_height_px or height)
    room = 0.25 * max(region.x1 - region.x0, region.y1 - region.y0)
    left, right = (round(min(max(x * scale, 0), width)) for x in (region.x0 - room, region.x1 + room))
    top, bottom = (round(min(max(y * scale, 0), height)) for y in (region.y0 - room, region.y1 + room))
    return left, top, right, bottom


def _mark(footage: Footage) -> str:
    return hashlib.sha256(f"{footage.path} {footage.start_s} {footage.end_s}".encode()).hexdigest()[:6]
