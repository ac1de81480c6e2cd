"""How does it look? Photos down, moments of a driving clip across: `python benchmarks/contact_sheet.py -h`.

Made to be judged by eye at full size; numbers are in the other programs. The sheets in the docs are of freely usable
photos only (docs/gpavatar_lite.md and docs/textured_mesh.md name them).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from jaxtyping import UInt8

import gpavatar
from gpavatar.assets import fetch
from gpavatar.media.image import resize_u8, write_image
from gpavatar.methods import DEFAULT_METHOD
from gpavatar.pipeline import PoseMode
from gpavatar.retarget import ExpressionMode


def main(
    photos: Annotated[list[Path], tyro.conf.Positional] = [],  # noqa: B006 (tyro reads the default)
    driving: Path | None = None,
    output: Path = Path("outputs/contact_sheet.jpg"),
    model: str = DEFAULT_METHOD,
    moments: int = 6,
    size: int = 256,
    pose: PoseMode = "driving",
    expression: ExpressionMode = "absolute",
    start: float | None = None,
    end: float | None = None,
) -> None:
    """Draw every photo's person at so many moments of the clip.

    Args:
        photos: one row each; the demo's photo where none is given
        driving: the clip that drives; the demo's where none is given
        output: where the picture goes
        model: as in `gpavatar reenact`
        moments: columns, evenly spread over the clip
        size: pixels a cell
        pose: as in `gpavatar reenact`
        expression: as in `gpavatar reenact`
        start: seconds into the clip
        end: seconds into the clip
    """
    photos, driving = photos or [fetch("astronaut")], driving or fetch("pexels_clip")
    frames = list(gpavatar.DrivingClip(driving, start_s=start, end_s=end, pictures=True))
    chosen = {round(index) for index in np.linspace(0, len(frames) - 1, moments)}
    heading = [np.zeros((size, size, 3), np.uint8)]
    heading += [square(frame.image_u8, size) for index, frame in enumerate(frames) if index in chosen]
    rows = [np.concatenate(heading, 1)]
    method = gpavatar.load_model(model)
    for photo in photos:
        avatar = gpavatar.create_avatar([photo], method)
        row = [square(gpavatar.to_u8(avatar.reference.image), size)]
        # the first frame, the reference that relative motion starts from, is always among the chosen
        picked = [frame for index, frame in enumerate(frames) if index in chosen]
        driven = avatar.drive(picked, size_px=size, pose=pose, expression=expression)
        row += [gpavatar.to_u8(frame.image) for frame in driven]
        rows.append(np.concatenate(row, 1))
        print(photo.name, flush=True)
    write_image(output, np.concatenate(rows, 0))


def square(image_u8: UInt8[np.ndarray, "height width 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The picture fitted into a square, black around."""
    scale = size / max(image_u8.shape[:2])
    small = resize_u8(image_u8, round(image_u8.shape[1] * scale), round(image_u8.shape[0] * scale))
    out = np.zeros((size, size, 3), np.uint8)
    top, left = ((size - side) // 2 for side in small.shape[:2])
    out[top : top + small.shape[0], left : left + small.shape[1]] = small
    return out


if __name__ == "__main__":
    tyro.cli(main)
