"""The driver's sound: copied into the file that is written where its codec fits, else encoded anew as AAC."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av

from gpavatar.media.video import clock_origin, open_container
from gpavatar.types import InputWarning, one_line

COPIED_CODECS = ("aac", "mp3")  # what every browser plays out of an mp4
AAC_RATES = (48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)


class AudioTrack:
    """The first sound track of `path`, written piece by piece into `output`.

    `start_s` of the clock of `path` becomes 0 of the output. A copied track begins one packet early, at a negative
    time that players skip: an AAC packet can only be decoded with the one before it.
    """

    @staticmethod
    def of_file(path: Path, output: av.container.OutputContainer) -> AudioTrack | None:
        """Add a sound stream to `output`; None where `path` has no sound that can be decoded."""
        container = open_container(path)
        stream = next((stream for stream in container.streams.audio if stream.codec_context), None)
        if stream is None:
            container.close()
            return None
        return AudioTrack(path, container, stream, output)

    def __init__(self, path: Path, container, stream, output: av.container.OutputContainer):
        self._path, self._container, self._input, self._target = path, container, stream, output
        context = stream.codec_context
        codec = context.codec.canonical_name
        self._origin = clock_origin(container)
        # AAC out of a transport stream lacks the header (extradata) that an mp4 needs
        self._copied = codec in COPIED_CODECS and (codec != "aac" or bool(context.extradata))
        if self._copied:
            self._output = output.add_stream_from_template(stream)
        else:
            rate = context.sample_rate if context.sample_rate in AAC_RATES else 48000
            self._output = output.add_stream("aac", rate=rate, layout="mono" if context.channels == 1 else "stereo")
            self._output.bit_rate = 128_000
        self._pieces: Iterator[av.Packet | av.AudioFrame] | None = None
        self._held: av.Packet | av.AudioFrame | None = None
        self._start_s = Fraction(0)
        self._last_s: Fraction | None = None

    def start(self, start_s: float) -> None:
        """Fix the time of `path` that becomes 0 of the output."""
        self._start_s = Fraction(start_s)
        if start_s > 0.5:
            with suppress(av.error.FFmpegError):  # no index: it is read from the beginning
                self._container.seek(math.floor((self._start_s + self._origin) * av.time_base))
        self._pieces = self._read()
        self._held = next(self._pieces, None)

    def mux_until(self, end_s: float) -> None:
        """Write what begins before `end_s` (clock of `path`) and is not written yet, on the clock of the output.

        Damaged sound ends early, with a warning: the pictures are worth more.
        """
        try:
            while self._held is not None and self._time(self._held) < end_s:
                if self._last_s is None or self._time(self._held) > self._last_s:  # no container takes a step back
                    self._last_s = self._time(self._held)
                    self._target.mux(list(self._emit(self._held)))
                self._held = next(self._pieces, None)
        except ValueError as error:  # a packet that the container does not take; another kind of sound on the way
            self._held = None
            self._warn(error)

    def mux_rest(self) -> None:
        """Write what the encoder still holds."""
        if not self._copied:
            self._target.mux(list(self._output.encode(None)))

    def close(self) -> None:
        """Close the input."""
        self._container.close()

    def _time(self, piece: av.Packet | av.AudioFrame) -> Fraction:
        return piece.pts * piece.time_base - self._origin

    def _emit(self, piece: av.Packet | av.AudioFrame) -> Iterator[av.Packet]:
        shift = round((self._start_s + self._origin) / piece.time_base)
        piece.pts -= shift
        if self._copied:
            piece.dts = piece.pts
            piece.stream = self._output
            yield piece
        else:
            yield from self._output.encode(piece)

    def _read(self) -> Iterator[av.Packet | av.AudioFrame]:
        """Packets (copied) or decoded frames from just before the start; ends early, with a warning, at damage."""
        try:
            for packet in self._container.demux(self._input):
                if self._copied:
                    if packet.pts is not None and self._time(packet) + 2 * self._duration(packet) > self._start_s:
                        yield packet
                    continue
                for frame in packet.decode():
                    if frame.pts is not None and self._time(frame) >= self._start_s:
                        yield frame
        except av.error.FFmpegError as error:
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        warnings.warn(
            f"{self._path}: its sound is damaged ({one_line(error)}); left out from there", InputWarning, stacklevel=3
        )

    def _duration(self, packet: av.Packet) -> Fraction:
        return (packet.duration or 0) * packet.time_base
