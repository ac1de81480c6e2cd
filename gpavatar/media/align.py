"""The square crop around head and shoulders, and its inverse.

Pixels are continuous: the centre of the upper left pixel is (0.5, 0.5), as in `Camera.project_px`, so that cropping
the image and cropping its camera agree: `camera.crop(*box.normalised(width_px, height_px))`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from gpavatar.media.image import to_float, to_u8

# The outline of the face among MediaPipe's 478 points.
FACE_OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
# Crop side / height of the face outline: on 512 px a face of 220 x 180 px with its irises 84 px apart, hair and
# shoulders in the picture; what the published clip data sets of head avatars have.
HEAD_SCALE = 2.33
CLIP_MARGIN = 1.8  # least crop side / extent over which the face outline moves in a clip


@dataclass(frozen=True)
class CropBox:
    """A square of an image, in pixels of that image; it may reach outside."""

    x_px: float  # left edge
    y_px: float  # upper edge
    side_px: float

    def normalised(self, width_px: int, height_px: int) -> tuple[float, float, float, float]:
        """(x0, y0, x1, y1) in image sizes: the arguments of `Camera.crop`."""
        x1_px, y1_px = self.x_px + self.side_px, self.y_px + self.side_px
        return self.x_px / width_px, self.y_px / height_px, x1_px / width_px, y1_px / height_px

    def kept_inside(self, width_px: int, height_px: int, least: float = 0.75) -> CropBox:
        """Moved, and shrunk down to `least` of its side about its centre, to have as much of it in the image as can be.

        What a photo does not show must be made up; a slightly tighter picture is better.
        """
        side_px = max(min(self.side_px, float(width_px), float(height_px)), least * self.side_px)
        inset_px = (self.side_px - side_px) / 2

        def moved(start_px: float, room_px: float) -> float:
            spare_px = room_px - side_px
            return min(max(start_px, 0.0), spare_px) if spare_px >= 0 else spare_px / 2

        x_px, y_px = moved(self.x_px + inset_px, float(width_px)), moved(self.y_px + inset_px, float(height_px))
        return CropBox(x_px, y_px, side_px)

    def to_crop_px(self, points_px: Float[Tensor, "*batch 2"], size_px: int) -> Float[Tensor, "*batch 2"]:
        """Pixels of the full image -> pixels of the crop of `size_px`."""
        return (points_px - points_px.new_tensor([self.x_px, self.y_px])) * (size_px / self.side_px)

    def to_full_px(self, points_px: Float[Tensor, "*batch 2"], size_px: int) -> Float[Tensor, "*batch 2"]:
        """Pixels of the crop of `size_px` -> pixels of the full image."""
        return points_px * (self.side_px / size_px) + points_px.new_tensor([self.x_px, self.y_px])


@dataclass(frozen=True)
class Crop:
    """A cropped image; outside the full image the nearest pixel of its edge is repeated."""

    image: Float[Tensor, "3 size size"]  # [0, 1]
    inside: Float[Tensor, "1 size size"]  # 1 where the full image has a pixel, else 0


def head_crop(landmarks_px: Float[Tensor, "478 2"], scale: float = HEAD_SCALE) -> CropBox:
    """The square around head and shoulders: `scale` × the longer side of the face outline's box, on its centre."""
    return stable_crop(landmarks_px[None], scale)


def stable_crop(landmarks_px: Float[Tensor, "frame 478 2"], scale: float = HEAD_SCALE) -> CropBox:
    """One square for a whole clip: `head_crop` of the median face, grown where the head travels out of it.

    Frames without a face (NaN) do not count; at least one frame must have one.
    """
    seen = landmarks_px[landmarks_px.isfinite().all(-1).all(-1)]
    assert len(seen), "a crop needs at least one frame with a face"
    outline = seen[:, list(FACE_OVAL)]
    low, high = outline.amin(1), outline.amax(1)
    centre = ((low + high) / 2).median(0).values
    face_px = (high - low).amax(1).median()
    # the outermost 2 % of the frames may be misdetections, they do not size the crop
    reach_px = torch.maximum(high.quantile(0.98, 0) - centre, centre - low.quantile(0.02, 0)).max()
    side_px = float(torch.maximum(face_px * scale, 2 * reach_px * CLIP_MARGIN))
    return CropBox(float(centre[0]) - side_px / 2, float(centre[1]) - side_px / 2, side_px)


def crop_image(image_u8: UInt8[np.ndarray, "height width 3"], box: CropBox, size_px: int) -> Crop:
    """The part of the image under `box` as `size_px` squared, antialiased (see `resample`)."""
    height, width = image_u8.shape[:2]
    x1_px, y1_px = box.x_px + box.side_px, box.y_px + box.side_px
    image = to_float(resample_u8(image_u8, box.x_px, box.y_px, x1_px, y1_px, size_px, size_px))
    centres = (torch.arange(size_px) + 0.5) * (box.side_px / size_px)
    inside_x = (centres + box.x_px >= 0) & (centres + box.x_px <= width)
    inside_y = (centres + box.y_px >= 0) & (centres + box.y_px <= height)
    return Crop(image, (inside_y[:, None] & inside_x)[None].float())


def put_back(
    crop: Float[Tensor, "3 size size"],
    box: CropBox,
    full_u8: UInt8[np.ndarray, "height width 3"],
    alpha: Float[Tensor, "1 size size"] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """The full image with the crop in its place: alpha · crop + (1 − alpha) · full under the box, full elsewhere.

    Pixels whose centres lie in the box are replaced. Without `alpha` it is 1 everywhere.
    """
    size = crop.shape[-1]
    height, width = full_u8.shape[:2]
    left, top = max(0, math.ceil(box.x_px - 0.5)), max(0, math.ceil(box.y_px - 0.5))
    right = min(width, math.ceil(box.x_px + box.side_px - 0.5))
    bottom = min(height, math.ceil(box.y_px + box.side_px - 0.5))
    result = full_u8.copy()
    if left >= right or top >= bottom:
        return result
    per_px = size / box.side_px
    x0, y0 = (left - box.x_px) * per_px, (top - box.y_px) * per_px
    x1, y1 = (right - box.x_px) * per_px, (bottom - box.y_px) * per_px
    patch = resample_u8(to_u8(crop), x0, y0, x1, y1, right - left, bottom - top)
    if alpha is not None:
        alpha_u8 = to_u8(alpha.expand(3, -1, -1))
        weight = resample_u8(alpha_u8, x0, y0, x1, y1, right - left, bottom - top).astype(np.uint16)
        under = result[top:bottom, left:right].astype(np.uint16)
        patch = ((patch * weight + under * (255 - weight) + 127) // 255).astype(np.uint8)
    result[top:bottom, left:right] = patch
    return result


def resample_u8(
    image_u8: UInt8[np.ndarray, "height width 3"],
    x0_px: float,
    y0_px: float,
    x1_px: float,
    y1_px: float,
    width_px: int,
    height_px: int,
) -> UInt8[np.ndarray, "_ _ 3"]:
    """Fast twin of `resample` (Pillow) on 8-bit images; rounds after each of the two directions."""
    margin_x, margin_y = (
        math.ceil(max(1.0, step)) for step in ((x1_px - x0_px) / width_px, (y1_px - y0_px) / height_px)
    )
    left, top = math.floor(x0_px) - margin_x, math.floor(y0_px) - margin_y
    right, bottom = math.ceil(x1_px) + margin_x, math.ceil(y1_px) + margin_y
    cut = _cut_repeating(image_u8, left, top, right, bottom)
    box = (x0_px - left, y0_px - top, x1_px - left, y1_px - top)
    return np.array(Image.fromarray(cut).resize((width_px, height_px), Image.Resampling.BILINEAR, box=box))


def _cut_repeating(image_u8: np.ndarray, left: int, top: int, right: int, bottom: int) -> np.ndarray:
    """image[top:bottom, left:right], the nearest edge pixel where that lies outside."""
    height, width = image_u8.shape[:2]
    if left >= 0 and top >= 0 and right <= width and bottom <= height:
        return np.ascontiguousarray(image_u8[top:bottom, left:right])
    rows, columns = np.arange(top, bottom).clip(0, height - 1), np.arange(left, right).clip(0, width - 1)
    return image_u8[rows[:, None], columns]


def resample(
    image: Float[Tensor, "channel height width"],
    x0_px: float,
    y0_px: float,
    x1_px: float,
    y1_px: float,
    width_px: int,
    height_px: int,
) -> Float[Tensor, "channel _ _"]:
    """The part [x0, x1] × [y0, y1] of the image as width × height pixels, out = W_y · image · W_xᵀ; differentiable.

    W is the triangle filter, its support widened by the step when shrinking (no aliasing), normalised to sum 1;
    beyond the image its edge pixels are repeated.
    """
    weights_x = _filter_matrix(x0_px, x1_px, image.shape[2], width_px).to(image)
    weights_y = _filter_matrix(y0_px, y1_px, image.shape[1], height_px).to(image)
    return weights_y @ image @ weights_x.T


def _filter_matrix(start: float, end: float, num_in: int, num_out: int) -> Float[Tensor, "{num_out} {num_in}"]:
    step = (end - start) / num_out
    support = max(1.0, step)
    centres = start + (torch.arange(num_out, dtype=torch.float64) + 0.5) * step
    first = math.floor(start - support) - 1
    taps = torch.arange(first, math.ceil(end + support) + 1)
    weights = (1 - (taps + 0.5 - centres[:, None]).abs() / support).clamp_min(0)
    matrix = torch.zeros(num_out, num_in, dtype=torch.float64)
    matrix.index_add_(1, taps.clamp(0, num_in - 1), weights)
    return matrix / matrix.sum(1, keepdim=True)
