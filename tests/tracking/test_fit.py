"""The fit, on a head whose landmarks and detections are exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gpavatar.camera import Camera, rotation_angle_deg
from gpavatar.tracking.fit import FitConfig, HeadFitter, ShapeEstimate, fit_shape
from tests.generated_head import GeneratedHead, exact_detection, facing_camera

SIDE_PX, FOCAL = 512, 2.0
HEAD = GeneratedHead()
TURNED = facing_camera((0.2, -0.4, 0.1), (0.3, -0.2, 5.0), FOCAL)


def observed(fitter: HeadFitter, face, side_px: int = SIDE_PX):
    return fitter.observe(face, FOCAL * side_px, side_px, side_px)


def some_expression(generator: torch.Generator) -> torch.Tensor:
    return (torch.rand(52, generator=generator) * 1.5 - 0.5).clamp(0, 1)


def angle_deg(state, camera: Camera) -> float:
    return float(rotation_angle_deg(state.w2c()[:3, :3], camera.w2c[:3, :3]))


def test_exact_landmarks_give_back_the_exact_state(generator) -> None:
    shape, expression = torch.randn(20, generator=generator), some_expression(generator)
    fitter = HeadFitter(HEAD)
    seen = observed(fitter, exact_detection(HEAD, shape, expression, TURNED))
    state = fitter.fit(seen, shape.double().numpy(), steps=10)
    assert angle_deg(state, TURNED) < 0.02
    assert np.abs(state.expression - expression.numpy()).max() < 1e-3
    assert np.abs(state.translation - TURNED.w2c[:3, 3].numpy()).max() < 1e-3
    assert np.abs(fitter.residual(seen, shape.double().numpy(), state)).max() < 1e-4


def test_trusted_landmarks_overrule_wrong_scores(generator) -> None:
    shape, expression = torch.zeros(20), some_expression(generator)
    face = exact_detection(HEAD, shape, expression, TURNED, scores=torch.full((52,), 0.3))

    def error(sigma: float) -> float:
        fitter = HeadFitter(HEAD, FitConfig(landmark_sigma=sigma))
        state = fitter.fit(observed(fitter, face), np.zeros(20), steps=20)
        return float(np.abs(state.expression - expression.numpy()).mean())

    assert error(1e-4) < 0.02 < error(0.03) < error(10.0)
    assert error(10.0) == pytest.approx(float((expression - 0.3).abs().mean()), abs=0.01)


def test_weights_stay_within_their_bounds(generator) -> None:
    beyond = torch.randn(52, generator=generator) * 2
    fitter = HeadFitter(HEAD, FitConfig(landmark_sigma=0.001))
    face = exact_detection(HEAD, torch.zeros(20), beyond, TURNED, scores=torch.full((52,), 0.5))
    state = fitter.fit(observed(fitter, face), np.zeros(20), steps=8)
    assert state.expression.min() == 0 and state.expression.max() == 1


def test_turning_the_picture_turns_the_head_and_nothing_else(generator) -> None:
    expression = some_expression(generator)
    fitter = HeadFitter(HEAD)
    face = exact_detection(HEAD, torch.zeros(20), expression, TURNED, scores=expression * 0.7)
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    roll = torch.eye(4)
    roll[:2, :2] = quarter
    middle = SIDE_PX / 2
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    rolled = replace(
        face, landmarks_px=(face.landmarks_px - middle) @ quarter.T + middle, pose=flip @ roll @ flip @ face.pose
    )
    a, b = (fitter.fit(observed(fitter, one), np.zeros(20), steps=8) for one in (face, rolled))
    assert np.abs(roll[:3, :3].numpy() @ a.rotation - b.rotation).max() < 1e-6
    assert np.abs(roll[:3, :3].numpy() @ a.translation - b.translation).max() < 1e-5
    assert np.abs(a.expression - b.expression).max() < 1e-6


def test_a_larger_picture_changes_nothing(generator) -> None:
    expression = some_expression(generator)
    fitter = HeadFitter(HEAD)
    states = []
    for side_px in (200, 2000):
        face = exact_detection(HEAD, torch.zeros(20), expression, TURNED, side_px, scores=expression * 0.5)
        states.append(fitter.fit(observed(fitter, face, side_px), np.zeros(20), steps=8))
    assert np.abs(states[0].expression - states[1].expression).max() < 1e-3
    assert np.abs(states[0].translation - states[1].translation).max() < 1e-3


def frames_of(shape: torch.Tensor, number: int, generator: torch.Generator, noise_px: float) -> list:
    faces = []
    for _ in range(number):
        yaw = float(torch.rand(1, generator=generator) * 1.2 - 0.6)
        expression = some_expression(generator)
        face = exact_detection(HEAD, shape, expression, facing_camera((0.0, yaw, 0.0), (0.0, 0.0, 5.0), FOCAL))
        noise = torch.randn(478, 2, generator=generator) * noise_px
        faces.append(replace(face, landmarks_px=face.landmarks_px + noise))
    return faces


def test_many_frames_tell_more_of_the_shape_than_one(generator) -> None:
    shape = torch.randn(20, generator=generator)
    fitter = HeadFitter(HEAD, FitConfig(shape_worth=100.0))
    seen = [observed(fitter, face) for face in frames_of(shape, 12, generator, noise_px=2.0)]
    errors = [np.linalg.norm(fit_shape(fitter, some)[0] - shape.numpy()) for some in (seen[:1], seen[:4], seen)]
    assert errors[2] < errors[1] < errors[0] < float(shape.norm())
    assert errors[2] < 0.15 * float(shape.norm())


def test_the_prior_draws_to_the_mean_shape(generator) -> None:
    shape = torch.randn(20, generator=generator)
    faces = frames_of(shape, 3, generator, noise_px=1.0)

    def size(worth: float) -> float:
        fitter = HeadFitter(HEAD, FitConfig(shape_worth=worth))
        return float(np.linalg.norm(fit_shape(fitter, [observed(fitter, face) for face in faces])[0]))

    assert size(1e-6) < 1e-2 < size(0.05) < size(3.0)


def test_repeating_a_frame_beyond_its_worth_changes_nothing(generator) -> None:
    fitter = HeadFitter(HEAD, FitConfig(shape_worth=2.0))
    (face,) = frames_of(torch.randn(20, generator=generator), 1, generator, noise_px=1.0)
    seen = observed(fitter, face)
    assert np.abs(fit_shape(fitter, [seen] * 2)[0] - fit_shape(fitter, [seen] * 7)[0]).max() < 1e-9


def test_the_bounded_step_is_the_best_one_within_the_bounds(generator) -> None:
    """Against projected gradient descent, slow and plain."""
    fitter = HeadFitter(HEAD, FitConfig(landmark_sigma=0.01))
    face = exact_detection(HEAD, torch.zeros(20), torch.randn(52, generator=generator), TURNED, scores=torch.zeros(52))
    seen = observed(fitter, face)
    state = fitter.start(seen, np.zeros(20))
    hessian, gradient = fitter._normal(*fitter._linearised(seen, state, fitter._basis.mean), seen, state)
    low, high = fitter._bounds(state)

    def cost(step: np.ndarray) -> float:
        return float(step @ hessian @ step / 2 - gradient @ step)

    scale = 1 / np.sqrt(np.diag(hessian))  # whitened, or the pose alone would take a million steps
    whitened = scale[:, None] * hessian * scale
    rate = 1 / np.linalg.eigvalsh(whitened)[-1]
    slow = np.zeros_like(gradient)
    for _ in range(20_000):
        slow = slow + rate * (gradient * scale - whitened @ slow)
        slow = np.clip(slow, low / scale, high / scale)
    slow *= scale
    fast = fitter._bounded_step(hessian, gradient, state)
    assert (fast >= low - 1e-12).all() and (fast <= high + 1e-12).all() and (fast == low).any()
    assert cost(fast) <= cost(slow) + 1e-3 * abs(cost(slow))


def test_shape_information_is_the_joint_normal_equations_with_the_frame_eliminated(generator) -> None:
    """Solving shape and frame together gives the same shape."""
    shape = torch.randn(20, generator=generator) * 0.3
    fitter = HeadFitter(HEAD)
    expression = torch.rand(52, generator=generator) * 0.5 + 0.25  # away from the bounds
    seen = observed(fitter, exact_detection(HEAD, shape, expression, TURNED))
    state = fitter.start(seen, np.zeros(20))
    jacobian, residual = fitter._linearised(seen, state, fitter._basis.mean)
    h_ff, g_f = fitter._normal(jacobian, residual, seen, state)
    by_shape = fitter._projected(fitter._basis.shape.reshape(-1, 20), state, fitter._basis.mean)
    joint = np.block([[by_shape.T @ by_shape + np.eye(20), by_shape.T @ jacobian], [jacobian.T @ by_shape, h_ff]])
    together = np.linalg.solve(joint, np.concatenate([by_shape.T @ residual, g_f]))[:20]
    alone = ShapeEstimate.empty(20, 1.0).plus(*fitter.shape_information(seen, np.zeros(20), state)).shape()
    assert np.abs(together - alone).max() < 1e-8


def test_landmarks_left_out_do_not_matter(generator) -> None:
    use = np.arange(478) % 2 == 0
    fitter = HeadFitter(HEAD, points=use)
    face = exact_detection(HEAD, torch.zeros(20), some_expression(generator), TURNED)
    spoilt = replace(face, landmarks_px=torch.where(torch.from_numpy(use)[:, None], face.landmarks_px, 0.0))
    a, b = (fitter.fit(observed(fitter, one), np.zeros(20)) for one in (face, spoilt))
    assert np.array_equal(a.expression, b.expression)
