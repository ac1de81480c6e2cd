"""Awkward media files, made on the spot with PyAV and Pillow: what people really bring."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

RED, GREEN, BLUE = (200, 60, 50), (60, 180, 70), (50, 70, 190)
TIME_BASE = Fraction(1, 12_000)


def marked_frame(width: int, height: int, index: int = 0) -> np.ndarray:
    """Red upper left, green upper right, blue lower left; the lower right is grey and counts: 30 + 5 × index."""
    frame = np.empty((height, width, 3), np.uint8)
    top, left = height // 2, width // 2
    frame[:top, :left], frame[:top, left:], frame[top:, :left] = RED, GREEN, BLUE
    frame[top:, left:] = 30 + 5 * (index % 45)
    return frame


def read_index(image: np.ndarray) -> int:
    """The count that `marked_frame` wrote, in an upright picture."""
    height, width = image.shape[:2]
    return round((image[height * 5 // 8 : height * 7 // 8, width * 5 // 8 : width * 7 // 8].mean() - 30) / 5)


def corners(image: np.ndarray) -> list[str]:
    """What is seen upper left, upper right, lower left, lower right."""
    height, width = image.shape[:2]
    names = {"red": RED, "green": GREEN, "blue": BLUE}

    def name(y: int, x: int) -> str:
        patch = image[y : y + height // 8 + 1, x : x + width // 8 + 1].reshape(-1, 3).mean(0)
        near = [name for name, colour in names.items() if np.abs(patch - colour).max() < 25]
        return near[0] if near else "grey"

    low, right = height * 3 // 4, width * 3 // 4
    return [name(height // 8, width // 8), name(height // 8, right), name(low, width // 8), name(low, right)]


def write_clip(
    path: Path,
    frames: Sequence[np.ndarray],
    times_s: Sequence[float] | None = None,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    container_format: str | None = None,
    container_options: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
    rotation_deg: int = 0,
    mirrored: bool = False,
    pixel_shape: Fraction | None = None,
    colorspace: int | None = None,
    tagged: bool = True,
    sound: np.ndarray | None = None,
    sound_codec: str = "aac",
    sound_rate: int = 16_000,
) -> Path:
    """Encode RGB frames (25 per second without `times_s`), and mono sound in [-1, 1] if given.

    `rotation_deg` is how far a player has to turn the picture clockwise, `mirrored` whether it flips it then.
    """
    height, width = frames[0].shape[:2] if len(frames) else (64, 64)
    times_s = [index / 25 for index in range(len(frames))] if times_s is None else times_s
    with av.open(str(path), "w", format=container_format, options=container_options or {}) as output:
        video = output.add_stream(codec, rate=25, options=options or {})
        video.width, video.height, video.pix_fmt = width, height, pix_fmt
        if codec not in ("mpeg4", "mpeg2video", "mjpeg"):
            video.codec_context.time_base = TIME_BASE
        if pixel_shape:
            video.codec_context.sample_aspect_ratio = pixel_shape
        if colorspace and tagged:
            video.codec_context.colorspace = colorspace
            video.codec_context.color_range = ColorRange.MPEG
        if rotation_deg or mirrored:
            video.set_display_rotation(-rotation_deg, hflip=mirrored)
        audio = output.add_stream(sound_codec, rate=sound_rate, layout="mono") if sound is not None else None
        output.start_encoding()
        for image, time_s in zip(frames, times_s, strict=True):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            if colorspace:
                frame = frame.reformat(format=pix_fmt, dst_colorspace=colorspace, dst_color_range=ColorRange.MPEG)
                frame.colorspace = colorspace if tagged else 2  # unspecified
            elif pix_fmt.startswith("yuv"):
                frame = frame.reformat(format=pix_fmt, dst_colorspace=Colorspace.ITU601)
            frame.time_base = video.codec_context.time_base
            frame.pts = round(time_s / frame.time_base)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        if audio is not None:
            output.mux(sound_packets(audio, sound, sound_rate))
    return path


def write_sound(path: Path, sound: np.ndarray, rate: int = 16_000, codec: str = "aac") -> Path:
    """A file with sound and nothing else."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=rate, layout="mono")
        output.mux(sound_packets(stream, sound, rate))
    return path


def read_sound(path: Path) -> tuple[np.ndarray, int, float]:
    """Mono samples as a player plays them, their rate, and the time of the first one after the pictures begin."""
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        frames = list(container.decode(audio))
        start_s = float(frames[0].pts * frames[0].time_base - video.start_time * video.time_base)
        samples = np.concatenate([frame.to_ndarray().reshape(-1, frame.samples)[0] for frame in frames])
        return samples.astype(np.float64), frames[0].sample_rate, start_s


def clicks(duration_s: float, at_s: Sequence[float], rate: int = 16_000) -> np.ndarray:
    """Silence with bursts of noise, 10 ms each."""
    sound = np.zeros(round(duration_s * rate), np.float32)
    noise = np.random.default_rng(0).uniform(-0.8, 0.8, rate // 100).astype(np.float32)
    for time_s in at_s:
        sound[round(time_s * rate) :][: len(noise)] = noise
    return sound


def click_times(samples: np.ndarray, rate: int, start_s: float) -> list[float]:
    """Where the bursts begin, seconds."""
    loud = np.flatnonzero(np.abs(samples) > 0.25 * np.abs(samples).max())
    first = loud[np.flatnonzero(np.diff(loud, prepend=-rate) > rate // 10)]
    return [start_s + index / rate for index in first]


def sound_packets(stream, sound: np.ndarray, rate: int) -> list[av.Packet]:
    """Mono sound, encoded."""
    packets = []
    for start in range(0, len(sound), 1024):
        frame = av.AudioFrame.from_ndarray(sound[None, start : start + 1024], "fltp", "mono")
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), start
        packets += stream.encode(frame)
    return packets + stream.encode(None)
