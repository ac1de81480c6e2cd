"""Which code runs, with and without git at hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import gpavatar
from gpavatar.version import code_changes, code_version


@pytest.mark.skipif(not Path(gpavatar.__file__).parents[1].joinpath(".git").exists(), reason="not a checkout")
def test_a_checkout_says_its_commit():
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", code_version())


def test_a_machine_without_git_says_the_version(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (code_version(), code_changes()) == (gpavatar.__version__, "")
