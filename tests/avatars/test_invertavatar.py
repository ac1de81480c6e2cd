"""InvertAvatar's inversion: what an encoder that says nothing does, and streams of frames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from gpavatar.avatars.animatable_prior import Canonical
from gpavatar.avatars.gathering import MEMORIES, joined_mean
from gpavatar.avatars.invertavatar import Evidence, HeadMesh, InvertAvatar, PosedFrame
from gpavatar.camera import Camera, axis_angle_to_matrix
from gpavatar.config import load_config
from gpavatar.face.open_head import OpenHead
from gpavatar.training.config import TrainConfig
from gpavatar.types import HeadParams, map_tensors
from tests.avatars.tiny_invertavatar import tiny_config


@pytest.fixture(scope="module")
def head() -> OpenHead:
    return OpenHead.load()


@pytest.fixture(scope="module")
def mesh(head) -> HeadMesh:
    return HeadMesh.of(head.topology)


def network(seed: int = 0, speaking: bool = True, **changed) -> InvertAvatar:
    """With `speaking`, layers that begin at zero are random."""
    torch.manual_seed(seed)
    net = InvertAvatar(tiny_config(**changed)).eval().requires_grad_(False)
    for parameter in net.parameters() if speaking else []:
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    return net


def frame(head: OpenHead, generator: torch.Generator, yaw_deg: float = 0.0, batch: int = 1) -> PosedFrame:
    """Noise with a head of random expression in it."""
    params = HeadParams.neutral(head.n_shape, head.n_expression, (batch,))
    params = replace(params, expression=0.5 * torch.rand(params.expression.shape, generator=generator))
    turn = torch.eye(4)
    turn[:3, :3] = axis_angle_to_matrix(torch.tensor([0.0, torch.tensor(yaw_deg).deg2rad(), 0.0]))
    front = Camera.frontal(8.0, 3.0)
    camera = Camera((turn @ front.c2w).expand(batch, 4, 4), front.intrinsics.expand(batch, 4))
    return PosedFrame(torch.rand(batch, 3, 32, 32, generator=generator), head.verts(params), camera)


@pytest.mark.parametrize("size", ["small", "lite"])
def test_the_sizes_that_are_trained_here_draw_256_px_with_at_most_12_million_parameters(size):
    config = load_config(TrainConfig, Path(__file__).parents[2] / f"configs/invertavatar_{size}.yaml").invertavatar
    with torch.device("meta"):
        net = InvertAvatar(config)
    assert sum(p.numel() for p in net.parameters()) <= 12e6
    assert net.prior.config.super_resolution.out_size_px == 256


def tensors(value) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    map_tensors(value, lambda tensor: found.append(tensor) or tensor)
    return found


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def close(a, b, **tolerance) -> None:
    torch.testing.assert_close(tensors(a), tensors(b), **tolerance)


def seen_in(net: InvertAvatar, mesh: HeadMesh, coarse: Canonical, frames: list[PosedFrame]) -> list[Evidence]:
    """What each frame shows."""
    return [net.evidence(coarse, one, mesh) for one in frames]


def remembered(net: InvertAvatar, coarse: Canonical, evidence: list[Evidence]):
    """The memory after these frames."""
    memory = MEMORIES[net.config.gathering].first(net, coarse, evidence[0])
    for one in evidence[1:]:
        memory = memory.with_frame(net, coarse, one)
    return memory


@pytest.mark.parametrize("gathering", ["recurrent", "mean", "window"])
@pytest.mark.parametrize("plane_output", ["transforms", "offsets"])
def test_encoders_that_say_nothing_give_the_coarse_avatar_exactly(head, mesh, generator, gathering, plane_output):
    """Zero offsets and zero transforms; and the coarse avatar of an untrained E_latent is the mean person."""
    net = network(speaking=False, gathering=gathering, plane_output=plane_output)
    frames = [frame(head, generator), frame(head, generator, 30.0)]
    coarse = net.coarse(frames[0])
    person = remembered(net, coarse, seen_in(net, mesh, coarse, frames)).person(net, coarse)
    assert same(person, coarse)
    assert torch.equal(coarse.styles, net.prior.mean_styles(1))
    assert not same(network(gathering=gathering).coarse(frames[0]), coarse)


def test_offsets_go_to_the_texture_and_transforms_to_the_planes(head, mesh, generator):
    net, one = network(), frame(head, generator)
    coarse = net.coarse(one)
    memory = remembered(net, coarse, seen_in(net, mesh, coarse, [one]))
    person = memory.person(net, coarse)
    moved = [not torch.equal(a, b) for a, b in zip(tensors(person), tensors(coarse), strict=True)]
    assert moved == [False, True, True, True, True, True]  # not the styles; all else
    offsets = net.texture(memory.maps.texture)
    close(person.texture, coarse.texture.plus(offsets))


def test_the_residual_is_what_the_coarse_avatar_lacks(head, mesh, generator):
    """The sign of the paper: I − Î. None where the picture is what the avatar draws."""
    net, one = network(), frame(head, generator)
    coarse = net.coarse(one)
    drawn = net.prior.animate(coarse, net.prior.views(one.verts, mesh.surface), one.camera).image.clamp(0, 1)
    assert float(net.residual(coarse, replace(one, picture=drawn), mesh).abs().max()) < 1e-6
    lighter = net.residual(coarse, replace(one, picture=drawn + 0.1), mesh)
    torch.testing.assert_close(lighter, torch.full_like(lighter, 0.1))


def test_what_the_atlas_does_not_show_is_not_heard(head, mesh, generator):
    """E_tex hears of the surface alone: another background changes nothing; E_tri hears of it."""
    net, one = network(), frame(head, generator)
    coarse = net.coarse(one)
    other = one.picture.clone()
    other[:, :, :3, :3] = 1 - other[:, :, :3, :3]  # far from the head
    a, b = (net.evidence(coarse, replace(one, picture=picture), mesh) for picture in (one.picture, other))
    assert same(a.texture, b.texture) and not same(a.plane, b.plane)
    posed = network(texture_input="posed")
    a, b = (posed.evidence(coarse, replace(one, picture=picture), mesh) for picture in (one.picture, other))
    assert not same(a.texture, b.texture)


def test_a_frontal_picture_meets_e_tri_as_it_lies_on_plane_xy(head, mesh, generator):
    """A dot at (0.4, 0.3, 0): to the right of the middle, and in the rows of greater y."""
    net, one = network(), frame(head, generator)
    column, row = one.camera.project(torch.tensor([[[0.4, 0.3, 0.0]]]))[0, 0]
    dot = torch.zeros_like(one.picture)
    dot[:, :, int(row * 32), int(column * 32)] = 1.0
    shown: list[torch.Tensor] = []
    net.plane.net.trunk.register_forward_pre_hook(lambda module, given: shown.append(given[0]))
    net.evidence(net.coarse(one), replace(one, picture=dot), mesh)
    row, column = divmod(int(shown[0][0, 0].argmax()), 32)
    assert column > 18 and row > 18


@pytest.mark.parametrize("landmark", [425, 205, 10])  # left cheek, right cheek, forehead
def test_an_offset_of_a_texel_shows_where_that_texel_is_in_the_picture(head, mesh, generator, landmark):
    """From the atlas through the drawn planes and the rendering: no axis is mirrored or exchanged on the way."""
    net, one, points = network(), frame(head, generator), head.topology.mediapipe
    coarse, views = net.coarse(one), net.prior.views(one.verts, mesh.surface)
    corners = head.topology.uv[head.topology.uv_faces[points.face_ids[landmark]]]
    u, v = (corners * points.bary[landmark][:, None]).sum(0)
    texels = (torch.arange(size := coarse.texture.fine.shape[-1]) + 0.5) / size
    patch = ((texels - u) ** 2 + (texels[:, None] - v) ** 2 < 0.05**2).float()
    marked = replace(coarse, texture=replace(coarse.texture, fine=coarse.texture.fine + 5 * patch))
    with torch.no_grad():
        drawn = [net.prior.animate(person, views, one.camera, size_px=32).raw for person in (coarse, marked)]
    row, column = divmod(int((drawn[1] - drawn[0]).abs().sum((0, 1)).argmax()), 32)
    expected = one.camera[0].project(points.on(one.verts[0], head.topology.faces)[landmark][None])[0]
    assert float((torch.tensor([column + 0.5, row + 0.5]) / 32 - expected).abs().max()) < 0.06


def test_a_frame_that_shows_no_surface_leaves_the_texture_as_it_is(head, mesh, generator):
    """An empty visibility mask; the planes may learn from it all the same."""
    net, one = network(), frame(head, generator)
    away = replace(one, verts=one.verts + torch.tensor([50.0, 0.0, 0.0]))
    coarse = net.coarse(one)
    evidence = net.evidence(coarse, away, mesh)
    assert not evidence.seen.any() and net.evidence(coarse, one, mesh).seen.all()
    before = remembered(net, coarse, seen_in(net, mesh, coarse, [one]))
    after = before.with_frame(net, coarse, evidence)
    assert same(before.maps.texture, after.maps.texture) and not same(before.maps.plane, after.maps.plane)


def test_the_mean_of_one_frame_over_and_over_is_that_frame(head, mesh, generator):
    """And otherwise the mean, in whatever order; of F_tex and F_tri, not of what the encoders say."""
    net = network(gathering="mean")
    frames = [frame(head, generator), frame(head, generator, 20.0), frame(head, generator, -30.0)]
    coarse = net.coarse(frames[0])

    evidence = seen_in(net, mesh, coarse, frames)

    def person(*chosen: int) -> Canonical:
        return remembered(net, coarse, [evidence[index] for index in chosen]).person(net, coarse)

    close(person(1, 1, 1), person(1))
    close(person(0, 1, 2), person(2, 0, 1), rtol=1e-4, atol=1e-5)
    close(person(0, 1), joined_mean(person(0), person(1), 1))
    assert not same(person(0, 1), person(0))


def test_windows_are_filled_by_the_last_frame_and_then_averaged(head, mesh, generator):
    net = network(gathering="window")
    frames = [frame(head, generator, yaw) for yaw in (0.0, 10.0, 20.0, 30.0, -10.0)]
    coarse = net.coarse(frames[0])

    evidence = seen_in(net, mesh, coarse, frames)

    def memory(*chosen: int):
        return remembered(net, coarse, [evidence[index] for index in chosen])

    def person(*chosen: int) -> Canonical:
        return memory(*chosen).person(net, coarse)

    close(person(0, 1), person(0, 1, 1, 1))
    close(person(0, 1, 2, 3, 4), joined_mean(person(0, 1, 2, 3), person(4), 1), rtol=1e-4, atol=1e-5)
    close(person(0, 1, 2, 3, 0, 1, 2, 3), person(0, 1, 2, 3), rtol=1e-4, atol=1e-5)
    assert not same(person(0, 1, 2, 3), person(0, 1))
    sizes = [sum(t.numel() for t in tensors(memory(*range(n)))) for n in (1, 4, 5)]
    assert sizes[2] == sizes[0] < sizes[1]  # the window never grows beyond its four frames


def test_a_recurrent_memory_does_not_grow_and_hears_every_frame(head, mesh, generator):
    net = network()
    frames = [frame(head, generator, yaw) for yaw in (0.0, 20.0, -20.0)]
    coarse = net.coarse(frames[0])
    evidence = seen_in(net, mesh, coarse, frames)
    memories = [remembered(net, coarse, evidence[:n]) for n in (1, 2, 3)]
    assert len({sum(t.numel() for t in tensors(memory)) for memory in memories}) == 1
    first, second = (m.person(net, coarse) for m in memories[1:])
    assert not any(torch.equal(a, b) for a, b in zip(tensors(first)[1:], tensors(second)[1:], strict=True))
    forgetful = remembered(net, coarse, evidence[1:])
    assert not same(forgetful, memories[2])  # the first frame is not forgotten


def test_a_batch_of_people_is_each_by_themselves(head, mesh, generator):
    net, both = network(), frame(head, generator, batch=2)
    coarse = net.coarse(both)
    maps = net.step(net.begin(evidence := net.evidence(coarse, both, mesh)), evidence)
    alone = net.coarse(both[1:])
    found = net.step(net.begin(evidence := net.evidence(alone, both[1:], mesh)), evidence)
    close(map_tensors(net.person(coarse, maps), lambda t: t[1:]), net.person(alone, found), rtol=1e-4, atol=1e-4)
    assert isinstance(evidence, Evidence)


def test_the_prior_draws_the_same_person_while_encoders_learn(head, mesh, generator):
    net, one = network(), frame(head, generator)
    for generators in (net.prior.texture_generator, net.prior.static_generator, net.prior.face_generator):
        for name, strength in generators.named_parameters():
            if name.endswith("noise_strength"):
                nn.init.ones_(strength)
    net.train()
    assert net.training and net.latent.training and not net.prior.training
    assert same(net.prior.canonical(net.styles(one)), net.prior.canonical(net.styles(one)))


def test_without_both_encoders_there_is_the_coarse_avatar_alone():
    net = InvertAvatar(tiny_config(refined=False))
    assert {name.split(".")[0] for name in net.state_dict()} == {"prior", "latent"}
