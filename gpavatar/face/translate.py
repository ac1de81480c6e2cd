"""Parameters of one head -> those of another that looks the same, by the landmarks that both carry.

Person:  Σ_i |L_i(β) − (R s_i + t)|² / σ²  +  |β|²           over shape β and the rigid motion between the two spaces
Frame:   Σ_i |L_i(β, ψ, θ_jaw) − (R s_i + t)|² / σ²  +  |ψ|²  +  |θ_jaw|² / σ_jaw²

with s_i the landmarks of the source head and L_i those of the target. Shape and motion are found in turns, a frame in
Gauss-Newton steps whose derivatives are measured, one parameter at a time. Eyes and neck of the target rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gpavatar.camera import Camera
from gpavatar.face.morphable import MorphableHead
from gpavatar.types import HeadParams, InputError, map_tensors

SIGMA = 0.01  # head units (2 mm): how well a landmark of one head can be found on another
SIGMA_JAW = 0.3  # radians
TURNS, STEPS = 8, 3
PROBE_EXPRESSION, PROBE_JAW = 0.1, 0.01  # steps by which derivatives are measured


@dataclass(frozen=True)
class TranslatedPerson:
    """A person on the target head."""

    shape: Float[Tensor, " n_shape"]
    rotation: Float[Tensor, "3 3"]  # source space -> target space: R x + t
    translation: Float[Tensor, " 3"]

    def camera(self, camera: Camera) -> Camera:
        """The same camera, seen from the target head's space."""
        motion = torch.eye(4, dtype=camera.c2w.dtype, device=camera.c2w.device)
        motion[:3, :3], motion[:3, 3] = self.rotation, self.translation
        return replace(camera, c2w=motion @ camera.c2w)


class HeadTranslator:
    """From `source` to `target`. InputError where the two share fewer than 30 landmarks."""

    def __init__(self, source: MorphableHead, target: MorphableHead):
        self.source, self.target = source, target
        both = (source.topology.mediapipe_weights > 0) & (target.topology.mediapipe_weights > 0)
        self._mediapipe: Int[Tensor, " landmark"] = both.nonzero()[:, 0]
        ibug = [len(head.topology.ibug68.face_ids) for head in (source, target)]
        self._with_ibug = ibug == [68, 68]
        if len(self._mediapipe) + 68 * self._with_ibug < 30:
            raise InputError(
                f"{target.name}: has no landmarks that {source.name} has too; load it with its landmark files"
            )

    def person(self, shape: Float[Tensor, " n_shape"]) -> TranslatedPerson:
        """The target's shape for a person of the source, and how the two spaces lie to each other."""
        source, target = self.source, self.target
        seen = self._landmarks(source, replace(_neutral(source, shape), shape=shape))
        neutral = _neutral(target, shape)
        mean = self._landmarks(target, neutral)
        eye = torch.eye(target.n_shape, dtype=shape.dtype, device=shape.device)
        batched = HeadParams.neutral(target.n_shape, target.n_expression, (target.n_shape,))
        each = self._landmarks(target, _like(replace(batched, shape=eye), shape))
        basis = (each - mean).flatten(1).T
        beta = torch.zeros_like(neutral.shape)
        for _ in range(TURNS):
            rotation, translation = rigid_motion(seen, mean + (basis @ beta).reshape(-1, 3))
            moved = seen @ rotation.T + translation
            beta = _ridge(basis, (moved - mean).flatten(), torch.ones_like(beta))
        return TranslatedPerson(beta, rotation, translation)

    def params(self, person: TranslatedPerson, params: HeadParams) -> HeadParams:
        """The target's parameters for a frame of this person on the source."""
        target = self.target
        wanted = self._landmarks(self.source, params) @ person.rotation.T + person.translation
        num = target.n_expression + 3
        probe = torch.full((num,), PROBE_EXPRESSION, dtype=wanted.dtype, device=wanted.device)
        probe[target.n_expression :] = PROBE_JAW
        sigma = torch.ones_like(probe)
        sigma[target.n_expression :] = SIGMA_JAW
        x = torch.zeros_like(probe)
        for _ in range(STEPS):
            probes = torch.cat([x[None], x + probe.diag()])
            found = self._landmarks(target, self._target_params(person, probes)).flatten(1)
            jacobian = ((found[1:] - found[0]) / probe[:, None]).T
            x = _ridge(jacobian, wanted.flatten() - found[0] + jacobian @ x, sigma)
        return self._target_params(person, x)

    def _target_params(self, person: TranslatedPerson, x: Float[Tensor, "*batch param"]) -> HeadParams:
        batch, expressions = x.shape[:-1], self.target.n_expression
        neutral = _like(HeadParams.neutral(self.target.n_shape, expressions, tuple(batch)), x)
        shape = person.shape.expand(*batch, -1)
        return replace(neutral, shape=shape, expression=x[..., :expressions], jaw_pose=x[..., expressions:])

    def _landmarks(self, head: MorphableHead, params: HeadParams) -> Float[Tensor, "*batch landmark 3"]:
        verts, topology = head.verts(params), head.topology
        points = topology.mediapipe.on(verts, topology.faces)[..., self._mediapipe, :]
        if self._with_ibug:
            points = torch.cat([points, topology.ibug68.on(verts, topology.faces)], -2)
        return points


def rigid_motion(
    source: Float[Tensor, "point 3"], target: Float[Tensor, "point 3"]
) -> tuple[Float[Tensor, "3 3"], Float[Tensor, " 3"]]:
    """R, t that bring the source nearest to the target in least squares (Kabsch 1976); R is no reflection."""
    middle, aim = source.mean(0), target.mean(0)
    u, _, vh = torch.linalg.svd((source - middle).T @ (target - aim))
    sign = torch.ones(3, dtype=source.dtype, device=source.device)
    sign[2] = torch.linalg.det(u @ vh).sign()
    rotation = vh.T @ (sign[:, None] * u.T)
    return rotation, aim - rotation @ middle


def _ridge(
    matrix: Float[Tensor, "row param"], right: Float[Tensor, " row"], sigma: Float[Tensor, " param"]
) -> Float[Tensor, " param"]:
    """argmin |A x − b|² / SIGMA² + Σ (x / σ)²."""
    system = matrix.T @ matrix / SIGMA**2 + sigma.square().reciprocal().diag()
    return torch.linalg.solve(system, matrix.T @ right / SIGMA**2)


def _neutral(head: MorphableHead, like: Tensor) -> HeadParams:
    return _like(HeadParams.neutral(head.n_shape, head.n_expression), like)


def _like(params: HeadParams, like: Tensor) -> HeadParams:
    return map_tensors(params, lambda tensor: tensor.to(like))
