"""Files that appear under their name only when whole."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gpavatar.media.files import (
    check_writable,
    fit_size,
    remove_left_over,
    sha256_of,
    temporary_name,
    whole_file,
    write_tensors,
)
from gpavatar.types import InputError


def test_whole_file_replaces_when_the_block_ends_well(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with whole_file(path) as temporary:
        temporary.write_text("new")
        assert temporary.suffix == ".txt" and path.read_text() == "old"
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a.txt"]


def test_whole_file_leaves_nothing_when_it_does_not(tmp_path):
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    with (
        pytest.raises(InputError, match=r"a\.txt: cannot be written \(No space"),
        whole_file(tmp_path / "a.txt") as temporary,
    ):
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", [".", "/"])
def test_a_path_without_a_name_is_no_file(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for write in (check_writable, lambda to: write_tensors({}, to, {})):
        with pytest.raises(InputError, match=r"is a directory; name a file$"):
            write(Path(path))


@pytest.fixture
def steps(monkeypatch):
    """What is synced and renamed, in this order, by name."""
    done = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor):
        done.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def noted_replace(path, target):
        done.append(("rename", target.name))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    return done


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at open files in /proc")
def test_what_stands_under_a_name_is_on_the_disk(tmp_path, steps):
    path = tmp_path / "folder" / "a.txt"
    path.parent.mkdir()
    with whole_file(path) as temporary:
        temporary.write_text("new")
    assert steps == [("sync", temporary.name), ("rename", "a.txt"), ("sync", "folder")]
    steps.clear()
    with whole_file(path, on_disk=False) as temporary:
        temporary.write_text("newer")
    assert steps == [("rename", "a.txt")]


def test_tensors_are_written_under_no_name_but_ours_and_for_whom_the_user_allows(tmp_path, monkeypatch):
    """safetensors' own way leaves `.tmpXXXXXX` behind when it is killed, and a file that others cannot read."""
    path, seen, replace = tmp_path / "folder" / "a.safetensors", [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda old, new: seen.extend(os.listdir(new.parent)) or replace(old, new))
    before = os.umask(0o027)
    try:
        write_tensors({"a": torch.arange(6.0).view(2, 3).T}, path, {"about": "x"})
    finally:
        os.umask(before)
    assert seen == [temporary_name(path).name] and os.listdir(path.parent) == [path.name]
    assert path.stat().st_mode & 0o777 == 0o640
    assert torch.equal(load_file(path)["a"], torch.arange(6.0).view(2, 3).T)


def number_of_a_dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path, monkeypatch):
    path = tmp_path / "a.b [1].mp4"
    with monkeypatch.context() as patch:
        pid = number_of_a_dead_process()
        patch.setattr(os, "getpid", lambda: pid)
        temporary_name(path).write_text("half")
        of_another = temporary_name(tmp_path / "other.mp4")
        of_another.write_text("half")
        frames = temporary_name(tmp_path / "frames")
        frames.mkdir()
        (frames / "000000.png").touch()
        patch.setattr("platform.node", lambda: "elsewhere")
        temporary_name(path).write_text("a process on another machine that writes to the same disk")
        foreign = temporary_name(path)
    patch.setattr(os, "getpid", os.getppid)
    alive = temporary_name(path)
    alive.write_text("a process that still writes")
    patch.undo()
    with whole_file(path) as temporary:
        temporary.write_text("whole")
    remove_left_over(tmp_path / "frames")
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name, of_another.name, foreign.name, alive.name}


@pytest.mark.parametrize(
    ("size", "limit", "expected"),
    [
        ((1920, 1080), 1280, (1280, 720)),
        ((1080, 1920), 512, (288, 512)),
        ((64, 48), 512, (64, 48)),
        ((64, 48), None, (64, 48)),
        ((9000, 2), 90, (90, 1)),
    ],
)
def test_fit_size(size, limit, expected):
    assert fit_size(*size, limit) == expected


def test_the_hash_of_a_directory_sees_names_and_contents(tmp_path):
    hashes = set()
    for name, content in (("a", b"1"), ("b", b"1"), ("b", b"2")):
        for old in tmp_path.iterdir():
            old.unlink()
        (tmp_path / name).write_bytes(content)
        hashes.add(sha256_of(tmp_path))
    assert len(hashes) == 3
