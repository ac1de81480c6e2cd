"""Triton without a GPU: kernels run in its interpreter. Import this before any `*_triton` module."""

from __future__ import annotations

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

pytest.importorskip("triton", reason="triton is installed with gpavatar[gpu]")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
