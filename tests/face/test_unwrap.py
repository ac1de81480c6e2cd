"""Pictures in the atlas and back."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from gpavatar.camera import Camera, axis_angle_to_matrix
from gpavatar.face.open_head import OpenHead
from gpavatar.face.raster import rasterize, to_screen
from gpavatar.face.unwrap import FACING, unwrap
from gpavatar.face.uv import sample
from gpavatar.types import HeadParams

SIZE_PX, ATLAS = 384, 192


@pytest.fixture(scope="module")
def head() -> OpenHead:
    return OpenHead.load()


@pytest.fixture(scope="module")
def verts(head) -> torch.Tensor:
    return head.verts(HeadParams.neutral(head.n_shape, head.n_expression))


def view(yaw_deg: float) -> Camera:
    turn = torch.eye(4)
    turn[:3, :3] = axis_angle_to_matrix(torch.tensor([0.0, torch.tensor(yaw_deg).deg2rad(), 0.0]))
    frontal = Camera.frontal(6.0, 2.6)
    return Camera((turn @ frontal.c2w)[None], frontal.intrinsics[None])


def picture(texture: torch.Tensor, head: OpenHead, verts: torch.Tensor, camera: Camera) -> torch.Tensor:
    screen = to_screen(verts, camera[0], SIZE_PX, SIZE_PX)
    fragments = rasterize(screen, head.topology.faces, SIZE_PX, SIZE_PX)
    return sample(texture, fragments, head.topology.uv, head.topology.uv_faces)


@pytest.fixture(scope="module")
def texture() -> torch.Tensor:
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return functional.interpolate(coarse, (ATLAS, ATLAS), mode="bicubic", align_corners=False)[0].clamp(0, 1)


@pytest.mark.parametrize("yaw_deg", [0.0, 50.0])
def test_unwrapping_undoes_rasterising_where_the_surface_is_seen(head, verts, texture, yaw_deg):
    """Texture -> picture -> texture: what is visible comes back; a seam or a rim within a pixel excepted."""
    camera = view(yaw_deg)
    found = unwrap(picture(texture, head, verts, camera)[None], camera, verts[None], head.topology, ATLAS)
    visible = found.visible[0, 0] > 0
    assert 0.1 < float(visible.float().mean()) < 0.8
    inner = functional.max_pool2d(1 - found.visible, 5, 1, 2)[0, 0] == 0
    error = (found.picture[0] - texture).abs().amax(0)
    assert float(error[visible].mean()) < 0.025
    assert float(error[inner].quantile(0.99)) < 0.017


def test_rasterising_undoes_unwrapping(head, verts, texture):
    """Picture -> texture -> picture."""
    camera = view(20.0)
    before = picture(texture, head, verts, camera)
    found = unwrap(before[None], camera, verts[None], head.topology, ATLAS)
    after, seen = picture(torch.cat([found.picture[0], found.visible[0]]), head, verts, camera).split([3, 1])
    known = (seen > 0.999).expand(3, -1, -1)
    assert float(known.float().mean()) > 0.1
    assert float((after - before)[known].abs().mean()) < 0.01


def test_what_is_turned_away_or_behind_the_face_is_not_seen(head, verts):
    """From the left none of the right half's outer surface; nothing where the mouth is closed; zero elsewhere."""
    ones = torch.ones(1, 1, SIZE_PX, SIZE_PX)
    front, side = (unwrap(ones, view(yaw), verts[None], head.topology, ATLAS) for yaw in (0.0, 60.0))
    torch.testing.assert_close(front.picture, front.visible)
    assert float((side.visible * (1 - front.visible)).sum()) > 1500  # the near side shows more
    assert float((front.visible * (1 - side.visible)).sum()) > 3000  # the far side nothing
    assert FACING == 0.1


def test_a_batch_is_its_pictures(head, verts, texture):
    cameras = Camera(torch.cat([view(0.0).c2w, view(30.0).c2w]), view(0.0).intrinsics.expand(2, 4))
    both = torch.stack([picture(texture, head, verts, cameras[i : i + 1]) for i in range(2)])
    together = unwrap(both, cameras, verts.expand(2, -1, -1), head.topology, 64)
    second = unwrap(both[1:], cameras[1:], verts[None], head.topology, 64)
    torch.testing.assert_close(together.picture[1:], second.picture)
    torch.testing.assert_close(together.visible[1:], second.visible)
