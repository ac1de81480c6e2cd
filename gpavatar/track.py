"""Raw video, image or directory of frames in, head parameters and camera of every frame out.

python -m gpavatar.track clip.mp4 -o tracks.npz --preview overlay.mp4
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import cv2
import numpy as np
import tyro
from jaxtyping import UInt8
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from gpavatar.config import run_program
from gpavatar.face.morphable import MorphableHead
from gpavatar.face.open_head import OpenHead
from gpavatar.face.raster import interpolate, rasterize, to_screen, vertex_normals
from gpavatar.media.files import check_writable, sha256_of
from gpavatar.media.frames import open_frames
from gpavatar.media.writer import check_output, open_writer
from gpavatar.pipeline import parse_face
from gpavatar.streaming import prefetch
from gpavatar.tracking.track_file import TrackSource, save_track
from gpavatar.tracking.tracker import Tracker, TrackerConfig, as_track
from gpavatar.types import FaceStatus, InputError, Track, TrackedFrame

T = TypeVar("T")
MAX_SIDE_PX = 4096  # a larger picture is scaled down as it is read: it shows the detector nothing more
PREVIEW_SIDE_PX = 1280
STATUS_COLOURS = {FaceStatus.TRACKED: (80, 255, 120), FaceStatus.INTERPOLATED: (255, 200, 60)}


@dataclass(frozen=True)
class Options:
    """What the command line takes."""

    input: tyro.conf.Positional[Path]
    """A video, an image, or a directory of frames."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("tracks.npz")
    """Where to write the track."""
    preview: Path | None = None
    """Also write a video with the fitted head (blue) and the landmarks (dots) over the picture."""
    face: str = "largest"
    """Whom to follow: largest, left, right, or a number counted from the left, from 1."""
    mode: Literal["offline", "causal"] = "offline"
    """offline: the whole clip decides shape and smoothing; causal: each frame only those before it, as when live."""
    start: float | None = None
    """Where in the clip to start, seconds."""
    end: float | None = None
    """Where to end, seconds."""
    focal: float | None = None
    """Focal length in lengths of the picture's longer side (default: such that the face is 1 m away)."""


def track(options: Annotated[Options, tyro.conf.arg(name="")]) -> None:
    """Find the face in every frame of INPUT and fit the head model to it; write the parameters to an .npz file."""
    if options.output.suffix != ".npz":
        raise InputError(f"{options.output}: a track is an .npz file; give -o a name that ends so")
    if options.focal is not None and not 0.2 <= options.focal <= 50:
        raise InputError(f"focal {options.focal:g}: must lie between 0.2 and 50 longer picture sides")
    check_writable(options.output, [options.input])
    if options.preview is not None:
        check_output(options.preview, [options.input])
    head = OpenHead.load()
    config = TrackerConfig(parse_face(options.face), options.mode, options.focal, lookahead_s=math.inf)
    reader = open_frames(options.input, max_side_px=MAX_SIDE_PX, start_s=options.start, end_s=options.end)
    total = reader.info.num_frames_estimate
    with _progress() as progress:
        task = progress.add_task("tracking", total=total)
        frames = prefetch(reader)
        answers = list(Tracker(head, config).stream(_counted(frames, progress, task), str(options.input)))
        result = as_track(answers, reader.info.width_px, reader.info.height_px, head)
        progress.update(task, total=len(result), completed=len(result))
        save_track(options.output, result, TrackSource(options.input.name, sha256_of(options.input)))
        if options.preview is not None:
            task = progress.add_task("drawing", total=len(result))
            write_preview(options, result, head, lambda shown: _counted(shown, progress, task))
    tracked = int(result.tracked.sum())
    print(f"{options.output}: {len(result)} frames, {tracked} tracked")


def write_preview(options: Options, track: Track, head: MorphableHead, counted) -> None:
    """The clip with the fitted head drawn over it."""
    small = open_frames(options.input, max_side_px=PREVIEW_SIDE_PX, start_s=options.start, end_s=options.end)
    info = small.info
    scale = info.width_px / track.width_px
    audio = options.input if info.has_audio else None
    size = (info.width_px, info.height_px)
    with open_writer(options.preview, *size, fps=info.fps, audio_from=audio, marks=None) as writer:
        for frame in counted(prefetch(small)):
            tracked = track.frame(frame.index)
            tracked = replace(tracked, landmarks_px=tracked.landmarks_px * scale)
            writer.write(overlay(frame.image_u8, tracked, head), frame.time_s)


def overlay(
    image_u8: UInt8[np.ndarray, "height width 3"], tracked: TrackedFrame, head: MorphableHead
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture with the head as a shaded blue mask and the landmarks as dots; a missing frame only with a border."""
    height, width = image_u8.shape[:2]
    if tracked.status == FaceStatus.MISSING:
        return cv2.rectangle(image_u8.copy(), (0, 0), (width - 1, height - 1), (255, 60, 60), 5)
    verts, faces = head.verts(tracked.params), head.topology.faces
    fragments = rasterize(to_screen(verts, tracked.camera, width, height), faces, height, width)
    normals = vertex_normals(verts, faces) @ tracked.camera.w2c[:3, :3].T
    shade = (-interpolate(fragments, normals, faces)[2]).clamp(0.1, 1).numpy()[..., None]
    mask = 0.45 * fragments.covered.numpy()[..., None]
    drawn = (image_u8 * (1 - mask) + shade * mask * np.array([150, 190, 255])).astype(np.uint8)
    radius = max(1, round(max(width, height) / 700))
    for x, y in tracked.landmarks_px[tracked.landmarks_px.isfinite().all(-1)].tolist():
        cv2.circle(drawn, (int(x), int(y)), radius, STATUS_COLOURS[tracked.status], -1, cv2.LINE_AA)
    return drawn


def _counted(items: Iterable[T], progress: Progress, task) -> Iterator[T]:
    for item in items:
        yield item
        progress.advance(task)


def _progress() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)


if __name__ == "__main__":
    sys.exit(run_program(track, prog="python -m gpavatar.track"))
