"""The fit, on a head whose landmarks and detections are exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gpavatar.camera import Camera, rotation_angle_deg
from gpavatar.face.landmarks import MEDIAPIPE_MIRROR
from gpavatar.face.open_head import OpenHead
from gpavatar.tracking.fit import FitConfig, HeadFitter, PersonEstimate, _turned, fit_person
from gpavatar.tracking.landmark_basis import RESTING_BUILD, SIZE_SIGMA, LandmarkBasis, LandmarkErrors, view_terms
from gpavatar.types import HeadParams
from tests.generated_head import GeneratedHead, exact_detection, facing_camera

SIDE_PX, FOCAL = 512, 2.0
HEAD = GeneratedHead()
TURNED = facing_camera((0.2, -0.4, 0.1), (0.3, -0.2, 5.0), FOCAL)


AVERAGE = np.zeros(20 + 52)  # shape, resting scores; this head has no habits


def person_of(shape: torch.Tensor) -> np.ndarray:
    return np.concatenate([shape.double().numpy(), np.zeros(52)])


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
    state = fitter.fit(seen, person_of(shape), steps=10)
    assert angle_deg(state, TURNED) < 0.02
    assert np.abs(state.expression - expression.numpy()).max() < 1e-3
    assert np.abs(state.translation - TURNED.w2c[:3, 3].numpy()).max() < 1e-3
    assert np.abs(fitter.residual(seen, person_of(shape), state)).max() < 1e-4


def test_trusted_landmarks_overrule_wrong_scores(generator) -> None:
    shape, expression = torch.zeros(20), some_expression(generator)
    face = exact_detection(HEAD, shape, expression, TURNED, scores=torch.full((52,), 0.3))

    def error(sigma: float) -> float:
        fitter = HeadFitter(HEAD, FitConfig(landmark_sigma=sigma))
        state = fitter.fit(observed(fitter, face), AVERAGE, steps=20)
        return float(np.abs(state.expression - expression.numpy()).mean())

    assert error(1e-4) < 0.02 < error(0.03) < error(10.0)
    assert error(10.0) == pytest.approx(float((expression - 0.3).abs().mean()), abs=0.01)


def test_weights_stay_within_their_bounds(generator) -> None:
    beyond = torch.randn(52, generator=generator) * 2
    fitter = HeadFitter(HEAD, FitConfig(landmark_sigma=0.001))
    face = exact_detection(HEAD, torch.zeros(20), beyond, TURNED, scores=torch.full((52,), 0.5))
    state = fitter.fit(observed(fitter, face), AVERAGE, steps=8)
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
    a, b = (fitter.fit(observed(fitter, one), AVERAGE, steps=8) for one in (face, rolled))
    assert np.abs(roll[:3, :3].numpy() @ a.rotation - b.rotation).max() < 1e-6
    assert np.abs(roll[:3, :3].numpy() @ a.translation - b.translation).max() < 1e-5
    assert np.abs(a.expression - b.expression).max() < 1e-6


def test_a_larger_picture_changes_nothing(generator) -> None:
    expression = some_expression(generator)
    fitter = HeadFitter(HEAD)
    states = []
    for side_px in (200, 2000):
        face = exact_detection(HEAD, torch.zeros(20), expression, TURNED, side_px, scores=expression * 0.5)
        states.append(fitter.fit(observed(fitter, face, side_px), AVERAGE, steps=8))
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
    errors = [np.linalg.norm(fit_person(fitter, some)[0][:20] - shape.numpy()) for some in (seen[:1], seen[:4], seen)]
    assert errors[2] < errors[1] < errors[0] < float(shape.norm())
    assert errors[2] < 0.15 * float(shape.norm())


def test_the_prior_draws_to_the_mean_shape(generator) -> None:
    shape = torch.randn(20, generator=generator)
    faces = frames_of(shape, 3, generator, noise_px=1.0)

    def size(worth: float) -> float:
        fitter = HeadFitter(HEAD, FitConfig(shape_worth=worth))
        return float(np.linalg.norm(fit_person(fitter, [observed(fitter, face) for face in faces])[0][:20]))

    assert size(1e-6) < 1e-2 < size(0.05) < size(3.0)


def test_repeating_a_frame_beyond_its_worth_changes_nothing(generator) -> None:
    fitter = HeadFitter(HEAD, FitConfig(shape_worth=2.0))
    (face,) = frames_of(torch.randn(20, generator=generator), 1, generator, noise_px=1.0)
    seen = observed(fitter, face)
    assert np.abs(fit_person(fitter, [seen] * 2)[0] - fit_person(fitter, [seen] * 7)[0]).max() < 1e-9


def test_the_bounded_step_is_the_best_one_within_the_bounds(generator) -> None:
    """Against projected gradient descent, slow and plain."""
    fitter = HeadFitter(HEAD, FitConfig(landmark_sigma=0.01))
    face = exact_detection(HEAD, torch.zeros(20), torch.randn(52, generator=generator), TURNED, scores=torch.zeros(52))
    seen = observed(fitter, face)
    state = fitter.start(seen, AVERAGE)
    jacobian, residual, _ = fitter._linearised(seen, state, fitter._basis.mean)
    hessian, gradient = fitter._normal(jacobian, residual, seen.scores, state)
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


def test_person_information_is_the_joint_normal_equations_with_the_frame_eliminated(generator) -> None:
    """Solving person and frame together gives the same person."""
    shape = torch.randn(20, generator=generator) * 0.3
    fitter = HeadFitter(HEAD)
    expression = torch.rand(52, generator=generator) * 0.5 + 0.25  # away from the bounds
    seen = observed(fitter, exact_detection(HEAD, shape, expression, TURNED, scores=expression * 0.9))
    state = fitter.start(seen, AVERAGE)
    jacobian, residual, whitened = fitter._linearised(seen, state, fitter._basis.mean)
    by_person = whitened(_turned(fitter._basis.person, state.rotation))
    sigma = fitter.config.expression_sigma
    score_rows = np.hstack([fitter._basis.resting, np.zeros((52, 6)), np.eye(52)]) / sigma
    rows = np.vstack([np.hstack([by_person, jacobian]), score_rows])
    right = np.concatenate([residual, (seen.scores - state.expression) / sigma])
    prior = np.zeros((72 + 58, 72 + 58))
    prior[:72, :72] = fitter.prior
    together = np.linalg.solve(rows.T @ rows + prior, rows.T @ right)[:72]
    alone = PersonEstimate.of(fitter).plus(*fitter.person_information(seen, AVERAGE, state)).person()
    assert np.abs(together - alone).max() < 1e-8


def test_scores_that_a_person_always_has_are_no_expression(generator) -> None:
    """Brows that the detector calls raised in every frame, where the landmarks say otherwise now and then."""
    raised = torch.zeros(12)
    raised[4:7] = 0.3
    index = HEAD.expression_names.index("browInnerUp")
    faces = []
    for weight in raised:
        expression = torch.zeros(52)
        expression[index] = weight
        camera = facing_camera((0.0, float(torch.rand(1, generator=generator) - 0.5), 0.0), (0.0, 0.0, 5.0), FOCAL)
        scores = expression.clone()
        scores[index] += 0.6
        faces.append(exact_detection(HEAD, torch.zeros(20), expression, camera, scores=scores))
    fitter = HeadFitter(HEAD)
    person, states = fit_person(fitter, [observed(fitter, face) for face in faces])
    assert person[20 + index] * RESTING_BUILD == pytest.approx(0.6, abs=0.1)
    assert np.abs(np.array([state.expression[index] for state in states]) - raised.numpy()).max() < 0.1


def test_size_stays_average_because_one_camera_cannot_see_it(generator) -> None:
    shape = torch.randn(20, generator=generator)
    fitter = HeadFitter(HEAD, FitConfig(shape_worth=100.0))
    person, _ = fit_person(fitter, [observed(fitter, face) for face in frames_of(shape, 6, generator, noise_px=1.0)])
    points = fitter._basis.mean + fitter._basis.person @ person

    def size(values: np.ndarray) -> float:
        return float(np.sqrt(((values - values.mean(0)) ** 2).sum()))

    assert abs(np.log(size(points) / size(fitter._basis.mean))) < 3 * SIZE_SIGMA


def test_the_prior_weighs_growth_by_its_spread() -> None:
    """pᵀ P p = |p|² + (ln growth / σ)², the growth measured on the open head itself, whose shapes differ in size."""
    head = OpenHead.load()
    basis, topology = LandmarkBasis.of(head), head.topology

    def sizes(shapes: torch.Tensor) -> np.ndarray:
        params = replace(HeadParams.neutral(head.n_shape, head.n_expression, shapes.shape[:1]), shape=shapes)
        points = topology.mediapipe.on(head.verts(params), topology.faces).double()
        return (points - points.mean(1, keepdim=True)).square().sum((1, 2)).sqrt().log().numpy()

    average = sizes(torch.zeros(1, head.n_shape))
    growing = sizes(0.1 * torch.eye(head.n_shape)) - average
    shape = 0.1 * growing / np.linalg.norm(growing)
    growth = sizes(torch.from_numpy(shape).float()[None])[0] - average[0]
    person = np.concatenate([shape, np.zeros(len(basis.prior) - head.n_shape)])
    assert growth > 0.1 * SIZE_SIGMA
    assert person @ basis.prior @ person == pytest.approx(person @ person + (growth / SIZE_SIGMA) ** 2, rel=0.02)


def test_an_outlying_landmark_hardly_matters(generator) -> None:
    fitter = HeadFitter(HEAD)
    face = exact_detection(HEAD, torch.zeros(20), some_expression(generator), TURNED)
    moved = face.landmarks_px.clone()
    moved[:10] += 60
    a, b = (
        fitter.fit(observed(fitter, replace(face, landmarks_px=one)), AVERAGE, steps=10)
        for one in (face.landmarks_px, moved)
    )
    assert np.abs(a.expression - b.expression).max() < 0.1
    assert np.abs(a.rotation - b.rotation).max() < 0.01


def test_the_measured_errors_belong_to_the_packaged_head() -> None:
    """After a change of open_head.npz: python -m data_prep.landmark_errors."""
    errors = LandmarkErrors.of(OpenHead.load())
    assert len(errors.habits) > 0, "measured for another open_head.npz: run python -m data_prep.landmark_errors"
    mirror = np.array(MEDIAPIPE_MIRROR)
    asymmetry = np.abs(errors.offset - errors.offset[mirror] * [-1, 1, 1]).max()
    assert asymmetry < 1e-3 and 1e-3 < np.abs(errors.offset[errors.weights > 0.3]).mean() < 0.02
    assert (errors.weights >= 0).all() and errors.weights.max() == 1


def test_a_head_without_measured_errors_has_its_own_landmarks() -> None:
    basis = LandmarkBasis.of(HEAD)
    assert np.abs(basis.mean - HEAD.mean.numpy()).max() < 1e-6 and not basis.view.any()
    assert basis.person.shape == (478, 3, 72) and (basis.weights == 1).all()


def test_the_terms_of_the_view_are_those_of_the_direction_to_the_camera() -> None:
    assert view_terms(
        facing_camera((0.0, 0.0, 0.3), (0.0, 0.0, 5.0), FOCAL).w2c[:3, :3].double().numpy()
    ) == pytest.approx([0, 0, 0], abs=1e-6)
    camera = facing_camera((0.0, -0.5, 0.0), (0.0, 0.0, 5.0), FOCAL)
    towards = camera.c2w[:3, 3] / camera.c2w[:3, 3].norm()
    got = view_terms(camera.w2c[:3, :3].double().numpy())
    assert got[0] == pytest.approx(float(towards[0]), abs=1e-5) and abs(got[0]) > 0.4
    assert got[2] == pytest.approx(got[0] ** 2)


def test_landmarks_left_out_do_not_matter(generator) -> None:
    use = np.arange(478) % 2 == 0
    fitter = HeadFitter(HEAD, points=use)
    face = exact_detection(HEAD, torch.zeros(20), some_expression(generator), TURNED)
    spoilt = replace(face, landmarks_px=torch.where(torch.from_numpy(use)[:, None], face.landmarks_px, 0.0))
    a, b = (fitter.fit(observed(fitter, one), AVERAGE) for one in (face, spoilt))
    assert np.array_equal(a.expression, b.expression)
