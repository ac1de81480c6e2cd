"""The expression field against Eq. 1 of the paper, its limits, its switches."""

from __future__ import annotations

import math

import pytest
import torch

from gpavatar.field.frequency import code_width, frequency_code
from gpavatar.field.point_field import PointField, PointFieldConfig, literal_point_field

SMALL = {"point_dim": 4, "hidden_dim": 6, "out_dim": 3, "num_neighbours": 4, "octaves": 2, "backend": "brute"}


def made(generator: torch.Generator, num_verts: int = 40, **changed) -> tuple[PointField, torch.Tensor, torch.Tensor]:
    """A small field in float64, vertices, places."""
    torch.manual_seed(3)
    net = PointField(num_verts, PointFieldConfig(**{**SMALL, **changed})).double()
    verts = torch.rand(2, num_verts, 3, generator=generator, dtype=torch.float64) - 0.5
    return net, verts, torch.rand(2, 30, 3, generator=generator, dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("k", [1, 4, 8])
def test_cheap_form_is_equation_1(generator, k):
    """Measured difference 4e-15 at values of 1; the softened distance adds 1e-12 relative."""
    net, verts, points = made(generator, num_neighbours=k)
    torch.testing.assert_close(net(verts)(points), literal_point_field(net, verts, points), rtol=1e-9, atol=1e-11)


def test_paper_size_is_equation_1(generator):
    torch.manual_seed(0)
    net = PointField(5023, PointFieldConfig(backend="scipy")).double()
    assert net.code_dim == 39 and net.first.in_features == 71
    verts = torch.randn(1, 5023, 3, generator=generator, dtype=torch.float64) * 0.3
    points = torch.rand(1, 200, 3, generator=generator, dtype=torch.float64) * 2 - 1
    torch.testing.assert_close(net(verts)(points), literal_point_field(net, verts, points), rtol=1e-7, atol=1e-9)


def test_cheap_form_has_the_gradients_of_equation_1(generator):
    net, verts, points = made(generator)
    for tensor in (verts, points):
        tensor.requires_grad_()
    inputs = [verts, points, *net.parameters()]
    fast = torch.autograd.grad(net(verts)(points).square().sum(), inputs)
    slow = torch.autograd.grad(literal_point_field(net, verts, points).square().sum(), inputs)
    torch.testing.assert_close(fast, slow, rtol=1e-7, atol=1e-9)


def test_gradcheck(generator):
    net, verts, points = made(generator, num_verts=9)
    points = points[:, :3].clone().requires_grad_()
    verts = verts.requires_grad_()
    net.second.bias.requires_grad_()
    assert torch.autograd.gradcheck(lambda v, p, _: net(v)(p), (verts, points, net.features), atol=1e-4)


def test_a_sample_on_a_vertex_has_that_vertex_alone(generator):
    net, verts, _ = made(generator)
    points = verts[:, :5].clone().requires_grad_()
    found = net(verts)(points)
    offset = torch.zeros(5, 3, dtype=torch.float64)
    alone = net.second(torch.relu(net.first(torch.cat([net.features[:5], frequency_code(offset, 2)], -1))))
    torch.testing.assert_close(found, alone.expand(2, -1, -1), rtol=1e-3, atol=1e-4)
    found.sum().backward()
    assert points.grad.isfinite().all() and net.features.grad.isfinite().all()


def test_a_constant_answer_comes_out_as_it_is(generator):
    """The weights sum to one: with W_2 = 0 the field is b_2 everywhere."""
    net, verts, points = made(generator)
    torch.nn.init.zeros_(net.second.weight)
    torch.testing.assert_close(net(verts)(points), net.second.bias.expand(2, 30, 3))


def test_moving_head_and_place_together_changes_nothing(generator):
    net, verts, points = made(generator)
    shift = torch.tensor([0.1, -0.2, 0.05], dtype=torch.float64)
    torch.testing.assert_close(net(verts + shift)(points + shift), net(verts)(points))


def test_local_sampling_forgets_what_is_far(generator):
    net, verts, points = made(generator, max_distance=0.05)
    near = (torch.cdist(points, verts) <= 0.05).any(-1)
    found = net(verts)(points)
    assert not found[~near].any()
    beside = net(verts)(verts + 0.01)
    assert beside.abs().amax(-1).min() > 0


def test_fewer_points_are_a_fixed_choice(generator):
    net, verts, points = made(generator, num_points=12)
    assert net.features.shape[0] == 12 and len(set(net.used.tolist())) == 12
    with torch.device("meta"):  # where a network waits for its file
        torch.testing.assert_close(net.used, PointField(40, net.config).used)
    moved = verts.clone()
    moved[:, [vert for vert in range(40) if vert not in net.used.tolist()]] += 1
    torch.testing.assert_close(net(moved)(points), net(verts)(points))


def test_released_weights_sum_over_the_pass_and_survive_pieces(generator):
    """Released: Σ over samples, per rank of neighbour; the same however the pass is cut, but not what a part gives."""
    net, verts, points = made(generator, code_of="direction", weight="inverse_square", normalised_over="pass")
    bound = net(verts).over_pass(points, piece=7)
    whole = bound(points)
    torch.testing.assert_close(torch.cat([bound(part) for part in points.split(11, 1)], 1), whole)
    alone = net(verts).over_pass(points[:, :11])(points[:, :11])
    assert (alone - whole[:, :11]).abs().max() > 1e-3

    distance, nearest = torch.cdist(points, verts).topk(4, largest=False)
    weights = 1 / distance.square()
    weights = weights / weights.sum(1, keepdim=True)
    corner = torch.stack([one[index] for one, index in zip(verts, nearest, strict=True)])
    unit = torch.nn.functional.normalize(points[:, :, None] - corner, dim=-1)
    pair = torch.cat([net.features[nearest], frequency_code(unit, 2)], -1)
    literal = (weights[..., None] * net.second(torch.relu(net.first(pair)))).sum(2)
    torch.testing.assert_close(whole, literal, rtol=1e-6, atol=1e-9)


def test_frequency_code_by_hand():
    code = frequency_code(torch.tensor([0.25, -0.5], dtype=torch.float64), 2)
    half = math.sqrt(0.5)
    wanted = [half, 1, -1, 0, half, 0, 0, -1, 0.25, -0.5]
    torch.testing.assert_close(code, torch.tensor(wanted, dtype=torch.float64))
    assert code_width(3, 6) == 39 and code_width(3, 4) == 27
