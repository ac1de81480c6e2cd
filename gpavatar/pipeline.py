"""Photos and clips in, frames out: what reenact, live, viewer and the Python API share.

`load_model` -> `create_avatar` (or `load_avatar`) -> `PersonAvatar.drive`, which gives one frame after the other.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import safetensors
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gpavatar.avatars.base import Avatar, AvatarState, Reference
from gpavatar.bands import limit_this_thread
from gpavatar.building import VIEWS_PER_CLIP, Stage, grown, sources_of
from gpavatar.face.morphable import MorphableHead
from gpavatar.media.compose import background_image, parse_background
from gpavatar.media.files import check_file, check_range, fit_size
from gpavatar.media.frames import open_frames
from gpavatar.media.video import FrameReader, VideoFrame
from gpavatar.methods import DEFAULT_METHOD, DrawnIn, choose_device, drawing, load_model, method_called
from gpavatar.retarget import ExpressionMode, Pose, PoseMode, Retargeter
from gpavatar.streaming import Prefetch, Stopwatch, prefetch
from gpavatar.tracking.left_out import NOTHING_LEFT_OUT, LeftOut
from gpavatar.types import InputError, RenderOutput, Track, TrackedFrame, map_tensors

State = TypeVar("State", bound=AvatarState)
DEFAULT_SIZE_PX = 512
DRIVING_SIDE_PX = 1280  # a larger driving frame is scaled down as it is decoded
LOOKAHEAD_S = 2.0  # of the driver are tracked before its first frame comes out: they decide the driver's shape
RENDER_THREADS = 2  # frames drawn side by side: much of drawing one frame keeps one core busy
TRACK_SUFFIX = ".npz"


def parse_face(text: str) -> str | int:
    """Whom to follow: "largest", "left", "right", or a number from the left, from 1. InputError for anything else."""
    if text.isdecimal() and int(text):
        return int(text)
    if text not in ("largest", "left", "right"):
        raise InputError(f"face {text!r}: must be largest, left, right, or a number from the left, from 1")
    return text


@dataclass(frozen=True)
class DrivingFrame:
    """A frame of the driver."""

    tracked: TrackedFrame
    image_u8: UInt8[np.ndarray, "height width 3"] | None = None  # where asked for; of a saved track, its landmarks


@dataclass(frozen=True)
class DrivenFrame:
    """A frame of the result."""

    driving: DrivingFrame
    pose: Pose
    image: Float[Tensor, "3 size size"]  # [0, 1], on the asked background
    alpha: Float[Tensor, "1 size size"]  # [0, 1], the person against the background


@cache
def default_head() -> MorphableHead:
    """The open head, loaded once."""
    from gpavatar.face.open_head import OpenHead

    return OpenHead.load()


class DrivingClip:
    """Something that drives: a video, an image, a directory of frames, or a saved track (.npz).

    Iterating gives the frames, one at a time, tracked in two threads. `pictures` keeps each frame's picture until its
    turn comes. Raises InputError where the file cannot be read, and at the end where no frame showed a face.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        face: str | int = "largest",
        start_s: float | None = None,
        end_s: float | None = None,
        pictures: bool = False,
        watch: Stopwatch | None = None,
    ) -> None:
        self.path, self._pictures, self._watch = Path(path), pictures, watch or Stopwatch()
        self._reader: FrameReader | None = None
        if self.path.suffix == TRACK_SUFFIX:
            self._track = saved_track(self.path, start_s, end_s)
            self.num_frames, self.fps, self.has_audio = len(self._track), 25.0, False
        else:
            self._reader = open_frames(self.path, max_side_px=DRIVING_SIDE_PX, start_s=start_s, end_s=end_s)
            info = self._reader.info
            self.num_frames, self.fps, self.has_audio = info.num_frames_estimate, info.fps, info.has_audio
            # Imported and made here, not where a thread begins to read: threads that import at once may trip Python up.
            from gpavatar.tracking.tracker import Tracker, TrackerConfig

            self._tracker = Tracker(default_head(), TrackerConfig(face=face, lookahead_s=LOOKAHEAD_S))

    @property
    def broken_at_s(self) -> float | None:
        """After the last frame: where the file broke off, if it did."""
        return self._reader.broken_at_s if self._reader else None

    def __iter__(self) -> Iterator[DrivingFrame]:
        if self._reader is None:
            return track_frames(self._track, self._pictures)
        return self._from_pictures(self._reader)

    def _from_pictures(self, reader: FrameReader) -> Iterator[DrivingFrame]:
        pictures: deque[UInt8[np.ndarray, "height width 3"]] = deque()

        def read() -> Iterator[VideoFrame]:
            for frame in self._watch.each("decode", reader):
                if self._pictures:
                    pictures.append(frame.image_u8)
                with self._watch("track"):  # what the tracker does with it before it asks for the next
                    yield frame

        for tracked in self._watch.each("track", self._tracker.stream(read(), str(self.path))):
            yield DrivingFrame(tracked, pictures.popleft() if self._pictures else None)


def saved_track(path: Path, start_s: float | None, end_s: float | None) -> Track:
    """The frames of a saved track with start <= time < end; InputError where there are none, or none with a face."""
    from gpavatar.tracking.track_file import load_track

    check_range(path, start_s, end_s)
    track = load_track(path, default_head())
    inside = (track.times_s >= (start_s or 0.0)) & (track.times_s < (end_s or math.inf))
    if not inside.any():
        raise InputError(f"{path}: no frames between {start_s} s and {end_s} s; it ends at {track.times_s[-1]:g} s")
    first = int(inside.int().argmax())  # times grow, so they are one stretch: a view, for an hour's track has 900 MB
    keep = slice(first, first + int(inside.sum()))
    per_frame = {name: getattr(track, name)[keep] for name in ("times_s", "status", "params", "camera", "landmarks_px")}
    if not per_frame["status"].any():
        raise InputError(f"{path}: no face in any of its frames; track a clip that shows a face")
    return replace(track, **per_frame)


def track_frames(track: Track, pictures: bool = False) -> Iterator[DrivingFrame]:
    """The frames of a track as what drives; with `pictures`, its landmarks as dots, in the size in which clips come."""
    width_px, height_px = fit_size(track.width_px, track.height_px, DRIVING_SIDE_PX)
    for index in range(len(track)):
        frame = track.frame(index)
        if pictures:
            frame = replace(frame, landmarks_px=frame.landmarks_px * (width_px / track.width_px))
        yield DrivingFrame(frame, _dots(frame, width_px, height_px) if pictures else None)


def _dots(frame: TrackedFrame, width_px: int, height_px: int) -> UInt8[np.ndarray, "height width 3"]:
    """The landmarks as white dots on black: all that a saved track can show of its driver."""
    picture = np.zeros((height_px, width_px, 3), np.uint8)
    x, y = frame.landmarks_px[frame.landmarks_px.isfinite().all(-1)].long().T.numpy()
    inside = (x >= 0) & (x < width_px) & (y >= 0) & (y < height_px)
    picture[y[inside], x[inside]] = 255
    return picture


class PersonAvatar(Generic[State]):
    """One person's avatar, ready to be driven: a method, and what it made of the photos.

    `stages` are what it was on the way, where that was asked for; `left_out` the source frames that were no use.
    """

    def __init__(
        self,
        model: Avatar[State],
        state: State,
        left_out: LeftOut = NOTHING_LEFT_OUT,
        stages: Sequence[Stage[State]] = (),
    ) -> None:
        self.model, self.state, self.left_out, self.stages = model, state, left_out, tuple(stages)

    @property
    def reference(self) -> Reference:
        """The view of the first source frame, on the CPU."""
        return map_tensors(self.state.reference, lambda tensor: tensor.cpu())

    @property
    def expression_names(self) -> tuple[str, ...]:
        """What each weight of `HeadParams.expression` does."""
        return default_head().expression_names

    def render(
        self,
        pose: Pose,
        size_px: int = DEFAULT_SIZE_PX,
        background: Float[Tensor, "3 height width"] | None = None,
    ) -> RenderOutput:
        """The person drawn with this expression from this camera; `background` None keeps the source's own."""
        with torch.no_grad():
            return self.model.render(self.state, pose.params, pose.camera, size_px, background)

    def drive(
        self,
        driving: str | Path | Track | Iterable[DrivingFrame],
        *,
        size_px: int = DEFAULT_SIZE_PX,
        pose: PoseMode = "driving",
        expression: ExpressionMode = "absolute",
        background: str = "source",
        watch: Stopwatch | None = None,
    ) -> Generator[DrivenFrame, None, None]:
        """The person doing what each frame of `driving` does: a path, `DrivingClip`, `Track`, or frames of one's own.

        Tracking runs ahead by a few frames and two are drawn at once; memory does not grow with the clip.
        Close the generator to stop early. `background` is "source", "black", "#rrggbb" or the path of an image.
        Raises InputError for an input that cannot be read and for a clip without any face.
        """
        watch = watch or Stopwatch()
        if isinstance(driving, (str, Path)):
            driving = DrivingClip(driving, watch=watch)
        frames = track_frames(driving) if isinstance(driving, Track) else driving
        backdrop = background_image(parse_background(background), size_px, size_px)
        retarget = Retargeter(Pose(self.reference.params, self.reference.camera), pose, expression)
        return self._driven(frames, retarget, size_px, backdrop, watch)

    def _driven(
        self,
        driving: Iterable[DrivingFrame],
        retarget: Retargeter,
        size_px: int,
        background: Float[Tensor, "3 height width"] | None,
        watch: Stopwatch,
    ) -> Generator[DrivenFrame, None, None]:
        def drawn(pose: Pose) -> RenderOutput:
            with watch("render"):
                return self.render(pose, size_px, background)

        frames = driving if isinstance(driving, Prefetch) else prefetch(driving)
        pending: deque[tuple[DrivingFrame, Pose, Future[RenderOutput]]] = deque()
        try:
            share = -(-torch.get_num_threads() // RENDER_THREADS)
            with ThreadPoolExecutor(RENDER_THREADS, initializer=limit_this_thread, initargs=(share,)) as pool:
                for frame in frames:
                    pose = retarget(frame.tracked)
                    held = bool(pending) and pending[-1][1] is pose  # a held pose is not drawn again
                    pending.append((frame, pose, pending[-1][2] if held else pool.submit(drawn, pose)))
                    if len(pending) > RENDER_THREADS:
                        yield _finished(*pending.popleft())
                yield from (_finished(*one) for one in pending)
        finally:
            frames.close()

    def save(self, path: str | Path) -> None:
        """Write the avatar file (.safetensors), whole or not at all."""
        self.model.save(self.state, str(path))


def _finished(frame: DrivingFrame, pose: Pose, picture: Future[RenderOutput]) -> DrivenFrame:
    return DrivenFrame(frame, pose, picture.result().image, picture.result().alpha)


def create_avatar(
    sources: Sequence[str | Path],
    model: Avatar | str = DEFAULT_METHOD,
    *,
    device: str = "auto",
    face: str | int = "largest",
    precision: DrawnIn = "exact",
    views_per_clip: int = VIEWS_PER_CLIP,
    stages: bool = False,
    watch: Stopwatch | None = None,
) -> PersonAvatar:
    """An avatar of the person on the photos and clips; the first one is the reference view.

    Frames that are blurred, hidden by a hand or of another person are left out (`left_out`). `stages` keeps what the
    avatar is after 1, 2, 4, 8, ... frames.

    `face` chooses among several people: "largest", "left", "right", or a number from the left, from 1. `precision` as
    in `load_model`. Raises InputError, naming the file, for one that cannot be read or shows no face.
    """
    watch = watch or Stopwatch()
    with watch("setup"):
        if isinstance(model, str):
            method, place = method_called(model), choose_device(device)
    with watch("encode"):
        taken = sources_of(sources, default_head(), face, views_per_clip)  # first: a bad photo is found at once
    with watch("setup"):
        model = drawing(method(device=place), precision) if isinstance(model, str) else model
    with watch("encode"), torch.no_grad():
        if not stages:
            return PersonAvatar(model, model.encode(taken.frames), taken.left_out)
        built = grown(model, taken.frames)
        return PersonAvatar(model, built[-1].state, taken.left_out, built)


def extend_avatar(
    avatar: PersonAvatar,
    sources: Sequence[str | Path],
    *,
    face: str | int = "largest",
    views_per_clip: int = VIEWS_PER_CLIP,
    stages: bool = False,
    watch: Stopwatch | None = None,
) -> PersonAvatar:
    """The avatar with more photos and clips of the same person taken into account, one frame after the other.

    InputError, naming the file, for one that cannot be read or shows no face, and where none is of any use.
    """
    with (watch or Stopwatch())("encode"), torch.no_grad():
        taken = sources_of(sources, default_head(), face, views_per_clip, known=avatar.reference)
        built = grown(avatar.model, taken.frames, avatar.state)
    return PersonAvatar(avatar.model, built[-1].state, taken.left_out, built if stages else ())


def track_clip(
    path: str | Path, *, face: str | int = "largest", start_s: float | None = None, end_s: float | None = None
) -> Track:
    """All frames of a video, image or directory, tracked with the open head. InputError where none shows a face."""
    from gpavatar.tracking import tracker

    return tracker.track_clip(path, default_head(), tracker.TrackerConfig(face=face), start_s, end_s)


def load_avatar(
    path: str | Path, device: str = "auto", model: Avatar | str | None = None, precision: DrawnIn = "exact"
) -> PersonAvatar:
    """An avatar that was saved; its file says by which method. That of a learned method needs the same weights again,
    as `model`. InputError where it is no avatar file of ours, or was made by another model."""
    method = avatar_method(Path(path))
    if model is None or isinstance(model, str):
        model = load_model(model or method, device, precision)
    if model.name != method:
        raise InputError(f"{path}: was made with {method}, not {model.name}; leave --model out")
    return PersonAvatar(model, model.load(str(path)))


def avatar_method(path: Path) -> str:
    """The method that a saved avatar was made with. InputError where the file is not an avatar."""
    check_file(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            method = (file.metadata() or {}).get("method")
    except safetensors.SafetensorError as error:
        raise InputError(f"{path}: cut off, or not a safetensors file; make it again with --save-avatar") from error
    if method is None:
        raise InputError(f"{path}: a safetensors file, but not an avatar; make one with --save-avatar")
    return method
