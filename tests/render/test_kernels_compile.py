"""The kernels are compiled for a GPU that is not there, as the drawing code would launch them.

The interpreter allows what the compiler does not, and knows nothing of how arguments reach a kernel.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is installed with gpavatar[gpu]")
REPOSITORY = Path(__file__).parents[2]
PROGRAM = """
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver


class NoGpu:
    get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))
    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device: 0)


class Compiled:
    "In place of a kernel: everything but the launch."

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        return lambda *given, **options: print(self.kernel.warmup(*given, grid=grid, **options).metadata.name, grid)


driver.set_active(NoGpu())
from benchmarks.kernels import field
from gpavatar.field import knn_triton
from gpavatar.render import pass_kernels_triton as kernels, pass_triton

for module, names in ((kernels, ["draw", "draw_gradient"]), (knn_triton, ["_build", "_query"])):
    for name in names:
        setattr(module, name, Compiled(getattr(module, name)))
looked, weights, place = field("tiny", rays_px=4)
looked.planes.requires_grad_()
place = type(place)(place.rays, place.t, place.length, torch.zeros(1, 16 * 64, 8, dtype=torch.int32))
drawn = pass_triton.draw_pass(looked, weights, place, fast=True)
torch.autograd.grad(drawn.feats.sum() + drawn.thickness.sum(), looked.planes)
knn_triton.TritonIndex(torch.rand(1, 500, 3), 8).query(torch.rand(1, 1000, 3))
"""


def test_all_kernels_compile_for_hopper(tmp_path):
    """Down to machine code. In a process of its own: in this one they are interpreted."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(REPOSITORY), "TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [
        "draw (1, 1)", "draw_gradient (1, 1)", "_build (512, 1)", "_build (32768, 1)", "_query (16, 1)"
    ]  # fmt: skip
