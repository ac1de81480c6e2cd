"""Shared by all tests. setup.cfg switches on the shape check of every public function; test_types.py proves it."""

from __future__ import annotations

import os

import pytest
import torch


def pytest_configure(config):
    """Parallel workers share the cores instead of each claiming all of them."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    """Random numbers that are the same in every run."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> torch.device:
    """Every device there is: the CPU always, CUDA where the machine has it."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)
