"""Terms of the prior's reconstruction."""

from __future__ import annotations

import pytest
import torch

from gpavatar.avatars.animatable_prior import PriorOutput
from gpavatar.camera import Camera
from gpavatar.data.batch import Views
from gpavatar.training.prior_losses import reconstruction_terms
from gpavatar.types import HeadParams


def views(image: torch.Tensor, alpha: torch.Tensor) -> Views:
    camera = Camera.frontal(5.0, 2.2)
    batch = len(image)
    cameras = Camera(camera.c2w.expand(batch, 4, 4), camera.intrinsics.expand(batch, 4))
    return Views(image, alpha, HeadParams.neutral(3, 2, (batch,)), cameras, torch.zeros(batch, 478, 2))


def test_terms_by_hand(generator):
    """Two people of 8 px, raw pictures of 4 px; the truth is on black."""
    image, alpha = torch.rand(2, 3, 8, 8, generator=generator), torch.rand(2, 1, 8, 8, generator=generator)
    truth = image * alpha
    small = torch.nn.functional.interpolate(truth, (4, 4), mode="bilinear", align_corners=False, antialias=True)
    feats = torch.cat([small + 0.1, torch.rand(2, 2, 4, 4, generator=generator)], 1)
    matte = torch.nn.functional.interpolate(alpha, (4, 4), mode="bilinear", align_corners=False, antialias=True)
    terms = reconstruction_terms(PriorOutput(feats, truth - 0.2, matte + 0.3, matte), views(image, alpha))
    assert float(terms.l1) == pytest.approx(0.3, rel=1e-5) and float(terms.opacity) == pytest.approx(0.09, rel=1e-5)
    assert float(terms.perceptual) == 0


def test_of_constant_opacities_the_mean_of_the_mattes_is_best():
    """A person on a quarter of the picture: an absolute difference would be least at opacity 0."""
    alpha = torch.zeros(1, 1, 8, 8)
    alpha[..., :4, :4] = 1
    opacity = torch.tensor(0.25, requires_grad=True)
    picture = torch.zeros(1, 3, 8, 8)
    terms = reconstruction_terms(
        PriorOutput(picture, picture, opacity.expand(1, 1, 8, 8), alpha), views(picture, alpha)
    )
    (gradient,) = torch.autograd.grad(terms.opacity, opacity)
    assert float(gradient) == pytest.approx(0, abs=1e-6)
