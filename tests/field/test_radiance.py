"""Ranges and switches of the radiance head."""

from __future__ import annotations

import pytest
import torch

from gpavatar.field.radiance import RadianceConfig, RadianceHead


def test_paper_size():
    shapes = [tuple(weight.shape) for weight in RadianceHead(64).parameters() if weight.ndim == 2]
    assert shapes == [(128, 64), (128, 128), (128, 128), (1, 128), (64, 155), (32, 64)]


@pytest.mark.parametrize(("widened", "low", "high"), [(False, 0.0, 1.0), (True, -0.001, 1.001)])
def test_ranges(widened, low, high, generator):
    head = RadianceHead(5, RadianceConfig(widened_sigmoid=widened))
    found = head(1e4 * torch.randn(1, 500, 5, generator=generator), torch.randn(1, 500, 3, generator=generator))
    rgb = found.feats[..., :3]
    assert (found.sigma >= 0).all() and found.sigma.isfinite().all()
    assert float(rgb.min()) == pytest.approx(low, abs=1e-6) and float(rgb.max()) == pytest.approx(high, abs=1e-6)
    assert found.feats[..., 3:].abs().max() > 2  # the rest is free


def test_density_does_not_depend_on_the_direction_but_colour_may(generator):
    feats, dirs = torch.randn(1, 20, 5, generator=generator), torch.randn(2, 1, 20, 3, generator=generator)
    one, other = _pair(RadianceConfig(), feats, dirs)
    torch.testing.assert_close(one.sigma, other.sigma, rtol=0, atol=0)
    assert (one.feats - other.feats).abs().max() > 1e-4
    one, other = _pair(RadianceConfig(view_octaves=-1), feats, dirs)
    torch.testing.assert_close(one.feats, other.feats, rtol=0, atol=0)


def _pair(config, feats, dirs):
    head = RadianceHead(5, config)
    return head(feats, dirs[0]), head(feats, dirs[1])
