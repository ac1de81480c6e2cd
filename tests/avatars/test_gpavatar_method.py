"""GPAvatar behind the protocol: photos to state to frames to file, and as `--model FILE.safetensors`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from generated_flame import generate

from gpavatar.avatars.base import Avatar, HasPrecision
from gpavatar.avatars.checkpoint import WeightsInfo, config_yaml, save_weights
from gpavatar.avatars.gpavatar import GPAvatar
from gpavatar.avatars.gpavatar_method import GPAvatarMethod
from gpavatar.camera import Camera
from gpavatar.face.open_head import OpenHead
from gpavatar.field.twin import has_bfloat16
from gpavatar.methods import load_model
from gpavatar.pipeline import PersonAvatar, load_avatar
from gpavatar.render.captured import Captured
from gpavatar.retarget import Pose
from gpavatar.types import HeadParams, InputError, SourceFrame
from tests.avatars.tiny_gpavatar import tiny_config


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    head = OpenHead.load()
    torch.manual_seed(0)
    net = GPAvatar(tiny_config(), len(head.mean), head.n_expression + 9)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(net.state_dict(), path, WeightsInfo("gpavatar", head.name, head.sha256, config_yaml(tiny_config())))
    return path


@pytest.fixture(scope="module")
def model(weights):
    return load_model(str(weights), "cpu")


def photo(generator, size: int = 48) -> SourceFrame:
    """Noise with a round matte, seen from the front."""
    steps = torch.linspace(-1, 1, size)
    inside = ((steps[:, None] ** 2 + steps**2) < 0.5).float()[None]
    params = HeadParams.neutral(OpenHead.load().n_shape, 52)
    return SourceFrame(
        torch.rand(3, size, size, generator=generator),
        *(inside, 0 * inside, inside, 0 * inside),
        params,
        Camera.frontal(10.0, 4.0),
        torch.full((478, 2), size / 2),
    )


def smiling(frame: SourceFrame) -> HeadParams:
    params = HeadParams.neutral(len(frame.params.shape), 52)
    return HeadParams(params.shape, params.expression + 0.5, *(params.jaw_pose, params.neck_pose, params.eye_pose))


def test_precision(model, generator):
    """Compiled is the reference; the fast one is near it, and may be asked for between two frames."""
    frame = photo(generator)
    state, pictures = model.encode([frame]), {}
    assert isinstance(model, HasPrecision) and model.precision == "exact"
    for precision in ("reference", "fast", "exact"):
        model.precision = precision
        pictures[precision] = model.render(state, smiling(frame), frame.camera, 32).image
    torch.testing.assert_close(pictures["exact"], pictures["reference"], rtol=1e-4, atol=1e-5)
    assert (pictures["fast"] - pictures["exact"]).square().mean() < 1e-4  # 40 dB; measured 57 dB
    if has_bfloat16(model.device):
        assert (pictures["fast"] - pictures["exact"]).abs().max() > 1e-5


def test_it_is_an_avatar(model):
    assert isinstance(model, Avatar) and isinstance(model, GPAvatarMethod) and len(model.sha256) == 64


def test_from_photos_to_frames_and_back_from_a_file(model, weights, generator, tmp_path):
    frames = [photo(generator), photo(generator)]
    state = model.encode(frames)
    assert state.source_planes.shape[0] == 2
    torch.testing.assert_close(state.reference.image, frames[0].image)
    out = model.render(state, smiling(frames[0]), frames[0].camera, 64)
    assert out.image.shape == (3, 64, 64) and out.alpha.shape == (1, 64, 64)
    assert not torch.allclose(out.image, model.render(state, frames[0].params, frames[0].camera, 64).image)

    model.save(state, tmp_path / "me.safetensors")
    again = load_avatar(tmp_path / "me.safetensors", "cpu", str(weights))
    redrawn = again.render(Pose(smiling(frames[0]), frames[0].camera), 64)
    torch.testing.assert_close(redrawn.image, out.image, atol=0.01, rtol=0)  # the background is kept in 8 bits

    one_more = model.update(model.encode(frames[:1]), frames[1])
    torch.testing.assert_close(one_more.planes, state.planes, atol=5e-3, rtol=5e-3)


def test_the_background_stands_where_the_person_is_not(model, generator):
    frame = photo(generator)
    state = model.encode([frame])
    red = torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(3, 32, 32)
    black, on_red = (model.render(state, frame.params, frame.camera, 32, b) for b in (0 * red, red))
    torch.testing.assert_close(on_red.alpha, black.alpha)
    wanted = (black.image + (1 - black.alpha) * red).clamp(0, 1)
    unclamped = black.image < 1
    torch.testing.assert_close(on_red.image[unclamped], wanted[unclamped], atol=1e-5, rtol=0)


def test_without_weights_it_says_what_to_give():
    with pytest.raises(InputError, match="give its weights as --model"):
        load_model("gpavatar", "cpu")


def test_an_avatar_of_other_weights_is_refused(model, weights, generator, tmp_path):
    person = PersonAvatar(model, model.encode([photo(generator)]))
    person.save(tmp_path / "me.safetensors")
    with pytest.raises(InputError, match="give its weights as --model"):
        load_avatar(tmp_path / "me.safetensors", "cpu")
    with pytest.raises(InputError, match="was made with gpavatar, not textured_mesh"):
        load_avatar(tmp_path / "me.safetensors", "cpu", "textured_mesh")
    other = tmp_path / "other.safetensors"
    head = OpenHead.load()
    net = GPAvatar(tiny_config(), len(head.mean), head.n_expression + 9)
    save_weights(net.state_dict(), other, WeightsInfo("gpavatar", head.name, head.sha256, config_yaml(tiny_config())))
    with pytest.raises(InputError, match="weights_sha256"):
        load_avatar(tmp_path / "me.safetensors", "cpu", str(other))


def test_weights_for_another_head_are_refused(tmp_path):
    for head, sha256, said in (("open_head", "0" * 64, "another version of the head"), ("sphere", "any", "no head")):
        path = tmp_path / f"{head}.safetensors"
        save_weights({}, path, WeightsInfo("gpavatar", head, sha256, config_yaml(tiny_config())))
        with pytest.raises(InputError, match=said):
            load_model(str(path), "cpu")


def test_a_model_on_flame_is_driven_by_the_user_s_file(generator, tmp_path, monkeypatch):
    """The way of the released weights, at toy size: GPAVATAR_FLAME, tracked open head, FLAME's vertices."""
    arrays = generate()
    np.savez(tmp_path / "flame.npz", **arrays)
    front = np.flatnonzero((arrays["v_template"][arrays["f"].astype(int)][..., 2] > 0.02).all(1))[:105]
    at = {"lmk_face_idx": front, "lmk_b_coords": np.full((105, 3), 1 / 3), "landmark_indices": np.arange(105)}
    np.savez(tmp_path / "mediapipe_landmark_embedding.npz", **at)
    net = GPAvatar(tiny_config(head="flame"), 5023, 59)
    path = tmp_path / "tiny.safetensors"
    save_weights(
        net.state_dict(), path, WeightsInfo("gpavatar", "flame", "any", config_yaml(tiny_config(head="flame")))
    )
    monkeypatch.delenv("GPAVATAR_FLAME", raising=False)
    with pytest.raises(InputError, match="set GPAVATAR_FLAME"):
        load_model(str(path), "cpu")
    monkeypatch.setenv("GPAVATAR_FLAME", str(tmp_path / "flame.npz"))
    model = load_model(str(path), "cpu")
    frame = photo(generator)
    state = model.encode([frame])
    still, moved = (model.render(state, p, frame.camera, 32).image for p in (frame.params, smiling(frame)))
    assert still.isfinite().all() and not torch.allclose(still, moved)


def test_what_a_graph_would_record_sees_nothing_but_its_arguments(model, generator, monkeypatch):
    """Where the fused kernels draw, the whole frame goes through one `Captured` per precision."""
    frame = photo(generator)
    state, seen = model.encode([frame]), []
    plain = model.render(state, smiling(frame), frame.camera, 32)
    monkeypatch.setattr("gpavatar.avatars.gpavatar_method.choose_twin", lambda *given, gradient: "triton")
    call = Captured.__call__
    monkeypatch.setattr(Captured, "__call__", lambda self, *given: seen.append((self, given)) or call(self, *given))
    first, second = (model.render(state, smiling(frame), frame.camera, 32) for _ in range(2))
    assert torch.equal(first.image, plain.image) and torch.equal(second.image, plain.image)
    assert seen[0][0] is seen[1][0] and all(isinstance(one, torch.Tensor) for one in seen[0][1])
