"""A head as the landmark detector sees it: 478 points, linear in person, expression and viewing direction.

    x_i = m_i + S_i a + B_i b + E_i e + V_i φ(R)

a, the shape, and b, the detector's habits with a person, are shared by all frames of a clip. V bends the landmarks with
the head's rotation, as the detector does: it draws a turned face a little towards the frontal one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.resources import files

import numpy as np
import torch
from jaxtyping import Float

from gpavatar.face.morphable import MorphableHead
from gpavatar.types import HeadParams

BUILD = ("brow", "eyeSquint", "cheekSquint")  # expressions that the detector also sees in the build of a face
RESTING_BUILD, RESTING = 0.8, 0.05  # standard deviations of the scores of a resting face
SIZE_SIGMA = 0.01  # of ln(head size) about the average: one camera cannot see it, so errors must not move it
N_VIEW = 3


@dataclass(frozen=True)
class LandmarkErrors:
    """How the detector errs on a head (`data_prep/landmark_errors.py` measures it): displacements in head space.

    `shape` is what a detection lacks of a person's own shape: the detector draws every face towards the average one.
    `habits` are the principal components, times their standard deviation, of what else stays with a person through all
    frames; `weights` say how far each landmark can be trusted beyond all this.
    """

    offset: Float[np.ndarray, "478 3"]
    view: Float[np.ndarray, "view 478 3"]  # by `view_terms`
    expression: Float[np.ndarray, "expression 478 3"]  # by expression weight
    shape: Float[np.ndarray, "shape 478 3"]  # by standard deviation of a shape
    habits: Float[np.ndarray, "habit 478 3"]
    weights: Float[np.ndarray, " 478"]  # [0, 1]

    @staticmethod
    def of(head: MorphableHead) -> LandmarkErrors:
        """Those that were measured for this head; without a measurement none, and the head's own weights."""
        with np.load(str(files("gpavatar.tracking") / "landmark_errors.npz"), allow_pickle=False) as measured:
            if str(measured["head_sha256"]) == head.sha256:
                names = ("offset", "view", "expression", "shape", "habits", "weights")
                return LandmarkErrors(*(measured[name].astype(np.float64) for name in names))
        return LandmarkErrors.none(head)

    @staticmethod
    def none(head: MorphableHead) -> LandmarkErrors:
        """A detector that errs no more on one landmark than the head says."""
        columns = (N_VIEW, head.n_expression, head.n_shape, 0)
        sizes = ((478, 3), *((number, 478, 3) for number in columns))
        return LandmarkErrors(*map(np.zeros, sizes), head.topology.mediapipe_weights.double().numpy())


@dataclass(frozen=True)
class LandmarkBasis:
    """All that a fit needs to know of a head."""

    mean: Float[np.ndarray, "point 3"]
    person: Float[np.ndarray, "point 3 person"]  # columns, in standard deviations: shape, habits, resting scores
    expression: Float[np.ndarray, "point 3 expression"]
    view: Float[np.ndarray, "point 3 view"]
    resting: Float[np.ndarray, "expression person"]  # what a person adds to the blendshape scores
    weights: Float[np.ndarray, " point"]
    prior: Float[np.ndarray, "person person"]  # precision of a person

    @staticmethod
    def of(head: MorphableHead, errors: LandmarkErrors | None = None) -> LandmarkBasis:
        """Measure the head's response to each parameter, one at a time, and add the detector's errors.

        `errors` defaults to those measured for this head.
        """
        topology, errors = head.topology, errors or LandmarkErrors.of(head)

        def points(**changed) -> np.ndarray:
            batch = (next(iter(changed.values())).shape[0],)
            params = replace(HeadParams.neutral(head.n_shape, head.n_expression, batch), **changed)
            return topology.mediapipe.on(head.verts(params), topology.faces).double().numpy()

        mean = points(shape=torch.zeros(1, head.n_shape))[0]
        shape = points(shape=torch.eye(head.n_shape)) - mean
        expression = points(expression=torch.eye(head.n_expression)) - mean + errors.expression
        unmoved = np.zeros((head.n_expression, 478, 3))
        person = np.concatenate([shape + errors.shape, errors.habits, unmoved])
        resting = [RESTING_BUILD if name.startswith(BUILD) else RESTING for name in head.expression_names]
        size = np.zeros(len(person))
        size[: head.n_shape] = _growth(mean, shape)
        return LandmarkBasis(
            mean=mean + errors.offset,
            person=np.moveaxis(person, 0, -1).copy(),
            expression=np.moveaxis(expression, 0, -1).copy(),
            view=np.moveaxis(errors.view, 0, -1).copy(),
            resting=np.hstack([np.zeros((len(resting), len(person) - len(resting))), np.diag(resting)]),
            weights=errors.weights,
            prior=np.eye(len(person)) + np.outer(size, size) / SIZE_SIGMA**2,
        )

    def only(self, points: np.ndarray) -> LandmarkBasis:
        """Some of the landmarks."""
        names = ("mean", "person", "expression", "view", "weights")
        return replace(self, **{name: getattr(self, name)[points] for name in names})


def view_terms(rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, " view"]:
    """φ(R): with d the direction from the head towards the camera, in head space, (d_x, d_y, d_x²)."""
    x, y, _ = -rotation[2]
    return np.array([x, y, x * x])


def _growth(mean: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Derivative of ln(root mean square distance from the middle) by each shape coefficient."""
    spread = mean - mean.mean(0)
    return ((shape - shape.mean(1, keepdims=True)) * spread).sum((1, 2)) / (spread**2).sum()
