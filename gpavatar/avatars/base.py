"""The seam that every method plugs into: photos -> state -> frames.

A method is a class with this protocol in one assembly file; `METHODS` in `gpavatar.pipeline` names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from jaxtyping import Float
from torch import Tensor

from gpavatar.camera import Camera
from gpavatar.types import HeadParams, RenderOutput, SourceFrame

State = TypeVar("State")


class Avatar(Protocol[State]):
    """A way to make an avatar. `encode` runs once per person, `render` once per frame; neither needs a trainer."""

    name: str

    def encode(self, frames: Sequence[SourceFrame]) -> State:
        """One or several photos of a person -> what is needed to draw them. The first frame is the reference view."""

    def update(self, state: State, frame: SourceFrame) -> State:
        """Take one more photo of the same person into account."""

    def render(
        self,
        state: State,
        params: HeadParams,
        camera: Camera,
        size_px: int,
        background: Float[Tensor, "3 height width"] | None = None,
    ) -> RenderOutput:
        """Draw the person with this expression from this camera; `background` None keeps the source's own."""

    def save(self, state: State, path: str) -> None:
        """Write one safetensors file (temporary name first, renamed when whole)."""

    def load(self, path: str) -> State:
        """Read what `save` wrote; InputError where the file is not one of this method, version and head."""
