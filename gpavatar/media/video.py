"""Reading video: any file that FFmpeg reads -> 8-bit RGB frames with their true time stamps, one at a time.

Rotation, mirroring and pixel shape of the file are applied, so that what comes out looks as a player would show it.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol, runtime_checkable

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from jaxtyping import UInt8

from gpavatar.limits import MAX_VIDEO_PIXELS
from gpavatar.media.files import check_file, check_range, fit_size
from gpavatar.media.hdr import HDR_CURVES, to_sdr_u8
from gpavatar.types import InputError, InputWarning

MIN_STEP_S = 1e-3
COUNTED_BYTES = 64 << 20  # of a file that does not say how long it is
MAX_TIME_S = 1e6  # a time stamp beyond 11 days is damaged
# Without these two swscale darkens every picture by 1 to 2 levels; they cost 0.7 ms at 512x512.
FAITHFUL = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
MAX_PIXEL_SHAPE = 4  # width over height; what is beyond (film and television stay within 2.2) is damaged
COLORSPACE_UNSPECIFIED = 2  # AVCOL_SPC_UNSPECIFIED


@dataclass(frozen=True)
class VideoInfo:
    """What a file holds. Sizes are those of the frames as they come out: upright, square pixels, scaled if asked."""

    path: Path
    width_px: int
    height_px: int
    fps: float  # average over the file
    duration_s: float  # of the part that is read
    num_frames_estimate: int  # of the part that is read; exact for files that state it, else duration × fps
    has_audio: bool
    rotation_deg: int  # clockwise rotation that was applied: 0, 90, 180 or 270


@dataclass(frozen=True)
class VideoFrame:
    """One frame of a video, a directory or a single image."""

    index: int  # from 0, counting what is read
    time_s: float  # on the clock of the file, 0 = where a player starts; a start offset does not shift it
    image_u8: UInt8[np.ndarray, "height width 3"]  # RGB, contiguous


@runtime_checkable
class FrameReader(Protocol):
    """Anything that gives frames in order: `VideoReader`, `StillReader`, `AnimationReader`, `DirectoryReader`."""

    info: VideoInfo
    broken_at_s: float | None  # set by an iteration that ended before the file said it would

    def __iter__(self) -> Iterator[VideoFrame]: ...


def open_video(
    path: str | Path, *, max_side_px: int | None = None, start_s: float | None = None, end_s: float | None = None
) -> VideoReader:
    """Open a video file for reading; InputError (one line) for a file without a readable frame.

    Frames with start_s <= time < end_s are read, to the frame. With `max_side_px` a larger frame is scaled down while
    it is converted, so that 4K costs little memory and time.
    """
    return VideoReader(Path(path), max_side_px, start_s, end_s)


class VideoReader:
    """The frames of a video file. Each iteration reads the file anew; memory does not grow with its length."""

    def __init__(self, path: Path, max_side_px: int | None, start_s: float | None, end_s: float | None):
        check_file(path)
        check_range(path, start_s, end_s)
        self.path = path
        self.start_s = start_s
        self.end_s = end_s
        self.broken_at_s: float | None = None
        with open_container(path) as container:
            stream = _video_stream(container, path)
            first = _first_frame(container, stream, path)
            self._origin = clock_origin(container)
            self._fps = float(stream.average_rate or stream.guessed_rate or 25)
            self._file_end_s = _declared_end(stream, self._origin)
            end_estimate_s = self._file_end_s or (container.duration or 0) / av.time_base
            self._turn = Turn.of_frame(first)
            self._size = _display_size(first, stream, max_side_px)
            self._deinterlace = first.interlaced_frame
            has_audio = bool(container.streams.audio)
            num_frames = stream.frames
        if not num_frames and not end_estimate_s:
            num_frames = _counted(path)
            end_estimate_s = num_frames / self._fps
        if start_s is not None and self._file_end_s is not None and start_s >= self._file_end_s:
            raise InputError(f"{path}: start {start_s:g} s lies past its end at {self._file_end_s:g} s; choose less")
        duration = max(0.0, min(end_s or math.inf, end_estimate_s) - (start_s or 0.0))
        whole = start_s is None and end_s is None
        count = num_frames if whole and num_frames else max(1, round(duration * self._fps))
        width, height = self._size[::-1] if self._turn.transpose else self._size
        self.info = VideoInfo(path, width, height, self._fps, duration, count, has_audio, self._turn.clockwise_deg)

    def __iter__(self) -> Iterator[VideoFrame]:
        self.broken_at_s = None
        index, last_s = 0, -math.inf
        reformatter = VideoReformatter()
        for frame in self._frames_from_start():
            time_s = self._time_s(frame) if frame.pts is not None else math.inf
            if abs(time_s) > MAX_TIME_S:
                time_s = last_s + 1 / self._fps if math.isfinite(last_s) else 0.0
            # a time stamp that stands still or runs back would stop every writer
            time_s = max(time_s, last_s + MIN_STEP_S)
            if self.end_s is not None and time_s >= self.end_s - 1e-6:
                if index == 0:
                    break
                return
            last_s = time_s
            if self.start_s is not None and time_s < self.start_s - 1e-6:
                continue
            yield VideoFrame(index, time_s, self._turn.apply(_to_rgb(frame, self._size, reformatter)))
            index += 1
        if index == 0:
            raise InputError(
                f"{self.path}: no frame of it can be read from {self.start_s or 0:g} s on; choose another start"
            )
        shown_to_s = last_s + 1 / self._fps
        expected_s = min(self.end_s or math.inf, self._file_end_s or 0.0)
        if shown_to_s < expected_s - max(0.25, 2.5 / self._fps):
            self.broken_at_s = max(shown_to_s, 0.0)
            warnings.warn(
                f"{self.path}: breaks off at {self.broken_at_s:.2f} s of {expected_s:.2f} s; read up to there",
                InputWarning,
                stacklevel=2,
            )

    def _time_s(self, frame: av.VideoFrame) -> float:
        return float(frame.pts * frame.time_base - self._origin)

    def _frames_from_start(self) -> Iterator[av.VideoFrame]:
        """Frames from a key frame at or before the start; from the beginning where the file cannot seek there."""
        if self.start_s:
            with open_container(self.path) as container:
                frames = self._frames(container, seek_s=self.start_s)
                first = next(frames, None)
                if first is not None and first.pts is not None and self._time_s(first) <= self.start_s:
                    yield first
                    yield from frames
                    return
        with open_container(self.path) as container:
            yield from self._frames(container)

    def _frames(self, container: av.container.InputContainer, seek_s: float | None = None) -> Iterator[av.VideoFrame]:
        stream = _video_stream(container, self.path)
        stream.thread_type = "AUTO"
        if seek_s is not None:
            try:
                container.seek(math.floor((Fraction(seek_s) + self._origin) / stream.time_base), stream=stream)
            except av.error.FFmpegError:  # a bare stream has no index
                return
        yield from _deinterlaced(_decode(container, stream), stream, self._deinterlace)


@dataclass(frozen=True)
class Turn:
    """How a stored picture is turned for showing: first transpose, then the flips."""

    transpose: bool
    flip_x: bool
    flip_y: bool
    clockwise_deg: int

    @staticmethod
    def of_frame(frame: av.VideoFrame) -> Turn:
        """From the display matrix, x' = a x + c y, y' = b x + d y (ISO 14496-12 section 8.3.2), to quarter turns."""
        data = frame.side_data.get(SideDataType.DISPLAYMATRIX)
        if data is None:
            return Turn(False, False, False, 0)
        a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
        angle = round(math.degrees(math.atan2(b, a)) / 90) * 90 % 360
        transpose = abs(b) + abs(c) > abs(a) + abs(d)
        return Turn(True, c < 0, b < 0, angle) if transpose else Turn(False, a < 0, d < 0, angle)

    def apply(self, image_u8: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
        """The picture as it is shown, contiguous."""
        if self.transpose:
            image_u8 = image_u8.swapaxes(0, 1)
        step_x, step_y = (-1 if self.flip_x else 1), (-1 if self.flip_y else 1)
        return np.ascontiguousarray(image_u8[::step_y, ::step_x])


def open_container(path: Path) -> av.container.InputContainer:
    """Open a file with FFmpeg; InputError (one line) where it is not one that can be read."""
    try:
        return av.open(str(path), metadata_errors="replace")
    except PermissionError as error:
        raise InputError(f"{path}: not allowed to read it; change its permissions") from error
    except av.error.FFmpegError as error:
        with path.open("rb") as file:
            is_mp4 = file.read(12)[4:8] == b"ftyp"
        if is_mp4:
            message = "cut off before its index (the moov box) or damaged; copy or download it again"
        else:
            message = "not a video or image that can be read; give an mp4, mov, webm, png or jpg"
        raise InputError(f"{path}: {message}") from error


def _video_stream(container: av.container.InputContainer, path: Path) -> av.video.stream.VideoStream:
    """The first stream of moving pictures (a cover picture in a music file is none)."""
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        kind = "only sound" if container.streams.audio else "no pictures"
        raise InputError(f"{path}: holds {kind}; give a file with a video in it")
    context = streams[0].codec_context
    if context is None:
        raise InputError(
            f"{path}: its video codec is unknown or its header damaged; copy it again or convert it to H.264"
        )
    check_frame_size(path, context.width, context.height)
    context.options = {**context.options, "max_pixels": str(MAX_VIDEO_PIXELS)}  # what the stream says may differ
    return streams[0]


def check_frame_size(path: Path, width_px: int, height_px: int) -> None:
    """InputError for a size beyond 8K; a header that claims more is damaged or hostile."""
    if width_px * height_px > MAX_VIDEO_PIXELS:
        raise InputError(f"{path}: frames of {width_px}x{height_px} px are beyond 8K; scale it down first")


def _first_frame(container: av.container.InputContainer, stream, path: Path) -> av.VideoFrame:
    for frame in _decode(container, stream):
        return frame
    raise InputError(f"{path}: not one frame of it can be decoded; export or download it again")


def _decode(container: av.container.InputContainer, stream) -> Iterator[av.VideoFrame]:
    """All frames that can be decoded; a damaged packet loses its frame, not the rest of the file."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError:
            return
        try:
            yield from packet.decode()
        except av.error.FFmpegError:
            continue


def _counted(path: Path) -> int:
    """How many frames a file holds that does not say it, a live recording or a bare stream: by those it begins with."""
    frames = read = 0
    with open_container(path) as container:
        with suppress(av.error.FFmpegError):  # damage ends it, as it will end the reading
            for packet in container.demux(_video_stream(container, path)):
                frames, read = frames + (packet.size > 0), read + packet.size
                if read > COUNTED_BYTES:
                    break
        return max(1, round(frames * container.size / read)) if read > COUNTED_BYTES else frames


def _deinterlaced(frames: Iterator[av.VideoFrame], stream, interlaced: bool) -> Iterator[av.VideoFrame]:
    """The frames with their two half pictures merged (bwdif), one frame out per frame in; untouched if progressive."""
    if not interlaced:
        yield from frames
        return
    graph = av.filter.Graph()
    source = graph.add_buffer(template=stream)
    merge, sink = graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")
    source.link_to(merge)
    merge.link_to(sink)
    graph.configure()
    for frame in frames:
        graph.push(frame)
        yield from _pull(graph)
    graph.push(None)
    yield from _pull(graph)


def _pull(graph: av.filter.Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def clock_origin(container: av.container.InputContainer) -> Fraction:
    """The earliest time stamp of sound and pictures, in seconds: what a player calls 0."""
    streams = (*container.streams.video, *container.streams.audio)
    starts = [stream.start_time * stream.time_base for stream in streams if stream.start_time is not None]
    return min(starts, default=Fraction(0))


def _declared_end(stream, origin: Fraction) -> float | None:
    """Where the file says that its pictures end, seconds on the clock of the file; None where it says nothing."""
    if stream.duration is not None:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base - origin)
    tag = re.fullmatch(r"(\d+):(\d\d):(\d\d\.?\d*)", stream.metadata.get("DURATION", ""))  # Matroska
    if tag:
        return 3600 * int(tag[1]) + 60 * int(tag[2]) + float(tag[3]) - float(origin)
    return None


def _display_size(frame: av.VideoFrame, stream, max_side_px: int | None) -> tuple[int, int]:
    """(width, height) with square pixels, before the turn, scaled to `max_side_px`."""
    shape = stream.sample_aspect_ratio or Fraction(1)
    if not 1 / MAX_PIXEL_SHAPE <= shape <= MAX_PIXEL_SHAPE:
        shape = Fraction(1)
    return fit_size(max(1, round(frame.width * shape)), frame.height, max_side_px)


def _to_rgb(frame: av.VideoFrame, size: tuple[int, int], reformatter: VideoReformatter) -> np.ndarray:
    """8-bit RGB in BT.709; HDR curves are brought to the SDR range."""
    width, height = size
    options = {}
    if frame.colorspace == COLORSPACE_UNSPECIFIED:
        # what players assume: HD material is BT.709, smaller is BT.601
        options["src_colorspace"] = Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601
    smaller = width * height < frame.width * frame.height
    options["interpolation"] = (Interpolation.AREA if smaller else Interpolation.BILINEAR) | FAITHFUL
    rgb_u8 = reformatter.reformat(frame, width, height, "rgb24", **options).to_ndarray()
    return to_sdr_u8(rgb_u8, frame.color_trc) if frame.color_trc in HDR_CURVES else rgb_u8
