"""What is laid over and beside a rendered frame: backgrounds, the visible label, the comparison layout."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from gpavatar.media.image import read_image, resize_u8, to_float
from gpavatar.types import InputError

LABEL = "AI-generated"
CAPTIONS = ("source", "driving", "result")


@dataclass(frozen=True)
class Background:
    """What stands behind the person: the source's own background, one colour, or an image file."""

    kind: Literal["source", "colour", "image"]
    colour: tuple[float, float, float] = (0.0, 0.0, 0.0)  # RGB in [0, 1]
    path: Path | None = None


def parse_background(text: str) -> Background:
    """`source`, `black`, `white`, `#rrggbb` or the path of an image; InputError (one line) for anything else."""
    named = {"black": "#000000", "white": "#ffffff"}.get(text.lower(), text)
    if text.lower() == "source":
        return Background("source")
    if re.fullmatch(r"#[0-9a-fA-F]{6}", named):
        red, green, blue = (int(named[start : start + 2], 16) / 255 for start in (1, 3, 5))
        return Background("colour", (red, green, blue))
    if Path(text).is_file():
        return Background("image", path=Path(text))
    raise InputError(f"background {text!r}: no such image; use source, black, white, #rrggbb or an image file")


def background_image(background: Background, width_px: int, height_px: int) -> Float[Tensor, "3 height width"] | None:
    """The background in the asked size; an image fills it and loses what overlaps. None for the source's own."""
    if background.kind == "source":
        return None
    if background.kind == "colour":
        return torch.tensor(background.colour)[:, None, None].expand(3, height_px, width_px).clone()
    picture = read_image(background.path, max_side_px=4 * max(width_px, height_px))
    scale = max(width_px / picture.shape[1], height_px / picture.shape[0])
    wide, high = max(width_px, round(picture.shape[1] * scale)), max(height_px, round(picture.shape[0] * scale))
    left, top = (wide - width_px) // 2, (high - height_px) // 2
    return to_float(resize_u8(picture, wide, high)[top : top + height_px, left : left + width_px])


def composite(
    image: Float[Tensor, "3 height width"],
    alpha: Float[Tensor, "1 height width"],
    background: Float[Tensor, "3 height width"],
) -> Float[Tensor, "3 height width"]:
    """The person over a background, alpha · image + (1 − alpha) · background; `image` is not premultiplied."""
    return torch.lerp(background, image, alpha)


def add_label(image_u8: UInt8[np.ndarray, "height width 3"], text: str = LABEL) -> UInt8[np.ndarray, "height width 3"]:
    """A copy of the frame with a small half-transparent plate in the lower right corner that says `text`."""
    height, width = image_u8.shape[:2]
    plate, margin = label_plate(height, width, text), _margin(height, width)
    result = image_u8.copy()
    _lay(plate, result, width - margin - plate.colour.shape[1], height - margin - plate.colour.shape[0])
    return result


def label_plate(height: int, width: int, text: str = LABEL) -> Plate:
    """The label as it is laid over a frame of this size: as large as elsewhere, but never wider than the frame."""
    text_px, room_px = _text_px(height, width), width - 2 * _margin(height, width)
    while text_px > 6 and _plate(text, text_px).colour.shape[1] > room_px:
        text_px -= 1
    return _plate(text, text_px)


def _margin(height: int, width: int) -> int:
    return max(2, min(height, width) // 64)


def side_by_side(
    source_u8: UInt8[np.ndarray, "_ _ 3"],
    driving_u8: UInt8[np.ndarray, "_ _ 3"],
    result_u8: UInt8[np.ndarray, "height width 3"],
    captions: bool = True,
) -> UInt8[np.ndarray, "height _ 3"]:
    """Source, driving and result in a row, all as high as the result, with their names in the upper left corners."""
    return in_a_row((source_u8, driving_u8, result_u8), CAPTIONS if captions else ("",) * 3)


def in_a_row(pictures_u8: Sequence[np.ndarray], captions: Sequence[str]) -> UInt8[np.ndarray, "height _ 3"]:
    """Pictures (`_ _ 3`) beside each other, all as high as the last, each with its caption, if any, in the corner."""
    height = pictures_u8[-1].shape[0]
    panels = []
    for picture, caption in zip(pictures_u8, captions, strict=True):
        width = max(1, round(picture.shape[1] * height / picture.shape[0]))
        panel = resize_u8(picture, width, height)
        if caption:
            panel = panel.copy()
            _lay(_plate(caption, _text_px(*panel.shape[:2])), panel, height // 64, height // 64)
        panels.append(panel)
    return np.concatenate(panels, axis=1)


@dataclass(frozen=True)
class Plate:
    """Text on a plate, ready to be laid over a picture: colour + keep · picture / 256."""

    colour: UInt8[np.ndarray, "high wide 3"]
    keep: np.ndarray  # uint16, in 1/256


def _text_px(height: int, width: int) -> int:
    """Letters of 1/28 of the shorter side, never below what can still be read."""
    return max(11, min(height, width) // 28)


@lru_cache(maxsize=32)
def _plate(text: str, text_px: int) -> Plate:
    font = ImageFont.load_default(size=text_px)
    # "Ag" has the height of every text, so that all plates are equally high
    (left, _, right, _), (_, top, _, bottom) = font.getbbox(text), font.getbbox("Ag")
    padding = round(text_px * 0.4)
    size = (round(right - left) + 2 * padding, round(bottom - top) + 2 * padding)
    cover, letters = Image.new("L", size, 0), Image.new("L", size, 0)
    ImageDraw.Draw(cover).rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), padding, fill=140)
    ImageDraw.Draw(letters).text((padding - left, padding - top), text, fill=240, font=font)
    cover, letters = np.asarray(cover, np.uint16), np.asarray(letters, np.uint16)
    keep = np.minimum(256 - cover, 256 - letters)
    return Plate(np.repeat(letters[..., None], 3, 2).astype(np.uint8), keep[..., None])


def _lay(plate: Plate, picture: np.ndarray, left: int, top: int) -> None:
    """Lay a plate over a picture in place; what reaches beyond the picture is cut."""
    x0, y0 = max(0, left), max(0, top)
    under = picture[y0 : top + plate.colour.shape[0], x0 : left + plate.colour.shape[1]]
    rows, columns = slice(y0 - top, y0 - top + under.shape[0]), slice(x0 - left, x0 - left + under.shape[1])
    under[:] = plate.colour[rows, columns] + (under * plate.keep[rows, columns] >> 8).astype(np.uint8)
