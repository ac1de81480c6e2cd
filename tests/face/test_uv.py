"""The way picture -> texture -> picture, on a mesh whose texture is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from gpavatar.camera import Camera, axis_angle_to_matrix
from gpavatar.face import uv
from gpavatar.face.morphable import HeadTopology, SurfacePoints
from gpavatar.face.raster import Fragments, rasterize, to_screen, with_gradient

SIZE = 128


def globe(rows: int = 24, columns: int = 32, radius: float = 0.7) -> tuple[torch.Tensor, HeadTopology]:
    """A sphere unrolled into the atlas with one seam (at −z) and a margin on all sides."""
    down = torch.linspace(0.02, torch.pi - 0.02, rows + 1)
    around = torch.arange(columns + 1) / columns * 2 * torch.pi
    polar, turn = torch.meshgrid(down, around, indexing="ij")
    verts = radius * torch.stack([-polar.sin() * turn.sin(), polar.cos(), -polar.sin() * turn.cos()], -1)
    texture_verts = 0.05 + 0.9 * torch.stack([turn / (2 * torch.pi), polar / torch.pi], -1).reshape(-1, 2)
    first = (torch.arange(rows)[:, None] * (columns + 1) + torch.arange(columns)).reshape(-1)
    quads = torch.stack([first, first + columns + 1, first + columns + 2, first + 1], -1)
    uv_faces = torch.cat([quads[:, :3], quads[:, [0, 2, 3]]])
    welded = torch.arange((rows + 1) * (columns + 1)).reshape(rows + 1, columns + 1)
    welded[:, -1] = welded[:, 0]
    nowhere = SurfacePoints(torch.zeros(0, dtype=torch.long), torch.zeros(0, 3))
    topology = HeadTopology(
        welded.reshape(-1)[uv_faces], texture_verts, uv_faces, nowhere, nowhere, torch.zeros(478), {}
    )
    return verts.reshape(-1, 3), topology


def view(yaw_deg: float) -> Camera:
    turn = torch.eye(4)
    turn[:3, :3] = axis_angle_to_matrix(torch.tensor([0.0, torch.deg2rad(torch.tensor(yaw_deg)), 0.0]))
    frontal = Camera.frontal(4.0, 2.2)
    return Camera(turn @ frontal.c2w, frontal.intrinsics)


def smooth_texture(size: int = SIZE) -> torch.Tensor:
    coarse = torch.rand(1, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    return functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)[0].clamp(0, 1)


def seen(verts: torch.Tensor, topology: HeadTopology, camera: Camera, size: int = SIZE) -> Fragments:
    return rasterize(to_screen(verts, camera, size, size), topology.faces, size, size)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * (a - b).square().mean().log10())


def test_texels_know_their_surface_point():
    verts, topology = globe()
    texels = uv.texel_map(topology, 64)
    own_uv = texels.on(topology.uv, topology.uv_faces)
    centres = (torch.stack(torch.meshgrid(torch.arange(64), torch.arange(64), indexing="xy")) + 0.5) / 64
    torch.testing.assert_close(own_uv[:, texels.valid], centres[:, texels.valid], atol=1e-6, rtol=0)
    assert not texels.valid[:2].any() and texels.valid[10, 10]
    assert uv.texel_map(topology, 64) is texels


@pytest.mark.parametrize("yaw_deg", [0.0, 25.0])
def test_render_unproject_render_is_the_identity(yaw_deg):
    verts, topology = globe()
    texture, texels = smooth_texture(), uv.texel_map(topology, SIZE)
    picture = uv.sample(texture, seen(verts, topology, view(yaw_deg), 2 * SIZE), topology.uv, topology.uv_faces)
    taken = uv.unproject(picture, view(yaw_deg), verts, topology, texels)
    sure = taken.weight[0] > 0.25
    assert 0.17 < sure.float().mean() < 0.20  # a cap of 65° fills 0.18 of this atlas
    assert psnr(taken.colour[:, sure], texture[:, sure]) > 57  # measured 59.9 and 60.1 dB
    again = uv.sample(
        uv.dilate(taken.colour, sure, 4), seen(verts, topology, view(0.0)), topology.uv, topology.uv_faces
    )
    truth = uv.sample(texture, seen(verts, topology, view(0.0)), topology.uv, topology.uv_faces)
    middle = slice(SIZE * 3 // 8, SIZE * 5 // 8)
    assert psnr(again[:, middle, middle], truth[:, middle, middle]) > 63  # measured 66.9 and 66.2 dB


def test_weight_is_the_cosine_and_zero_behind():
    verts, topology = globe()
    texels = uv.texel_map(topology, 64)
    weight = uv.unproject(torch.rand(3, 96, 96), view(0.0), verts, topology, texels).weight[0]
    points = texels.on(verts, topology.faces)
    cosine = (
        points
        / points.norm(dim=0).clamp_min(1e-6)
        * functional.normalize(torch.tensor([0.0, 0.0, 4.0])[:, None, None] - points, dim=0)
    ).sum(0)
    assert weight[texels.valid & (cosine < -0.05)].max() == 0
    front = texels.valid & (cosine > 0.15)
    torch.testing.assert_close(weight[front], cosine[front], atol=0.02, rtol=0)  # flat triangles: measured 0.009


def test_hidden_texels_get_no_weight():
    """A small globe behind the first, and a camera that sees only the first."""
    verts, topology = globe()
    behind = verts * 0.5 - torch.tensor([0.0, 0.0, 1.5])
    left = topology.uv * torch.tensor([0.5, 1.0])
    both = HeadTopology(
        torch.cat([topology.faces, topology.faces + len(verts)]),
        torch.cat([left, left + torch.tensor([0.5, 0.0])]),
        torch.cat([topology.uv_faces, topology.uv_faces + len(topology.uv)]),
        *(topology.mediapipe, topology.ibug68, topology.mediapipe_weights, {}),
    )
    texels = uv.texel_map(both, 64)
    weight = uv.unproject(torch.rand(3, 96, 96), view(0.0), torch.cat([verts, behind]), both, texels).weight[0]
    assert weight[:, :32].max() > 0.9 and weight[:, 32:].max() == 0


def test_dilate_fills_outwards_and_keeps_the_valid():
    texture = torch.rand(3, 16, 16)
    valid = torch.zeros(16, 16, dtype=torch.bool)
    valid[6:10, 6:10] = True
    grown = uv.dilate(texture, valid, 2)
    assert torch.equal(grown[:, valid], texture[:, valid])
    assert (grown[:, 4:12, 4:12] > 0).all() and (grown[:, :4] == 0).all()
    torch.testing.assert_close(grown[:, 5, 5], texture[:, 6, 6])
    constant = uv.dilate(torch.full((1, 16, 16), 0.3), valid, 8)
    torch.testing.assert_close(constant[:, 1:15, 1:15], torch.full((1, 14, 14), 0.3))


def test_seam_is_invisible_after_dilation():
    """Seen from behind, a constant colour stays constant across the seam although the atlas around it is black."""
    verts, topology = globe()
    texels = uv.texel_map(topology, 64)
    fragments = seen(verts, topology, view(180.0))
    colour = torch.full((1, 64, 64), 0.7) * texels.valid
    bare, padded = (
        uv.sample(t, fragments, topology.uv, topology.uv_faces)[0] for t in (colour, uv.dilate(colour, texels.valid, 2))
    )
    assert bare[fragments.covered].min() < 0.6
    torch.testing.assert_close(padded[fragments.covered], torch.full_like(padded[fragments.covered], 0.7))


@pytest.mark.parametrize("channels", [1, 4])
def test_fast_sample_equals_its_twin(channels):
    pytest.importorskip("numba")
    verts, topology = globe()
    texture = torch.rand(channels, 40, 56)
    one = seen(verts, topology, view(10.0), 97)
    fast, slow = (uv.sample(texture, one, topology.uv, topology.uv_faces, backend) for backend in ("numba", "torch"))
    torch.testing.assert_close(fast, slow, atol=1e-4, rtol=0)  # measured 3e-5
    two = Fragments(one.face_ids.expand(2, -1, -1), one.bary.expand(2, -1, -1, -1), one.depth.expand(2, -1, -1))
    assert torch.equal(uv.sample(texture, two, topology.uv, topology.uv_faces, "numba")[1], fast)


def test_gradients_reach_texture_verts_and_image():
    verts, topology = globe(8, 12)
    verts, texture = verts.double().requires_grad_(), torch.rand(1, 8, 8, dtype=torch.float64, requires_grad=True)
    camera = Camera(view(5.0).c2w.double(), view(5.0).intrinsics.double())
    atlas = replace(topology, uv=topology.uv.double())
    fragments = rasterize(to_screen(verts, camera, 12, 12), atlas.faces, 12, 12)

    def picture(texture, verts):
        return uv.sample(
            texture, with_gradient(fragments, to_screen(verts, camera, 12, 12), atlas.faces), atlas.uv, atlas.uv_faces
        )

    assert torch.autograd.gradcheck(picture, (texture, verts), atol=1e-4, fast_mode=True)
    image = torch.rand(3, 12, 12, requires_grad=True)
    taken = uv.unproject(image, view(5.0), verts.detach().float(), topology, uv.texel_map(topology, 16))
    (taken.colour * taken.weight).sum().backward()
    assert image.grad[:, 6, 6].min() > 0 and image.grad[:, 0, 0].max() == 0
