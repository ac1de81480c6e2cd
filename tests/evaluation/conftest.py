"""Two synthetic people, drawn once for all tests of this folder, and an evaluation on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_evaluation import Grey, quick_meshes, synthetic_protocol

from data_prep.synthetic import SYNTHETIC_VAL, synthetic
from gpavatar.avatars.textured_mesh import TexturedMesh
from gpavatar.data.shards import ClipInfo, ShardSet, ShardWriter
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
def clips(people, tmp_path_factory) -> Path:
    """Their front views as ordinary clips of consecutive frames, without depth: what the data engine makes of VFHQ."""
    drawn, directory = ShardSet.open(people), tmp_path_factory.mktemp("clips") / "set"
    with ShardWriter(directory, drawn.index.head, drawn.index.size_px) as writer:
        for info in drawn.index.clips:
            name = info.clip.replace("synthetic", "clip")
            front = [one for one in drawn.samples(with_depth=False) if (one.clip, one.view) == (info.clip, 0)]
            plain = {"clip": name, "identity": name, "view": None, "instant": None}
            samples = [dataclasses.replace(one, frame_index=one.instant, **plain) for one in front]
            writer.add(ClipInfo(name, name, "train", "real", "open", "CC0-1.0"), samples)
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
