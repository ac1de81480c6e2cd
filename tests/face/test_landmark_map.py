"""Contours as pictures."""

from __future__ import annotations

import torch

from gpavatar.face.landmark_map import CONTOURS, LINE_WIDTH, landmark_map
from gpavatar.face.landmarks import LIPS_INNER, LIPS_OUTER


def test_a_line_fades_with_its_distance():
    """Lips on one straight line from (0.25, 0.5) to (0.75, 0.5); everything else far outside."""
    points = torch.full((1, 478, 2), -9.0)
    lips = [*LIPS_OUTER, *LIPS_INNER]
    points[:, lips] = torch.stack([torch.linspace(0.25, 0.75, len(lips)), torch.full((len(lips),), 0.5)], -1)
    size = 64
    found = landmark_map(points, size)
    steps = (torch.arange(size) + 0.5) / size
    beyond = (steps - steps.clamp(0.25, 0.75))[None]
    expected = torch.exp(-(beyond**2 + (steps[:, None] - 0.5) ** 2) / (2 * LINE_WIDTH**2))
    torch.testing.assert_close(found[0, 2], expected, atol=1e-5, rtol=1e-4)
    assert not found[0, :2].any() and found.max() > 0.5


def test_a_map_follows_its_points(generator):
    points = torch.rand(2, 478, 2, generator=generator)
    moved = landmark_map(points + torch.tensor([2 / 32, -3 / 32]), 32)
    torch.testing.assert_close(moved[..., :29, 2:], landmark_map(points, 32)[..., 3:, :-2], atol=1e-5, rtol=1e-4)
    some = points[:1].double().requires_grad_()
    (gradient,) = torch.autograd.grad(landmark_map(some, 8).sum(), some)
    used = torch.tensor(sorted({point for channel in CONTOURS for contour in channel for point in contour}))
    assert gradient.isfinite().all() and gradient[:, used].abs().amax(-1).gt(0).float().mean() > 0.5
    unused = torch.ones(478, dtype=torch.bool)
    unused[used] = False
    assert not gradient[:, unused].any()
