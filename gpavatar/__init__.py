"""3-D head avatars from one photo, a few, or a stream of frames, driven by a video.

    avatar = gpavatar.create_avatar(["me.jpg"])
    for frame in avatar.drive("clip.mp4"):
        show(frame.image)

Each name is imported when it is first used, so that `import gpavatar` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from gpavatar.interrupt import is_program_of, quiet_while_importing
from gpavatar.waiting import sleep_soon

if TYPE_CHECKING:
    from gpavatar.camera import Camera
    from gpavatar.media.image import read_image, to_u8
    from gpavatar.media.provenance import Marks
    from gpavatar.media.writer import open_writer, write_image
    from gpavatar.methods import load_model
    from gpavatar.pipeline import (
        DrivenFrame,
        DrivingClip,
        PersonAvatar,
        create_avatar,
        extend_avatar,
        load_avatar,
        track_clip,
    )
    from gpavatar.retarget import Pose
    from gpavatar.types import GpavatarError, HeadParams, Track

__version__ = "0.1.0"

_HOMES = {
    "Camera": "camera",
    "DrivenFrame": "pipeline",
    "DrivingClip": "pipeline",
    "GpavatarError": "types",
    "HeadParams": "types",
    "Marks": "media.provenance",
    "PersonAvatar": "pipeline",
    "Pose": "retarget",
    "Track": "types",
    "create_avatar": "pipeline",
    "extend_avatar": "pipeline",
    "load_avatar": "pipeline",
    "load_model": "methods",
    "open_writer": "media.writer",
    "read_image": "media.image",
    "to_u8": "media.image",
    "track_clip": "pipeline",
    "write_image": "media.writer",
}

__all__ = [
    "Camera",
    "DrivenFrame",
    "DrivingClip",
    "GpavatarError",
    "HeadParams",
    "Marks",
    "PersonAvatar",
    "Pose",
    "Track",
    "create_avatar",
    "extend_avatar",
    "load_avatar",
    "load_model",
    "open_writer",
    "read_image",
    "to_u8",
    "track_clip",
    "write_image",
]


if is_program_of("gpavatar"):
    quiet_while_importing()
    sleep_soon()


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
