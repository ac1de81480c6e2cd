"""Methods and protocols for tests of the evaluation: small, and with networks that tests may fetch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from gpavatar.avatars import textured_mesh
from gpavatar.avatars.textured_mesh import TexturedMesh
from gpavatar.config import load_config
from gpavatar.evaluation.protocols import ProtocolConfig
from gpavatar.evaluation.source_copy import SourceCopy
from gpavatar.types import RenderOutput

CONFIGS = Path(__file__).parents[1] / "configs"
SMALL = ("identity=sface", "independent=false", "resamples=200")


class Grey(SourceCopy):
    """A method that draws no face."""

    name, sha256 = "grey", "0" * 64

    def render(self, state, params, camera, size_px, background=None):
        return RenderOutput(torch.full((3, size_px, size_px), 0.5), torch.zeros(1, size_px, size_px))


@contextmanager
def quick_meshes() -> Iterator[TexturedMesh]:
    """The method `textured_mesh` with a quarter of the texture's side, which encodes a person quickly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(textured_mesh, "TEXTURE_SIZE", 256)
        yield TexturedMesh()


def synthetic_protocol(people: Path, *changes: str) -> ProtocolConfig:
    """Ours for synthetic people, at one and two sources."""
    settings = (f"set={people}", "name=people", "measured=[1,2]", "published=[gpavatar_vfhq]", *SMALL, *changes)
    return load_config(ProtocolConfig, CONFIGS / "eval_synthetic.yaml", overrides=settings)
