"""How MediaPipe errs on the open head: what the tracker must know to see shapes instead of the detector's habits.

synthetic people, moving -> detections -> per landmark: offset, per person: habits -> weights

A detection differs from the point of the surface that it names in three ways: by an offset that is the same for
everybody (brows lie lower than the surface map says, cheeks nearer), by a habit that stays with a person through all
frames (the network makes every face a little more like the average one), and by noise. Offsets are solved by robust
least squares over all views, in head space. What remains of each person is a 478-point displacement; the principal
components of these are the habits. The tracker fits a person's habits beside the shape, so that neither the one nor
the noise is taken for the other.

    python -m data_prep.landmark_errors --people 120

writes gpavatar/tracking/landmark_errors.npz for the packaged head; about 10 s a person on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from rich.progress import track as progress

from gpavatar.camera import METRES_PER_UNIT, Camera
from gpavatar.data.synthetic import SyntheticPerson, render
from gpavatar.data.synthetic_motion import random_camera, random_motion
from gpavatar.face.landmarks import MEDIAPIPE_MIRROR
from gpavatar.face.open_head import OpenHead
from gpavatar.media.files import whole_file
from gpavatar.media.image import to_u8
from gpavatar.pretrained.detector import FaceDetection, FaceDetector
from gpavatar.tracking import fit

FIRST_SEED = 21000  # far from those of tests and benchmarks
CLIP_FRAMES, VIEWS, YAW_DEG, SIZE_PX = 30, 12, 30.0, 512
HABITS = 24
ROBUST_UNITS = 0.015  # residuals beyond (3 mm) count less and less
RIDGE = 0.02  # of a view's information: holds what no view shows, the depth of a person seen from the front alone
TRUSTED_UNITS = 0.005  # a landmark with this noise (1 mm) or less has the full weight
MIRROR, FLIP = np.array(MEDIAPIPE_MIRROR), np.array([-1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Views:
    """Detections of one person, linear in head-space displacements d of the landmarks: residual ≈ jacobian · d."""

    jacobian: np.ndarray  # (view, 478, 2, 3), image plane at the head's depth, head-space units
    residual: np.ndarray  # (view, 478, 2)

    def without(self, displacement: np.ndarray) -> Views:
        """What remains when the landmarks are known to be displaced."""
        return Views(self.jacobian, self.residual - np.einsum("vpij,pj->vpi", self.jacobian, displacement))

    @staticmethod
    def joined(views: list[Views]) -> Views:
        """All of them as one."""
        return Views(np.concatenate([v.jacobian for v in views]), np.concatenate([v.residual for v in views]))


def observe(seed: int) -> Views:
    """Render and detect one random person, shape drawn from the head's own distribution."""
    torch.set_num_threads(1)
    head, detector = OpenHead.load(), FaceDetector(max_faces=1)
    person = SyntheticPerson.random(seed, head, spread=1.0)
    random = np.random.default_rng([seed, 52])
    motion = list(random_motion(random, person, random_camera(random, person), CLIP_FRAMES, YAW_DEG))
    views = []
    for index in np.linspace(0, CLIP_FRAMES - 1, VIEWS).round().astype(int):
        params, camera = motion[index]
        frame = render(person, params, camera, SIZE_PX, supersample=1)
        found = detector.detect(to_u8(frame.image))
        if found:
            points = head.topology.mediapipe.on(frame.verts, head.faces).double().numpy()
            views.append(linearised(points, camera, found[0]))
    return Views.joined(views)


def linearised(points: np.ndarray, camera: Camera, face: FaceDetection) -> Views:
    """One view: how the true points would have to move to be seen where they were detected."""
    w2c = camera.w2c.double().numpy()
    view = points @ w2c[:3, :3].T + w2c[:3, 3]
    depth, rays = view[:, 2].mean(), view[:, :2] / view[:, 2:]
    intrinsics = camera.intrinsics.double().numpy()
    seen = (face.landmarks_px.double().numpy() / SIZE_PX - intrinsics[2:]) / intrinsics[:2]
    jacobian = (w2c[:2, :3] - rays[:, :, None] * w2c[2, :3]) / view[:, 2, None, None] * depth
    return Views(jacobian[None], ((seen - rays) * depth)[None])


def displacement(views: Views) -> np.ndarray:
    """The head-space displacement (478, 3) that explains the views best: robust, iteratively reweighted."""
    found = np.zeros((478, 3))
    for _ in range(6):
        error = np.linalg.norm(views.without(found).residual, axis=-1)
        weights = 1 / (1 + (error / ROBUST_UNITS) ** 2)
        normal = np.einsum("vp,vpij,vpik->pjk", weights, views.jacobian, views.jacobian)
        right = np.einsum("vp,vpij,vpi->pj", weights, views.jacobian, views.residual)
        found = np.linalg.solve(normal + RIDGE * len(error) * np.eye(3), right[..., None])[..., 0]
    return found


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


def solve(people: list[Views], weights: np.ndarray) -> dict[str, np.ndarray]:
    """Offset, habits and weights of the landmarks; `weights` say which of them matter to the components."""
    offset = displacement(Views.joined(people))
    offset = (offset + offset[MIRROR] * FLIP) / 2
    rest = [views.without(offset) for views in people]
    persons = np.stack([displacement(views) for views in rest])
    modes, left = habits(persons, weights, min(HABITS, len(people) // 2))
    noise = Views.joined([views.without(own) for views, own in zip(rest, persons, strict=True)]).residual
    # 1.44 takes the median of a squared length in the plane to its mean; the image shows two of the three axes.
    variance = np.median((noise**2).sum(-1), 0) * 1.44 + left * 2 / 3
    variance = (variance + variance[MIRROR]) / 2
    before, after = (np.median(np.linalg.norm(Views.joined(v).residual, axis=-1)) for v in (people, rest))
    mm = 1000 * METRES_PER_UNIT
    print(f"{len(people)} people: error {before * mm:.2f} mm, without offset {after * mm:.2f} mm,", end=" ")
    print(f"without habits too {np.median(np.linalg.norm(noise, axis=-1)) * mm:.2f} mm")
    return {
        "offset": offset.astype(np.float32),
        "habits": modes.astype(np.float16),
        "weights": np.minimum(1, TRUSTED_UNITS**2 / variance).astype(np.float32),
    }


def _observed(seeds: range, workers: int) -> Iterator[Views]:
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from progress(pool.map(observe, seeds), "rendering people", total=len(seeds))


def main() -> None:
    """Render, detect, solve, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=120)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, default=Path(fit.__file__).with_name("landmark_errors.npz"))
    options = parser.parse_args()
    head = OpenHead.load()
    people = list(_observed(range(FIRST_SEED, FIRST_SEED + options.people), options.workers))
    arrays = solve(people, head.mediapipe_weights.double().numpy())
    with whole_file(options.output) as temporary:
        np.savez_compressed(temporary, head_sha256=np.array(head.sha256), **arrays)


if __name__ == "__main__":
    main()
