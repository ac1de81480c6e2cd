"""The baseline that does nothing: the first source picture, whatever is asked of it.

On clips in which little moves it scores above 26 dB over the whole picture. A method must beat it to mean anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor

from gpavatar.avatars.base import Reference
from gpavatar.avatars.state_file import load_state, save_state
from gpavatar.camera import Camera
from gpavatar.types import HeadParams, RenderOutput, SourceFrame, map_tensors

VERSION = "1"


@dataclass(frozen=True)
class SourceCopyState:
    """The first source."""

    reference: Reference
    alpha: Float[Tensor, "1 height width"]  # [0, 1]


class SourceCopy:
    """The method `source_copy`; implements `gpavatar.avatars.base.Avatar`."""

    name = "source_copy"
    sha256 = hashlib.sha256(f"{name} {VERSION}".encode()).hexdigest()

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = torch.device(device)

    def encode(self, frames: Sequence[SourceFrame]) -> SourceCopyState:
        """Keeps the first frame."""
        first = map_tensors(frames[0], lambda tensor: tensor.to(self.device))
        return SourceCopyState(Reference(first.params, first.camera, first.image), first.alpha)

    def update(self, state: SourceCopyState, frame: SourceFrame) -> SourceCopyState:
        """Nothing changes."""
        return state

    def render(
        self,
        state: SourceCopyState,
        params: HeadParams,
        camera: Camera,
        size_px: int,
        background: Float[Tensor, "3 height width"] | None = None,
    ) -> RenderOutput:
        """The first source, scaled; over `background` where one is given, C = α I + (1 − α) B."""
        image, alpha = (_scaled(picture, size_px) for picture in (state.reference.image, state.alpha))
        if background is not None:
            image = torch.lerp(_scaled(background.to(image), size_px), image, alpha)
        return RenderOutput(image.clamp(0, 1), alpha.clamp(0, 1))

    def save(self, state: SourceCopyState, path: str | Path) -> None:
        """Write one safetensors file; InputError where it cannot be written."""
        save_state(state, path, {"method": self.name, "version": VERSION})

    def load(self, path: str | Path) -> SourceCopyState:
        """Read what `save` wrote; InputError where it is of another method or version."""
        state = load_state(SourceCopyState, path, {"method": self.name, "version": VERSION})
        return map_tensors(state, lambda tensor: tensor.to(self.device))


def _scaled(picture: Tensor, size_px: int) -> Tensor:
    if picture.shape[-2:] == (size_px, size_px):
        return picture
    return functional.interpolate(picture[None], (size_px, size_px), mode="bilinear", antialias=True)[0]
