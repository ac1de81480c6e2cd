"""A `gpavatar_lite` that takes a CPU no time, and photos of a head that are nothing but colours."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as functional
from torch import Tensor

from gpavatar.avatars.gpavatar_lite import GPAvatarLite, GPAvatarLiteConfig, Person
from gpavatar.avatars.gpavatar_lite_picture import PictureConfig
from gpavatar.avatars.gpavatar_lite_warp import HeadPose, LiteHead
from gpavatar.camera import Camera, axis_angle_to_matrix
from gpavatar.face.open_head import OpenHead
from gpavatar.field.point_field import PointFieldConfig
from gpavatar.synthesis.style_unet import StyleUNetConfig
from gpavatar.triplane.attention import AttentionConfig
from gpavatar.triplane.encoder import EncoderConfig
from gpavatar.types import HeadParams, map_tensors

SIZE = 64
TINY = GPAvatarLiteConfig(
    size_px=SIZE,
    rays_px=16,
    shell_samples=6,
    cube_samples=2,
    encoder=EncoderConfig(
        StyleUNetConfig(in_size_px=SIZE, out_size_px=32, out_dim=12, style_dim=8, mlp_depth=2, width=0.02)
    ),
    attention=AttentionConfig(plane_dim=4, plane_size=32),
    point_field=PointFieldConfig(point_dim=4, hidden_dim=8, out_dim=4, num_neighbours=4, octaves=2),
    shallow_dim=4,
    hidden_dim=16,
    feat_dim=4,
    picture=PictureConfig((8, 8, 8), 1),
)
HEAD = LiteHead(OpenHead.load())


def tiny(seed: int = 0, **changes) -> GPAvatarLite:
    """Untrained."""
    torch.manual_seed(seed)
    return GPAvatarLite(replace(TINY, **changes), HEAD)


def learned(net: GPAvatarLite) -> GPAvatarLite:
    """With numbers where training starts at zero."""
    for layer in (net.choice[-1], net.radiance[-1], net.picture.last):
        torch.nn.init.normal_(layer.weight, std=0.1)
        torch.nn.init.normal_(layer.bias, std=0.1)
    return net


def pose(yaw: float = 0.0, **expression: float) -> HeadPose:
    """One head from a camera that stands `yaw` radians beside it."""
    params = HeadParams.neutral(HEAD.head.n_shape, HEAD.head.n_expression)
    for name, weight in expression.items():
        params.expression[HEAD.head.expression_names.index(name)] = weight
    turn = torch.eye(4)
    turn[:3, :3] = axis_angle_to_matrix(torch.tensor([0.0, yaw, 0.0]))
    camera = Camera.frontal(6.0, 2.6)
    return HEAD.pose(params[None], Camera(turn @ camera.c2w, camera.intrinsics)[None])


def photo(at: HeadPose, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Smooth colours, and the matte of something a little larger than the mesh."""
    rng = torch.Generator().manual_seed(seed)
    image = functional.interpolate(torch.rand(1, 3, 8, 8, generator=rng), (SIZE, SIZE), mode="bicubic").clamp(0, 1)
    uv = at.camera.project(at.verts)[0]
    alpha = torch.zeros(1, 1, SIZE, SIZE)
    columns, rows = (uv * SIZE).long().clamp(0, SIZE - 1).unbind(-1)
    alpha[0, 0, rows, columns] = 1
    return image, functional.max_pool2d(alpha, 7, 1, 3)


def person(net: GPAvatarLite, *poses: HeadPose, seeds: tuple[int, ...] | None = None) -> Person:
    """Made of a photo in each of these poses."""
    pairs = [photo(at, seed) for at, seed in zip(poses, seeds or range(len(poses)), strict=True)]
    images, alphas = (torch.stack(list(side), 1) for side in zip(*pairs, strict=True))
    return net.encode(images, alphas, stacked(*poses))


def stacked(*poses: HeadPose) -> HeadPose:
    """With an axis `source` after the axis `batch`."""
    pick = [map_tensors(one, lambda tensor: tensor[:, None]) for one in poses]
    camera = Camera(*(torch.cat([getattr(p.camera, name) for p in pick], 1) for name in ("c2w", "intrinsics")))
    return HeadPose(torch.cat([p.verts for p in pick], 1), torch.cat([p.neck for p in pick], 1), camera)
