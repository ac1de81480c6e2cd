"""One iterator for whatever holds frames: a video, a still image, an animated GIF/WebP/PNG, a directory of images."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from gpavatar.limits import MAX_ANIMATION_PIXELS
from gpavatar.media.files import check_file, check_range, fit_size
from gpavatar.media.image import (
    IMAGE_SUFFIXES,
    damage_named,
    flatten,
    is_heif,
    is_image,
    open_image,
    read_image,
    to_srgb,
)
from gpavatar.media.video import FrameReader, VideoFrame, VideoInfo, open_video
from gpavatar.types import InputError, InputWarning

ANIMATED_FORMATS = ("GIF", "WEBP", "PNG")  # a second picture in JPEG or TIFF is a thumbnail, a depth map or a page
DEFAULT_FRAME_S = 0.1  # what browsers use for an animation that states no delay


def open_frames(
    path: str | Path,
    *,
    max_side_px: int | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
    fps: float = 25.0,
) -> FrameReader:
    """Open anything that holds frames; the content decides, not the suffix. `fps` is for directories and stills.

    Frames with start_s <= time < end_s are read. InputError (one line) where there is nothing to read.
    """
    path = Path(path)
    if path.is_dir():
        return DirectoryReader(path, max_side_px, start_s, end_s, fps)
    check_file(path)
    if not is_heif(path) and not is_image(path):
        return open_video(path, max_side_px=max_side_px, start_s=start_s, end_s=end_s)
    with open_image(path) as image:
        animated = image.format in ANIMATED_FORMATS and _num_pictures(image, path) > 1
    if animated:
        return AnimationReader(path, max_side_px, start_s, end_s)
    return DirectoryReader(path, max_side_px, None, None, fps)


class DirectoryReader:
    """The images of a directory in natural order (2.png before 10.png), or one still image, at a fixed rate.

    All frames have the size of the first; one of another size is an InputError that names it.
    """

    broken_at_s = None

    def __init__(self, path: Path, max_side_px: int | None, start_s: float | None, end_s: float | None, fps: float):
        check_range(path, start_s, end_s)
        files = [path] if path.is_file() else image_files(path)
        self._files = [
            (index / fps, file)
            for index, file in enumerate(files)
            if (start_s or 0.0) - 1e-6 <= index / fps < (end_s or math.inf) - 1e-6
        ]
        if not self._files:
            raise InputError(f"{path}: holds {len(files)} frames, none between {start_s} s and {end_s} s")
        self._max_side_px = max_side_px
        self._first: np.ndarray | None = read_image(self._files[0][1], max_side_px)  # until it is asked for
        height, width = self._first.shape[:2]
        count = len(self._files)
        self.info = VideoInfo(path, width, height, fps, count / fps, count, has_audio=False, rotation_deg=0)

    def __iter__(self) -> Iterator[VideoFrame]:
        for index, (time_s, file) in enumerate(self._files):
            image, self._first = self._first, None
            if index or image is None:
                image = read_image(file, self._max_side_px)
            if image.shape != (self.info.height_px, self.info.width_px, 3):
                asked = f"{self.info.width_px}x{self.info.height_px}"
                found = f"{image.shape[1]}x{image.shape[0]}"
                raise InputError(f"{file}: {found} px, but the first frame has {asked}; give frames of one size")
            yield VideoFrame(index, time_s, image)


class AnimationReader:
    """An animated GIF, WebP or PNG with the delays it states, alpha flattened over white."""

    def __init__(self, path: Path, max_side_px: int | None, start_s: float | None, end_s: float | None):
        check_range(path, start_s, end_s)
        self.path, self._start_s, self._end_s = path, start_s or 0.0, end_s or math.inf
        self.broken_at_s: float | None = None
        times = [time_s for time_s, _ in self._pictures()]
        inside = [time_s for time_s in times if self._start_s - 1e-6 <= time_s < self._end_s - 1e-6]
        if not inside:
            raise InputError(f"{path}: has no frame between {start_s} s and {end_s} s; it ends at {times[-1]:g} s")
        with open_image(path) as image:
            self._size = fit_size(*image.size, max_side_px)
        fps = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 1 / DEFAULT_FRAME_S
        duration, count = len(inside) / fps, len(inside)
        self.info = VideoInfo(path, *self._size, fps, duration, count, has_audio=False, rotation_deg=0)

    def __iter__(self) -> Iterator[VideoFrame]:
        self.broken_at_s = None
        index = 0
        for time_s, picture in self._pictures():
            if time_s >= self._end_s - 1e-6:
                return
            if time_s >= self._start_s - 1e-6:
                image = flatten(to_srgb(picture).resize(self._size, Image.Resampling.BILINEAR))
                yield VideoFrame(index, time_s, np.array(image))
                index += 1
        if self.broken_at_s is not None:
            warnings.warn(
                f"{self.path}: breaks off at {self.broken_at_s:.2f} s; read up to there", InputWarning, stacklevel=2
            )

    def _pictures(self) -> Iterator[tuple[float, Image.Image]]:
        """All that can be decoded, at least one."""
        with open_image(self.path) as image:
            count = _num_pictures(image, self.path)
            if count * image.width * image.height > MAX_ANIMATION_PIXELS:
                size = f"{count} frames of {image.width}x{image.height} px"
                raise InputError(f"{self.path}: {size} are more than an animation holds; make it a video")
            time_s = 0.0
            for number in range(count):
                try:
                    with damage_named(self.path):
                        image.seek(number)
                        image.load()
                except InputError:
                    if number == 0:
                        raise
                    self.broken_at_s = time_s
                    return
                yield time_s, image
                time_s += (image.info.get("duration") or 0) / 1000 or DEFAULT_FRAME_S


def _num_pictures(image: Image.Image, path: Path) -> int:
    with damage_named(path):  # a GIF is read through to count them
        return getattr(image, "n_frames", 1)


def natural_key(path: Path) -> list[tuple[int, int | str]]:
    """Sort key under which numbers in a name count as numbers."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


def image_files(directory: Path) -> list[Path]:
    """The images of a directory in natural order; InputError where there is none."""
    names = (file for file in directory.iterdir() if not file.name.startswith("."))
    files = sorted((file for file in names if file.suffix.lower() in IMAGE_SUFFIXES), key=natural_key)
    if not files:
        raise InputError(f"{directory}: no images in this directory; give one with png or jpg frames")
    return files
