"""Stage find: any folder of videos, photos, folders of frames and archives -> footage.

What lies in the folder is not trusted: links are not followed, archives are unpacked by `data_prep.archive`, and
nothing is opened here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.archive import ARCHIVE_SUFFIXES, unpack
from data_prep.footage import Footage, Found, Refused, safe_name
from gpavatar.media.image import IMAGE_SUFFIXES
from gpavatar.types import InputError

VIDEO_SUFFIXES = (
    ".mp4",
    ".mov",
    ".m4v",
    ".webm",
    ".mkv",
    ".avi",
    ".mpg",
    ".mpeg",
    ".ts",
    ".mts",
    ".flv",
    ".wmv",
    ".3gp",
)
FRAME = re.compile(r"\D*\d{2,}")  # what the frames of a video are called: the same letters, then a number
MIN_FRAMES = 10


@dataclass(frozen=True)
class Terms:
    """What holds for all footage of a folder. The default is the careful one."""

    tier: str = "research"
    licence: str = "not stated"
    split: str = "train"


def find_folder(folder: Path, unpacked: Path, terms: Terms | None = None) -> Found:
    """Everything in `folder` and below. Archives are unpacked into `unpacked`, once.

    A subfolder of the folder is a person, everything in it theirs; a file that lies in the folder itself is a person of
    its own. Ten or more images that are called alike but for their numbers are the frames of one video.
    InputError where there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give --in the folder with the videos and photos")
    footage, refused = [], []
    for path in _below(folder.resolve()):
        relative = path.relative_to(folder.resolve())
        if path.is_symlink():
            refused.append(Refused(str(relative), "a link; put the file itself here, or give its folder with --in"))
        elif path.is_dir():
            footage.append(_footage(path, relative, terms or Terms()))
        elif path.name.lower().endswith(ARCHIVE_SUFFIXES):
            inner = unpacked / safe_name(str(relative))
            try:
                unpack(path, inner)
            except InputError as error:
                refused.append(Refused(str(relative), str(error).removeprefix(f"{path}: ")))
                continue
            for member in _below(inner.resolve()):
                at = relative / member.relative_to(inner.resolve())
                if member.is_dir() or member.suffix.lower() in VIDEO_SUFFIXES + IMAGE_SUFFIXES:
                    footage.append(_footage(member, at, terms or Terms()))
        elif path.suffix.lower() in VIDEO_SUFFIXES + IMAGE_SUFFIXES:
            footage.append(_footage(path, relative, terms or Terms()))
    return Found.of(footage, refused)


def _below(folder: Path) -> Iterator[Path]:
    """Files and links, in order; a folder instead of its files where those are the frames of a video."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    if _is_video_of_frames(entries):
        yield folder
        return
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            yield from _below(entry)
        elif entry.is_file() or entry.is_symlink():
            yield entry


def _is_video_of_frames(entries: list[Path]) -> bool:
    images = [entry for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES]
    named = [entry.stem for entry in images if FRAME.fullmatch(entry.stem) and not entry.is_symlink()]
    alike = len({(re.sub(r"\d+", "", stem)) for stem in named}) == 1
    return len(images) >= MIN_FRAMES and len(named) == len(images) and alike


def _footage(path: Path, relative: Path, terms: Terms) -> Footage:
    named = relative if path.is_dir() else relative.with_suffix("")
    person = relative.parts[0] if len(relative.parts) > 1 else str(named)
    return Footage(
        name=safe_name(str(named)),
        path=path,
        identity=safe_name(person),
        identity_known=len(relative.parts) > 1,
        tier=terms.tier,
        licence=terms.licence,
        split=terms.split,
    )
