"""How MediaPipe errs on the open head: what the tracker must know to see shapes instead of the detector's habits.

synthetic people, moving -> detections -> regression on view and expression -> on the shape -> habits -> centring

A detection differs from the point of the surface that it names by a displacement that depends on the view and the
expression and is the same for everybody (brows lie lower than the surface map says, a turned face is drawn towards the
frontal one), by a share of the person's own shape (every face is drawn towards the average one), by a habit that stays
with a person through all frames, and by noise. The first is solved by robust ridge regression over all views, in head
space. What remains of each person is a displacement of 478 points; it is regressed on the person's shape, and the
principal components of the rest are the habits. The tracker fits a person's habits beside the shape, so that neither
the one nor the noise is taken for the other. Last, the tracker fits these people, and the offset is moved until their
mean is the mean head: errors of scores and poses, which no landmark shows alone, push all people to the same side.

    python -m data_prep.landmark_errors

writes gpavatar/tracking/landmark_errors.npz for the packaged head: about 10 s a person on one core, then 5 minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from rich.progress import track as progress

from gpavatar.camera import METRES_PER_UNIT, Camera
from gpavatar.data.synthetic import SyntheticPerson, render
from gpavatar.data.synthetic_motion import random_camera, random_motion
from gpavatar.face.landmarks import MEDIAPIPE_MIRROR, mirrored_name
from gpavatar.face.open_head import OpenHead
from gpavatar.media.files import whole_file
from gpavatar.media.image import to_u8
from gpavatar.pretrained.detector import FaceDetection, FaceDetector
from gpavatar.tracking import fit
from gpavatar.tracking.fit import HeadFitter, fit_person
from gpavatar.tracking.landmark_basis import N_VIEW, LandmarkBasis, LandmarkErrors, view_terms

FIRST_SEED = 21000  # far from those of tests and benchmarks
CLIP_FRAMES, VIEWS, YAW_DEG, SIZE_PX = 30, 12, 30.0, 512
HABITS = 24
SHAPE_MODES = 40  # principal components of the population's landmarks from which the lacking share is read ...
SHAPE_RIDGE = 0.01  # ... of the mean variance of these; both by cross-validation over people (56 % explained)
CENTRING_ROUNDS = 3
MM_PER_UNIT = 1000 * METRES_PER_UNIT
ROBUST_UNITS = 0.015  # residuals beyond (3 mm) count less and less
RIDGE = 0.02  # of a view's information: holds what no view shows, the depth of a person seen from the front alone
RIDGE_VIEW, RIDGE_EXPRESSION = 6.0, 60.0  # views: how much evidence the dependence on view and on expression needs
TRUSTED_UNITS = 0.005  # a landmark with this noise (1 mm) or less has the full weight
MIRROR, FLIP = np.array(MEDIAPIPE_MIRROR), np.array([-1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Views:
    """Detections of one person, linear in head-space displacements d of the landmarks: residual ≈ jacobian · d."""

    jacobian: np.ndarray  # (view, 478, 2, 3), image plane at the head's depth, head-space units
    residual: np.ndarray  # (view, 478, 2)
    regressors: np.ndarray  # (view, 1 + N_VIEW + expression): 1, the terms of the view, the expression weights

    def without(self, displacement: np.ndarray) -> Views:
        """What remains when the landmarks are known to be displaced, (478, 3) or (view, 478, 3)."""
        moved = np.einsum("vpij,...pj->vpi" if displacement.ndim == 2 else "vpij,vpj->vpi", self.jacobian, displacement)
        return replace(self, residual=self.residual - moved)

    def mirrored(self, names: tuple[str, ...]) -> Views:
        """What the mirror image would show."""
        swap = [names.index(mirrored_name(name)) for name in names]
        ones, view, expression = np.split(self.regressors, [1, 1 + N_VIEW], axis=1)
        return Views(
            self.jacobian[:, MIRROR] * FLIP * FLIP[:2, None],
            self.residual[:, MIRROR] * FLIP[:2],
            np.concatenate([ones, view * FLIP, expression[:, swap]], 1),
        )

    @staticmethod
    def joined(views: list[Views]) -> Views:
        """All of them as one."""
        return Views(*(np.concatenate([getattr(v, f.name) for v in views]) for f in fields(Views)))


@dataclass(frozen=True)
class Person:
    """One synthetic person: the truth, and what the detector saw of it."""

    shape: np.ndarray  # (shape,)
    focal: float  # in picture sides
    faces: list[FaceDetection]
    views: Views


def observe(seed: int) -> Person:
    """Render and detect one random person, shape drawn from the head's own distribution."""
    torch.set_num_threads(1)
    head, detector = OpenHead.load(), FaceDetector(max_faces=1)
    person = SyntheticPerson.random(seed, head, spread=1.0)
    random = np.random.default_rng([seed, 52])
    motion = list(random_motion(random, person, random_camera(random, person), CLIP_FRAMES, YAW_DEG))
    faces, views = [], []
    for index in np.linspace(0, CLIP_FRAMES - 1, VIEWS).round().astype(int):
        params, camera = motion[index]
        frame = render(person, params, camera, SIZE_PX, supersample=1)
        found = detector.detect(to_u8(frame.image))
        if found:
            points = head.topology.mediapipe.on(frame.verts, head.faces).double().numpy()
            faces.append(found[0])
            views.append(linearised(points, camera, params.expression.double().numpy(), found[0]))
    return Person(person.shape.double().numpy(), float(camera.intrinsics[0]), faces, Views.joined(views))


def linearised(points: np.ndarray, camera: Camera, expression: np.ndarray, face: FaceDetection) -> Views:
    """One view: how the true points would have to move to be seen where they were detected."""
    w2c = camera.w2c.double().numpy()
    view = points @ w2c[:3, :3].T + w2c[:3, 3]
    depth, rays = view[:, 2].mean(), view[:, :2] / view[:, 2:]
    intrinsics = camera.intrinsics.double().numpy()
    seen = (face.landmarks_px.double().numpy() / SIZE_PX - intrinsics[2:]) / intrinsics[:2]
    jacobian = (w2c[:2, :3] - rays[:, :, None] * w2c[2, :3]) / view[:, 2, None, None] * depth
    regressors = np.concatenate([[1.0], view_terms(w2c[:3, :3]), expression])
    return Views(jacobian[None], ((seen - rays) * depth)[None], regressors[None])


def regress(views: Views, ridge: np.ndarray) -> np.ndarray:
    """Displacements in head space (regressor, 478, 3): robust ridge regression on the views' regressors.

    Iteratively reweighted, each landmark on its own; `ridge` per regressor, in views.
    """
    count, number = views.regressors.shape
    found = np.zeros((number, 478, 3))
    for point in range(478):
        jacobian, residual = views.jacobian[:, point], views.residual[:, point]
        rows = np.einsum("vk,vij->vikj", views.regressors, jacobian).reshape(count, 2, -1)
        solution = np.zeros(rows.shape[-1])
        for _ in range(5):
            error = np.linalg.norm(residual - rows @ solution, axis=1)
            weighted = (rows / (1 + (error / ROBUST_UNITS) ** 2)[:, None, None]).reshape(2 * count, -1)
            normal = weighted.T @ rows.reshape(2 * count, -1) + np.diag(np.repeat(ridge, 3))
            solution = np.linalg.solve(normal, weighted.T @ residual.reshape(-1))
        found[:, point] = solution.reshape(number, 3)
    return found


def displacement(views: Views) -> np.ndarray:
    """The one head-space displacement (478, 3) that explains the views best."""
    alone = replace(views, regressors=np.ones((len(views.residual), 1)))
    return regress(alone, np.array([RIDGE * len(views.residual)]))[0]


def habits(persons: np.ndarray, weights: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Principal components (number, 478, 3) of the persons' displacements, each times its standard deviation, and
    the variance per landmark that they leave. Every person counts mirrored too.
    """
    both = np.concatenate([persons, persons[:, MIRROR] * FLIP])
    both -= both.mean(0)
    scale = np.sqrt(weights + 1e-3)[:, None]
    _, spread, modes = np.linalg.svd((both * scale).reshape(len(both), -1), full_matrices=False)
    kept = modes[:number] * spread[:number, None] / np.sqrt(len(both))
    along = (both * scale).reshape(len(both), -1) @ modes[:number].T
    left = both - (along @ modes[:number]).reshape(both.shape) / scale
    return kept.reshape(-1, 478, 3) / scale, (left**2).sum(-1).mean(0)


def lacking(
    shapes: np.ndarray, response: np.ndarray, persons: np.ndarray, weights: np.ndarray, number: int, ridge: float
) -> np.ndarray:
    """What a detection lacks of a person's shape: displacement (shape, 478, 3) by standard deviation.

    Ridge regression of the persons' displacements (person, 478, 3) on the principal components of their landmarks under
    `shapes` (person, shape), of which `response` (shape, 478, 3) is the Jacobian. Every person counts mirrored too.
    """
    own, both = np.einsum("ns,spj->npj", shapes, response), np.concatenate([persons, persons[:, MIRROR] * FLIP])
    scale = np.sqrt(weights + 1e-3)[:, None]
    own = (np.concatenate([own, own[:, MIRROR] * FLIP]) * scale).reshape(len(both), -1)
    modes = np.linalg.svd(own, full_matrices=False)[2][:number]
    along = own @ modes.T
    normal = along.T @ along
    normal += ridge * np.trace(normal) / number * np.eye(number)
    by_mode = np.linalg.solve(normal, along.T @ both.reshape(len(both), -1))
    return ((response * scale).reshape(len(response), -1) @ modes.T @ by_mode).reshape(response.shape)


def centred(errors: LandmarkErrors, people: list[Person], head: OpenHead) -> LandmarkErrors:
    """The offset moved by how far the people, as the tracker fits them, lie on average from their true shapes."""
    basis = LandmarkBasis.of(head, errors)
    fitter = HeadFitter(head, basis=basis)
    apart = []
    for person in progress(people, "fitting people"):
        seen = [fitter.observe(face, person.focal * SIZE_PX, SIZE_PX, SIZE_PX) for face in person.faces]
        apart.append(fit_person(fitter, seen)[0])
        apart[-1][: head.n_shape] -= person.shape
    mean = np.mean(apart, 0)
    moved = basis.person @ mean
    print(f"the mean of the fitted shapes is {np.linalg.norm(mean[: head.n_shape]):.2f} standard deviations off")
    return replace(errors, offset=errors.offset + (moved + moved[MIRROR] * FLIP) / 2)


def solve(people: list[Person], head: OpenHead) -> LandmarkErrors:
    """All the errors, from people of known shape."""
    names, weights = head.expression_names, head.mediapipe_weights.double().numpy()
    seen = [person.views for person in people]
    every = Views.joined([view for views in seen for view in (views, views.mirrored(names))])
    ridge = [[RIDGE * len(every.residual)], [RIDGE_VIEW] * N_VIEW, [RIDGE_EXPRESSION] * len(names)]
    common = regress(every, np.concatenate(ridge))
    rest = [views.without(np.einsum("vk,kpj->vpj", views.regressors, common)) for views in seen]
    persons = np.stack([displacement(views) for views in rest])
    noise = Views.joined([views.without(own) for views, own in zip(rest, persons, strict=True)]).residual
    print(f"{len(people)} people; median error {_median_mm(seen):.2f} mm, by view and expression", end=" ")
    print(f"{_median_mm(rest):.2f} mm, less habits {np.median(np.linalg.norm(noise, axis=-1)) * MM_PER_UNIT:.2f} mm")

    shapes = np.stack([person.shape for person in people])
    response = np.moveaxis(LandmarkBasis.of(head, LandmarkErrors.none(head)).person[..., : head.n_shape], -1, 0)
    share = lacking(shapes, response, persons, weights, min(SHAPE_MODES, len(people) // 3), SHAPE_RIDGE)
    other = persons - np.einsum("ns,spj->npj", shapes, share)
    modes, left = habits(other, weights, min(HABITS, len(people) // 2))
    # 1.44 takes the median of a squared length in the plane to its mean; the image shows two of the three axes.
    variance = np.median((noise**2).sum(-1), 0) * 1.44 + left * 2 / 3
    variance = (variance + variance[MIRROR]) / 2
    view, expression = np.split(common[1:], [N_VIEW])
    trust = np.minimum(1, TRUSTED_UNITS**2 / variance)
    errors = LandmarkErrors(common[0], view, expression, share, modes, trust)
    for _ in range(CENTRING_ROUNDS):
        errors = centred(errors, people, head)
    return errors


def _median_mm(people: list[Views]) -> float:
    return float(np.median(np.linalg.norm(Views.joined(people).residual, axis=-1))) * MM_PER_UNIT


def _observed(seeds: range, workers: int) -> Iterator[Person]:
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from progress(pool.map(observe, seeds), "rendering people", total=len(seeds))


def main() -> None:
    """Render, detect, solve, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=150)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, default=Path(fit.__file__).with_name("landmark_errors.npz"))
    options = parser.parse_args()
    head = OpenHead.load()
    people = list(_observed(range(FIRST_SEED, FIRST_SEED + options.people), options.workers))
    write(solve(people, head), head, options.output)


def write(errors: LandmarkErrors, head: OpenHead, output: Path) -> None:
    """The file that `LandmarkErrors.of` reads, in half precision."""
    arrays = {field.name: getattr(errors, field.name).astype(np.float16) for field in fields(errors)}
    with whole_file(output) as temporary:
        np.savez_compressed(temporary, head_sha256=np.array(head.sha256), **arrays)


if __name__ == "__main__":
    main()
