"""The gated memory against Eq. 1, and what follows from it."""

from __future__ import annotations

import pytest
import torch

from gpavatar.synthesis.conv_gru import ConvGRU, literal_conv_gru


def frames(number: int, generator: torch.Generator) -> list[torch.Tensor]:
    return [torch.randn(2, 3, 5, 6, generator=generator, dtype=torch.float64) for _ in range(number)]


@pytest.mark.parametrize("gate", ["keeps", "replaces"])
def test_it_is_equation_1(gate, generator):
    gru, (feats, state) = ConvGRU(3, gate).double(), frames(2, generator)
    feats.requires_grad_()
    fast, slow = gru(feats, state), literal_conv_gru(gru, feats, state)
    torch.testing.assert_close(fast, slow)
    inputs = [feats, *gru.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(fast.square().sum(), inputs), torch.autograd.grad(slow.square().sum(), inputs)
    )
    assert torch.autograd.gradcheck(gru, (feats[:1, :, :2, :3], state[:1, :, :2, :3]))


def test_the_two_conventions_differ_by_the_sign_of_the_gate(generator):
    printed, released = ConvGRU(3, "keeps").double(), ConvGRU(3, "replaces").double()
    released.load_state_dict(printed.state_dict())
    with torch.no_grad():
        released.gates.weight[3:].neg_()
        released.gates.bias[3:].neg_()
    feats, state = frames(2, generator)
    torch.testing.assert_close(printed(feats, state), released(feats, state))


def test_an_open_gate_keeps_everything_and_a_closed_one_nothing(generator):
    gru, (feats, state) = ConvGRU(3).double(), frames(2, generator)
    gru.gates.bias.data[3:] = 1e3
    torch.testing.assert_close(gru(feats, state), state)
    gru.gates.bias.data[3:] = -1e3
    gru.gates.bias.data[:3] = -1e3  # r = 0: the candidate does not see the state
    torch.testing.assert_close(gru(feats, state), gru(feats))
    torch.testing.assert_close(gru(feats, gru(feats)), gru(feats))  # so that a frame twice is the frame once


def test_the_state_is_bounded_however_long_the_stream(generator):
    gru, state = ConvGRU(3).double(), None
    for weight in gru.parameters():
        weight.data *= 20
    for feats in frames(50, generator):
        state = gru(100 * feats, state)
    assert float(state.detach().abs().max()) <= 1
