"""Landmarks and blendshape scores of one face -> pose and expression of the head, and what they say of its shape.

StyleAvatar (section 3.1) alternates pose (Eq. 1) with a regularised linear solve for the coefficients (Eq. 2) under a
scaled orthographic camera. Here the camera is a perspective one, so every step is a Gauss-Newton step on

    Σ_i w_i |π(R x_i + t) − l_i|² / σ²  +  Σ_j (e_j − s_j)² / σ_e²  +  |a|²  +  |b|²

with head points x_i = m_i + S_i a + B_i b + E_i e + V_i φ(R) (shape a, expression e in [0, 1]), landmarks l_i and
blendshape scores s. b are the detector's habits with a person: displacements that stay through all frames and are no
shape (`landmark_basis`). The points are linear in e but for the turning of jaw and eyes, which the weights jawOpen and
eyeLook* drive: gaze is fitted through them, and `eye_pose` stays zero. Pose and expression are solved together, as they
explain the same landmarks; a and b, which all frames of a clip share, from the Schur complements of its frames.

Everything here is float64 numpy in normalised view coordinates (x/z, y/z): the problems are of size 60, and the time
would go to the dispatch of a tensor library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from threadpoolctl import ThreadpoolController

from gpavatar.camera import METRES_PER_UNIT
from gpavatar.face.morphable import MorphableHead
from gpavatar.pretrained.detector import FaceDetection
from gpavatar.tracking.landmark_basis import LandmarkBasis, view_terms
from gpavatar.types import ARKIT_NAMES, HeadParams

OUTER_EYE_CORNERS = (33, 263)  # MediaPipe's indices of the person's right and left outer eye corner
MM_PER_UNIT = 1000 * METRES_PER_UNIT
N_POSE = 6  # rotation (left-multiplied axis-angle) and translation

# Products of a few thousand numbers: a second BLAS thread only costs time, 40-fold where other work waits for cores.
_ONE_BLAS_THREAD = ThreadpoolController().select(internal_api="openblas")


@dataclass(frozen=True)
class FitConfig:
    """Standard deviations that weigh landmarks, scores and priors against each other."""

    landmark_sigma: float = 0.03  # of a fully trusted landmark, in inter-ocular distances
    expression_sigma: float = 0.25  # of an expression weight about its score
    robust_mm: float = 2.5  # errors of a landmark beyond this count less and less
    shape_worth: float = 12.0  # all frames of a clip together weigh at most as much as this many independent ones


@dataclass(frozen=True)
class Observation:
    """What the detector says of a frame, in the units of the fit."""

    rays: Float[np.ndarray, "478 2"]  # x/z, y/z in camera axes
    scores: Float[np.ndarray, " expression"]  # [0, 1], in the head's own order of expressions
    rotation: Float[np.ndarray, "3 3"]  # the detector's own guess of head -> camera


@dataclass(frozen=True)
class FramePose:
    """The state of one frame: w2c rotation and translation, and expression weights."""

    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, " 3"]
    expression: Float[np.ndarray, " expression"]

    def w2c(self) -> Float[torch.Tensor, "4 4"]:
        """Head space -> camera coordinates."""
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = self.rotation, self.translation
        return torch.from_numpy(matrix).float()

    def params(self, shape: Float[np.ndarray, " shape"]) -> HeadParams:
        """The frame's parameters for a head of this shape."""
        neutral = HeadParams.neutral(len(shape), len(self.expression))
        return replace(
            neutral, shape=torch.from_numpy(shape).float(), expression=torch.from_numpy(self.expression).float()
        )


class HeadFitter:
    """Fits frames of a person who is given, and gathers what frames say of the person.

    A `person` is what all frames share: the head's shape, then the detector's habits, in standard deviations.

    `points` limits the fit to some of the landmarks; `basis` defaults to the head's own.
    """

    def __init__(
        self,
        head: MorphableHead,
        config: FitConfig | None = None,
        points: Bool[np.ndarray, " 478"] | None = None,
        basis: LandmarkBasis | None = None,
    ):
        self.config = config or FitConfig()
        basis = basis or LandmarkBasis.of(head)
        self._use = np.flatnonzero(basis.weights > 0 if points is None else points & (basis.weights > 0))
        self._basis = basis.only(self._use)
        self._eye_distance = float(np.linalg.norm(np.subtract(*basis.mean[list(OUTER_EYE_CORNERS)])))
        self._scores = [ARKIT_NAMES.index(name) for name in head.expression_names]
        self.n_person, self.prior = basis.person.shape[-1], basis.prior

    def observe(self, face: FaceDetection, focal_px: float, width_px: int, height_px: int) -> Observation:
        """Bring a detection into the units of the fit, for a camera with its axis through the picture's middle."""
        middle = np.array([width_px / 2, height_px / 2])
        scores = face.blendshapes.double().numpy()
        flip = np.diag([1.0, -1.0, -1.0])  # MediaPipe's camera looks along -z with y up
        return Observation(
            rays=(face.landmarks_px.double().numpy() - middle) / focal_px,
            scores=scores[self._scores],
            rotation=_nearest_rotation(flip @ face.pose[:3, :3].double().numpy()),
        )

    def start(self, seen: Observation, person: Float[np.ndarray, " person"]) -> FramePose:
        """A frame without a past: the detector's rotation, its scores, and the place that these imply."""
        expression = self._expected(seen, person).clip(0, 1)
        state = FramePose(seen.rotation, np.zeros(3), expression)
        points = self._view(state, self._base(person))
        rays, weights = seen.rays[self._use], self._basis.weights
        # x + t_x = u (z + t_z) is linear in t; unlike a reprojection it needs no guess of the depth.
        rows = np.zeros((len(rays), 2, 3))
        rows[:, 0, 0] = rows[:, 1, 1] = 1.0
        rows[:, :, 2] = -rays
        right = rays * points[:, 2:] - points[:, :2]
        scale = np.repeat(np.sqrt(weights), 2)
        solution = np.linalg.lstsq(rows.reshape(-1, 3) * scale[:, None], right.reshape(-1) * scale, rcond=None)[0]
        return FramePose(seen.rotation, solution, expression)

    @_ONE_BLAS_THREAD.wrap(limits=1)
    def fit(
        self, seen: Observation, person: Float[np.ndarray, " person"], start: FramePose | None = None, steps: int = 3
    ) -> FramePose:
        """Pose and expression of a frame, `steps` Gauss-Newton steps from `start` (default: from `start()`)."""
        if start is None:
            start, steps = self.start(seen, person), steps + 3
        base, expected = self._base(person), self._expected(seen, person)
        for _ in range(steps):
            jacobian, residual, _ = self._linearised(seen, start, base)
            hessian, gradient = self._normal(jacobian, residual, expected, start)
            start = self._moved(start, self._bounded_step(hessian, gradient, start))
        return start

    def residual(
        self, seen: Observation, person: Float[np.ndarray, " person"], state: FramePose
    ) -> Float[np.ndarray, "point 2"]:
        """Reprojection error of the landmarks in use, in inter-ocular distances at the head's depth."""
        view = self._view(state, self._base(person))
        return (view[:, :2] / view[:, 2:] - seen.rays[self._use]) * (state.translation[2] / self._eye_distance)

    @_ONE_BLAS_THREAD.wrap(limits=1)
    def person_information(
        self, seen: Observation, person: Float[np.ndarray, " person"], state: FramePose
    ) -> tuple[Float[np.ndarray, "person person"], Float[np.ndarray, " person"]]:
        """What a fitted frame says of the person: normal equations Λ p = η with the frame's own unknowns eliminated.

        Λ = H_pp − H_pf H_ff⁻¹ H_fp around the given person and state; weights at their bounds count as known.
        """
        expected, precision = self._expected(seen, person), self.config.expression_sigma**-2
        jacobian, residual, whitened = self._linearised(seen, state, self._base(person))
        h_ff, g_f = self._normal(jacobian, residual, expected, state)
        by_person = whitened(_turned(self._basis.person, state.rotation))
        h_pf, h_pp, g_p = by_person.T @ jacobian, by_person.T @ by_person, by_person.T @ residual
        resting = self._basis.resting
        h_pf[:, N_POSE:] += precision * resting.T
        h_pp += precision * resting.T @ resting
        g_p += precision * resting.T @ (expected - state.expression)
        low, high = self._bounds(state)
        free = ~(((low >= 0) & (g_f < 0)) | ((high <= 0) & (g_f > 0)))
        eliminated = np.linalg.solve(h_ff[np.ix_(free, free)], np.column_stack([h_pf[:, free].T, g_f[free]]))
        information = h_pp - h_pf[:, free] @ eliminated[:, :-1]
        return information, g_p - h_pf[:, free] @ eliminated[:, -1] + information @ person

    def _expected(self, seen: Observation, person: np.ndarray) -> np.ndarray:
        """The expression that the scores speak of, once the person's resting scores are taken off."""
        return seen.scores - self._basis.resting @ person

    def _base(self, person: np.ndarray) -> np.ndarray:
        return self._basis.mean + self._basis.person @ person

    def _view(self, state: FramePose, base: np.ndarray) -> np.ndarray:
        """The landmarks in camera axes."""
        points = base + self._basis.expression @ state.expression + self._basis.view @ view_terms(state.rotation)
        return points @ state.rotation.T + state.translation

    def _linearised(
        self, seen: Observation, state: FramePose, base: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, Callable[[np.ndarray], np.ndarray]]:
        """Jacobian by (ω, t, expression) and residual l − π(x), both whitened; and what whitens.

        That takes displacements in camera axes (point 3 column) to (point·2 column), changes of the projection over σ.
        φ(R) counts as constant. Whitening is by √w / σ with w falling for landmarks that fit badly.
        """
        view, depth = self._view(state, base), state.translation[2]
        rays = view[:, :2] / view[:, 2:]
        error = seen.rays[self._use] - rays
        outlying = np.linalg.norm(error, axis=1) * (depth * MM_PER_UNIT / self.config.robust_mm)
        weights = self._basis.weights / (1 + outlying**2)
        precision = np.sqrt(weights) * (depth / (self._eye_distance * self.config.landmark_sigma))
        scale = (precision / view[:, 2])[:, None, None]

        def whitened(directions: np.ndarray) -> np.ndarray:
            moved = directions[:, :2] - rays[:, :, None] * directions[:, 2:]
            return (moved * scale).reshape(-1, directions.shape[-1])

        x, y, z = (view - state.translation).T
        zero = np.zeros_like(x)
        turning = np.stack([zero, z, -y, -z, zero, x, y, -x, zero], -1).reshape(-1, 3, 3)  # ω × Rx, by column of ω
        pose = np.concatenate([turning, np.broadcast_to(np.eye(3), turning.shape)], -1)
        columns = np.concatenate([pose, _turned(self._basis.expression, state.rotation)], -1)
        return whitened(columns), (error * precision[:, None]).reshape(-1), whitened

    def _normal(
        self, jacobian: np.ndarray, residual: np.ndarray, expected: np.ndarray, state: FramePose
    ) -> tuple[np.ndarray, np.ndarray]:
        """Hessian and descent direction of landmarks plus priors."""
        hessian, gradient = jacobian.T @ jacobian, jacobian.T @ residual
        precision = np.concatenate([np.zeros(N_POSE), np.full(len(expected), self.config.expression_sigma**-2)])
        prior = np.concatenate([np.zeros(N_POSE), expected - state.expression])
        hessian[np.diag_indices_from(hessian)] += precision
        return hessian, gradient + precision * prior

    def _bounds(self, state: FramePose) -> tuple[np.ndarray, np.ndarray]:
        """How far each unknown may still go down and up."""
        infinite = np.full(N_POSE, np.inf)
        return np.concatenate([-infinite, -state.expression]), np.concatenate([infinite, 1.0 - state.expression])

    def _bounded_step(self, hessian: np.ndarray, gradient: np.ndarray, state: FramePose) -> np.ndarray:
        """argmin ½ xᵀHx − gᵀx within the bounds: a primal-dual active set (Hintermüller, Ito and Kunisch 2003).

        Exact when it settles, which it does in two to four rounds; else the last round's answer, clipped.
        """
        low, high = self._bounds(state)
        at_low = at_high = np.zeros(len(gradient), bool)
        for _ in range(10):
            step = np.where(at_low, low, np.where(at_high, high, 0.0))
            free = ~(at_low | at_high)
            right = gradient[free] - hessian[np.ix_(free, ~free)] @ step[~free]
            step[free] = np.linalg.solve(hessian[np.ix_(free, free)], right)
            pull = gradient - hessian @ step  # where the fixed ones would go
            below, above = (
                (free & (step < low)) | (at_low & (pull < 0)),
                (free & (step > high)) | (at_high & (pull > 0)),
            )
            if (below == at_low).all() and (above == at_high).all():
                return step
            at_low, at_high = below, above
        return np.clip(step, low, high)

    def _moved(self, state: FramePose, step: np.ndarray) -> FramePose:
        translation = state.translation + step[3:N_POSE]
        translation[2] = max(translation[2], 0.3 * state.translation[2])  # a first step may overshoot the camera
        return FramePose(
            rotation=_rotation(step[:3]) @ state.rotation,
            translation=translation,
            expression=state.expression + step[N_POSE:],
        )


@dataclass(frozen=True)
class PersonEstimate:
    """The person that several frames agree on: (P + c Σ Λ_k) p = c Σ η_k, P the prior.

    Errors of the landmarks are the same in every frame of a person, so many frames must not drown the prior: c scales
    the sum down to `worth` frames.
    """

    prior: Float[np.ndarray, "person person"]
    information: Float[np.ndarray, "person person"]
    evidence: Float[np.ndarray, " person"]
    frames: int
    worth: float

    @staticmethod
    def of(fitter: HeadFitter) -> PersonEstimate:
        """No frame seen: the average person."""
        n = fitter.n_person
        return PersonEstimate(fitter.prior, np.zeros((n, n)), np.zeros(n), 0, fitter.config.shape_worth)

    def plus(self, information: np.ndarray, evidence: np.ndarray) -> PersonEstimate:
        """With one more frame's `HeadFitter.person_information`."""
        return replace(
            self,
            information=self.information + information,
            evidence=self.evidence + evidence,
            frames=self.frames + 1,
        )

    @_ONE_BLAS_THREAD.wrap(limits=1)
    def person(self) -> Float[np.ndarray, " person"]:
        """The most likely person, in standard deviations."""
        scale = min(1.0, self.worth / max(self.frames, 1))
        return np.linalg.solve(self.prior + scale * self.information, scale * self.evidence)


def fit_person(
    fitter: HeadFitter, frames: list[Observation], rounds: int = 4
) -> tuple[Float[np.ndarray, " person"], list[FramePose]]:
    """One person for all `frames`, and their states under it: Eq. 1 and Eq. 2 in turn, `rounds` times."""
    person = np.zeros(fitter.n_person)
    states: list[FramePose | None] = [None] * len(frames)
    for _ in range(rounds):
        states = [fitter.fit(seen, person, state, steps=2) for seen, state in zip(frames, states, strict=True)]
        estimate = PersonEstimate.of(fitter)
        for seen, state in zip(frames, states, strict=True):
            estimate = estimate.plus(*fitter.person_information(seen, person, state))
        person = estimate.person()
    return person, [fitter.fit(seen, person, state, steps=2) for seen, state in zip(frames, states, strict=True)]


def _turned(directions: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    return np.matmul(rotation, directions)


def _nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    u, _, vt = np.linalg.svd(matrix)
    return u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt


def _rotation(axis_angle: np.ndarray) -> np.ndarray:
    angle = np.linalg.norm(axis_angle)
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = axis_angle / angle
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * (skew @ skew)
