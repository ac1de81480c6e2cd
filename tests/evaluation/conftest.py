"""Three synthetic people, drawn once for all tests of this folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_prep.synthetic import SYNTHETIC_VAL, synthetic
from gpavatar.avatars import textured_mesh
from gpavatar.avatars.textured_mesh import TexturedMesh


@pytest.fixture(scope="session")
def people(tmp_path_factory) -> Path:
    """A set of three people, four instants from two sides, 128 px: made as anybody makes one, seven seconds."""
    directory = tmp_path_factory.mktemp("people") / "set"
    config = dataclasses.replace(SYNTHETIC_VAL, people=3, instants=4, views=2, size_px=128, first_seed=8_000)
    synthetic(directory, config, workers=1)
    return directory


@pytest.fixture(scope="module")
def quick_mesh() -> Iterator[TexturedMesh]:
    """The method `textured_mesh` with a quarter of the texture's side, which encodes a person quickly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(textured_mesh, "TEXTURE_SIZE", 256)
        yield TexturedMesh()
