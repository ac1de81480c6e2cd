"""The kernels are compiled for a GPU that is not there: what the interpreter allows and the compiler does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is installed with gpavatar[gpu]")
REPOSITORY = Path(__file__).parents[2]
PROGRAM = """
from benchmarks.kernels import needs
for need in needs("tiny", ["fast"]):
    print(need.kernel, need.registers, need.shared_bytes)
"""


def test_all_kernels_compile_for_hopper(tmp_path):
    """Down to machine code. In a process of its own: in this one they are interpreted."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(REPOSITORY), "TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    needs = [line.rsplit(" ", 2) for line in done.stdout.splitlines()]
    assert [name for name, _, _ in needs] == ["draw, fast", "draw_gradient, fast", "_build", "_query"]
    assert all(0 < int(registers) <= 255 and int(shared) < 100_000 for _, registers, shared in needs)
