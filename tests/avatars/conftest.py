"""A synthetic person, seen from four sides, and the avatars made of them: small and drawn once for all tests here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest

from benchmarks.textured_mesh import FRONTAL, SOURCES, Angles, known_source, posed
from gpavatar.avatars import textured_mesh
from gpavatar.avatars.textured_mesh import TexturedMesh, TexturedMeshState
from gpavatar.camera import Camera
from gpavatar.data.synthetic import SyntheticFrame, SyntheticPerson, render
from gpavatar.data.synthetic_motion import random_camera
from gpavatar.types import HeadParams, RenderOutput, SourceFrame

SIZE = 256


@dataclass
class Studio:
    """One person, a camera, and what they give."""

    person: SyntheticPerson
    camera: Camera
    avatar: TexturedMesh

    def pose(self, at: Angles = FRONTAL, orbit: bool = False, **expression: float) -> tuple[HeadParams, Camera]:
        """Head turned by (pitch, yaw) degrees about the neck joint; with `orbit` the shoulders with it."""
        return posed(self.person, self.camera, at, expression, orbit)

    def truth(self, at: Angles = FRONTAL, orbit: bool = False, **expression: float) -> SyntheticFrame:
        """The picture as it should be."""
        return render(self.person, *self.pose(at, orbit, **expression), SIZE, supersample=1)

    def drawn(self, state: TexturedMeshState, at: Angles = FRONTAL, orbit: bool = False, **expression) -> RenderOutput:
        """The picture as the avatar draws it."""
        return self.avatar.render(state, *self.pose(at, orbit, **expression), SIZE)

    @cached_property
    def sources(self) -> list[SourceFrame]:
        """The views of `SOURCES`, light and shoulders turning along; the first is frontal."""
        return [known_source(self.person, self.truth(at, orbit=True)) for at in SOURCES]

    @cached_property
    def one(self) -> TexturedMeshState:
        return self.avatar.encode(self.sources[:1])

    @cached_property
    def four(self) -> TexturedMeshState:
        return self.avatar.encode(self.sources)

    @cached_property
    def four_in_a_room(self) -> TexturedMeshState:
        """Of four views in which the head turns before a light that stands still."""
        return self.avatar.encode([known_source(self.person, self.truth(at)) for at in SOURCES])


def open_studio(seed: int, style: str) -> Studio:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(textured_mesh, "TEXTURE_SIZE", 512)
        person = SyntheticPerson.random(seed, style=style, texture_size=256)
        return Studio(person, random_camera(np.random.default_rng(seed), person), TexturedMesh())


@pytest.fixture(scope="session")
def studio():
    """Someone with hair over the ears."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(textured_mesh, "TEXTURE_SIZE", 512)
        yield open_studio(3, "bob")
