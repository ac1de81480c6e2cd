"""Adversarial losses against their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from gpavatar.field.radiance import FieldSamples
from gpavatar.training.gan_losses import blurred, density_roughness, discriminator_loss, generator_loss, r1_penalty


def test_losses_are_logarithms_of_probabilities():
    real, fake = torch.tensor([0.3, -2.0]), torch.tensor([-0.7, 1.5])
    passing = torch.sigmoid(fake)
    torch.testing.assert_close(generator_loss(fake), -passing.log().mean())
    torch.testing.assert_close(
        discriminator_loss(real, fake), -(torch.sigmoid(real).log().mean() + (1 - passing).log().mean())
    )


def test_the_generator_learns_most_where_it_is_seen_through():
    logit = torch.tensor([-10.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(generator_loss(logit), logit)
    assert float(gradient) == pytest.approx(-1, abs=1e-3)  # a saturating loss would have no gradient here


def test_r1_is_the_squared_length_of_the_gradient(generator):
    """D(x) = ½ xᵀ A x has the gradient A x; and the penalty moves A against ∂/∂A mean |A x|² = 2 A x xᵀ."""
    x = torch.randn(3, 2, 2, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    root = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    form = (root + root.T).requires_grad_()
    flat = x.flatten(1)
    penalty = r1_penalty(((flat @ form) * flat).sum(1) / 2, x)
    # the symmetric form: its gradient by autograd is (A + Aᵀ) x / 2
    torch.testing.assert_close(penalty, (flat @ form).square().sum(1).mean())
    (found,) = torch.autograd.grad(penalty, form)
    mean = (2 * flat.T @ flat / 3).detach()
    expected = (form.detach() @ mean + mean @ form.detach()) / 2
    torch.testing.assert_close(found, expected)


class Ramp:
    """σ = 3 x: roughness is that of the x axis alone."""

    def over_pass(self, points):
        return self

    def __call__(self, points, dirs):
        return FieldSamples(3 * points[..., 0], points)


def test_roughness_is_the_mean_step_of_the_density():
    torch.manual_seed(0)
    found = density_roughness(Ramp(), 4, num=5000, spread=0.01)
    assert float(found) == pytest.approx(3 * 0.01 * math.sqrt(2 / math.pi), rel=0.02)  # E|n| of a normal n


def test_blur_is_a_gaussian_that_keeps_the_mean():
    image = torch.zeros(1, 2, 41, 41)
    image[0, 0, 20, 20], image[0, 1] = 1.0, 0.3
    sigma = 3.0
    soft = blurred(image, sigma)
    steps = torch.arange(41) - 20.0
    profile = torch.exp(-(steps**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
    torch.testing.assert_close(soft[0, 0], profile[:, None] * profile, atol=2e-4, rtol=0.02)
    torch.testing.assert_close(soft[0, 1], image[0, 1])
    assert float(soft[0, 0].sum()) == pytest.approx(1, abs=1e-5)
    assert blurred(image, 0.3) is image
