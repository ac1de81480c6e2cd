"""A short run of the fuzzer on every reader, proof that it notices, and laws of the readers on made-up content."""

from __future__ import annotations

import json
import os
import signal
import time

import numpy as np
import pytest
import torch
from fuzz import runner, targets
from fuzz.kill import Job, run, torment, whole_json
from fuzz.mutate import AWARE, BLIND, mutate
from fuzz.runner import Case, Worker, judge, make_seeds, share_out
from fuzz.targets import TARGETS, Target
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from gpavatar.config import load_config
from gpavatar.limits import MAX_YAML_DEPTH
from gpavatar.media.image import read_image
from gpavatar.tracking.track_file import load_track
from gpavatar.types import GpavatarError, InputError

EXAMPLES = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """The good files of every target."""
    folder = tmp_path_factory.mktemp("seeds")
    make_seeds(folder, list(TARGETS))
    return folder


def test_broken_files_are_read_or_refused(seeds, tmp_path):
    """The good files and 15 broken ones of each kind, in one child under the limits of time and memory."""
    worker = Worker(seeds)
    try:
        verdicts = [worker.judge(case) for case in share_out(15 * len(TARGETS), seeds, seed=7)]
    finally:
        worker.close()
    assert [verdict for verdict in verdicts if verdict.is_finding] == []
    kinds = {verdict.kind for verdict in verdicts if verdict.case.number >= 0}
    assert kinds == {"read", "refused"} and len(verdicts) > 200


@pytest.fixture
def child(tmp_path, monkeypatch):
    """A worker whose only target is the given reader, and limits that are soon reached."""
    (tmp_path / "seeds" / "planted").mkdir(parents=True)
    (tmp_path / "seeds" / "planted" / "a.bin").write_bytes(b"good")
    monkeypatch.setattr(runner, "TIME_LIMIT_S", 3.0)
    monkeypatch.setattr(runner, "MEMORY_LIMIT_MB", 450.0)
    return tmp_path / "seeds"


def raises(error: Exception):
    """A reader that always fails this way."""

    def read(path, scratch):
        raise error

    return read


def leaves(path, scratch) -> None:
    """A reader that refuses after it has begun to write."""
    (scratch / "half").touch()
    raise InputError(f"{path}: no")


@pytest.mark.parametrize(
    ("read", "kind"),
    [
        (lambda path, scratch: None, "read"),
        (raises(InputError("file: bad; give another")), "refused"),
        (raises(InputError("file: bad\nin two lines")), "lines"),
        (raises(InputError("file: \x1b[31mbad")), "lines"),
        (raises(KeyError("meta")), "exception"),
        (raises(RecursionError()), "exception"),
        (leaves, "left"),
    ],
)
def test_the_fuzzer_tells_what_it_sees(read, kind, child, tmp_path, monkeypatch):
    monkeypatch.setitem(TARGETS, "planted", Target(None, read))
    verdict = judge(Case("planted", 0), child / "planted", tmp_path / "scratch")
    assert verdict.kind == kind and verdict.is_finding == (kind not in ("read", "refused"))
    if kind == "refused":
        assert judge(Case("planted", -1), child / "planted", tmp_path / "scratch").kind == "good"


CHILD = """
import os, sys, time
from pathlib import Path
from fuzz import runner, targets
def read(path, scratch):
    number = int((scratch.parent / "number").read_text())
    if number == 1: os.kill(os.getpid(), 11)
    if number == 2: time.sleep(60)
    if number == 3: block = b"x" * (1 << 30); time.sleep(60)
targets.TARGETS = {"planted": targets.Target(None, read)}
write = runner.Case.write
def noted(case, seeds, to):
    (to / "number").write_text(str(case.number))
    return write(case, seeds, to)
runner.Case.write = noted
runner.work(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_child_that_dies_hangs_or_swells_is_noticed_and_replaced(child, monkeypatch):
    start = runner.subprocess.Popen

    def popen(command, **options):
        return start([command[0], "-c", CHILD, *command[3:]], **options)

    monkeypatch.setattr(runner.subprocess, "Popen", popen)
    worker = Worker(child)
    try:
        kinds = [worker.judge(Case("planted", number)).kind for number in (0, 1, 0, 2, 0, 3, 0)]
    finally:
        worker.close()
    assert kinds == ["read", "crash", "read", "time", "read", "memory", "read"]


def test_every_mutator_breaks_something_and_a_case_is_always_the_same(seeds, tmp_path):
    np.save(tmp_path / "a.npy", np.ones((3, 2)))
    files = [file.read_bytes() for folder in sorted(seeds.iterdir()) for file in sorted(folder.iterdir())]
    files.append((tmp_path / "a.npy").read_bytes())
    for mutator in (*BLIND, *AWARE):
        rng = np.random.default_rng(0)
        assert any(mutator(data, rng) != data for data in files for _ in range(3)), mutator.__name__
    first, second = (mutate(files[0], np.random.default_rng(5), files) for _ in range(2))
    assert first == second
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    written = [Case("track", 3).write(seeds / "track", tmp_path / name).read_bytes() for name in "ab"]
    assert written[0] == written[1]


@EXAMPLES
@given(
    data=st.binary(max_size=300), head=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x04", b"\x93NUMPY\x01\x00", b"{"])
)
def test_any_bytes_are_refused_by_every_reader(tmp_path, data, head):
    for name in ("image", "track", "model", "masks", "shard", "index"):
        path = tmp_path / ("train-00000.tar" if name == "shard" else "given.json" if name == "index" else "given")
        path.write_bytes(head + data)
        with pytest.raises(GpavatarError) as caught:
            TARGETS[name].read(path, tmp_path / "out")
        assert runner.acceptable(str(caught.value)), caught.value


@EXAMPLES
@given(
    name=st.sampled_from(["times_s", "status", "shape", "expression", "jaw_pose", "eye_pose", "c2w", "intrinsics"]),
    shape=st.lists(st.integers(0, 5), max_size=4),
    dtype=st.sampled_from(["f4", "f8", "u1", "i8", "c8", "U3", "?"]),
    value=st.sampled_from([0, 1, -1, np.nan, np.inf, 1e30]),
)
def test_a_track_is_whole_or_refused(seeds, tmp_path, name, shape, dtype, value):
    """Any array in the place of any other: what is read is finite and of the right shape."""
    with np.load(seeds / "track" / "a.npz") as file:
        arrays = dict(file)
    with np.errstate(invalid="ignore"):
        arrays[name] = np.full(shape, value).astype(dtype)
    np.savez(tmp_path / "given.npz", **arrays)
    try:
        track = load_track(tmp_path / "given.npz")
    except InputError as error:
        assert runner.acceptable(str(error))
        return
    assert len(track) == 4 and track.camera.c2w.isfinite().all() and track.params.expression.isfinite().all()


@EXAMPLES
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=12,
    )
)
def test_any_yaml_is_a_manifest_or_refused(tmp_path, content):
    import yaml

    from gpavatar.assets import Manifest

    path = tmp_path / "given.yaml"
    path.write_text(yaml.safe_dump({"assets": content}, allow_unicode=True))
    try:
        assert isinstance(load_config(Manifest, path), Manifest)
    except GpavatarError as error:
        assert runner.acceptable(str(error))


def test_yaml_as_deep_as_allowed_and_deeper(tmp_path):
    from gpavatar.assets import Manifest

    for depth, said in ((MAX_YAML_DEPTH - 2, "container"), (MAX_YAML_DEPTH + 1, "nested")):
        (tmp_path / "a.yaml").write_text("assets: " + "[" * depth + "]" * depth)
        with pytest.raises(InputError, match=said):
            load_config(Manifest, tmp_path / "a.yaml")


@EXAMPLES
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    mode=st.sampled_from(["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "F"]),
    limit=st.integers(1, 50),
)
def test_every_picture_comes_as_rgb_in_its_size_or_the_asked_one(tmp_path, size, mode, limit):
    path = tmp_path / "a.tiff"
    Image.new(mode, size).save(path)
    assert read_image(path).shape == (size[1], size[0], 3)
    assert max(read_image(path, limit).shape[:2]) == min(limit, max(size))


@EXAMPLES
@given(
    name=st.sampled_from(["offsets", "texture", "layers.hair.faces", "reference.camera.c2w", "reference.params.shape"]),
    shape=st.lists(st.integers(0, 6), max_size=3),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool]),
)
def test_an_avatar_is_drawn_or_refused(seeds, tmp_path, name, shape, dtype):
    """Any tensor in the place of any other."""
    from safetensors.torch import load_file

    from gpavatar.avatars.state_file import read_metadata

    good = seeds / "avatar" / "a.safetensors"
    path = tmp_path / "given.safetensors"
    path.write_bytes(save(load_file(good) | {name: torch.zeros(shape, dtype=dtype)}, read_metadata(good)))
    try:
        targets.read_avatar(path, tmp_path)
    except InputError as error:
        assert runner.acceptable(str(error))


WRITES = """
import sys, time
from pathlib import Path
{imports}
for _ in range(2):
    with {opened} as temporary:
        with temporary.open("w") as file:
            for piece in ("{{", "}}"):
                file.write(piece)
                file.flush()
                time.sleep(0.05)
"""


@pytest.mark.parametrize("careful", [True, False])
def test_kills_tell_a_careful_program_from_a_careless_one(tmp_path, careful, monkeypatch):
    """The same harness that kills the real programs, on one that writes well and one that writes straight."""
    import random
    import sys

    out = f"Path({str(tmp_path / 'out.json')!r})"
    opened, imports = f"whole_file({out})", "from gpavatar.media.files import whole_file"
    if not careful:
        opened, imports = f"nullcontext({out})", "from contextlib import nullcontext"
    job = Job(
        "writer",
        tmp_path,
        [sys.executable, "-c", WRITES.format(opened=opened, imports=imports)],
        {"out.json": whole_json},
    )
    if careful:
        tally = torment(job, 0, 2, random.Random(0), dict(os.environ))
        assert tally.problems == [] and tally.ruins >= 1 and tally.aimed == 2
        return
    process = runner.subprocess.Popen(job.command)
    while not (tmp_path / "out.json").exists() or (tmp_path / "out.json").read_text() != "{":
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(job.problems(finished=False)) == 1
    assert run(job, dict(os.environ)) is False and json.loads((tmp_path / "out.json").read_text()) == {}
