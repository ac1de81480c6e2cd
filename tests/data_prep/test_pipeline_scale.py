"""Many workers: the same names come back, a worker that dies is replaced, one that always dies is given up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from data_prep.footage import Footage
from data_prep.manifest import OutputError
from data_prep.scale import Cluster, each
from gpavatar.types import InputError


def footage(count: int) -> list[Footage]:
    return [Footage(f"clip{number}", Path("none.mp4"), "nobody") for number in range(count)]


def test_on_one_core_ray_is_not_imported() -> None:
    code = (
        "import sys; from data_prep.scale import each\n"
        "assert list(each(str.upper, ['a', 'b'], None, print)) == ['A', 'B']; assert 'ray' not in sys.modules"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


def test_a_worker_is_killed_and_the_work_is_done_all_the_same(tmp_path) -> None:
    pytest.importorskip("ray")

    def prepare(one: Footage, out: Path) -> str:
        """Leaves a file per attempt; the process dies at the first of clip1, and at every one of clip2."""
        assert out == tmp_path
        attempts = len(list(tmp_path.glob(f"{one.name}.*")))
        (tmp_path / f"{one.name}.{attempts}").touch()
        if one.name == "clip2" or (one.name == "clip1" and attempts == 0):
            os.kill(os.getpid(), signal.SIGKILL)
        return one.name

    given_up = []
    work = partial(prepare, out=tmp_path)  # as `run` hands it over
    names = list(each(work, footage(6), Cluster("local", 2), lambda one, why: given_up.append((one.name, why))))
    assert sorted(names) == [f"clip{number}" for number in range(6)]
    assert [name for name, _ in given_up] == ["clip2"] and "3 workers" in given_up[0][1]
    assert len(list(tmp_path.glob("clip1.*"))) == 2 and len(list(tmp_path.glob("clip2.*"))) == 3
    assert len(list(tmp_path.glob("clip0.*"))) == 1


def test_what_stops_a_worker_stops_the_run_in_its_own_words(tmp_path) -> None:
    pytest.importorskip("ray")

    def prepare(one: Footage) -> str:
        raise OutputError(f"{one.name}: no room")

    with pytest.raises(OutputError, match=r"^clip0: no room$"):
        list(each(prepare, footage(1), Cluster("local", 1), lambda *_: None))


def test_a_cluster_that_is_not_there_is_said() -> None:
    pytest.importorskip("ray")
    for address in ("127.0.0.1:1", "nonsense"):
        with pytest.raises(InputError, match="cannot be reached"):
            list(each(str, footage(1), Cluster(address), print))
