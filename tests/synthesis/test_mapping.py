"""Codes, poses and the mean style."""

from __future__ import annotations

import torch

from gpavatar.camera import Camera
from gpavatar.synthesis.mapping import Mapping, MappingConfig, pose_code


def made(**changes) -> Mapping:
    torch.manual_seed(0)
    return Mapping(MappingConfig(code_dim=8, **changes), style_dim=6)


def test_truncation_goes_in_a_line_to_the_mean(generator):
    mapping = made()
    mapping.mean.copy_(torch.arange(6.0))
    code, pose = torch.randn(3, 8, generator=generator), torch.randn(3, 16, generator=generator)
    assert torch.equal(mapping(code, pose, 0.0), mapping.mean.expand(3, 6))
    ends = mapping(code, pose, 0.0), mapping(code, pose)
    torch.testing.assert_close(mapping(code, pose, 0.3), torch.lerp(*ends, 0.3))


def test_only_the_direction_of_a_code_counts_and_the_pose_where_it_is_told(generator):
    code, pose = torch.randn(3, 8, generator=generator), torch.randn(3, 16, generator=generator)
    told, untold = made(), made(with_pose=False)
    torch.testing.assert_close(told(5 * code, pose), told(code, pose), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(told(code, pose), told(code, pose.flip(0)))
    assert torch.equal(untold(code, pose), untold(code, pose.flip(0)))


def test_the_mean_follows_the_styles():
    mapping, styles = made(mean_decay=0.9), torch.tensor([[1.0] * 6, [3.0] * 6])
    for _ in range(2):
        mapping.follow(styles)
    torch.testing.assert_close(mapping.mean, torch.full((6,), 2 * (1 - 0.9**2)))


def test_a_pose_is_where_the_camera_stands_and_how_it_sees():
    camera = Camera.frontal(5.0, 2.2)
    code = pose_code(Camera(camera.c2w[None], camera.intrinsics[None]))[0]
    assert code.tolist() == [1, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1, 5, *camera.intrinsics.tolist()]
