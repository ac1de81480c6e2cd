"""Varied pictures, and how much they are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gpavatar.training.prior_config import VariationConfig
from gpavatar.training.variation import Variation

STILL = VariationConfig("fixed", 1.0, shift=0.0, log_scale=0.0, turn_deg=0.0, brightness=0.0, log_contrast=0.0,
                        log_saturation=0.0)  # fmt: skip


def test_nothing_varies_where_nothing_is_to(generator):
    stacked = torch.rand(3, 9, 8, 8, generator=generator)
    assert Variation(VariationConfig())(stacked) is stacked
    torch.testing.assert_close(Variation(STILL)(stacked), stacked, atol=1e-5, rtol=1e-5)
    never = Variation(VariationConfig(mode="fixed", probability=0.0))
    torch.testing.assert_close(never(stacked), stacked, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("change", ["shift", "log_scale", "turn_deg"])
def test_all_parts_of_a_picture_move_together(change):
    torch.manual_seed(0)
    ramp = torch.linspace(-1, 1, 8).expand(6, 1, 8, 8)
    moved = Variation(replace(STILL, **{change: {"shift": 0.2, "log_scale": 0.5, "turn_deg": 40.0}[change]}))(
        ramp.expand(6, 9, 8, 8)
    )
    assert (moved - ramp).abs().mean() > 0.01
    torch.testing.assert_close(moved, moved[:, :1].expand_as(moved), atol=1e-5, rtol=1e-5)


def test_colours_change_and_landmarks_do_not(generator):
    torch.manual_seed(0)
    stacked = torch.rand(4, 9, 4, 4, generator=generator) - 0.5
    for change in ("brightness", "log_contrast", "log_saturation"):
        seen = Variation(replace(STILL, **{change: 0.5}))(stacked)
        assert (seen[:, :6] - stacked[:, :6]).abs().max() > 0.02
        torch.testing.assert_close(seen[:, 6:], stacked[:, 6:], atol=1e-5, rtol=1e-5)
    grey = stacked[:, :1].expand_as(stacked)
    saturated = Variation(replace(STILL, log_saturation=1.0))(grey)
    torch.testing.assert_close(saturated, grey, atol=1e-5, rtol=1e-5)  # grey has no saturation to change


def test_an_adaptive_probability_follows_confidence_and_is_kept():
    config = VariationConfig(mode="adaptive", target=0.6, speed_images=100)
    variation, sure, unsure = Variation(config), torch.ones(10), torch.tensor([1.0, -1.0] * 5)
    assert float(variation.probability) == 0
    for _ in range(3):
        variation.follow(sure)
    assert float(variation.probability) == pytest.approx(0.3)
    variation.follow(unsure)
    assert float(variation.probability) == pytest.approx(0.2)
    for _ in range(20):
        variation.follow(sure)
    assert float(variation.probability) == 1 and "probability" in variation.state_dict()


def test_gradients_pass_through(generator):
    torch.manual_seed(0)
    stacked = torch.rand(2, 9, 5, 5, generator=generator, requires_grad=True)
    Variation(VariationConfig(mode="fixed", probability=1.0))(stacked).sum().backward()
    assert stacked.grad.abs().sum() > 1
