"""What is behind a person, and laying a drawn person over it."""

from __future__ import annotations

import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor

from gpavatar.avatars.portrait_layers import dilate
from gpavatar.media.alpha import foreground
from gpavatar.media.inpaint import inpaint
from gpavatar.types import RenderOutput, SourceFrame

MARGIN = 1 / 64  # of the picture: what is inpainted round the person
SOME = 0.03  # of a pixel that is the person's


def person_on_black(frame: SourceFrame) -> Float[Tensor, "3 height width"]:
    """The person's own colours, also in half-covered pixels, times alpha."""
    return foreground(frame.image, frame.alpha) * frame.alpha


def behind_person(frame: SourceFrame) -> Float[Tensor, "3 height width"]:
    """The photo's background, invented where the person stands."""
    margin_px = max(1, round(MARGIN * frame.image.shape[-1]))
    return inpaint(frame.image, dilate((frame.alpha > SOME).float(), margin_px))


def laid_over(
    image: Float[Tensor, "3 size size"],
    opacity: Float[Tensor, "1 small small"],
    behind: Float[Tensor, "3 height width"],
    size_px: int,
) -> RenderOutput:
    """I = I_drawn + (1 − opacity) I_behind at the size asked for; `image` is the person on black."""
    image, alpha = resized(image, size_px), resized(opacity, size_px).clamp(0, 1)
    return RenderOutput((image + (1 - alpha) * resized(behind, size_px)).clamp(0, 1), alpha)


def resized(
    image: Float[Tensor, "*batch channel height width"], size_px: int
) -> Float[Tensor, "*batch channel size size"]:
    """Bilinear, without aliases; as it is where it has that size."""
    if image.shape[-1] == size_px:
        return image
    flat = image.reshape(-1, *image.shape[-3:])
    flat = functional.interpolate(flat, (size_px, size_px), mode="bilinear", antialias=True)
    return flat.reshape(*image.shape[:-2], size_px, size_px)
