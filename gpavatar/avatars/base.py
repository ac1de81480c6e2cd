"""The seam that every method plugs into: photos -> state -> frames.

A method is a class with this protocol in one assembly file; `METHODS` in `gpavatar.pipeline` names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from gpavatar.camera import Camera
from gpavatar.field.twin import Precision
from gpavatar.types import HeadParams, RenderOutput, SourceFrame


@dataclass(frozen=True)
class Reference:
    """The view of the first source frame: where relative motion starts, and what a comparison shows as the source."""

    params: HeadParams
    camera: Camera
    image: Float[Tensor, "3 height width"]  # [0, 1]


@runtime_checkable
class AvatarState(Protocol):
    """What every method's state has; it is saved and loaded with the rest."""

    @property
    def reference(self) -> Reference: ...


State = TypeVar("State", bound=AvatarState)


@runtime_checkable
class Avatar(Protocol[State]):
    """A way to make an avatar. `encode` runs once per person, `render` once per frame; neither needs a trainer."""

    name: str
    sha256: str  # of all that decides its pictures beside the photos: weights, head, version of the method

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


@runtime_checkable
class HasPrecision(Protocol):
    """A method that draws as it is written, or by fused twins; may be changed between frames."""

    precision: Precision
