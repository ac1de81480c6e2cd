"""A frame's work as one CUDA graph: recorded once, then replayed with a single call from the host.

Hundreds of small kernels per frame cost the host more time to start than the device to run. Recording needs what the
fused path keeps to: sizes that do not depend on values, and no wait for the device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UPS = 3  # calls before recording, in which kernels are compiled and libraries choose their algorithms


class Captured:
    """`function` of tensors, which returns a tensor or a tuple of them, without gradient.

    On CUDA it is recorded for each new set of shapes, types and devices, and replayed from then on; elsewhere it is
    called. The function must see nothing that changes but its arguments: what it reads from elsewhere (weights) is read
    from where it was when recorded.
    """

    def __init__(self, function: Callable[..., Tensor | tuple[Tensor, ...]]):
        self.function = function
        self._recorded: dict[tuple, _Recording] = {}

    @torch.no_grad()
    def __call__(self, *given: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The results are the caller's own: a later call does not change them."""
        if given[0].device.type != "cuda":
            return self.function(*given)
        key = tuple((one.shape, one.dtype, one.device) for one in given)
        if key not in self._recorded:
            self._recorded[key] = _Recording(self.function, given)
        return self._recorded[key].replayed(given)


class _Recording:
    """A graph, and the memory that it reads from and writes to."""

    def __init__(self, function: Callable[..., Tensor | tuple[Tensor, ...]], given: tuple[Tensor, ...]):
        self._given = tuple(one.clone() for one in given)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                function(*self._given)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._results = function(*self._given)

    def replayed(self, given: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        for mine, one in zip(self._given, given, strict=True):
            mine.copy_(one, non_blocking=True)
        self._graph.replay()
        if isinstance(self._results, Tensor):
            return self._results.clone()
        return tuple(one.clone() for one in self._results)
