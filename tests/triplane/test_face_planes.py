"""A face in planes that stand still."""

from __future__ import annotations

import pytest
import torch

from gpavatar.triplane.face_planes import FacePlane, with_face
from gpavatar.triplane.lookup import PLANES


@pytest.mark.parametrize("name", PLANES)
def test_only_the_window_of_the_named_plane_changes_and_only_under_alpha(name, generator):
    static = torch.randn(2, 3, 4, 8, 8, generator=generator)
    feats = torch.randn(2, 4, 3, 3, generator=generator)
    alpha = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.25, 0.0], [0.0, 1.0, 1.0]]).expand(2, 1, 3, 3)
    blended = with_face(static, FacePlane(name, feats, alpha), column=2, row=4, side=3)
    expected = static.clone()
    for row in range(3):
        for column in range(3):
            share, at = alpha[0, 0, row, column], (slice(None), PLANES.index(name), slice(None), 4 + row, 2 + column)
            expected[at] = share * feats[..., row, column] + (1 - share) * static[at]
    torch.testing.assert_close(blended, expected)
    kept = torch.ones_like(static, dtype=torch.bool)
    kept[:, PLANES.index(name), :, 4:7, 2:5] = alpha[0, 0] == 0
    assert torch.equal(blended[kept], static[kept])


def test_a_finer_face_is_averaged():
    static = torch.zeros(1, 3, 1, 4, 4)
    feats = torch.arange(16.0).reshape(1, 1, 4, 4)
    blended = with_face(static, FacePlane("xy", feats, torch.ones(1, 1, 4, 4)), column=1, row=1, side=2)
    inner = blended[0, 0, 0, 1:3, 1:3]
    torch.testing.assert_close(inner.mean(), feats.mean())
    assert inner[0, 0] < inner[0, 1] < inner[1, 0] < inner[1, 1] and blended.count_nonzero() == 4
