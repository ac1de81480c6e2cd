"""Photos of a person and a driving clip in, a video of the person doing the same out.

python -m gpavatar.reenact me.jpg clip.mp4 -o out.mp4
"""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from jaxtyping import Float, UInt8
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from gpavatar.avatars.method import LearnedMethod
from gpavatar.building import VIEWS_PER_CLIP
from gpavatar.config import run_program, warnings_in_lines
from gpavatar.media.align import CropBox, head_crop, resample_u8
from gpavatar.media.compose import LABEL, background_image, in_a_row, parse_background, side_by_side
from gpavatar.media.files import check_file, check_writable, sha256_of, whole_file
from gpavatar.media.image import to_u8
from gpavatar.media.producer import this_producer
from gpavatar.media.provenance import Ingredient, Marks
from gpavatar.media.writer import IMAGE_OUT_SUFFIXES, check_output, open_writer
from gpavatar.methods import DEFAULT_METHOD, DrawnIn
from gpavatar.pipeline import (
    DrivingClip,
    DrivingFrame,
    PersonAvatar,
    create_avatar,
    extend_avatar,
    load_avatar,
    parse_face,
)
from gpavatar.retarget import ORBIT_PERIOD_S, ExpressionMode, Pose, PoseMode
from gpavatar.streaming import Stopwatch, prefetch
from gpavatar.types import FaceStatus, InputError
from gpavatar.version import code_version

AVATAR_SUFFIX = ".safetensors"
SIZES_PX = (64, 2048)
AHEAD = 256  # frames of the driver that may be tracked before they are wanted, ...
AHEAD_WITH_PICTURES = 8  # ... and when each brings its picture
TURNTABLE_FRAMES = round(25 * ORBIT_PERIOD_S)


@dataclass(frozen=True)
class Options:
    """What the command line takes."""

    inputs: tyro.conf.Positional[tuple[Path, ...]]
    """SOURCE... DRIVING. Sources are photos and clips; the first may be a saved avatar (.safetensors), to which the
    others are added. The last input drives: a video, an image, a directory of frames, or a saved track (.npz)."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Where to write (default: outputs/SOURCE_DRIVING.mp4, or .png where an image drives)."""
    model: str | None = None
    """The method, or the weights of a learned one, FILE.safetensors (default: gpavatar_lite, or the saved
    avatar's). The weights of gpavatar_lite are for research; textured_mesh needs none and is free for any use."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1."""
    precision: DrawnIn = "exact"
    """Of a learned method: exact (float32), or fast (products of bfloat16 where the device has them)."""
    size: int = 512
    """Width and height of the result in pixels."""
    pose: PoseMode = "driving"
    """The head's pose: the driver's; the driver's change on the source's; the source's; the source's, swinging (with
    an image as the driver, a turntable of four seconds)."""
    expression: ExpressionMode = "absolute"
    """The driver's expression, or its change since the first frame added to the source's."""
    background: str = "source"
    """source (filled in behind the person), black, #rrggbb, or the path of an image."""
    compare: bool = False
    """Show source, driving and result side by side."""
    start: float | None = None
    """Where in the driving clip to start, seconds."""
    end: float | None = None
    """Where to end, seconds."""
    save_avatar: Path | None = None
    """Write the avatar to this file too; it can be given as the source later."""
    face: str = "largest"
    """Whom to follow in the driving clip: largest, left, right, or a number counted from the left, from 1."""
    source_face: str = "largest"
    """Whom to take from the sources."""
    views: int = VIEWS_PER_CLIP
    """How many frames of each source clip to take at most, 1 to 32."""
    watch_build: bool = False
    """Show what the avatar is after 1, 2, 4, 8 ... source frames side by side."""
    label: bool = True
    """Write "AI-generated" into the picture. --no-label needs --consent; the invisible marks stay (docs/provenance.md).
    """
    consent: str | None = None
    """Who agreed to be shown like this, and to what; goes into the credentials and the .json."""


@dataclass(frozen=True)
class Picture:
    """A frame of the output, ready to be written."""

    image_u8: UInt8[np.ndarray, "height width 3"]
    time_s: float
    tracked: bool


@dataclass(frozen=True)
class Sidecar:
    """How a result came about: the content of OUT.json."""

    output: str
    partial: bool  # ended by Ctrl-C
    frames: int
    frames_tracked: int  # with a face found in that very frame
    fps: float  # frames over all the seconds of the run
    seconds: dict[str, float]  # per stage without waiting (stages run side by side), and "total" by the clock
    peak_memory_mb: float
    model: str
    model_sha256: str
    research_only: bool  # by the card of its weights
    commit: str
    inputs: list[dict[str, str]]  # path, sha256
    driving_broken_at_s: float | None  # where the driving file broke off, if it did
    warnings: list[str]  # what of the inputs could not be used
    label: str | None
    source_frames: int  # that were looked at; 0 for a saved avatar
    source_frames_left_out: dict[str, int]  # why, and how many
    watermark: str  # the producer id, in hexadecimal
    consent: str | None
    options: dict[str, object]


def reenact(options: Annotated[Options, tyro.conf.arg(name="")]) -> int:
    """Drive the person on the SOURCE photos with the head pose and expression of DRIVING.

    Writes an H.264 video with the driver's timing and sound, and a .json beside it that says how it was made.
    Ctrl-C keeps what is done as OUT.partial.mp4.
    """
    begun_s = time.perf_counter()
    watch = Stopwatch()
    *sources, driving = check_inputs(options)
    face, span = parse_face(options.face), {"start_s": options.start, "end_s": options.end}
    clip = DrivingClip(driving, face=face, **span, pictures=options.compare, watch=watch)
    turntable = clip.num_frames == 1 and options.pose == "orbit"
    output = options.output or default_output(sources[0], driving, still=clip.num_frames == 1 and not turntable)
    check_outputs(output, options)
    if output.suffix.lower() in IMAGE_OUT_SUFFIXES and (clip.num_frames > 1 or turntable):
        raise InputError(f"{output}: an image holds one frame; name an .mp4, or a directory for the frames")
    marks = Marks(options.label, options.consent)
    depth = AHEAD_WITH_PICTURES if options.compare else AHEAD
    with (
        warnings_in_lines() as warned,
        _one_core_left(),
        closing(prefetch(clip, depth)) as ahead,
        _progress() as progress,
    ):
        task = progress.add_task("looking at the source", total=None)
        avatar = _avatar(sources, options, watch)
        if options.save_avatar:
            avatar.save(options.save_avatar)
        # only now, for a stranger's file may be long and no picture
        marks = replace(marks, inputs=tuple(Ingredient(path.name, sha256_of(path)) for path in options.inputs))
        frames = held(next(ahead)) if turntable else ahead
        num_frames = TURNTABLE_FRAMES if turntable else clip.num_frames
        progress.update(task, description=f"driving {avatar.model.name}", total=num_frames)
        with closing(prefetch(_compose(avatar, frames, options, watch))) as pictures:
            written, num_frames, num_tracked = _write(
                pictures, output, clip, marks, watch, lambda: progress.advance(task)
            )
    ended_s = time.perf_counter()
    sidecar = Sidecar(
        output=str(written),
        partial=written != output,
        frames=num_frames,
        frames_tracked=num_tracked,
        fps=round(num_frames / (ended_s - begun_s), 2),
        seconds={stage: round(s, 3) for stage, s in (watch.seconds | {"total": ended_s - begun_s}).items()},
        peak_memory_mb=round(peak_memory_mb(), 1),
        model=avatar.model.name,
        model_sha256=avatar.model.sha256,
        research_only=isinstance(avatar.model, LearnedMethod) and avatar.model.research_only,
        commit=code_version(),
        inputs=[{"path": str(p), "sha256": of.sha256} for p, of in zip(options.inputs, marks.inputs, strict=True)],
        driving_broken_at_s=clip.broken_at_s,
        warnings=warned,
        label=LABEL if options.label else None,
        source_frames=avatar.left_out.num_frames,
        source_frames_left_out=avatar.left_out.counts,
        watermark=f"{this_producer().id:08x}",
        consent=options.consent,
        options=json.loads(json.dumps(dataclasses.asdict(options), default=str)),
    )
    with whole_file(written.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(sidecar), indent=2) + "\n", encoding="utf-8")
    print(f"{written}: {num_frames} frames, {num_tracked} tracked, {sidecar.fps:g} frames/s")
    if avatar.left_out.faults:
        print(avatar.left_out)
    if sidecar.research_only:
        print(f"the weights of {sidecar.model} are for research only; --model textured_mesh is free for any use")
    if sidecar.partial:
        print(f"interrupted: what was done is in {written}", file=sys.stderr)
    return 130 if sidecar.partial else 0


def check_inputs(options: Options) -> tuple[Path, ...]:
    """The sources and the driver. InputError, naming it, for an input that does not exist or options that clash."""
    if len(options.inputs) < 2:
        raise InputError("needs at least two inputs: SOURCE... DRIVING; see --help")
    for path in options.inputs:
        if not path.is_dir():
            check_file(path)
    sources = options.inputs[:-1]
    saved = [path for path in sources if path.suffix == AVATAR_SUFFIX]
    if saved and saved != [sources[0]]:
        raise InputError(f"{saved[-1]}: a saved avatar must be the first source, and the only saved one; name it first")
    if not SIZES_PX[0] <= options.size <= SIZES_PX[1] or options.size % 2:
        raise InputError(f"size {options.size}: must be even and between {SIZES_PX[0]} and {SIZES_PX[1]}")
    parse_background(options.background)
    Marks(options.label, options.consent)
    return options.inputs


def default_output(source: Path, driving: Path, still: bool) -> Path:
    """outputs/SOURCE_DRIVING.mp4, or .png where a single image drives."""
    return Path("outputs") / f"{source.stem}_{driving.stem}{'.png' if still else '.mp4'}"


def check_outputs(output: Path, options: Options) -> None:
    """Make the directories. InputError where one cannot be written, or would take the place of an input."""
    check_output(output, options.inputs)
    if options.save_avatar is not None:
        if options.save_avatar.suffix != AVATAR_SUFFIX:
            raise InputError(f"{options.save_avatar}: an avatar is a {AVATAR_SUFFIX} file; give a name that ends so")
        check_writable(options.save_avatar, options.inputs)


def held(frame: DrivingFrame) -> Iterator[DrivingFrame]:
    """A single image for one swing of the orbit, at 25 frames/s: a turntable of the person."""
    for index in range(TURNTABLE_FRAMES):
        yield replace(frame, tracked=replace(frame.tracked, index=index, time_s=index / 25))


def peak_memory_mb() -> float:
    """The most memory that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _avatar(sources: Sequence[Path], options: Options, watch: Stopwatch) -> PersonAvatar:
    build = {"face": parse_face(options.source_face), "views_per_clip": options.views, "watch": watch}
    build |= {"stages": options.watch_build}
    if sources[0].suffix != AVATAR_SUFFIX:
        model = options.model or DEFAULT_METHOD
        return create_avatar(sources, model, device=options.device, precision=options.precision, **build)
    with watch("setup"):
        avatar = load_avatar(sources[0], options.device, options.model, options.precision)
    return extend_avatar(avatar, sources[1:], **build) if len(sources) > 1 else avatar


def _compose(
    avatar: PersonAvatar, driving: Iterable[DrivingFrame], options: Options, watch: Stopwatch
) -> Generator[Picture, None, None]:
    """The pictures, beside source and driver if asked; the writer marks them."""
    source_u8 = to_u8(avatar.reference.image)
    box: CropBox | None = None  # of the driver's first face, from then on
    backdrop = background_image(parse_background(options.background), options.size, options.size)
    modes = {"pose": options.pose, "expression": options.expression, "background": options.background}
    for frame in avatar.drive(driving, size_px=options.size, watch=watch, **modes):
        tracked = frame.driving.tracked
        with watch("compose"):
            image_u8 = to_u8(frame.image)
            if avatar.stages:
                image_u8 = _growth(avatar, frame.pose, image_u8, backdrop)
            driving_u8 = frame.driving.image_u8
            if driving_u8 is not None:
                if box is None and tracked.status == FaceStatus.TRACKED:
                    box = head_crop(tracked.landmarks_px)
                image_u8 = side_by_side(source_u8, _square(driving_u8, box, options.size), image_u8)
        yield Picture(image_u8, tracked.time_s, tracked.status == FaceStatus.TRACKED)


def _growth(
    avatar: PersonAvatar,
    pose: Pose,
    image_u8: UInt8[np.ndarray, "size size 3"],
    background: Float[torch.Tensor, "3 size size"] | None,
) -> UInt8[np.ndarray, "size _ 3"]:
    """The avatar after ever more source frames, the last as it is."""
    size_px = image_u8.shape[0]
    earlier = [PersonAvatar(avatar.model, one.state).render(pose, size_px, background) for one in avatar.stages[:-1]]
    captions = [f"{stage.num_frames} frame{'s' if stage.num_frames > 1 else ''}" for stage in avatar.stages]
    return in_a_row([*(to_u8(one.image) for one in earlier), image_u8], captions)


def _square(
    image_u8: UInt8[np.ndarray, "height width 3"], box: CropBox | None, size_px: int
) -> UInt8[np.ndarray, "size size 3"]:
    """The driver's picture cut like the source, but not beyond its edges; its middle as long as no face was seen."""
    height, width = map(float, image_u8.shape[:2])
    side = min(width, height) if box is None else min(box.side_px, width, height)
    x, y = (width / 2, height / 2) if box is None else (box.x_px + box.side_px / 2, box.y_px + box.side_px / 2)
    left, top = (min(max(at - side / 2, 0.0), end - side) for at, end in ((x, width), (y, height)))
    return resample_u8(image_u8, left, top, left + side, top + side, size_px, size_px)


def _write(
    pictures: Iterator[Picture], output: Path, clip: DrivingClip, marks: Marks, watch: Stopwatch, advance: Callable
) -> tuple[Path, int, int]:
    """Where the result stands, its frames, and those of them with a face found. Ctrl-C ends it early."""
    first = next(pictures)
    height_px, width_px = first.image_u8.shape[:2]
    audio_from = clip.path if clip.has_audio else None
    frames = frames_tracked = 0
    with open_writer(output, width_px, height_px, fps=clip.fps, audio_from=audio_from, marks=marks) as out:
        try:
            for picture in chain([first], pictures):
                out.write(picture.image_u8, picture.time_s)
                frames, frames_tracked = frames + 1, frames_tracked + picture.tracked
                advance()
            written = out.finish()
        except KeyboardInterrupt:
            written = out.finish(partial=True)
    assert written is not None
    watch.seconds["write"] = out.busy_s
    return written, frames, frames_tracked


@contextmanager
def _one_core_left() -> Iterator[None]:
    """Tensor kernels leave a core to tracking and encoding: waiting for a taken core costs more than it gives."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(max(1, num_threads - 1))
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def _progress() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)


if __name__ == "__main__":
    sys.exit(run_program(reenact, prog="python -m gpavatar.reenact"))
