"""Plane lookup: exact where it should be, zero outside, the right axes."""

from __future__ import annotations

import pytest
import torch

from gpavatar.triplane.lookup import PLANES, sample_planes


def linear_planes(slopes: torch.Tensor, size: int, names: tuple[str, ...]) -> torch.Tensor:
    """Planes whose feature at (column, row) is slope · the coordinates of that texel."""
    steps = (torch.arange(size, dtype=slopes.dtype) + 0.5) * 2 / size - 1
    planes = [
        slopes[plane, :, "xyz".index(column), None, None] * steps
        + slopes[plane, :, "xyz".index(row), None, None] * steps[:, None]
        for plane, (column, row) in enumerate(names)
    ]
    return torch.stack(planes)[None]


@pytest.mark.parametrize("names", [PLANES, ("xy", "xz", "zy")])
def test_linear_functions_are_exact(names, generator):
    slopes = torch.randn(3, 4, 3, generator=generator, dtype=torch.float64)  # plane channel axis
    points = (torch.rand(1, 100, 3, generator=generator, dtype=torch.float64) * 2 - 1) * (1 - 1 / 16)
    wanted = torch.stack(
        [
            sum(slopes[plane, :, "xyz".index(axis)] * points[0, :, "xyz".index(axis), None] for axis in name)
            for plane, name in enumerate(names)
        ]
    )
    planes = linear_planes(slopes, 16, names)
    torch.testing.assert_close(sample_planes(planes, points, names, "sum")[0], wanted.sum(0))
    torch.testing.assert_close(sample_planes(planes, points, names)[0], wanted.mean(0))
    torch.testing.assert_close(sample_planes(planes, points, names, "concat")[0], torch.cat([*wanted], -1))


def test_each_plane_ignores_its_third_axis(generator):
    planes = torch.randn(1, 3, 2, 8, 8, generator=generator)
    point = torch.tensor([[[0.1, -0.3, 0.5]]])
    before = sample_planes(planes, point, reduce="concat").reshape(3, 2)
    for plane, axis in enumerate((2, 1, 0)):
        moved = point.clone()
        moved[..., axis] += 0.3
        after = sample_planes(planes, moved, reduce="concat").reshape(3, 2)
        changed = (after - before).abs().amax(-1) > 1e-6
        assert changed.tolist() == [index != plane for index in range(3)]


def test_nothing_is_outside():
    planes = torch.ones(1, 3, 2, 8, 8)
    assert not sample_planes(planes, torch.tensor([[[2.0, 2.0, 2.0]]])).any()


def test_gradients(generator):
    planes = torch.randn(2, 3, 2, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    points = (torch.rand(2, 5, 3, generator=generator, dtype=torch.float64) * 1.2 - 0.6).requires_grad_()
    assert torch.autograd.gradcheck(sample_planes, (planes, points))
