"""Examples that are varied stay true: the mirrored head fits the mirrored picture, light is shared."""

from __future__ import annotations

import pytest
import torch
from generated_set import HEAD
from torch import Tensor

from gpavatar.camera import Camera, axis_angle_to_matrix
from gpavatar.data.augment import AugmentConfig, HeadMirror, augment, change_colours, mirror, mirror_params, mirror_some
from gpavatar.data.batch import Batch, Pairs, Views
from gpavatar.data.shard_index import HeadInfo
from gpavatar.face.landmarks import MEDIAPIPE_MIRROR
from gpavatar.face.open_head import OpenHead
from gpavatar.types import HeadParams, InputError, map_tensors

STILL = AugmentConfig(flip=0.0, brightness=0.0, contrast=0.0, saturation=0.0, tint=0.0)


@pytest.fixture(scope="module")
def head_mirror() -> HeadMirror:
    return HeadMirror.of(HEAD)


def posed_views(head: OpenHead, generator: torch.Generator) -> tuple[Views, Tensor]:
    """Two examples of two frames of random people in random poses, and where the head's points are in them, px."""
    shape = (2, 2)
    params = HeadParams(
        torch.randn(*shape, head.n_shape, generator=generator),
        torch.rand(*shape, head.n_expression, generator=generator) * 0.5,
        *(0.2 * torch.randn(*shape, *size, generator=generator) for size in ((3,), (3,), (2, 3))),
    )
    c2w = Camera.frontal(5.0, 2.2).c2w.repeat(*shape, 1, 1)
    c2w[..., :3, :3] = axis_angle_to_matrix(0.3 * torch.randn(*shape, 3, generator=generator)) @ c2w[..., :3, :3]
    camera = Camera(c2w, torch.tensor([2.2, 2.1, 0.45, 0.6]).repeat(*shape, 1))
    flat = map_tensors(params, lambda t: t.flatten(0, 1))
    points = head.topology.mediapipe.on(head.verts(flat), head.faces)
    landmarks_px = map_tensors(camera, lambda t: t.flatten(0, 1)).project_px(points, 64, 64).unflatten(0, shape)
    image = torch.rand(*shape, 3, 64, 64, generator=generator)
    return Views(image, image[:, :, :1], params, camera, landmarks_px), landmarks_px


def test_a_mirrored_head_fits_the_mirrored_picture(generator, head_mirror):
    """Vertices mirror, so that all of the head, not only its landmarks, projects onto the mirrored picture."""
    head = OpenHead.load()
    views, _ = posed_views(head, generator)
    other = mirror(views, head_mirror)
    assert torch.equal(other.image, views.image.flip(-1)) and torch.equal(other.alpha, views.alpha.flip(-1))
    flat, flat_other = (map_tensors(v, lambda t: t.flatten(0, 1)) for v in (views, other))
    verts, verts_other = head.verts(flat.params), head.verts(flat_other.params)
    there = verts[:, head.mirror] * torch.tensor([-1.0, 1.0, 1.0])
    assert (verts_other - there).norm(dim=-1).max() < 4e-4  # units of 0.2 m; measured 2e-4
    px, px_other = flat.camera.project_px(verts, 64, 64), flat_other.camera.project_px(verts_other, 64, 64)
    expected = torch.tensor([64.0, 0]) + px[:, head.mirror] * torch.tensor([-1.0, 1.0])
    assert (px_other - expected).norm(dim=-1).max() < 0.03  # measured 0.015
    points = head.topology.mediapipe.on(verts_other, head.faces)
    error = (flat_other.camera.project_px(points, 64, 64) - flat_other.landmarks_px).norm(dim=-1)
    assert error.median() < 1e-4 and error.max() < 0.27  # measured 2e-6 and 0.13


def test_mirroring_twice_is_nothing(generator, head_mirror):
    views, _ = posed_views(OpenHead.load(), generator)
    again = mirror(mirror(views, head_mirror), head_mirror)
    assert torch.equal(views.image, again.image) and torch.equal(views.camera.c2w, again.camera.c2w)
    assert torch.equal(views.params.expression, again.params.expression)
    assert torch.equal(views.params.eye_pose, again.params.eye_pose)
    assert torch.allclose(views.landmarks_px, again.landmarks_px, atol=1e-4)
    assert sorted(MEDIAPIPE_MIRROR) == list(range(478))
    blink = HeadParams.neutral(120, 52)
    blink.expression[8] = 1.0  # eyeBlinkLeft
    assert mirror_params(blink, head_mirror).expression.nonzero().tolist() == [[9]]  # eyeBlinkRight


def test_only_the_marked_examples_are_mirrored(generator, head_mirror):
    views, _ = posed_views(OpenHead.load(), generator)
    some, other = mirror_some(views, head_mirror, torch.tensor([True, False])), mirror(views, head_mirror)
    assert torch.equal(some.image[0], other.image[0]) and torch.equal(some.image[1], views.image[1])
    assert torch.equal(some.camera.intrinsics[0], other.camera.intrinsics[0])
    assert torch.equal(some.params.expression[1], views.params.expression[1])


def test_colours_change_as_the_equations_say(generator):
    image = 0.3 + 0.2 * torch.rand(2, 3, 3, 8, 8, generator=generator)
    gain, contrast, saturation = torch.rand(3, 2, 3, generator=generator) * 0.2 + 0.9
    contrast, saturation = contrast[:, 0], saturation[:, 0]
    expected = torch.empty_like(image)
    for i in range(2):
        for j in range(3):
            x = image[i, j]
            grey = (0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2])[None]
            x = grey + saturation[i] * (x - grey)
            x = grey.mean() + contrast[i] * (x - grey.mean())
            expected[i, j] = x * gain[i][:, None, None]
    assert torch.allclose(change_colours(image, gain, contrast, saturation), expected, atol=1e-6)
    one = torch.ones(2)
    assert torch.allclose(change_colours(image, torch.ones(2, 3), one, one), image, atol=1e-7)


def test_sources_and_target_share_light_and_mirroring(generator, head_mirror):
    """The same picture as source and as target stays the same picture."""
    views, _ = posed_views(OpenHead.load(), generator)
    views = map_tensors(views, lambda t: t.repeat(8, 1, *[1] * (t.ndim - 2))[:, :1])
    pairs = Pairs(
        torch.zeros(16, dtype=torch.int64), torch.zeros(16, 1, dtype=torch.int64), torch.zeros(16, dtype=torch.int64)
    )
    batch = Batch(views, map_tensors(views, lambda t: t[:, 0]), pairs, 0, 0)
    varied = augment(batch, AugmentConfig(), head_mirror, generator)
    assert torch.equal(varied.source.image[:, 0], varied.target.image)
    assert torch.equal(varied.source.camera.c2w[:, 0], varied.target.camera.c2w)
    mirrored = (varied.target.params.jaw_pose != batch.target.params.jaw_pose).any(-1)
    assert 3 < int(mirrored.sum()) < 13
    means = varied.target.image.mean((1, 2, 3)) / batch.target.image.mean((1, 2, 3))
    assert means.std() > 0.02 and (means - 1).abs().max() < 0.15
    assert torch.equal(augment(batch, STILL, None, generator).target.image, batch.target.image)
    with pytest.raises(InputError, match=r"head flame abababab: only open_head .* set augment.flip to 0"):
        HeadMirror.of(HeadInfo("flame", "ab" * 32, 300, 100))
