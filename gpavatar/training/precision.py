"""Networks in bf16 amid geometry in fp32, and the networks that are compiled.

bf16 has three significant digits: enough for what is learned, not for where a ray goes. So autocast surrounds the
networks and the field instead of the whole step, and what they return is widened again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gpavatar.field.radiance import FieldSamples
from gpavatar.render.volume import Field
from gpavatar.types import map_tensors

T = TypeVar("T")


def run_in_bf16(networks: Iterable[nn.Module]) -> None:
    """From now on each computes in bf16 (weights stay fp32) and returns float32."""
    for network in networks:
        network.forward = in_bf16(network.forward)


def run_compiled(networks: Iterable[nn.Module], backend: str = "inductor") -> None:
    """Compile each by itself; the names of its parameters stay as they are."""
    for network in networks:
        network.compile(backend=backend)


def use_channels_last(networks: Iterable[nn.Module]) -> None:
    """Weights of convolutions with the channel as the fastest axis, which tensor cores want; pictures follow them."""
    for network in networks:
        network.to(memory_format=torch.channels_last)


def in_bf16(function: Callable[..., T]) -> Callable[..., T]:
    """The same function with its matrix products and convolutions in bf16 and its result in float32."""

    @functools.wraps(function)
    def wrapped(first: Tensor, *args, **options):
        with torch.autocast(first.device.type, torch.bfloat16):
            result = function(first, *args, **options)
        return _widened(result)

    return wrapped


def _widened(result: T) -> T:
    if isinstance(result, tuple):
        return tuple(_widened(one) for one in result)
    return result.float() if isinstance(result, Tensor) else map_tensors(result, Tensor.float)


@dataclass(frozen=True)
class Bf16Field:
    """A field (`gpavatar.render.volume.Field`) whose layers compute in bf16. Where its points are stays float32."""

    field: Field

    def over_pass(self, points: Float[Tensor, "batch sample 3"]) -> Bf16Field:
        """See `Field`."""
        return Bf16Field(self.field.over_pass(points))

    def __call__(self, points: Float[Tensor, "batch sample 3"], dirs: Float[Tensor, "batch sample 3"]) -> FieldSamples:
        """See `Field`."""
        return in_bf16(self.field.__call__)(points, dirs)
