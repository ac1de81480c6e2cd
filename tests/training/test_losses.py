"""The terms of Eq. 3 to 5 against their definitions, and the laws they keep."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from gpavatar.avatars.gpavatar import GPAvatarOutput
from gpavatar.camera import Camera
from gpavatar.data.batch import Views
from gpavatar.training.losses import (
    LossConfig,
    density_norm,
    face_box_distance,
    face_boxes,
    gpavatar_losses,
    on_black,
)
from gpavatar.types import HeadParams, map_tensors

SIZE, LOW = 16, 8
ALL = LossConfig(perceptual=0.3, density=0.01, face_box=0.7, face_box_px=8)


def squares(a: Tensor, b: Tensor) -> Tensor:
    """A stand-in for the perceptual distance."""
    return (a - b).square().mean((1, 2, 3))


def example(generator: torch.Generator, batch: int = 4) -> tuple[GPAvatarOutput, Views]:
    def rand(*size: int) -> Tensor:
        return torch.rand(batch, *size, generator=generator)

    low = rand(1, LOW, LOW)
    out = GPAvatarOutput(rand(5, LOW, LOW), rand(5, LOW, LOW), low, low, rand(LOW**2, 6), rand(3, SIZE, SIZE))
    camera = map_tensors(Camera.frontal(5.0, 2.0), lambda t: t.expand(batch, *t.shape))
    params = HeadParams.neutral(3, 2, (batch,))
    return out, Views(rand(3, SIZE, SIZE), rand(1, SIZE, SIZE), params, camera, 4 + 8 * rand(478, 2))


def test_each_term_is_as_the_paper_writes_it(generator):
    out, target = example(generator)
    terms = gpavatar_losses(out, target, ALL, squares)
    truth = target.image * target.alpha
    low = truth.unflatten(-1, (LOW, 2)).unflatten(-3, (LOW, 2)).mean((-1, -3))
    images = [(out.coarse[:, :3], low), (out.fine[:, :3], low), (out.image, truth)]
    assert terms.l1.item() == pytest.approx(sum((a - b).abs().mean().item() for a, b in images), rel=1e-6)
    assert terms.perceptual.item() == pytest.approx(sum(squares(a, b).mean().item() for a, b in images), rel=1e-6)
    norms = [sum(float(d) ** 2 for d in one.flatten()) ** 0.5 for one in out.density]
    assert terms.density.item() == pytest.approx(sum(norms) / 4, rel=1e-5)
    total = terms.l1 + 0.3 * terms.perceptual + 0.7 * terms.face_box + 0.01 * terms.density
    assert terms.total(ALL).item() == pytest.approx(total.item(), rel=1e-6)
    doubled = dataclasses.replace(ALL, reconstruction=2.0)
    assert terms.total(doubled).item() == pytest.approx((2 * total - 0.01 * terms.density).item(), rel=1e-6)


def test_a_loss_is_the_mean_over_the_processes_that_share_a_batch(generator):
    out, target = example(generator)
    whole = gpavatar_losses(out, target, ALL, squares)
    parts = (slice(0, 2), slice(2, 4))
    shares = [(map_tensors(out, lambda t, p=p: t[p]), map_tensors(target, lambda t, p=p: t[p])) for p in parts]
    halves = [gpavatar_losses(*share, ALL, squares) for share in shares]
    for name, value in whole.named().items():
        assert value.item() == pytest.approx(sum(half.named()[name].item() for half in halves) / 2, rel=1e-5), name
        assert value > 0


def test_nothing_is_wrong_with_the_truth(generator):
    out, target = example(generator)
    target = dataclasses.replace(target, image=target.image.mean((2, 3), keepdim=True).expand_as(target.image),
                                 alpha=torch.ones_like(target.alpha))  # fmt: skip
    flat = target.image[:, :, :LOW, :LOW]
    feats = torch.cat([flat, out.coarse[:, 3:]], 1)
    out = dataclasses.replace(out, coarse=feats, fine=feats, image=target.image, density=torch.zeros(4, 1, 1))
    terms = gpavatar_losses(out, target, ALL, squares)
    assert max(term.item() for term in terms.named().values()) < 1e-6
    # the features beyond RGB are free
    out = dataclasses.replace(out, fine=torch.cat([flat, out.coarse[:, 3:] + 1], 1))
    assert gpavatar_losses(out, target, ALL, squares).l1 < 1e-6


def test_terms_without_weight_are_not_computed(generator):
    out, target = example(generator)
    terms = gpavatar_losses(out, target, LossConfig(perceptual=0.0, density=0.0), pytest.fail)
    assert terms.perceptual == terms.density == terms.face_box == 0 < terms.l1


def test_the_face_box_is_a_plain_crop_where_it_falls_on_pixels(generator):
    out, target = example(generator)
    landmarks = torch.tensor([[4.0, 6.0], [12.0, 10.0]]).expand(4, 2, 2)  # centre (8, 8), longer side 8
    config = LossConfig(perceptual=0.5, face_box=1.0, face_box_px=8, face_box_margin=1.0)
    ours, theirs = (image[:, :, 4:12, 4:12] for image in (out.image, target.image))
    expected = ((ours - theirs).abs().mean() + 0.5 * squares(ours, theirs).mean()) / 2
    found = face_box_distance(out.image, target.image, landmarks, config, squares)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_frame_without_landmarks_has_no_face_box(generator):
    out, target = example(generator)
    landmarks = target.landmarks_px.clone()
    landmarks[1], landmarks[2, :5] = torch.nan, torch.nan
    box, found = face_boxes(landmarks, 1.25)
    assert found.tolist() == [1, 0, 1, 1] and bool(box.isfinite().all())
    image = out.image.clone().requires_grad_()
    face_box_distance(image, target.image, landmarks, ALL, squares).backward()
    assert bool(image.grad.isfinite().all()) and image.grad[1].abs().max() == 0 < image.grad[2].abs().max()


def test_an_empty_field_has_a_gradient():
    density = torch.zeros(2, 3, 4, requires_grad=True)
    density_norm(density).backward()
    assert bool(density.grad.isfinite().all())


def test_the_background_is_black(generator):
    _, target = example(generator)
    bright = dataclasses.replace(target, image=target.image + (target.alpha == 0))
    assert torch.equal(on_black(target), on_black(bright))
