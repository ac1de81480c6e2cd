"""Small footage for the pipeline: a real clip that anybody can have, made awkward in many ways."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from data_prep.settings import ChooseConfig, FilterConfig, PrepConfig
from gpavatar.assets import fetch
from gpavatar.media.image import read_image, resize_u8, write_image
from gpavatar.media.video import open_video
from gpavatar.media.writer import VideoWriter

FPS = 25.0
NUM_FRAMES = 26
# A hand before the mouth hides 0.18 of the face; a face of 44 px, found in every frame, is small.
SMALL = PrepConfig(128, 128, filters=FilterConfig(min_face=0.4, max_occluded=0.15), choose=ChooseConfig(4, even=2))


def write(path: Path, pictures: Iterable[np.ndarray]) -> Path:
    """An mp4 of these pictures."""
    pictures = list(pictures)
    height, width = pictures[0].shape[:2]
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, width, height, fps=FPS) as writer:
        for picture in pictures:
            writer.write(picture)
    return path


@pytest.fixture(scope="session")
def talking() -> list[np.ndarray]:
    """A woman who smiles: 320 x 180, her face about 110 px high."""
    return _acting(360)


@pytest.fixture(scope="session")
def hiding() -> list[np.ndarray]:
    """The same woman behind her hand."""
    return _acting(60)


@pytest.fixture(scope="session")
def astronaut(photo) -> np.ndarray:
    """Somebody else, in a picture of the same size."""
    picture = resize_u8(np.ascontiguousarray(read_image(photo)[:280, 85:365]), 180, 180)
    return np.pad(picture, ((0, 0), (70, 70), (0, 0)), mode="edge")


@pytest.fixture(scope="session")
def two_clips(talking, astronaut, tmp_path_factory) -> Path:
    """A folder with a video and a photo that both pass."""
    folder = tmp_path_factory.mktemp("two_clips")
    write(folder / "smiling.mp4", talking)
    (folder / "others").mkdir()
    write_image(folder / "others" / "still.png", astronaut)
    return folder


def _acting(start: int) -> list[np.ndarray]:
    reader = open_video(fetch("pexels_clip"), max_side_px=320)
    return [frame.image_u8 for frame in islice(reader, start, start + NUM_FRAMES)]
