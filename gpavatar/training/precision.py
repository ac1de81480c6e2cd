"""Networks in bf16 amid geometry in fp32, and the networks that are compiled.

bf16 has three significant digits: enough for what is learned, not for where a ray goes. So autocast surrounds single
networks instead of the whole step, and what they return is widened again.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gpavatar.types import map_tensors


def run_in_bf16(networks: Iterable[nn.Module]) -> None:
    """From now on each computes in bf16 (weights stay fp32) and returns float32."""
    for network in networks:
        network.forward = _in_bf16(network.forward)


def run_compiled(networks: Iterable[nn.Module], backend: str = "inductor") -> None:
    """Compile each by itself; the names of its parameters stay as they are."""
    for network in networks:
        network.compile(backend=backend)


def use_channels_last(networks: Iterable[nn.Module]) -> None:
    """Weights of convolutions with the channel as the fastest axis, which tensor cores want; pictures follow them."""
    for network in networks:
        network.to(memory_format=torch.channels_last)


def _in_bf16(forward):
    @functools.wraps(forward)
    def wrapped(first: Tensor, *args, **options):
        with torch.autocast(first.device.type, torch.bfloat16):
            return _widened(forward(first, *args, **options))

    return wrapped


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float()
    return map_tensors(value, Tensor.float)
