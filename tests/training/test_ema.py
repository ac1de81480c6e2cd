"""Averaged weights against the equation, and their ways in and out of a checkpoint."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gpavatar.training.ema import Ema


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def move(network: nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))


def test_the_average_is_that_of_the_equation(generator):
    network = net()
    ema, expected = Ema(network, 0.5), network[0].weight[0, 0].item()
    for step in range(20):
        move(network, generator)
        ema.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * network[0].weight[0, 0].item()
        assert ema.averages[0][0, 0].item() == pytest.approx(expected, rel=1e-5)


def test_weights_that_stand_still_are_their_average():
    network = net()
    ema = Ema(network, 0.999)
    ema.update()
    assert all(torch.equal(a, p) for a, p in zip(ema.averages, network.parameters(), strict=True))


def test_applied_and_taken_away_again(generator):
    network = net()
    ema, before = Ema(network, 0.9), network[0].weight.detach().clone()
    move(network, generator)
    after, parameter = network[0].weight.detach().clone(), network[0].weight
    with ema.applied():
        assert torch.equal(network[0].weight, before) and network[0].weight is parameter
    assert torch.equal(network[0].weight, after)
    with pytest.raises(ZeroDivisionError), ema.applied():
        1 / 0  # noqa: B018
    assert torch.equal(network[0].weight, after)


@pytest.mark.parametrize(("small", "tolerance"), [(False, 0.0), (True, 2**-8)])
def test_a_state_comes_back(generator, small, tolerance):
    """Exactly; or, kept small, to eight bits of what average and weights differ by."""
    network = net()
    ema = Ema(network, 0.9)
    for _ in range(3):
        move(network, generator)
        ema.update()
    other = Ema(network, 0.9)
    other.load(ema.state(small))
    assert other.steps == 3
    for ours, theirs, parameter in zip(other.averages, ema.averages, network.parameters(), strict=True):
        assert ((ours - theirs).abs() <= tolerance * (theirs - parameter).abs() + 1e-7 * bool(tolerance)).all()
    other.update()
    assert not torch.equal(ema.averages[0], other.averages[0])  # the state is a copy
