"""A result in, its marks out: the invisible watermark, the Content Credentials, the visible label.

python -m gpavatar.verify out.mp4
"""

from __future__ import annotations

import dataclasses
import json as json_text
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import UInt8
from rich.console import Console
from rich.progress import track

from gpavatar.config import run_program
from gpavatar.limits import MAX_VIDEO_PIXELS
from gpavatar.media.frames import image_files, open_frames
from gpavatar.media.label_reader import label_seen
from gpavatar.media.provenance import Credentials, read_credentials
from gpavatar.media.watermark_reader import read_watermark
from gpavatar.types import InputError

LOOKED_AT_S = 4.0  # of a video; the mark is the same in all of it
MAX_PIXELS = 150_000_000  # of the frames looked at together: large ones need not be as many


@dataclass(frozen=True)
class Watermark:
    """The invisible mark as it was read from the first seconds."""

    payload: int | None  # the producer id; None where there is no mark
    producer: str | None  # the same in hexadecimal
    bit_error: float | None  # fraction of the channel bits that were read wrongly and corrected
    scale: float | None  # of the picture against the one that was marked


@dataclass(frozen=True)
class Report:
    """What a file carries."""

    file: str
    marked: bool  # all that is asked for is there
    watermark: Watermark
    c2pa: Credentials
    label: bool  # seen in the picture


NO_CREDENTIALS = Credentials(False, False, False, "", (), None, ("none",))


def verify(file: tyro.conf.Positional[Path], json: bool = False) -> int:
    """Say which marks of this program a video, an image or a directory of frames carries.

    Exit code 0 where all are there: the watermark, credentials that are valid and say AI-generated, and the label in
    the picture or a consent in the credentials; 1 where one is missing; 2 where the file cannot be read.

    Args:
        file: A video, an image, or a directory of frames.
        json: Say it as JSON.
    """
    report = examine(file)
    print(json_text.dumps(dataclasses.asdict(report), indent=2) if json else in_words(report))
    return 0 if report.marked else 1


def examine(file: Path) -> Report:
    """The marks of a file. InputError where it holds no picture that can be read."""
    looking = _Looking(file)
    reading = read_watermark(looking)
    scale = None if reading.payload is None else reading.scale
    producer = None if reading.payload is None else f"{reading.payload:08x}"
    watermark = Watermark(reading.payload, producer, reading.bit_error, scale)
    credentials, label = _credentials(file), label_seen(looking.mean_u8)
    proven = credentials.valid and credentials.ai_generated
    marked = watermark.payload is not None and proven and (label or credentials.consent is not None)
    return Report(str(file), marked, watermark, credentials, label)


def in_words(report: Report) -> str:
    """The report for people, a line for each mark."""
    mark, credentials = report.watermark, report.c2pa
    if mark.payload is None:
        hidden = "none found"
    else:
        hidden = f"producer {mark.producer}, {mark.bit_error:.1%} of its bits corrected, scale {mark.scale:.2f}"
    if credentials == NO_CREDENTIALS:
        said = "none"
    elif not credentials.valid:
        said = f"NOT VALID, the file was changed ({', '.join(credentials.problems)})"
    else:
        said = f"valid, {'AI-generated' if credentials.ai_generated else 'not said to be AI-generated'}, signed by "
        said += f"{credentials.signer} ({'trusted' if credentials.trusted else 'a key that nobody vouches for'})"
    lines = [f"watermark    {hidden}", f"credentials  {said}"]
    lines += [f"  made from  {ingredient.name}, sha256 {ingredient.sha256}" for ingredient in credentials.inputs]
    lines += [f"  consent    {credentials.consent}"] if credentials.consent is not None else []
    lines += [f"label        {'seen' if report.label else 'not seen'}"]
    lines += [f"{report.file}: {'all marks are there' if report.marked else 'marks are missing'}"]
    return "\n".join(lines)


class _Looking:
    """The frames of the first seconds, one at a time, and their mean, in which what stands still is clearest."""

    def __init__(self, file: Path):
        self._frames = open_frames(file, end_s=LOOKED_AT_S)
        info = self._frames.info
        if info.width_px * info.height_px > MAX_VIDEO_PIXELS:
            size = f"{info.width_px}x{info.height_px} px"
            raise InputError(f"{file}: {size} are more than any result has; scale it down (half the size is no harm)")
        self._sum, self._count = np.zeros(()), 0

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        pixels = 0
        for frame in self._frames:
            self._sum, self._count = self._sum + frame.image_u8.astype(np.float32), self._count + 1
            yield frame.image_u8
            pixels += frame.image_u8[..., 0].size
            if pixels > MAX_PIXELS:
                return

    @property
    def mean_u8(self) -> UInt8[np.ndarray, "height width 3"]:
        return np.rint(self._sum / self._count).astype(np.uint8)


def _credentials(file: Path) -> Credentials:
    """Those of the file; of a directory those of its first picture, valid only if all of them are."""
    if not file.is_dir():
        return read_credentials(file) or NO_CREDENTIALS
    pictures = image_files(file)
    shown = track(pictures, "checking signatures", console=Console(stderr=True), transient=True)
    found = [read_credentials(picture) or NO_CREDENTIALS for picture in shown]
    problems = tuple(
        f"{picture.name}: {problem}"
        for picture, each in zip(pictures, found, strict=True)
        for problem in each.problems
        if not each.valid
    )
    everywhere = {field: all(getattr(each, field) for each in found) for field in ("valid", "trusted", "ai_generated")}
    return dataclasses.replace(found[0], **everywhere, problems=problems)


if __name__ == "__main__":
    sys.exit(run_program(verify, prog="python -m gpavatar.verify"))
