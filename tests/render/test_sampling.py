"""Samples follow the density that they were asked to follow."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpavatar.render.sampling import (
    even_edges,
    intervals_around,
    jittered,
    midpoints,
    sample_pdf,
    sample_released,
)


def ray(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[None, None]


def test_even_edges_fill_the_ray():
    edges = even_edges(torch.tensor([[2.0]]), torch.tensor([[6.0]]), 4)
    torch.testing.assert_close(edges, torch.tensor([[[2.0, 3, 4, 5, 6]]]))
    torch.testing.assert_close(midpoints(edges), torch.tensor([[[2.5, 3.5, 4.5, 5.5]]]))


def test_jitter_stays_in_its_interval_and_fills_it(generator):
    edges = even_edges(torch.zeros(1, 5000), torch.ones(1, 5000), 4)
    t = jittered(edges, generator)
    assert ((t >= edges[..., :-1]) & (t <= edges[..., 1:])).all()
    share = (t - edges[..., :-1]) * 4
    torch.testing.assert_close(share.mean(1), torch.full((1, 4), 0.5), atol=0.02, rtol=0)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 10), min_size=2, max_size=12), st.integers(1, 50))
def test_shares_of_samples_are_shares_of_weight(values, num):
    """In every interval at most one sample more or less than its part of the cdf."""
    weights = ray(*values)
    edges = torch.linspace(1, 3, len(values) + 1, dtype=torch.float64)[None, None]
    t = sample_pdf(edges, weights, num)
    assert (t.diff(dim=-1) >= 0).all()
    pdf = (weights + 1e-5) / (weights + 1e-5).sum()
    for index, share in enumerate(pdf[0, 0]):
        inside = ((t >= edges[..., index] - 1e-9) & (t <= edges[..., index + 1] + 1e-9)).sum()
        assert inside >= float(share) * num - 1.0001
    histogram = torch.histc(t[0, 0], len(values), 1, 3)
    assert (histogram.cumsum(0) - pdf[0, 0].cumsum(0) * num).abs().max() <= 1.0001


def test_a_spike_takes_all_samples_and_nothing_takes_them_evenly():
    edges = ray(0, 1, 2, 3)
    t = sample_pdf(edges, ray(0, 1e6, 0), 8)
    torch.testing.assert_close(t, 1 + (torch.arange(8, dtype=torch.float64) + 0.5)[None, None] / 8, atol=1e-6, rtol=0)
    torch.testing.assert_close(sample_pdf(edges, ray(0, 0, 0), 3), ray(0.5, 1.5, 2.5))


def test_jittered_samples_have_the_density(generator):
    weights = torch.tensor([1.0, 3.0]).expand(1, 4000, 2)
    edges = torch.tensor([0.0, 1.0, 2.0]).expand(1, 4000, 3)
    t = sample_pdf(edges, weights, 5, jitter=True, rng=generator)
    assert float((t > 1).float().mean()) == pytest.approx(0.75, abs=0.01)


def test_intervals_fill_the_ray_whatever_the_samples(generator):
    t = torch.rand(2, 3, 9, generator=generator).sort(-1).values
    edges = intervals_around(t, torch.zeros(2, 3), torch.ones(2, 3))
    assert (edges.diff(dim=-1) >= 0).all()
    torch.testing.assert_close(edges.diff(dim=-1).sum(-1), torch.ones(2, 3))


def test_the_released_sampler_by_hand():
    """t = 0, 1, 2, 3 with weights 4, 1, 2, 1: cdf ½, ⅝, ⅞, 1; two draws at ⅝ and ⅞, so at t = 1 and 2."""
    t = sample_released(ray(0, 1, 2, 3), ray(4, 1, 2, 1), 2)
    # Ends ½, 1½, 2½; what is returned lies between them.
    torch.testing.assert_close(t, ray(1, 2), atol=1e-5, rtol=0)


def test_the_released_sampler_stays_between_the_samples(generator):
    t = torch.rand(1, 50, 16, generator=generator).sort(-1).values
    fine = sample_released(t, torch.rand(1, 50, 16, generator=generator), 16, jitter=True, rng=generator)
    assert (fine >= t[..., :1]).all() and (fine <= t[..., -1:]).all()
    assert (fine.diff(dim=-1) >= -1e-6).all()
