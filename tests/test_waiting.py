"""Helper threads of the programs sleep soon, unless the user says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gpavatar.__main__ import main
from gpavatar.waiting import sleep_soon


@pytest.mark.parametrize("own", [None, "7"])
def test_a_program_asks_for_it_and_leaves_the_users_choice(own, monkeypatch, capsys):
    monkeypatch.setenv("GOMP_SPINCOUNT", "")  # so that it is forgotten again
    monkeypatch.delenv("GOMP_SPINCOUNT")
    if own:
        monkeypatch.setenv("GOMP_SPINCOUNT", own)
    assert main(["--help"]) == 0
    assert os.environ["GOMP_SPINCOUNT"] == (own or "10000")


def test_it_is_asked_for_before_torch_reads_it():
    script = "import gpavatar.__main__, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_policy_of_the_user_stands(monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "")
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    sleep_soon()
    assert "GOMP_SPINCOUNT" not in os.environ
