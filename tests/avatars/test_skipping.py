"""What a frame leaves out does not show: 200 extreme expressions, poses: an opaque person, and the lite model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gpavatar.avatars.checkpoint import WeightsInfo, config_yaml, save_weights
from gpavatar.avatars.gpavatar import GPAvatar
from gpavatar.avatars.gpavatar_method import GPAvatarMethod, GPAvatarState
from gpavatar.camera import Camera, axis_angle_to_matrix
from gpavatar.face.open_head import OpenHead
from gpavatar.field.point_field import PointFieldConfig
from gpavatar.methods import load_model
from gpavatar.render.volume import VolumeConfig
from gpavatar.types import HeadParams, SourceFrame
from tests.avatars.tiny_gpavatar import tiny_config
from tests.avatars.tiny_lite import HEAD, learned, person, pose, tiny

FRAMES = 200
STEP = 1 / 255  # of a picture of 8 bits


def extreme_face(rng: torch.Generator) -> HeadParams:
    """Any expressions at their strongest, jaw and eyes turned as far as they go."""
    share = 0.6 * torch.rand(1, generator=rng)
    turned = torch.rand(8, generator=rng) * 2 - 1
    return replace(
        HeadParams.neutral(OpenHead.load().n_shape, 52),
        expression=(torch.rand(52, generator=rng) < share).float(),
        jaw_pose=torch.tensor([0.35 * float(turned[0].abs()), 0.1 * float(turned[1]), 0.0]),
        eye_pose=0.4 * turned[2:].reshape(2, 3),
    )


def extreme_camera(rng: torch.Generator) -> Camera:
    """From anywhere in front and at the sides, upright or not."""
    turn, camera = torch.eye(4), Camera.frontal(6.0, 2.6)
    for axis, most in enumerate((0.7, 1.4, 0.6)):
        angle = torch.zeros(3)
        angle[axis] = most * float(torch.rand(1, generator=rng) * 2 - 1)
        turn[:3, :3] = turn[:3, :3] @ axis_angle_to_matrix(angle)
    return Camera(turn @ camera.c2w, camera.intrinsics)


@pytest.fixture(scope="module")
def opaque(tmp_path_factory) -> tuple[GPAvatarMethod, GPAvatarState]:
    """A person of two centimetres around the mesh, mostly solid, and nothing elsewhere."""
    torch.manual_seed(0)
    points = PointFieldConfig(4, 8, 6, num_neighbours=3, octaves=2, max_distance=0.1)
    config, head = tiny_config(point_field=points, volume=VolumeConfig(10, 12, 12)), OpenHead.load()
    net = GPAvatar(config, len(head.mean), head.n_expression + 9)
    for layer in (net.point_field.second, net.radiance.shared[0], net.radiance.shared[2]):
        layer.weight.data *= 3
    with torch.no_grad():
        near = head.mean[None, ::7] + 0.05 * torch.randn(head.mean[None, ::7].shape)
        there = torch.cat([torch.zeros(1, near.shape[1], 4), net.point_field(head.mean[None])(near)], -1)
        empty, full = net.radiance.shared(torch.zeros(10)), net.radiance.shared(there).mean((0, 1))
        net.radiance.density.weight[:] = 120 * (full - empty) / (full - empty).square().sum()
        net.radiance.density.bias[:] = -20 - net.radiance.density.weight @ empty
    path: Path = tmp_path_factory.mktemp("weights") / "opaque.safetensors"
    save_weights(net.state_dict(), path, WeightsInfo("gpavatar", head.name, head.sha256, config_yaml(config)))
    model = load_model(str(path), "cpu")
    blank, marks = torch.ones(1, 32, 32), torch.full((478, 2), 16.0)
    frame = SourceFrame(
        torch.zeros(3, 32, 32), *(blank, 0 * blank, blank, 0 * blank), HeadParams.neutral(head.n_shape, 52),
        Camera.frontal(6.0, 2.6), marks,
    )  # fmt: skip
    state = model.encode([frame])
    planes = torch.zeros_like(state.planes)
    return model, replace(state, planes=planes, occupied=model._occupied(planes, state.reference))


def test_places_that_are_empty_or_behind(opaque):
    """Against a frame of which every sample is looked at. Measured: 1e-6 (of ten frames)."""
    model, state = opaque
    everywhere, black = replace(state, occupied=torch.ones_like(state.occupied)), torch.zeros(3, 32, 32)
    assert 0.05 < state.occupied.float().mean() < 0.4
    rng, worst, seen = torch.Generator().manual_seed(0), 0.0, 0.0
    for _ in range(FRAMES):
        face, camera = extreme_face(rng), extreme_camera(rng)
        model.precision = "exact"
        found = model.render(state, face, camera, 32, black)
        model.precision = "reference"
        wanted = model.render(everywhere, face, camera, 32, black)
        for one, other in ((found.image, wanted.image), (found.alpha, wanted.alpha)):
            worst = max(worst, float((one - other).abs().max()))
        seen += float(wanted.alpha.mean()) / FRAMES
    assert 0.05 < seen < 0.9
    assert worst <= STEP


def test_an_occupancy_that_is_too_small_is_seen(opaque):
    model, state = opaque
    model.precision = "exact"
    cut = state.occupied.clone()
    cut[:, len(cut) // 2 :] = False  # the upper half
    face, camera = HeadParams.neutral(OpenHead.load().n_shape, 52), Camera.frontal(6.0, 2.6)
    alphas = [model.render(one, face, camera, 32).alpha for one in (state, replace(state, occupied=cut))]
    assert (alphas[0] - alphas[1]).abs().max() > 10 * STEP


@torch.no_grad()
def test_what_the_lite_model_leaves_out(monkeypatch):
    """Samples without a matte, against networks everywhere. Measured: 6e-6 (of ten frames)."""
    net, rng = learned(tiny(rays_px=8)).eval(), torch.Generator().manual_seed(0)
    made, worst = person(net, pose(-0.2), pose(0.3)), 0.0
    for _ in range(FRAMES):
        target = HEAD.pose(extreme_face(rng)[None], extreme_camera(rng)[None])
        found = net.look(made, target, precision="exact")
        with monkeypatch.context() as patched:
            patched.setattr(
                net, "_raw", lambda frame, points, near, known, matte: everywhere(net, frame, points, near, known)
            )
            wanted = net.look(made, target)
        for one, other in ((found.base.colour * found.base.alpha, wanted.base.colour * wanted.base.alpha),
                           (found.feats[:, :3], wanted.feats[:, :3])):  # fmt: skip
            worst = max(worst, float((one - other).abs().max()))
    assert worst <= STEP


def everywhere(net, frame, points, near, known):
    """What the networks say of every sample."""
    return net.networks(frame.person.planes, frame.points, points, near, known)
