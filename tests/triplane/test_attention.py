"""Multi Tri-planes Attention: any number of photos, in any order."""

from __future__ import annotations

import pytest
import torch

from gpavatar.triplane.attention import AttentionConfig, PlaneAttention


def made(weighting: str) -> PlaneAttention:
    torch.manual_seed(1)
    return PlaneAttention(AttentionConfig(plane_dim=4, plane_size=6, weighting=weighting)).double()


WEIGHTINGS = pytest.mark.parametrize("weighting", ["ratio", "softmax", "mean"])


@WEIGHTINGS
def test_one_photo_comes_out_as_it_is(weighting, generator):
    planes = torch.randn(2, 1, 3, 4, 6, 6, generator=generator, dtype=torch.float64)
    assert torch.equal(made(weighting)(planes), planes[:, 0])
    torch.testing.assert_close(
        made(weighting).shares(planes).expand(2, 1, 3, 1, 6, 6), torch.ones(2, 1, 3, 1, 6, 6).double()
    )


@WEIGHTINGS
@pytest.mark.parametrize("num", [2, 3, 5])
def test_order_does_not_matter_and_shares_sum_to_one(weighting, num, generator):
    net = made(weighting)
    planes = torch.randn(2, num, 3, 4, 6, 6, generator=generator, dtype=torch.float64)
    order = torch.randperm(num, generator=generator)
    torch.testing.assert_close(net(planes[:, order]), net(planes))
    shares = net.shares(planes)
    assert (shares > 0).all()
    torch.testing.assert_close(shares.sum(1), torch.ones_like(shares[:, 0]))
    assert (net(planes) <= planes.amax(1) + 1e-9).all() and (net(planes) >= planes.amin(1) - 1e-9).all()


@WEIGHTINGS
def test_the_same_photo_twice_is_that_photo(weighting, generator):
    planes = torch.randn(1, 1, 3, 4, 6, 6, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(made(weighting)(planes.repeat(1, 3, 1, 1, 1, 1)), planes[:, 0])


@WEIGHTINGS
def test_absent_photos_do_not_count(weighting, generator):
    net = made(weighting)
    planes = torch.randn(2, 3, 3, 4, 6, 6, generator=generator, dtype=torch.float64)
    present = torch.tensor([[True, False, True], [False, True, False]])
    found = net(planes, present)
    torch.testing.assert_close(found[0], net(planes[:1, [0, 2]])[0])
    torch.testing.assert_close(found[1], planes[1, 1])


@pytest.mark.parametrize("weighting", ["ratio", "softmax"])
def test_the_query_decides_per_texel(weighting, generator):
    """A photo whose features agree with the query at one texel counts more there, and gradients reach all parts."""
    net = made(weighting)
    planes = torch.randn(1, 2, 3, 4, 6, 6, generator=generator, dtype=torch.float64)
    shares = net.shares(planes)
    assert shares.std() > 1e-3
    net(planes).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for name, parameter in net.named_parameters() if "5.bias" not in name)
