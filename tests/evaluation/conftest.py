"""Two synthetic people, drawn once for all tests of this folder, and an evaluation on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_evaluation import Grey, quick_meshes, synthetic_protocol

from data_prep.synthetic import SYNTHETIC_VAL, synthetic
from gpavatar.avatars.textured_mesh import TexturedMesh
from gpavatar.evaluation.run import Evaluation
from gpavatar.evaluation.source_copy import SourceCopy


@pytest.fixture(scope="module")
def quick_mesh() -> Iterator[TexturedMesh]:
    """See `quick_meshes`."""
    with quick_meshes() as mesh:
        yield mesh


@pytest.fixture(scope="session")
def people(tmp_path_factory) -> Path:
    """A set of two people, six instants from two sides, 128 px: made as anybody makes one, five seconds."""
    directory = tmp_path_factory.mktemp("people") / "set"
    config = dataclasses.replace(SYNTHETIC_VAL, people=2, instants=6, views=2, size_px=128, first_seed=8_000)
    synthetic(directory, config, workers=1)
    return directory


@pytest.fixture(scope="session")
def evaluated(people, tmp_path_factory) -> Evaluation:
    """All tasks for the baselines and a method that draws no face, run without a break, its results written."""
    from gpavatar.eval import write_results

    with quick_meshes() as mesh:
        folder = tmp_path_factory.mktemp("evaluated") / "people"
        evaluation = Evaluation(synthetic_protocol(people), [SourceCopy(), mesh, Grey()], folder)
        list(evaluation.do_missing())
        write_results(evaluation)
    return evaluation
