"""Which implementation is taken."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from gpavatar.field import twin
from gpavatar.field.twin import choose_twin

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("room", "exact", "fast"), [(232_448, "triton", "triton"), (101_376, "torch", "triton")])
def test_a_gpu_takes_the_kernels_that_fit_its_shared_memory(room, exact, fast, monkeypatch):
    """As of an H200, and of a GPU for games."""
    twin._has_kernels.cache_clear()
    monkeypatch.setattr(twin.importlib.util, "find_spec", lambda name: name == "triton")
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(shared_memory_per_block_optin=room)
    )
    assert [choose_twin(one, GPU, gradient=True) for one in ("reference", "exact", "fast")] == ["torch", exact, fast]
    twin._has_kernels.cache_clear()
    monkeypatch.setattr(twin.importlib.util, "find_spec", lambda name: None)
    assert choose_twin("fast", GPU, gradient=False) == "torch"
    twin._has_kernels.cache_clear()


def test_a_cpu_has_no_fused_gradient():
    assert [choose_twin("fast", CPU, gradient) for gradient in (False, True)] == ["numba", "torch"]
