"""The running average of a network's weights: steadier than the weights themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """θ' ← d_t θ' + (1 − d_t) θ after each step, with d_t = min(decay, (1 + t) / (10 + t)), t steps taken before.

    The beginning, far from anything good, is so forgotten soon. Buffers are not averaged: they do not change.
    """

    def __init__(self, net: nn.Module, decay: float):
        self.net, self.decay, self.steps = net, decay, 0
        self.averages = [parameter.detach().clone() for parameter in net.parameters()]

    @torch.no_grad()
    def update(self) -> None:
        """One step was taken."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.averages, list(self.net.parameters()), 1 - decay)
        self.steps += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the network has the averaged weights."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    def exchange(self) -> None:
        """Average and current weights change places; nothing is copied."""
        for number, parameter in enumerate(self.net.parameters()):
            parameter.data, self.averages[number] = self.averages[number], parameter.data

    def to_parameters(self) -> None:
        """Bring the averages to where the parameters are."""
        pairs = zip(self.averages, self.net.parameters(), strict=True)
        self.averages = [torch.empty_like(parameter).copy_(average) for average, parameter in pairs]

    def state(self, small: bool = False) -> dict[str, Tensor | int]:
        """What a checkpoint holds: averages by name, or (`small`) what they differ by from the weights, in bf16."""
        state: dict[str, Tensor | int] = {"steps": self.steps}
        for (name, parameter), average in zip(self.net.named_parameters(), self.averages, strict=True):
            state[name] = (average - parameter.detach()).bfloat16() if small else average.clone()
        return state

    @torch.no_grad()
    def load(self, state: dict[str, Tensor | int]) -> None:
        """Take up what `state` returned, the network having the weights of then."""
        self.steps = int(state["steps"])
        for (name, parameter), average in zip(self.net.named_parameters(), self.averages, strict=True):
            kept = state[name]
            average.copy_(parameter + kept if kept.dtype == torch.bfloat16 else kept)
