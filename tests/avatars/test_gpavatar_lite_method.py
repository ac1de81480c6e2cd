"""`gpavatar_lite` behind the protocol: photos to state to frames to file, and as `--model FILE.safetensors`."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from gpavatar.assets import shipped_weights
from gpavatar.avatars import gpavatar_lite_method
from gpavatar.avatars.base import Avatar
from gpavatar.avatars.checkpoint import WeightsInfo, config_yaml, save_weights
from gpavatar.avatars.gpavatar_lite_method import GPAvatarLiteMethod
from gpavatar.camera import Camera, axis_angle_to_matrix
from gpavatar.methods import load_model
from gpavatar.pipeline import PersonAvatar, load_avatar
from gpavatar.retarget import Pose
from gpavatar.types import HeadParams, InputError, SourceFrame
from tests.avatars.tiny_lite import HEAD, TINY, learned, photo, pose, tiny


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    head = HEAD.head
    info = WeightsInfo("gpavatar_lite", head.name, head.sha256, config_yaml(TINY))
    save_weights(learned(tiny()).state_dict(), path, info)
    return path


@pytest.fixture(scope="module")
def model(weights):
    return load_model(str(weights), "cpu")


def frame(yaw: float = 0.0, size: int = 96) -> SourceFrame:
    """A photo larger than the network's, with landmarks where the head has them."""
    at = pose(yaw)
    image, alpha = (torch.nn.functional.interpolate(x, (size, size))[0] for x in photo(at))
    params = HeadParams.neutral(HEAD.head.n_shape, HEAD.head.n_expression)
    landmarks = at.camera.project(HEAD.head.topology.mediapipe.on(at.verts, HEAD.head.faces))[0] * size
    return SourceFrame(image, alpha, 0 * alpha, alpha, 0 * alpha, params, at.camera[0], landmarks)


def smiling(params: HeadParams) -> HeadParams:
    return dataclasses.replace(params, expression=params.expression + 0.5)


@pytest.fixture(autouse=True)
def small_photos(monkeypatch):
    monkeypatch.setattr(gpavatar_lite_method, "FINE_PX", 128)


def test_it_is_an_avatar(model):
    assert isinstance(model, Avatar) and isinstance(model, GPAvatarLiteMethod) and len(model.sha256) == 64


@torch.no_grad()
def test_from_photos_to_frames_and_back_from_a_file(model, weights, tmp_path):
    """Saved pictures have 8 bits."""
    first, second = frame(), frame(0.3)
    state = model.encode([first, second])
    params = smiling(first.params)
    drawn = model.render(state, params, first.camera, 80)
    assert drawn.image.shape == (3, 80, 80) and drawn.alpha.shape == (1, 80, 80)
    assert 0 <= drawn.image.min() and drawn.image.max() <= 1 and drawn.alpha.max() > 0.9
    depth = model.depth(state, params, first.camera, 80)
    assert depth.shape == (1, 80, 80) and 5 < depth[depth > 0].mean() < 7  # the camera is 6 units away

    person = PersonAvatar(model, state)
    person.save(tmp_path / "me.safetensors")
    again = load_avatar(tmp_path / "me.safetensors", "cpu", str(weights))
    there = again.render(Pose(params, first.camera), 80)
    assert (there.image - drawn.image).abs().max() < 0.03
    with pytest.raises(InputError, match="give its weights"):
        load_avatar(tmp_path / "me.safetensors", "cpu")


@torch.no_grad()
def test_photos_are_kept_as_large_as_they_can_be_drawn(model):
    """A photo of the network's size makes pictures of that size, enlarged; a larger one has its own detail."""
    large, small = model.encode([frame(size=96), frame(0.3, size=64)]), model.encode([frame(size=64), frame(0.3)])
    sizes = [state.photos.image.shape for state in (large, small)]
    assert sizes == [(2, 3, 128, 128), (2, 3, 64, 64)]
    params, camera = smiling(frame().params), frame().camera
    assert model.person(small).fine is None and model.person(large).fine.shape == (1, 2, 4, 128, 128)
    drawn, enlarged = (model.render(state, params, camera, 128).image for state in (large, small))
    assert drawn.shape == enlarged.shape and (drawn - enlarged).abs().mean() > 1e-3


@torch.no_grad()
def test_drawn_by_two_threads_side_by_side(model, monkeypatch):
    """Two states at two sizes, each made ready once, give what one thread after the other gives."""
    states, params, camera = [model.encode([frame(yaw)]) for yaw in (0.0, 0.3)], smiling(frame().params), frame().camera
    asked = [(number, size) for _ in range(3) for number in (0, 1) for size in (64, 128)]
    alone = [model.render(states[number], params, camera, size).image for number, size in asked]
    fresh, made = [dataclasses.replace(state) for state in states], []
    encode = model.net.encode
    monkeypatch.setattr(model.net, "encode", lambda *photos: made.append(1) or encode(*photos))
    with ThreadPoolExecutor(2) as pool:
        drawn = pool.map(lambda one: model.render(fresh[one[0]], params, camera, one[1]).image, asked)
        assert all(torch.equal(one, other) for one, other in zip(drawn, alone, strict=True))
    assert len(made) == len(states)


@torch.no_grad()
def test_update_is_encoding_all_at_once(model):
    first, second = frame(), frame(0.3)
    once, step = model.encode([first, second]), model.update(model.encode([first]), second)
    drawn = [model.render(state, smiling(first.params), first.camera, 64).image for state in (once, step)]
    assert torch.allclose(*drawn, atol=1e-5)


@torch.no_grad()
def test_state_has_an_end(model, monkeypatch):
    """The photos that differ most are kept, the first among them."""
    monkeypatch.setattr(gpavatar_lite_method, "MAX_PHOTOS", 3)
    yaws = [0.0, 0.01, 0.5, 0.02, -0.5, 0.03]
    photos = model.encode([frame(yaw) for yaw in yaws]).photos
    kept = [round(float(w2c[0, 2].asin().abs()), 2) for w2c in photos.camera.w2c[:, :3, :3]]
    assert len(photos.image) == 3 and kept == [0.0, 0.5, 0.5]


@torch.no_grad()
def test_behind_the_person_is_what_is_asked(model):
    first = frame()
    state, green = model.encode([first]), torch.tensor([0.0, 1.0, 0.0])[:, None, None].expand(3, 64, 64)
    turn = torch.eye(4)
    turn[:3, :3] = axis_angle_to_matrix(torch.tensor([0.0, 0.2, 0.0]))
    drawn = model.render(state, first.params, Camera(turn @ first.camera.c2w, first.camera.intrinsics), 64, green)
    nobody = drawn.alpha[0] < 1e-3
    assert nobody.any() and torch.allclose(drawn.image[:, nobody], green[:, nobody], atol=0.01)


def test_weights_of_another_head_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_weights(tiny().state_dict(), path, WeightsInfo("gpavatar_lite", "open_head", "0" * 64, config_yaml(TINY)))
    with pytest.raises(InputError, match="another version of the head"):
        load_model(str(path), "cpu")


def test_by_its_name_it_has_the_weights_of_the_project():
    shipped = shipped_weights("gpavatar_lite")
    assert load_model("gpavatar_lite", "cpu").sha256 == load_model(str(shipped), "cpu").sha256
    assert shipped_weights("gpavatar") is None


def test_who_may_use_the_weights(model):
    assert load_model("gpavatar_lite", "cpu").research_only and not model.research_only


def test_weights_are_asked_for():
    with pytest.raises(InputError, match="--model FILE"):
        GPAvatarLiteMethod()
