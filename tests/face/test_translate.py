"""One head's parameters on another head."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from generated_flame import generate

from gpavatar.camera import Camera, axis_angle_to_matrix
from gpavatar.face.flame import Flame
from gpavatar.face.open_head import OpenHead
from gpavatar.face.translate import HeadTranslator, rigid_motion
from gpavatar.types import HeadParams, InputError


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A head of FLAME's layout with 105 of MediaPipe's points and 68 others spread over it."""
    folder, random = tmp_path_factory.mktemp("flame"), np.random.default_rng(1)
    arrays = generate()
    np.savez(folder / "flame.npz", **arrays)
    front = np.flatnonzero((arrays["v_template"][arrays["f"].astype(int)][..., 2] > 0.02).all(1))
    np.savez(
        folder / "mediapipe_landmark_embedding.npz",
        lmk_face_idx=random.choice(front, 105),
        lmk_b_coords=random.dirichlet(np.ones(3), 105),
        landmark_indices=np.sort(random.choice(468, 105, replace=False)),
    )
    return folder


@pytest.fixture(scope="module")
def flame(files):
    return Flame.load(files / "flame.npz", mediapipe_embedding=files / "mediapipe_landmark_embedding.npz")


def test_a_rigid_motion_is_found(generator):
    points = torch.randn(20, 3, generator=generator)
    turn = axis_angle_to_matrix(torch.tensor([0.4, -1.0, 0.3]))
    shift = torch.tensor([0.2, 0.1, -0.7])
    rotation, translation = rigid_motion(points, points @ turn.T + shift)
    torch.testing.assert_close(rotation, turn, atol=1e-5, rtol=0)
    torch.testing.assert_close(translation, shift, atol=1e-5, rtol=0)
    mirrored, _ = rigid_motion(points, points * torch.tensor([-1.0, 1, 1]))
    assert float(torch.linalg.det(mirrored)) == pytest.approx(1, abs=1e-5)


def test_the_same_head_gets_its_own_landmarks_back(flame, generator):
    """Priors draw parameters that landmarks cannot tell apart to zero, so it is the landmarks that must agree."""
    translator = HeadTranslator(flame, flame)
    shape = torch.randn(100, generator=generator)
    person = translator.person(shape)
    torch.testing.assert_close(person.rotation, torch.eye(3), atol=0.02, rtol=0)
    params = replace(
        HeadParams.neutral(100, 50),
        shape=shape,
        expression=torch.randn(50, generator=generator),
        jaw_pose=torch.tensor([0.2, 0.05, 0.0]),
    )
    found = translator.params(person, params)
    wanted = translator._landmarks(flame, params) @ person.rotation.T + person.translation
    error = (translator._landmarks(flame, found) - wanted).norm(dim=-1)
    still = (
        translator._landmarks(flame, replace(found, expression=0 * found.expression, jaw_pose=0 * found.jaw_pose))
        - wanted
    ).norm(dim=-1)
    assert error.mean() < 0.005 < 0.02 < still.mean()  # 1 mm; unmoved it would be 4 mm


def test_the_open_head_drives_flame(flame):
    """Shapes have nothing to do with each other here, but an opened mouth must change something, smoothly."""
    head = OpenHead.load()
    translator = HeadTranslator(head, flame)
    neutral = HeadParams.neutral(head.n_shape, head.n_expression)
    person = translator.person(neutral.shape)
    closed = translator.params(person, neutral)
    opened = neutral.expression.clone()
    opened[head.expression_names.index("jawOpen")] = 0.8
    moved = translator.params(person, replace(neutral, expression=opened))
    assert all(field.isfinite().all() for field in (moved.expression, moved.jaw_pose))
    assert (flame.verts(moved) - flame.verts(closed)).norm(dim=-1).max() > 0.02


def test_the_camera_sees_the_same(flame, generator):
    head = OpenHead.load()
    person = HeadTranslator(head, flame).person(torch.zeros(head.n_shape))
    points = torch.randn(10, 3, generator=generator) * 0.3
    camera = Camera.frontal(10.0, 4.0)
    moved = points @ person.rotation.T + person.translation
    torch.testing.assert_close(person.camera(camera).project(moved), camera.project(points), atol=1e-5, rtol=0)


def test_heads_without_common_landmarks_are_refused(files):
    with pytest.raises(InputError, match="landmark files"):
        HeadTranslator(OpenHead.load(), Flame.load(files / "flame.npz"))
