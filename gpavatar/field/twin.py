"""Which implementation draws: the readable one in torch, or its fused twin for the device.

A fused twin computes the same as its reference with the same signature, in less time. It stands beside the reference,
`NAME_numba.py` (CPU, no gradient) or `NAME_triton.py` (CUDA, with gradient), and only the reference's file imports it.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Literal

import torch

Precision = Literal["reference", "exact", "fast"]
"""reference: torch as it is written; exact: fused, float32, within 1e-4 of the reference (relative); fast: fused,
matrix products of bfloat16 with sums in float32, where the device has them."""
Twin = Literal["torch", "numba", "triton"]


@cache
def has_bfloat16(device: torch.device) -> bool:
    """Whether this device multiplies numbers of 16 bits faster than those of 32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities()
    return device.type == "cpu" and bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def choose_twin(precision: Precision, device: torch.device, gradient: bool) -> Twin:
    """The implementation for this precision on this device; `gradient`: whether one is asked for."""
    if precision == "reference":
        return "torch"
    if device.type == "cpu":
        return "torch" if gradient else "numba"
    return "triton" if device.type == "cuda" and _has_kernels(precision, device) else "torch"


SHARED_BYTES = {"exact": 160_000, "fast": 80_000}  # of a kernel's program at the paper's widths (decision 0088)


@cache
def _has_kernels(precision: Precision, device: torch.device) -> bool:
    """Whether Triton is installed and the device has the shared memory that its kernels need."""
    if not importlib.util.find_spec("triton"):
        return False
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin >= SHARED_BYTES[precision]
