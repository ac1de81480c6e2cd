"""The identity network with a gradient against the one that measures; ONNX files from strangers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as functional

from gpavatar.assets import fetch
from gpavatar.media.image import read_image, to_float
from gpavatar.pretrained.detector import FaceDetector
from gpavatar.pretrained.identity import Identity, aligned_face, five_points_px
from gpavatar.pretrained.identity_loss import IdentityDistance
from gpavatar.pretrained.onnx_weights import read_weights
from gpavatar.types import AssetError

pytestmark = pytest.mark.download


@pytest.fixture(scope="module")
def distance() -> IdentityDistance:
    return IdentityDistance()


@pytest.fixture(scope="module")
def face(photo) -> tuple[np.ndarray, torch.Tensor]:
    picture = read_image(photo)
    return picture, FaceDetector().detect(picture)[0].landmarks_px


def test_it_sees_what_the_measuring_network_sees(distance, face):
    picture, landmarks_px = face
    points = five_points_px(landmarks_px)
    same_cut = distance.embed(to_float(aligned_face(picture, points))[None])
    measured = Identity("sface").embed([picture], points[None])
    torch.testing.assert_close(same_cut, measured, atol=2e-6, rtol=0)
    ours = distance.aligned(to_float(picture)[None], points[None])
    torch.testing.assert_close(ours, to_float(aligned_face(picture, points))[None], atol=0.03, rtol=0)
    assert float((distance.embed(ours) * measured).sum()) > 0.999


def test_it_is_zero_for_the_same_face_and_its_gradient_leads_there(distance, face):
    picture, landmarks_px = face
    truth, points = to_float(picture)[None], landmarks_px[None]
    assert float(distance(truth, truth, points)) == pytest.approx(0, abs=1e-6)
    ours = functional.avg_pool2d(truth, 9, 1, 4).requires_grad_()
    before = distance(ours, truth, points)
    (gradient,) = torch.autograd.grad(before.sum(), ours)
    after = distance(ours - 2e-2 * gradient / gradient.abs().max(), truth, points)
    assert 0.1 < float(before.detach()) < 1 and float(after.detach()) < float(before.detach()) - 0.01
    assert not list(distance.parameters()) and not distance.state_dict()


def test_a_face_that_is_nowhere_costs_nothing(distance, face):
    picture, landmarks_px = face
    truth = to_float(picture)[None].expand(2, -1, -1, -1).clone()
    other = truth.flip(1).requires_grad_()
    found = distance(other, truth, torch.stack([landmarks_px, torch.full_like(landmarks_px, torch.nan)]))
    assert float(found[0].detach()) > 0.02 and float(found[1].detach()) == 0
    (gradient,) = torch.autograd.grad(found.sum(), other)
    assert gradient.isfinite().all() and not gradient[1].any()


def test_a_file_that_is_cut_off_or_nothing_of_the_kind_is_named(tmp_path):
    whole = fetch("sface").read_bytes()
    for name, content in (("cut.onnx", whole[: len(whole) // 2]), ("text.onnx", b"\xff" * 100)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(AssetError, match=name):
            read_weights(tmp_path / name)
