"""From source frames to an avatar: which of them are taken, and how it grows with each.

A method's `update` takes one frame; what is made here is a fold over the frames, whose steps can be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from gpavatar.avatars.base import Avatar, AvatarState, Reference
from gpavatar.face.morphable import MorphableHead
from gpavatar.media.image import to_u8
from gpavatar.tracking.left_out import LeftOut
from gpavatar.types import InputError, SourceFrame

State = TypeVar("State", bound=AvatarState)
VIEWS_PER_CLIP = 8  # of a source clip are taken unless told otherwise
MOST_VIEWS = 32


@dataclass(frozen=True)
class Stage(Generic[State]):
    """An avatar on the way."""

    num_frames: int
    state: State


@dataclass(frozen=True)
class Sources:
    """The frames that are taken, and the others' number."""

    frames: tuple[SourceFrame, ...]
    left_out: LeftOut


def sources_of(
    paths: Sequence[str | Path],
    head: MorphableHead,
    face: str | int = "largest",
    views_per_clip: int = VIEWS_PER_CLIP,
    known: Reference | None = None,
) -> Sources:
    """The frames of photos and clips that show the person of the first one, or of `known`, sharp and unhidden.

    `head` is what they are fitted with, `face` whom of several people to take. InputError, naming the file, for one
    that cannot be read or shows no face, and where a person is known and no frame shows them.
    """
    from gpavatar.tracking.frame_gate import gated
    from gpavatar.tracking.sources import SOURCE_PX, source_frame, source_frames
    from gpavatar.tracking.tracker import Tracker, TrackerConfig

    if not 1 <= views_per_clip <= MOST_VIEWS:
        raise InputError(f"views {views_per_clip}: must be from 1 to {MOST_VIEWS}")
    tracker = Tracker(head, TrackerConfig(face=face))
    frames = source_frames(paths, tracker, views_per_clip=views_per_clip)
    if known is None:
        kept, left_out = gated(frames)
        return Sources(tuple(kept), left_out)
    picture = to_u8(known.image.cpu())
    first = source_frame(picture, tracker.track_image(picture, "the saved avatar's reference"), SOURCE_PX)
    kept, left_out = gated([first, *frames])
    left_out = LeftOut(len(frames), left_out.faults)
    if len(kept) == 1:
        raise InputError(f"{paths[0]}: nothing to add to the avatar ({left_out}); give sharp photos of the same person")
    return Sources(tuple(kept[1:]), left_out)


def grown(model: Avatar[State], frames: Sequence[SourceFrame], state: State | None = None) -> list[Stage[State]]:
    """The avatar after 1, 2, 4, 8, ... and all of the frames, each made from the one before; on top of `state`, if any.

    The last one is the avatar of all frames.
    """
    stages: list[Stage[State]] = []
    for number, frame in enumerate(frames, 1):
        state = model.encode([frame]) if state is None else model.update(state, frame)
        if number & (number - 1) == 0 or number == len(frames):
            stages.append(Stage(number, state))
    return stages
