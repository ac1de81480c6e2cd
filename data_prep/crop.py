"""Stage crop: which square of each picture is kept, and on what."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from data_prep.cut import Shot
from data_prep.manifest import CropRecord
from gpavatar.face.open_head import OpenHead
from gpavatar.media.align import CropBox, crop_image, stable_crop
from gpavatar.media.image import to_u8
from gpavatar.types import Track

SKULL = ("face", "ears", "scalp")  # regions of the head without its neck
SIDE = 1.65  # of the square that follows the head, in geometric means of the sides of the head's box
SHARE = 0.03  # of a frame's own box in the box that its square is laid around
CHUNK = 64  # frames whose vertices are in memory


@dataclass(frozen=True)
class Cut:
    """A square of a picture."""

    image_u8: UInt8[np.ndarray, "size size 3"]
    inside: Bool[np.ndarray, "size size 1"]  # where the picture has a pixel


def crop_of(shot: Shot, scale: float) -> CropRecord:
    """One square around head and shoulders for the whole clip, as much as the picture has of it.

    GPAvatar appendix A.2: heads and shoulders are cropped from the videos. Nothing beyond the picture is made up: where
    the square does not fit it is moved, and shrunk. `scale` is pixels of the footage per pixel in which the faces were
    seen.
    """
    sighting = shot.frames[0].sighting
    landmarks_px = torch.stack([frame.sighting.face.landmarks_px for frame in shot.seen])
    box = stable_crop(landmarks_px).kept_inside(sighting.width_px, sighting.height_px, least=0.0)
    return CropRecord(box.x_px * scale, box.y_px * scale, box.side_px * scale)


def following_crops(track: Track, head: OpenHead, scale: float) -> list[CropBox]:
    """A square for every frame that follows the head slowly, as GAGAvatar's tracker lays it around a detected head.

    b_t = b_{t−1} + 0.03 (h_t − b_{t−1}) over the frames with a face, b_0 = h_0, h the box of the fitted skull within
    the picture; the square has b's centre and the side 1.65 √(width · height). It may reach outside of the picture.
    Frames before the first with a face have the first one's. `scale` as in `crop_of`.
    """
    seen = track.tracked.nonzero()[:, 0]
    boxes = torch.cat([_skull_boxes(track, head, part) for part in seen.split(CHUNK)])
    smooth, following = boxes[0], [boxes[0]] * len(track)
    for at, (index, box) in enumerate(zip(seen.tolist(), boxes, strict=True)):
        smooth = smooth + SHARE * (box - smooth)
        until = int(seen[at + 1]) if at + 1 < len(seen) else len(following)
        following[index:until] = [smooth] * (until - index)
    return [_square(box * scale) for box in following]


def cut(image_u8: UInt8[np.ndarray, "height width 3"], box: CropBox, size_px: int) -> Cut:
    """The picture under `box`, antialiased; black where there is no picture."""
    part = crop_image(image_u8, box, size_px)
    return Cut(to_u8(part.image * part.inside), to_u8(part.inside) > 0)


def on_black(
    image_u8: UInt8[np.ndarray, "size size 3"], alpha_u8: UInt8[np.ndarray, "size size 1"]
) -> UInt8[np.ndarray, "size size 3"]:
    """α C: the person on black."""
    return ((image_u8.astype(np.uint16) * alpha_u8 + 127) // 255).astype(np.uint8)


def _skull_boxes(track: Track, head: OpenHead, frames: Int[Tensor, " frame"]) -> Float[Tensor, "frame 4"]:
    """x0, y0, x1, y1 of the fitted heads in px of the track, as far as they are in the picture."""
    regions = head.topology.regions
    skull = torch.stack([regions[name] for name in SKULL]).any(0)
    verts = head.verts(track.params[frames])[:, skull]
    points_px = track.camera[frames].project_px(verts, track.width_px, track.height_px)
    size = points_px.new_tensor([track.width_px, track.height_px])
    return torch.cat([points_px.amin(1), points_px.amax(1)], -1).clamp_min(0).minimum(size.repeat(2))


def _square(box: Float[Tensor, "4"]) -> CropBox:
    centre, sides = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
    side_px = SIDE * float(sides.prod().sqrt())
    return CropBox(float(centre[0]) - side_px / 2, float(centre[1]) - side_px / 2, side_px)
