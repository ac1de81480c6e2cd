"""Measuring the detector's errors: what is put in comes out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from data_prep.landmark_errors import FLIP, MIRROR, SIZE_PX, Person, Views, centred, displacement, lacking, linearised
from gpavatar.tracking.fit import HeadFitter, fit_person
from gpavatar.tracking.landmark_basis import LandmarkBasis, LandmarkErrors
from tests.generated_head import GeneratedHead, exact_detection, facing_camera

HEAD = GeneratedHead()
FOCAL = 2.0


def mirrored(displacements: np.ndarray) -> np.ndarray:
    return displacements[..., MIRROR, :] * FLIP


def response() -> np.ndarray:
    return np.moveaxis(LandmarkBasis.of(HEAD, LandmarkErrors.none(HEAD)).person[..., : HEAD.n_shape], -1, 0)


def test_a_detector_that_shows_seven_tenths_of_a_person_lacks_three() -> None:
    random = np.random.default_rng(1)
    shapes, weights = random.normal(size=(200, HEAD.n_shape)), random.uniform(0.1, 1, 478)
    drawn = -0.3 * np.einsum("ns,spj->npj", shapes, response())
    found = lacking(shapes, response(), drawn, weights, 2 * HEAD.n_shape, 1e-6)
    assert np.abs(found + 0.3 * response()).max() < 1e-3 * np.abs(response()).max()
    noise = random.normal(size=drawn.shape) * 0.02
    noisy = lacking(shapes, response(), drawn + noise, weights, 2 * HEAD.n_shape, 1e-6)
    damped = lacking(shapes, response(), drawn + noise, weights, 2 * HEAD.n_shape, 10.0)
    assert np.linalg.norm(damped) < 0.2 * np.linalg.norm(noisy)


def test_a_displacement_is_found_from_views_of_it() -> None:
    """`linearised` is exact to first order: points moved by d and seen exactly give d back."""
    random = np.random.default_rng(2)
    moved = random.normal(size=(478, 3)) * 0.003
    points, views = HEAD.mean.double().numpy(), []
    face = exact_detection(
        HEAD, torch.zeros(HEAD.n_shape), torch.zeros(52), facing_camera((0.0, 0.0, 0.0), (0.0, 0.0, 5.0), FOCAL)
    )
    for yaw in (-0.6, 0.0, 0.6):
        camera = facing_camera((0.1, yaw, 0.0), (0.0, 0.1, 5.0), FOCAL)
        seen = camera.project_px(torch.from_numpy(points + moved).float(), SIZE_PX, SIZE_PX)
        views.append(linearised(points, camera, np.zeros(52), replace(face, landmarks_px=seen)))
    found = displacement(Views.joined(views))
    assert np.abs(found - moved).max() < 0.1 * np.abs(moved).max()


def test_centring_moves_the_mean_person_to_the_mean_head() -> None:
    """A detector that is off by one constant displacement, of which nothing is known beforehand."""
    random = np.random.default_rng(3)
    wrong = np.einsum("s,spj->pj", random.normal(size=HEAD.n_shape), response())
    wrong = (wrong + mirrored(wrong)) / 2
    seen_head = GeneratedHead()
    seen_head.mean = seen_head.mean + torch.from_numpy(wrong).float()
    people = []
    for _ in range(6):
        shape = torch.from_numpy(random.normal(size=HEAD.n_shape)).float() * 0.5
        faces = [
            exact_detection(seen_head, shape, torch.zeros(52), facing_camera((0.1, yaw, 0.0), (0.0, 0.0, 5.0), FOCAL))
            for yaw in (-0.5, 0.0, 0.5)
        ]
        people.append(Person(shape.double().numpy(), FOCAL, faces, Views(*(np.zeros(0) for _ in range(3)))))

    def mean_apart(errors: LandmarkErrors) -> float:
        fitter = HeadFitter(HEAD, basis=LandmarkBasis.of(HEAD, errors))
        fitted = [
            fit_person(fitter, [fitter.observe(face, FOCAL * SIZE_PX, SIZE_PX, SIZE_PX) for face in one.faces])[0]
            for one in people
        ]
        apart = [a[: HEAD.n_shape] - b.shape for a, b in zip(fitted, people, strict=True)]
        return float(np.linalg.norm(np.mean(apart, 0)))

    errors = LandmarkErrors.none(HEAD)
    before = mean_apart(errors)
    for _ in range(2):
        errors = centred(errors, people, HEAD)
    assert mean_apart(errors) < 0.4 * before
    assert errors.offset == pytest.approx(mirrored(errors.offset), abs=1e-12)
