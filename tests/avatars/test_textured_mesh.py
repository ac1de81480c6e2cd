"""The textured mesh: laws of its pictures, on a synthetic person whose every view is known."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from benchmarks.textured_mesh import HOLE_YAWS, hole_shares
from gpavatar.avatars.base import Avatar, AvatarState
from gpavatar.avatars.portrait_layers import dilate
from gpavatar.avatars.state_file import save_state
from gpavatar.avatars.textured_mesh import TexturedMesh
from gpavatar.data.synthetic import SyntheticFrame
from gpavatar.face.uv import texel_map
from gpavatar.media.align import FACE_OVAL
from gpavatar.types import InputError

from .conftest import SIZE, Studio, open_studio

EYES = (33, 160, 159, 158, 133, 153, 145, 144, 362, 385, 386, 387, 263, 373, 374, 380)
MOUTH = (61, 291, 0, 17, 13, 14)


def box(
    studio: Studio, frame: SyntheticFrame, points: tuple[int, ...], margin_px: int = 3
) -> tuple[slice, slice, slice]:
    marks = studio.person.head.topology.mediapipe.on(frame.verts, studio.person.head.faces)
    px = frame.camera.project_px(marks, SIZE, SIZE)[list(points)]
    (left, top), (right, bottom) = (px.amin(0) - margin_px).int().tolist(), (px.amax(0) + margin_px).int().tolist()
    return slice(None), slice(top, bottom), slice(left, right)


def error(a: Tensor, b: Tensor) -> float:
    """Mean squared difference."""
    return float((a - b).square().mean())


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * (a - b).square().mean().log10())


def test_it_is_an_avatar(studio):
    assert isinstance(studio.avatar, Avatar)
    assert isinstance(studio.one, AvatarState)
    assert torch.equal(studio.one.reference.image, studio.sources[0].image)


@pytest.mark.parametrize("number", [1, 4])
def test_the_source_comes_back_at_its_own_pose(studio, number):
    truth = studio.truth()
    face = box(studio, truth, FACE_OVAL)
    state = {1: studio.one, 4: studio.four}[number]
    drawn = studio.drawn(state)
    assert psnr(drawn.image[face], truth.image[face]) > {1: 25, 4: 25}[number]
    assert psnr(drawn.image, truth.image) > 25
    assert (drawn.alpha - truth.alpha).abs().mean() < 0.02


@pytest.mark.parametrize(
    ("where", "expression"),
    [
        (EYES, {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0}),
        (MOUTH, {"jawOpen": 0.7}),
        (MOUTH, {"mouthSmileLeft": 0.9, "mouthSmileRight": 0.9}),
    ],
    ids=["blink", "jaw", "smile"],
)
def test_expressions_are_seen(studio, where, expression):
    """The avatar that makes the expression is nearer to the person who makes it than the avatar at rest."""
    truth = studio.truth(**expression)
    part = box(studio, truth, where)
    made, resting = (
        error(studio.drawn(studio.four, **made).image[part], truth.image[part]) for made in (expression, {})
    )
    assert made < 0.6 * resting


def test_views_are_seen(studio):
    """The face of the turned head is nearer to the truth than the source as it is."""
    for at in ((0, -20), (0, 20), (10, 0)):
        truth = studio.truth(at)
        face = box(studio, truth, FACE_OVAL)
        drawn, source = studio.drawn(studio.one, at).image, studio.sources[0].image
        assert error(drawn[face], truth.image[face]) < 0.6 * error(source[face], truth.image[face])


def test_light_that_stands_still_does_not_make_four_sources_worse(studio):
    """The head turns in the room: each photo is lit from another side than the one before."""
    gains = []
    for at in ((0, -20), (0, 20), (8, 0)):
        truth = studio.truth(at)
        face = box(studio, truth, FACE_OVAL)
        one, four = (studio.drawn(state, at).image for state in (studio.one, studio.four_in_a_room))
        gains.append(psnr(four[face], truth.image[face]) - psnr(one[face], truth.image[face]))
    # dB; measured -0.03, 0.08, 1.24; the law for a default allows no view to lose more than 0.05
    assert min(gains) > -0.05 and sum(gains) > 0.5, gains


def test_four_sources_are_better_than_one(studio):
    """At views that none of them shows."""
    gains = []
    for at in ((0, -20), (0, 20), (8, 0)):
        truth = studio.truth(at, orbit=True)
        face = box(studio, truth, FACE_OVAL)
        one, four = (studio.drawn(state, at, orbit=True).image for state in (studio.one, studio.four))
        gains.append(psnr(four[face], truth.image[face]) - psnr(one[face], truth.image[face]))
    assert min(gains) > 0 and sum(gains) > 0.5, gains  # dB; measured 0.07 to 1.4


def test_shoulders_do_not_swing_with_the_head(studio):
    """Where no hair hangs, the picture below the collar stands still while the head turns, and hair moves with it."""
    before, after = studio.drawn(studio.one), studio.drawn(studio.one, (0, 20))
    params, camera = studio.pose((0, 20))
    layers, source = studio.one.layers, studio.one.reference.camera
    neck = studio.person.head.with_shape(params.shape).joints[0]
    still = torch.zeros_like(studio.one.offsets)

    def shift_px(layer) -> Tensor:
        view = layer.view(source, camera, neck, still)
        uv = view[:, :2] / view[:, 2:] * camera.intrinsics[:2] + camera.intrinsics[2:]
        return (uv - source.project(layer.verts)).norm(dim=-1) * SIZE

    body = layers.body.follow == 0
    assert body.float().mean() > 0.3
    assert shift_px(layers.body)[body].max() < 0.05
    hair = (layers.hair.follow == 1) & (layers.hair.uv[:, 1] < 0.4)
    moved = shift_px(layers.hair)[hair]
    assert moved.median() > 8

    shoulders = torch.cat([torch.arange(SIZE // 5), torch.arange(SIZE - SIZE // 5, SIZE)])
    assert (after.alpha[:, -20:, shoulders] > 0.9).float().mean() > 0.3
    assert (after.image - before.image)[:, -20:, shoulders].abs().max() < 0.02


def test_the_background_stands_still(studio):
    frames = [studio.drawn(studio.one, at) for at in ((0, 0), (0, 20), (10, -15))]
    far = dilate(torch.stack([frame.alpha for frame in frames]).amax(0), 3) < 1e-4
    assert far.float().mean() > 0.2
    for frame in frames[1:]:
        assert (frame.image - frames[0].image)[far.expand(3, -1, -1)].abs().max() == 0
    source = studio.sources[0]
    # The background is the photo's own, away from the person, except for the resampling.
    apart = far & (dilate(source.alpha, 16) < 0.02)
    assert (frames[0].image - source.image)[apart.expand(3, -1, -1)].abs().max() < 1e-4


def test_a_background_is_put_behind_the_person(studio):
    """I = P + (1 − alpha) B: with the person's part P the same for every background B."""
    params, camera = studio.pose((0, 12))
    black, white = (
        studio.avatar.render(studio.one, params, camera, SIZE, torch.full((3, SIZE, SIZE), value))
        for value in (0.0, 1.0)
    )
    assert torch.equal(black.alpha, white.alpha)
    assert 0 <= black.alpha.min() and black.alpha.max() <= 1
    assert torch.allclose(white.image - black.image, (1 - black.alpha).expand(3, -1, -1), atol=1e-5)
    small = studio.avatar.render(studio.one, params, camera, SIZE, torch.full((3, 64, 32), 1.0))
    assert torch.allclose(small.image, white.image, atol=1e-5)


@pytest.mark.parametrize("size_px", [64, 200])
def test_any_size(studio, size_px):
    """The picture is the same, only smaller."""
    params, camera = studio.pose((0, 12))
    small = studio.avatar.render(studio.one, params, camera, size_px)
    large = studio.avatar.render(studio.one, params, camera, SIZE)
    shrunk = torch.nn.functional.interpolate(large.image[None], (size_px, size_px), mode="bilinear", antialias=True)[0]
    assert small.image.shape == (3, size_px, size_px) and small.alpha.shape == (1, size_px, size_px)
    assert psnr(small.image, shrunk) > 25


def test_the_mesh_has_no_holes(studio):
    head, params = studio.person.head, studio.person.params()
    for yaw in (min(HOLE_YAWS), 0, max(HOLE_YAWS)):
        uncovered, uncoloured = hole_shares(head, params, studio.camera, yaw)
        assert uncovered <= 0.001 and uncoloured <= 0.001
    texels = texel_map(head.topology, studio.one.texture.shape[-1])
    assert (studio.one.texture.amax(0)[texels.valid] > 0.01).all()


def test_updating_is_encoding_with_one_more(studio):
    state = studio.one
    for source in studio.sources[1:]:
        state = studio.avatar.update(state, source)
    assert torch.allclose(state.texture, studio.four.texture, atol=1e-6)
    assert torch.equal(state.offsets, studio.four.offsets)


def test_the_order_of_further_sources_matters_little(studio):
    swapped = studio.one
    for source in studio.sources[:0:-1]:
        swapped = studio.avatar.update(swapped, source)
    a, b = (studio.drawn(state, (0, 12)).image for state in (swapped, studio.four))
    assert (a - b).abs().mean() < 0.0005  # the exposure is matched to what came before; measured 0.0002


def test_saved_and_loaded(studio, tmp_path):
    path = tmp_path / "person.safetensors"
    studio.avatar.save(studio.four, path)
    again = studio.avatar.load(path)
    for at, expression in (((0, 0), {}), ((0, 15), {"jawOpen": 0.5})):
        a, b = (studio.drawn(state, at, **expression) for state in (studio.four, again))
        assert (a.image - b.image).abs().max() < 1.5 / 255  # layers and texture, each in 8 bits; measured 0.65
        assert (a.alpha - b.alpha).abs().max() < 1.5 / 255
    state = studio.avatar.update(again, studio.sources[1])
    assert state.texture.isfinite().all()


def test_files_of_others_are_refused(studio, tmp_path):
    path = tmp_path / "person.safetensors"
    for change in ({"version": "0"}, {"method": "gpavatar"}, {"head_sha256": "0" * 64}):
        save_state(studio.one, path, {**studio.avatar._identity(), **change})
        with pytest.raises(InputError, match=next(iter(change))):
            studio.avatar.load(path)


@pytest.mark.parametrize("field", ["faces", "anchor"])
def test_indices_out_of_range_are_refused(studio, tmp_path, field):
    """They would read foreign memory in the rasteriser."""
    path = tmp_path / "person.safetensors"
    layers = studio.one.layers
    wrong = getattr(layers.body, field).clone()
    wrong.view(-1)[0] = 1 << 40
    body = dataclasses.replace(layers.body, **{field: wrong})
    hostile = dataclasses.replace(studio.one, layers=dataclasses.replace(layers, body=body))
    studio.avatar.save(hostile, path)
    with pytest.raises(InputError, match="index"):
        studio.avatar.load(path)


def test_a_bald_head_can_be_drawn():
    bald = open_studio(5, "bald")
    truth = bald.truth((0, 15), orbit=True)
    drawn = bald.drawn(bald.one, (0, 15), orbit=True)
    assert error(drawn.image, truth.image) < error(bald.sources[0].image, truth.image)


def test_the_hash_names_head_and_version(studio, monkeypatch):
    before = studio.avatar.sha256
    assert len(before) == 64 and before == TexturedMesh(head=studio.avatar.head).sha256
    monkeypatch.setattr("gpavatar.avatars.textured_mesh.VERSION", "other")
    assert studio.avatar.sha256 != before
