"""The few numbers of a training's curves against their definitions."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from gpavatar.camera import Camera
from gpavatar.data.batch import Views
from gpavatar.training.validation import validation_metrics
from gpavatar.types import HeadParams

SIZE = 16


@pytest.fixture
def target(generator) -> Views:
    """Two pictures of which the left half is the person."""
    image, alpha = torch.rand(2, 3, SIZE, SIZE, generator=generator) * 0.8, torch.zeros(2, 1, SIZE, SIZE)
    alpha[..., : SIZE // 2] = 1.0
    camera = Camera(torch.eye(4).expand(2, 4, 4), torch.full((2, 4), 0.5))
    return Views(image, alpha, HeadParams.neutral(1, 1, (2,)), camera, torch.zeros(2, 478, 2))


def test_the_person_is_judged_on_black(target):
    found = validation_metrics(target.image * target.alpha, target)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {"l1": 0.0, "psnr": 100.0, "psnr_person": 100.0, "ssim": 1.0}, abs=1e-4
    )


def test_psnr_of_the_person_leaves_the_background_out(target):
    truth, off = target.image * target.alpha, torch.zeros(2, 1, SIZE, SIZE)
    off[0], off[1, ..., SIZE // 2 :] = 0.1, 0.2  # the first picture everywhere, the second in the background alone
    found = validation_metrics(truth + off, target, lambda a, b: (a - b).abs().amax((1, 2, 3)))
    assert float(found["l1"]) == pytest.approx((0.1 + 0.2 / 2) / 2, rel=1e-4)
    assert float(found["psnr"]) == pytest.approx((20.0 - 10 * torch.tensor(0.04 / 2).log10().item()) / 2, rel=1e-4)
    assert float(found["psnr_person"]) == pytest.approx((20.0 + 100.0) / 2, rel=1e-4)
    assert float(found["lpips"]) == pytest.approx(0.15, rel=1e-4)
    assert found["ssim"] == structural_similarity_index_measure(truth + off, truth, data_range=1.0)
