"""Landmarks and blendshape scores of one face -> pose and expression of the head, and what they say of its shape.

StyleAvatar (section 3.1) alternates pose (Eq. 1) with a regularised linear solve for the coefficients (Eq. 2) under a
scaled orthographic camera. Here the camera is a perspective one, so every step is a Gauss-Newton step on

    Σ_i w_i |π(R x_i + t) − l_i|² / σ²  +  Σ_j (e_j − s_j)² / σ_e²  +  |a|²

with head points x_i = m_i + S_i a + E_i e (shape a, expression e in [0, 1]), detected landmarks l_i and blendshape
scores s. The points are linear in a and e but for the turning of jaw and eyes, which the weights jawOpen and eyeLook*
drive: gaze is fitted through them, and `eye_pose` stays zero. Pose and expression are solved together, as they explain
the same landmarks; the shape, shared by all frames of a clip, from the Schur complements of its frames.

Everything here is float64 numpy in normalised view coordinates (x/z, y/z): the problems are of size 60, and the time
would go to the dispatch of a tensor library.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from threadpoolctl import ThreadpoolController

from gpavatar.face.morphable import MorphableHead
from gpavatar.pretrained.detector import ARKIT_NAMES, FaceDetection
from gpavatar.types import HeadParams

OUTER_EYE_CORNERS = (33, 263)  # MediaPipe's indices of the person's right and left outer eye corner
N_POSE = 6  # rotation (left-multiplied axis-angle) and translation

# Products of a few thousand numbers: a second BLAS thread only costs time, 40-fold where other work waits for cores.
_ONE_BLAS_THREAD = ThreadpoolController().select(internal_api="openblas")


@dataclass(frozen=True)
class FitConfig:
    """Standard deviations that weigh landmarks, scores and priors against each other."""

    landmark_sigma: float = 0.03  # of a fully trusted landmark, in inter-ocular distances
    expression_sigma: float = 0.2  # of an expression weight about its score
    shape_worth: float = 4.0  # all frames of a clip together weigh at most as much as this many independent ones


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


@dataclass(frozen=True)
class LandmarkBasis:
    """The head, linear in its parameters, at the landmarks: all that a fit needs to know of it."""

    mean: Float[np.ndarray, "point 3"]
    shape: Float[np.ndarray, "point 3 shape"]
    expression: Float[np.ndarray, "point 3 expression"]
    weights: Float[np.ndarray, " point"]

    @staticmethod
    def of(head: MorphableHead) -> LandmarkBasis:
        """Measure the head's response to each parameter, one at a time."""
        topology = head.topology

        def points(**changed) -> np.ndarray:
            batch = (next(iter(changed.values())).shape[0],)
            params = replace(HeadParams.neutral(head.n_shape, head.n_expression, batch), **changed)
            return topology.mediapipe.on(head.verts(params), topology.faces).double().numpy()

        mean = points(shape=torch.zeros(1, head.n_shape))[0]
        return LandmarkBasis(
            mean=mean,
            shape=np.moveaxis(points(shape=torch.eye(head.n_shape)) - mean, 0, -1).copy(),
            expression=np.moveaxis(points(expression=torch.eye(head.n_expression)) - mean, 0, -1).copy(),
            weights=topology.mediapipe_weights.double().numpy(),
        )


class HeadFitter:
    """Fits frames of a person whose shape is given, and gathers what frames say of the shape.

    `points` limits the fit to some of the landmarks.
    """

    def __init__(
        self, head: MorphableHead, config: FitConfig | None = None, points: Bool[np.ndarray, " 478"] | None = None
    ):
        self.config = config or FitConfig()
        basis = LandmarkBasis.of(head)
        self._use = np.flatnonzero(basis.weights > 0 if points is None else points & (basis.weights > 0))
        self._basis = LandmarkBasis(
            basis.mean[self._use],
            basis.shape[self._use],
            basis.expression[self._use],
            basis.weights[self._use],
        )
        self._eye_distance = float(np.linalg.norm(np.subtract(*basis.mean[list(OUTER_EYE_CORNERS)])))
        self._scores = [ARKIT_NAMES.index(name) for name in head.expression_names]
        self.n_shape = head.n_shape

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

    def start(self, seen: Observation, shape: Float[np.ndarray, " shape"]) -> FramePose:
        """A frame without a past: the detector's rotation, its scores, and the place that these imply."""
        points = self._points(shape, seen.scores) @ seen.rotation.T
        rays, weights = seen.rays[self._use], self._basis.weights
        # x + t_x = u (z + t_z) is linear in t; unlike a reprojection it needs no guess of the depth.
        rows = np.zeros((len(rays), 2, 3))
        rows[:, 0, 0] = rows[:, 1, 1] = 1.0
        rows[:, :, 2] = -rays
        right = rays * points[:, 2:] - points[:, :2]
        scale = np.repeat(np.sqrt(weights), 2)
        solution = np.linalg.lstsq(rows.reshape(-1, 3) * scale[:, None], right.reshape(-1) * scale, rcond=None)[0]
        return FramePose(seen.rotation, solution, seen.scores.copy())

    @_ONE_BLAS_THREAD.wrap(limits=1)
    def fit(
        self, seen: Observation, shape: Float[np.ndarray, " shape"], start: FramePose | None = None, steps: int = 3
    ) -> FramePose:
        """Pose and expression of a frame, `steps` Gauss-Newton steps from `start` (default: from `start()`)."""
        if start is None:
            start, steps = self.start(seen, shape), steps + 3
        base = self._basis.mean + self._basis.shape @ shape
        for _ in range(steps):
            jacobian, residual = self._linearised(seen, start, base)
            hessian, gradient = self._normal(jacobian, residual, seen, start)
            start = self._moved(start, self._bounded_step(hessian, gradient, start))
        return start

    def residual(
        self, seen: Observation, shape: Float[np.ndarray, " shape"], state: FramePose
    ) -> Float[np.ndarray, "point 2"]:
        """Reprojection error of the landmarks in use, in inter-ocular distances at the head's depth."""
        base = self._basis.mean + self._basis.shape @ shape
        view = self._view(state, base)
        return (view[:, :2] / view[:, 2:] - seen.rays[self._use]) * (state.translation[2] / self._eye_distance)

    @_ONE_BLAS_THREAD.wrap(limits=1)
    def shape_information(
        self, seen: Observation, shape: Float[np.ndarray, " shape"], state: FramePose
    ) -> tuple[Float[np.ndarray, "shape shape"], Float[np.ndarray, " shape"]]:
        """What a fitted frame says of the shape: the normal equations Λ a = η with the frame's own unknowns eliminated.

        Λ = H_ss − H_sf H_ff⁻¹ H_fs around the given shape and state; weights at their bounds count as known.
        """
        base = self._basis.mean + self._basis.shape @ shape
        jacobian, residual = self._linearised(seen, state, base)
        h_ff, g_f = self._normal(jacobian, residual, seen, state)
        by_shape = self._projected(self._basis.shape.reshape(-1, self.n_shape), state, base)
        h_sf, h_ss, g_s = by_shape.T @ jacobian, by_shape.T @ by_shape, by_shape.T @ residual
        low, high = self._bounds(state)
        free = ~(((low >= 0) & (g_f < 0)) | ((high <= 0) & (g_f > 0)))
        eliminated = np.linalg.solve(h_ff[np.ix_(free, free)], np.column_stack([h_sf[:, free].T, g_f[free]]))
        information = h_ss - h_sf[:, free] @ eliminated[:, :-1]
        return information, g_s - h_sf[:, free] @ eliminated[:, -1] + information @ shape

    def _points(self, shape: np.ndarray, expression: np.ndarray) -> np.ndarray:
        return self._basis.mean + self._basis.shape @ shape + self._basis.expression @ expression

    def _view(self, state: FramePose, base: np.ndarray) -> np.ndarray:
        points = base + self._basis.expression @ state.expression
        return points @ state.rotation.T + state.translation

    def _projected(self, directions: np.ndarray, state: FramePose, base: np.ndarray) -> np.ndarray:
        """Derivative of the whitened projection along head-space directions, (point·3 column) -> (point·2 column)."""
        view = self._view(state, base)
        return self._whitened(self._turned(directions, state.rotation), view, state.translation[2])

    @staticmethod
    def _turned(directions: np.ndarray, rotation: np.ndarray) -> np.ndarray:
        columns = directions.shape[-1]
        return np.matmul(rotation, directions.reshape(-1, 3, columns))

    def _whitened(self, directions: np.ndarray, view: np.ndarray, depth: float) -> np.ndarray:
        """View-space directions (point 3 column) -> derivative of the projection over its σ, (point·2 column)."""
        rays = view[:, :2] / view[:, 2:]
        moved = directions[:, :2] - rays[:, :, None] * directions[:, 2:]
        return (moved * (self._precision(depth) / view[:, 2])[:, None, None]).reshape(-1, directions.shape[-1])

    def _precision(self, depth: float) -> np.ndarray:
        """√w_i / σ per landmark, σ in ray units at the head's depth."""
        return np.sqrt(self._basis.weights) * (depth / (self._eye_distance * self.config.landmark_sigma))

    def _linearised(self, seen: Observation, state: FramePose, base: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Jacobian by (ω, t, expression) and the residual l − π(x), both whitened."""
        view = self._view(state, base)
        x, y, z = (view - state.translation).T
        zero = np.zeros_like(x)
        turning = np.stack([zero, z, -y, -z, zero, x, y, -x, zero], -1).reshape(-1, 3, 3)  # ω × Rx, by column of ω
        pose = np.concatenate([turning, np.broadcast_to(np.eye(3), turning.shape)], -1)
        columns = np.concatenate([pose, self._turned(self._basis.expression, state.rotation)], -1)
        precision = self._precision(state.translation[2])
        residual = (seen.rays[self._use] - view[:, :2] / view[:, 2:]) * precision[:, None]
        return self._whitened(columns, view, state.translation[2]), residual.reshape(-1)

    def _normal(
        self, jacobian: np.ndarray, residual: np.ndarray, seen: Observation, state: FramePose
    ) -> tuple[np.ndarray, np.ndarray]:
        """Hessian and descent direction of landmarks plus priors."""
        hessian, gradient = jacobian.T @ jacobian, jacobian.T @ residual
        precision = np.concatenate([np.zeros(N_POSE), np.full(len(seen.scores), self.config.expression_sigma**-2)])
        prior = np.concatenate([np.zeros(N_POSE), seen.scores - state.expression])
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
class ShapeEstimate:
    """The shape that several frames of a person agree on: (I + c Σ Λ_k) a = c Σ η_k.

    Errors of the landmarks are the same in every frame of a person, so many frames must not drown the prior: c scales
    the sum down to `worth` frames.
    """

    information: Float[np.ndarray, "shape shape"]
    evidence: Float[np.ndarray, " shape"]
    frames: int
    worth: float

    @staticmethod
    def empty(n_shape: int, worth: float) -> ShapeEstimate:
        """No frame seen: the mean shape."""
        return ShapeEstimate(np.zeros((n_shape, n_shape)), np.zeros(n_shape), 0, worth)

    def plus(self, information: np.ndarray, evidence: np.ndarray) -> ShapeEstimate:
        """With one more frame's `HeadFitter.shape_information`."""
        return replace(
            self,
            information=self.information + information,
            evidence=self.evidence + evidence,
            frames=self.frames + 1,
        )

    @_ONE_BLAS_THREAD.wrap(limits=1)
    def shape(self) -> Float[np.ndarray, " shape"]:
        """The most likely shape, in standard deviations."""
        scale = min(1.0, self.worth / max(self.frames, 1))
        return np.linalg.solve(np.eye(len(self.evidence)) + scale * self.information, scale * self.evidence)


def fit_shape(
    fitter: HeadFitter, frames: list[Observation], rounds: int = 4
) -> tuple[Float[np.ndarray, " shape"], list[FramePose]]:
    """One shape for all `frames`, and their states under it: Eq. 1 and Eq. 2 in turn, `rounds` times."""
    shape = np.zeros(fitter.n_shape)
    states: list[FramePose | None] = [None] * len(frames)
    for _ in range(rounds):
        states = [fitter.fit(seen, shape, state, steps=2) for seen, state in zip(frames, states, strict=True)]
        estimate = ShapeEstimate.empty(fitter.n_shape, fitter.config.shape_worth)
        for seen, state in zip(frames, states, strict=True):
            estimate = estimate.plus(*fitter.shape_information(seen, shape, state))
        shape = estimate.shape()
    return shape, [fitter.fit(seen, shape, state, steps=2) for seen, state in zip(frames, states, strict=True)]


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
