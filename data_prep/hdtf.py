"""HDTF (Zhang et al., 2021): its lists as they are published -> footage.

    RD_video_url.txt       Radio11 https://...
    RD_annotion_time.txt   Radio11.mp4 00:30-01:00 01:30-02:30       stretches of the video: its clips 0, 1, ...
    RD_crop_wh.txt         Radio11_0.mp4 412 599 0 599               x, width, y, height of the person in clip 0 ...
    RD_resolution.txt      Radio11.mp4 720                           ... in frames so high

likewise for WDA and WRA. The videos lie below the same folder as Radio11.mp4 (python -m data_prep fetch gets them).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.find import VIDEO_SUFFIXES
from data_prep.footage import Footage, Found, Refused, Region, safe_name
from gpavatar.types import InputError

TIMES, URLS, CROPS, HEIGHTS = "_annotion_time.txt", "_video_url.txt", "_crop_wh.txt", "_resolution.txt"
LICENCE = "HDTF: annotations CC BY 4.0; the videos are their owners'"
SERIAL = re.compile(r"\d*_\d+$")  # WRA_PeterRoskam0_000 and WRA_PeterRoskam1_000 are one person


@dataclass(frozen=True)
class _Line:
    """A line of a list: what it is about (without .mp4), the words after it."""

    about: str
    words: list[str]


def find_hdtf(folder: Path) -> Found:
    """The clips of all lists below `folder`; a name without its serial number is an identity.

    Refused, each with its reason: lines that are not as published, and clips whose video is not there. InputError
    where there is no list of times.
    """
    lists = sorted(folder.rglob(f"*{TIMES}"))
    if not lists:
        raise InputError(f"{folder}: holds no lists of HDTF (*{TIMES}); give --in the folder that does")
    videos = {path.stem: path for path in sorted(folder.rglob("*")) if path.suffix.lower() in VIDEO_SUFFIXES}
    footage, refused = [], []
    for times in lists:
        crops, heights = (
            {line.about: line.words for line in _lines(times.with_name(times.name.replace(TIMES, suffix)))}
            for suffix in (CROPS, HEIGHTS)
        )
        for line in _lines(times):
            for number, stretch in enumerate(line.words):
                name = f"{line.about}_{number}"
                try:
                    footage.append(
                        _footage(name, stretch, videos.get(line.about), crops.get(name), heights.get(line.about))
                    )
                except InputError as error:
                    refused.append(Refused(name, str(error)))
    return Found.of(footage, refused)


def hdtf_videos(folder: Path) -> dict[str, str]:
    """File name without suffix -> address, of every video that a list names."""
    lines = (line for path in sorted(folder.rglob(f"*{URLS}")) for line in _lines(path))
    return {line.about: line.words[0] for line in lines if line.words}


def _footage(name: str, stretch: str, path: Path | None, crop: list[str] | None, height: list[str] | None) -> Footage:
    times = re.fullmatch(r"([\d:.]+)-([\d:.]+)", stretch)
    if times is None:
        raise InputError(f"{stretch!r} is no stretch of time as 00:30-01:00")
    start_s, end_s = (_seconds(clock) for clock in times.groups())
    if end_s <= start_s:
        raise InputError(f"{stretch!r} ends before it begins")
    if path is None:
        raise InputError("its video is not there; get it with python -m data_prep fetch")
    region = None
    if crop is not None:
        try:
            x, width, y, tall = (float(word) for word in crop)
            of_height_px = int(height[-1]) if height else None
        except ValueError as error:
            raise InputError(f"its crop {' '.join(crop)!r} or its height is no number") from error
        region = Region(x, y, x + width, y + tall, of_height_px)
    person = safe_name(SERIAL.sub("", path.stem))
    return Footage(safe_name(name), path, person, start_s=start_s, end_s=end_s, region=region, licence=LICENCE)


def _seconds(clock: str) -> float:
    try:
        parts = [float(part) for part in clock.split(":")]
    except ValueError as error:
        raise InputError(f"{clock!r} is no time as 01:30") from error
    return sum(part * 60**power for power, part in enumerate(reversed(parts)))


def _lines(path: Path) -> Iterator[_Line]:
    """The lines of a list; none where there is no such list."""
    if not path.exists():
        return
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); download the lists again") from error
    for line in text.splitlines():
        if words := line.split():
            yield _Line(words[0].removesuffix(".mp4"), words[1:])
