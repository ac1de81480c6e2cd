"""Files that appear under their name only when whole."""

from __future__ import annotations

import errno
import os

import pytest

from gpavatar.media.files import fit_size, whole_file
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
