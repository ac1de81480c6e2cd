"""Writing frames: an H.264 video with the driver's sound, a single image, or a directory of images.

Frames are marked and encoded in a thread behind a short queue, so that this overlaps with rendering. What is asked for
appears under its name only when it is whole and signed.
"""

from __future__ import annotations

import queue
import shutil
import threading
import time
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter
from jaxtyping import UInt8

from gpavatar.media.audio import AudioTrack
from gpavatar.media.compose import add_label
from gpavatar.media.files import cannot_write, check_writable, put_in_place, remove_left_over, temporary_name
from gpavatar.media.image import save_image
from gpavatar.media.producer import Producer, this_producer
from gpavatar.media.provenance import Marks, check_producer, sign
from gpavatar.media.watermark import add_watermark
from gpavatar.types import InputError

VIDEO_OUT_SUFFIXES = (".mp4", ".mov", ".m4v")
IMAGE_OUT_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# Frame times of 24, 25, 30, 50, 60, 120 and of the NTSC rates (x 1000/1001) are whole multiples of this.
TIME_BASE = Fraction(1, 120_000)
QUEUE_FRAMES = 4
ALL_MARKS = Marks()


def open_writer(
    path: str | Path,
    width_px: int,
    height_px: int,
    *,
    fps: float = 25.0,
    audio_from: str | Path | None = None,
    marks: Marks | None = ALL_MARKS,
) -> FrameWriter:
    """The writer for `path` by its suffix: a video, an image (one frame), or without a suffix a directory of png.

    `marks` None is for pictures that are not generated, such as a drawing over the user's own video.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in VIDEO_OUT_SUFFIXES:
        return VideoWriter(path, width_px, height_px, fps=fps, audio_from=audio_from, marks=marks)
    if suffix in IMAGE_OUT_SUFFIXES:
        return ImageWriter(path, marks)
    if not suffix:
        return DirectoryWriter(path, marks)
    raise _unknown(path)


def check_output(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Make the directory of what `open_writer` is to write, before any work is done for it.

    InputError where it could not be written, or one of the `inputs` would be lost.
    """
    if path.suffix.lower() not in ("", *VIDEO_OUT_SUFFIXES, *IMAGE_OUT_SUFFIXES):
        raise _unknown(path)
    check_writable(path, inputs)
    if not path.suffix:
        _check_empty(path)


def _unknown(path: Path) -> InputError:
    known = " ".join((*VIDEO_OUT_SUFFIXES, *IMAGE_OUT_SUFFIXES))
    return InputError(f"{path}: cannot write {path.suffix} files; name one of {known}, or a directory")


def _check_empty(path: Path) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: exists and is not an empty directory; name another one")


def write_image(path: str | Path, image_u8: UInt8[np.ndarray, "height width 3"], marks: Marks = ALL_MARKS) -> None:
    """Write one generated picture, marked, as a png, jpg or webp. InputError (one line) where that is not possible."""
    with open_writer(path, image_u8.shape[1], image_u8.shape[0], marks=marks) as writer:
        writer.write(image_u8)


class FrameWriter:
    """Takes frames in order; a context manager.

    When the block ends well the result stands under its name. After an exception nothing does; after Ctrl-C
    (KeyboardInterrupt) what was written so far stands, playable, as `<stem>.partial<suffix>`.
    """

    def __init__(self, path: Path, marks: Marks | None = None):
        self.path = path
        self.num_written = 0
        self.busy_s = 0.0  # how long the encoding thread has worked
        self._marks = marks
        self._producer: Producer | None = None
        if marks:
            self._producer = this_producer()
            check_producer(self._producer)
        self._temporary = temporary_name(path)
        self._signed = temporary_name(path, "signed")
        self._error: BaseException | None = None
        self._abandoned = False
        self._told_to_stop = False
        self._finished = False
        self._queue: queue.Queue = queue.Queue(maxsize=QUEUE_FRAMES)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_left_over(path)
            self._temporary.touch()
        except OSError as error:
            raise cannot_write(path, error) from error
        self._temporary.unlink()
        self._thread = threading.Thread(target=self._work, name=f"write {path.name}", daemon=True)

    def write(self, image_u8: UInt8[np.ndarray, "height width 3"], time_s: float | None = None) -> None:
        """Queue one RGB frame; it may be changed afterwards. An error of the encoder is raised by a later call.

        `time_s` must grow from frame to frame; the first one becomes 0 of the output. None: at the fixed rate.
        """
        self._raise_error()
        if self._thread.ident is None:
            self._thread.start()
        self._queue.put((image_u8.copy(), time_s))
        self.num_written += 1

    def finish(self, partial: bool = False) -> Path | None:
        """Encode what is queued, close, and rename; returns the name it stands under, None when no frame was written.

        With `partial` that name is `<stem>.partial<suffix>`. When Ctrl-C strikes in here, it can be called again.
        """
        if self._finished:
            return None
        self._stop()
        self._finished = True
        try:
            self._raise_error()
            if not self.num_written:
                return None
            path = self.path.with_name(f"{self.path.stem}.partial{self.path.suffix}") if partial else self.path
            try:
                self._rename(path)
            except OSError as error:
                raise cannot_write(path, error) from error
            return path
        finally:
            self._remove_temporary()

    def discard(self) -> None:
        """Stop and leave nothing."""
        if self._finished:
            return
        self._abandoned = True
        self._stop()
        self._finished = True
        self._remove_temporary()

    def __enter__(self) -> FrameWriter:
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            self.finish()
        elif issubclass(kind, KeyboardInterrupt):
            self.finish(partial=True)
        else:
            self.discard()

    def _stop(self) -> None:
        if self._thread.ident is None:  # no frame was written
            self._close(discard=True)
            return
        if not self._told_to_stop:
            self._queue.put(None)
            self._told_to_stop = True
        self._thread.join()

    def _raise_error(self) -> None:
        if isinstance(self._error, OSError):
            raise cannot_write(self.path, self._error) from self._error
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        """The thread: encode until None comes; after an error go on emptying the queue, so that nobody waits."""
        for image_u8, time_s in iter(self._queue.get, None):
            if self._error is None and not self._abandoned:
                start_s = time.perf_counter()
                try:
                    self._encode(self._marked(image_u8), time_s)
                except BaseException as error:  # handed to the caller's thread by _raise_error
                    self._error = error
                self.busy_s += time.perf_counter() - start_s
        try:
            discard = self._abandoned or self._error is not None
            self._close(discard)
            if self._producer and not discard:
                self._sign()
        except BaseException as error:
            self._error = self._error or error

    def _marked(self, image_u8: np.ndarray) -> np.ndarray:
        if self._marks and self._marks.label:
            image_u8 = add_label(image_u8)
        return add_watermark(image_u8, self._producer.id) if self._producer else image_u8

    def _sign(self) -> None:
        """Put the credentials into what was encoded, before it is renamed: nothing unsigned stands under a name."""
        sign(self._temporary, self._signed, self.path.name, self._marks, self._producer)
        self._signed.replace(self._temporary)

    def _rename(self, path: Path) -> None:
        put_in_place(self._temporary, path)

    def _remove_temporary(self) -> None:
        self._temporary.unlink(missing_ok=True)
        self._signed.unlink(missing_ok=True)

    def _encode(self, image_u8: np.ndarray, time_s: float | None) -> None:
        raise NotImplementedError

    def _close(self, discard: bool) -> None:
        raise NotImplementedError


class VideoWriter(FrameWriter):
    """H.264 (yuv420p, BT.709, fast start) that plays in a browser, with true time stamps and the driver's sound.

    `fps` is the rate of frames without a time, and the length of the last one. The sound of `audio_from` is cut to
    the written range by the clock of its file, so frames must carry the driver's own times. An odd side is padded by
    one pixel, which H.264 asks for. Lower `crf` is better and larger; 18 is close to lossless to the eye.
    """

    def __init__(
        self,
        path: str | Path,
        width_px: int,
        height_px: int,
        *,
        fps: float = 25.0,
        audio_from: str | Path | None = None,
        crf: int = 18,
        preset: str = "veryfast",
        marks: Marks | None = None,
    ):
        super().__init__(Path(path), marks)
        self._shape = (height_px, width_px, 3)
        self._padding = ((0, height_px % 2), (0, width_px % 2), (0, 0))
        self._frame_s = 1 / fps
        self._first_s: float | None = None
        self._last_s = 0.0
        self._reformatter = VideoReformatter()
        self._audio: AudioTrack | None = None
        options = {"movflags": "+faststart"}
        try:
            self._container = av.open(str(self._temporary), "w", options=options)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        rate = Fraction(fps).limit_denominator(1001)
        self._stream = self._container.add_stream("libx264", rate=rate, options={"crf": str(crf), "preset": preset})
        self._stream.width, self._stream.height = width_px + width_px % 2, height_px + height_px % 2
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.time_base = TIME_BASE
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        try:
            if audio_from is not None:
                self._audio = AudioTrack.of_file(Path(audio_from), self._container)
        except BaseException:
            self.discard()
            raise

    def write(self, image_u8: UInt8[np.ndarray, "height width 3"], time_s: float | None = None) -> None:
        """As `FrameWriter.write`; the frame must have the size of the video."""
        assert image_u8.shape == self._shape, f"frame {image_u8.shape}, video {self._shape}"
        super().write(image_u8, time_s)

    def _encode(self, image_u8: np.ndarray, time_s: float | None) -> None:
        if self._first_s is None:
            self._first_s = time_s or 0.0
            if self._audio:
                self._audio.start(self._first_s)
        elif time_s is None:
            time_s = self._last_s + self._frame_s
        self._last_s = self._first_s if time_s is None else time_s
        if any(after for _, after in self._padding):
            image_u8 = np.pad(image_u8, self._padding, mode="edge")
        frame = self._reformatter.reformat(
            av.VideoFrame.from_ndarray(image_u8, "rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=Interpolation.AREA | Interpolation.ACCURATE_RND,
            threads=1,
        )
        frame.pts, frame.time_base = round((self._last_s - self._first_s) / TIME_BASE), TIME_BASE
        self._container.mux(self._stream.encode(frame))
        if self._audio:
            self._audio.mux_until(self._last_s)

    def _close(self, discard: bool) -> None:
        try:
            if not discard:
                self._container.mux(self._stream.encode(None))
                if self._audio:
                    self._audio.mux_until(self._last_s + self._frame_s)
                    self._audio.mux_rest()
        finally:
            if self._audio:
                self._audio.close()
            self._container.close()


class ImageWriter(FrameWriter):
    """One frame as a png, jpg or webp."""

    def _encode(self, image_u8: np.ndarray, time_s: float | None) -> None:
        if self._temporary.exists():
            raise InputError(f"{self.path}: an image holds one frame; name an .mp4 or a directory for several")
        save_image(self._temporary, image_u8)

    def _close(self, discard: bool) -> None:
        pass


class DirectoryWriter(FrameWriter):
    """A directory of 000000.png, 000001.png, ...; an existing one must be empty."""

    def __init__(self, path: Path, marks: Marks | None = None):
        _check_empty(path)
        super().__init__(path, marks)
        self._num_encoded = 0

    def _encode(self, image_u8: np.ndarray, time_s: float | None) -> None:
        self._temporary.mkdir(exist_ok=True)
        path = self._temporary / f"{self._num_encoded:06d}.png"
        save_image(path, image_u8)
        if self._marks:
            signed = temporary_name(path, "signed")
            sign(path, signed, path.name, self._marks, self._producer)
            signed.replace(path)
        self._num_encoded += 1

    def _close(self, discard: bool) -> None:
        pass

    def _sign(self) -> None:
        """Each picture was signed when it was encoded."""

    def _rename(self, path: Path) -> None:
        if path != self.path and path.exists():
            shutil.rmtree(path)
        put_in_place(self._temporary, path)

    def _remove_temporary(self) -> None:
        shutil.rmtree(self._temporary, ignore_errors=True)
