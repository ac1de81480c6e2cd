"""InvertAvatar behind the protocol: streams of photos, an avatar that is made on several days, `--model FILE`."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch

from gpavatar.avatars.base import Avatar
from gpavatar.avatars.checkpoint import WeightsInfo, config_yaml, save_weights
from gpavatar.avatars.invertavatar_method import InvertAvatarMethod
from gpavatar.camera import Camera
from gpavatar.face.open_head import OpenHead
from gpavatar.methods import load_model
from gpavatar.pipeline import PersonAvatar, load_avatar
from gpavatar.retarget import Pose
from gpavatar.types import HeadParams, InputError, SourceFrame, map_tensors
from tests.avatars.test_invertavatar import network, tensors
from tests.avatars.tiny_invertavatar import tiny_config


def weights(folder, gathering: str):
    """A file with weights that say something."""
    path, head = folder / f"{gathering}.safetensors", OpenHead.load()
    config = tiny_config(gathering=gathering)
    info = WeightsInfo("invertavatar", head.name, head.sha256, config_yaml(config))
    save_weights(network(gathering=gathering).state_dict(), path, info)
    return path


@pytest.fixture(scope="module", params=["recurrent", "mean", "window"])
def model(request, tmp_path_factory) -> InvertAvatarMethod:
    return load_model(str(weights(tmp_path_factory.mktemp("weights"), request.param)), "cpu")


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory):
    return weights(tmp_path_factory.mktemp("weights"), "recurrent")


def photos(number: int, size: int = 48) -> list[SourceFrame]:
    """Noise with a round matte and a face that moves, seen from the front."""
    generator, head = torch.Generator().manual_seed(5), OpenHead.load()
    steps = torch.linspace(-1, 1, size)
    inside = ((steps[:, None] ** 2 + steps**2) < 0.5).float()[None]
    neutral = HeadParams.neutral(head.n_shape, 52)
    return [
        SourceFrame(
            torch.rand(3, size, size, generator=generator),
            *(inside, 0 * inside, inside, 0 * inside),
            replace(neutral, expression=0.5 * torch.rand(52, generator=generator)),
            Camera.frontal(8.0, 3.0),
            torch.full((478, 2), size / 2),
        )
        for _ in range(number)
    ]


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def test_it_is_an_avatar(model):
    assert isinstance(model, Avatar) and isinstance(model, InvertAvatarMethod) and len(model.sha256) == 64


def test_a_batch_is_a_fold_over_the_stream_whatever_nights_lie_between(model, tmp_path):
    """Five frames at once, and one by one with the avatar saved and loaded after the third: the same to the bit, over
    the end of a window. An update leaves the state that it starts from as it is."""
    frames = photos(5)
    whole = model.encode(frames)
    evening = functools.reduce(model.update, frames[1:3], model.encode(frames[:1]))
    kept = map_tensors(evening, torch.clone)
    model.save(evening, tmp_path / "avatar.safetensors")
    streamed = functools.reduce(model.update, frames[3:], model.load(tmp_path / "avatar.safetensors"))
    assert same(streamed.memory, whole.memory) and same(streamed.person, whole.person)
    assert same(model.update(evening, frames[3]).reference, kept.reference) and same(evening, kept)
    assert not same(evening.person, whole.person)


def test_the_file_does_not_grow(recurrent, tmp_path):
    model, sizes = load_model(str(recurrent), "cpu"), []
    for number in (1, 3):
        model.save(model.encode(photos(number)), tmp_path / "avatar.safetensors")
        sizes.append((tmp_path / "avatar.safetensors").stat().st_size)
    assert sizes[0] == sizes[1]


def test_from_photos_to_frames_and_back_from_a_file(recurrent, tmp_path):
    model, frames = load_model(str(recurrent), "cpu"), photos(2)
    state = model.encode(frames)
    out = model.render(state, frames[1].params, frames[1].camera, 64)
    assert out.image.shape == (3, 64, 64) and out.alpha.shape == (1, 64, 64)
    assert 0 <= float(out.image.min()) and float(out.image.max()) <= 1
    green = torch.tensor([0.0, 1.0, 0.0])[:, None, None].expand(3, 64, 64)
    on_green = model.render(state, frames[1].params, frames[1].camera, 64, green)
    torch.testing.assert_close(on_green.alpha, out.alpha)
    other_person = replace(frames[1].params, shape=frames[1].params.shape + 1)
    torch.testing.assert_close(model.render(state, other_person, frames[1].camera, 64).image, out.image)
    PersonAvatar(model, state).save(tmp_path / "avatar.safetensors")
    again = load_avatar(tmp_path / "avatar.safetensors", "cpu", str(recurrent))
    pose = Pose(frames[1].params, frames[1].camera)
    torch.testing.assert_close(again.render(pose, 64).image, out.image, atol=2 / 255, rtol=0)


def test_without_both_encoders_the_first_photo_is_all(tmp_path):
    """Table 3, "wo both Enc"; saved and loaded like the others."""
    head, config = OpenHead.load(), tiny_config(refined=False)
    info = WeightsInfo("invertavatar", head.name, head.sha256, config_yaml(config))
    save_weights(network(refined=False).state_dict(), tmp_path / "coarse.safetensors", info)
    model, frames = load_model(str(tmp_path / "coarse.safetensors"), "cpu"), photos(2)
    state = model.encode(frames)
    assert same(state.person, model.encode(frames[:1]).person) and same(state.person, state.coarse)
    model.save(state, tmp_path / "avatar.safetensors")
    assert int(model.update(model.load(tmp_path / "avatar.safetensors"), frames[1]).memory.num_frames) == 3


def test_a_file_of_other_weights_or_of_another_way_to_gather_is_refused(model, recurrent, tmp_path):
    model.save(model.encode(photos(1)), tmp_path / "avatar.safetensors")
    if model.gathering != "recurrent":
        with pytest.raises(InputError, match="weights_sha256"):
            load_avatar(tmp_path / "avatar.safetensors", "cpu", str(recurrent))
    with pytest.raises(InputError, match="invertavatar is a learned method"):
        load_model("invertavatar", "cpu")
