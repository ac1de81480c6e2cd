"""Ctrl-C before a program has begun: one line and 130, wherever in the imports it strikes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gpavatar import interrupt
from gpavatar.config import run_program

REPOSITORY = Path(__file__).parent.parent
LINE = "interrupted before anything was begun\n"
# Stands for any slow library; what it raises stands for those that turn an interrupted import into an error of theirs.
SLOW = """
import time
print("importing", flush=True)
try: time.sleep(30)
except KeyboardInterrupt: raise ImportError("the library is broken")
"""


@pytest.mark.parametrize(
    ("library", "command"),
    [
        ("numpy", "-m gpavatar.reenact a.jpg b.mp4"),
        ("tyro", "-m gpavatar.verify a.mp4"),
        ("numpy", "-mgpavatar.track a.mp4"),
        ("tyro", "-m gpavatar reenact a.jpg b.mp4"),
        ("tyro", "-m data_prep inspect a"),
    ],
)
def test_ctrl_c_while_a_program_is_imported(library, command, tmp_path):
    (tmp_path / f"{library}.py").write_text(SLOW)
    path = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    process = subprocess.Popen(
        [sys.executable, *command.split()],
        env={**os.environ, "PYTHONPATH": path},
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (130, LINE)


def test_importing_the_package_leaves_ctrl_c_alone():
    script = "import signal, gpavatar.config; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout == "True\n"


def test_a_program_hears_ctrl_c_again():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupt.quiet_while_importing()
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        run_program(lambda: None, [])
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_who_ignores_ctrl_c_goes_on_ignoring_it():
    """As after `nohup`, or in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        interrupt.quiet_while_importing()
        interrupt.heard_by_the_program()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
