"""VFHQ (Xie et al., 2022): its clip lists as they are published -> footage.

One text file per clip, Clip+VIDEO+P<person>+C<clip>+F<first>-<last>.txt, with lines H, W and FPS of the video, CROP
x0 y0 x1 y1 around the person, then a line per frame, which is not needed here. The videos lie below the same folder as
VIDEO.mp4 (python -m data_prep fetch gets them), or a clip as a folder of its frames under the clip's own name.
"""

from __future__ import annotations

import re
from pathlib import Path

from data_prep.find import VIDEO_SUFFIXES
from data_prep.footage import Footage, Found, Refused, Region, safe_name
from gpavatar.types import InputError

NAME = re.compile(r"Clip\+(?P<video>.+)\+P(?P<person>\d+)\+C(?P<clip>\d+)\+F(?P<first>\d+)-(?P<last>\d+)")
LICENCE = "VFHQ: annotations for research; the videos are their owners'"
MAX_LIST_BYTES = 8 << 20


def find_vfhq(folder: Path) -> Found:
    """The clips of all lists below `folder`; a person of a video is an identity.

    Refused, each with its reason: lists that are not as published, and clips whose video is not there. InputError
    where there is no list.
    """
    lists = sorted(folder.rglob("Clip+*.txt"))
    if not lists:
        raise InputError(f"{folder}: holds no lists of VFHQ (Clip+*.txt); give --in the folder that does")
    videos = {path.stem: path for path in sorted(folder.rglob("*")) if path.suffix.lower() in VIDEO_SUFFIXES}
    footage, refused = [], []
    for path in lists:
        try:
            footage.append(_footage(path, videos))
        except InputError as error:
            refused.append(Refused(path.name, str(error).removeprefix(f"{path}: ")))
    return Found.of(footage, refused)


def vfhq_videos(folder: Path) -> dict[str, str]:
    """File name without suffix -> address, of every video that a list names."""
    named = (NAME.fullmatch(path.stem) for path in folder.rglob("Clip+*.txt"))
    return {name["video"]: f"https://www.youtube.com/watch?v={name['video']}" for name in named if name}


def _footage(path: Path, videos: dict[str, Path]) -> Footage:
    name = NAME.fullmatch(path.stem)
    if name is None:
        raise InputError(f"{path}: not called as clips of VFHQ are, Clip+VIDEO+P0+C0+F0-9.txt")
    clip, identity = safe_name(path.stem.removeprefix("Clip+")), safe_name(f"{name['video']}_P{name['person']}")
    frames = path.with_suffix("")
    if frames.is_dir():
        return Footage(clip, frames, identity, licence=LICENCE)
    if name["video"] not in videos:
        raise InputError(f"{path}: its video {name['video']} is not there; get it with python -m data_prep fetch")
    values = _values(path)
    (height,), (fps,) = _numbers(values, "H", 1, path), _numbers(values, "FPS", 1, path)
    x0, y0, x1, y1 = _numbers(values, "CROP", 4, path)
    first, last = int(name["first"]), int(name["last"])
    if not (height > 0 and fps > 0 and x0 < x1 and y0 < y1 and first < last):
        raise InputError(f"{path}: encloses nothing (CROP {x0:g} {y0:g} {x1:g} {y1:g}, frames {first} to {last})")
    region = Region(x0, y0, x1, y1, of_height_px=int(height))
    start_s, end_s = first / fps, last / fps
    return Footage(clip, videos[name["video"]], identity, start_s=start_s, end_s=end_s, region=region, licence=LICENCE)


def _values(path: Path) -> dict[str, list[str]]:
    """Label -> words after it, of the lines that begin with a word."""
    try:
        with path.open(encoding="utf-8") as file:
            lines = file.read(MAX_LIST_BYTES).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); download the lists again") from error
    words = [line.replace(":", " ").split() for line in lines if line[:1].isalpha()]
    return {line[0].upper(): line[1:] for line in words}


def _numbers(values: dict[str, list[str]], label: str, count: int, path: Path) -> list[float]:
    try:
        numbers = [float(word) for word in values[label][-count:]]
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: has no line {label} with {count} numbers; download the lists again") from error
    if len(numbers) < count:
        raise InputError(f"{path}: its line {label} has {len(numbers)} numbers of {count}; download the lists again")
    return numbers
