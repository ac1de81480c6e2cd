"""Where Triton's kernels run: on a GPU, or in the interpreter that tests/conftest.py asks for. Skips without Triton."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="triton is installed with gpavatar[gpu]")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
