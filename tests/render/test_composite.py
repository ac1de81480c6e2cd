"""Laws of the volume rendering sum."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpavatar.render.composite import accumulate, ray_weights, ray_weights_literal

THICKNESS = st.lists(st.floats(0, 50), min_size=1, max_size=40)


@settings(deadline=None, max_examples=50)
@given(THICKNESS)
def test_weights_are_a_share_of_one(values):
    weights = ray_weights(torch.tensor(values, dtype=torch.float64))
    assert (weights >= 0).all()
    assert weights.sum() <= 1 + 1e-12
    assert float(weights.sum()) == pytest.approx(1 - torch.exp(-torch.tensor(sum(values))).item(), abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(THICKNESS)
def test_agrees_with_the_product_over_alphas(values):
    thickness = torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(ray_weights(thickness), ray_weights_literal(-torch.expm1(-thickness)))


def test_gradients_are_those_of_the_product(generator):
    thickness = torch.rand(3, 12, generator=generator, dtype=torch.float64, requires_grad=True)
    values = torch.rand(3, 12, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda tau, v: accumulate(ray_weights(tau), v), (thickness, values))
    literal = torch.autograd.grad(ray_weights_literal(-torch.expm1(-thickness)).square().sum(), thickness)
    fast = torch.autograd.grad(ray_weights(thickness).square().sum(), thickness)
    torch.testing.assert_close(fast, literal)


def test_limits():
    assert ray_weights(torch.zeros(2, 5)).abs().max() == 0  # nothing there: nothing seen
    wall = torch.tensor([0.0, 0.0, 1e9, 3.0, 1e9])
    torch.testing.assert_close(ray_weights(wall), torch.tensor([0.0, 0, 1, 0, 0]))  # a wall hides what is behind


def test_gradient_is_finite_behind_a_wall():
    thickness = torch.tensor([0.0, 1e9, 3.0], requires_grad=True)
    ray_weights(thickness).sum().backward()
    assert thickness.grad.isfinite().all()


def test_splitting_an_interval_changes_nothing():
    """One interval of thickness τ and colour c is the same as its two halves."""
    whole = ray_weights(torch.tensor([0.3, 1.7, 0.2], dtype=torch.float64))
    halves = ray_weights(torch.tensor([0.3, 0.85, 0.85, 0.2], dtype=torch.float64))
    torch.testing.assert_close(torch.stack([halves[0], halves[1] + halves[2], halves[3]]), whole)
