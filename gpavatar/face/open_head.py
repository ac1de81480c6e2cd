"""The default parametric head: shape, expression and pose -> vertices. Data: CC0 (docs/open_head.md).

    T(β, ψ) = mean + Σ_k β_k identity_k + Σ_j ψ_j expression_j              (identity in standard deviations)
    L       = T with the lids pushed out of eyeball and cornea
    V       = L + Σ_joint w_joint (R_joint − I)(L − c_joint)

Joints turn about the centres c(β): the jaw by jaw_pose + ψ_jawOpen · θ e_x, each eye by eye_pose + Σ ψ_eyeLook · gaze,
the shoulders by the inverse of neck_pose, since the skull is what stands still (docs/decisions/0010, 0011).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gpavatar.camera import axis_angle_to_matrix
from gpavatar.face.morphable import HeadTopology, SurfacePoints
from gpavatar.types import ARKIT_NAMES, HeadParams

PARTS = ("skin", "mouth_bag", "tongue", "lashes", "eye_left", "eye_right", "teeth_upper", "teeth_lower", "gums_upper",
         "gums_lower")  # fmt: skip
SHOULDERS, JAW, EYE_LEFT, EYE_RIGHT = range(4)  # the joints, all children of the resting skull


class OpenHead(nn.Module):
    """The open head; see the head of this file. Implements `gpavatar.face.morphable.MorphableHead`."""

    name = "open_head"
    expression_names: tuple[str, ...] = ARKIT_NAMES

    def __init__(self, arrays: dict[str, np.ndarray], sha256: str):
        super().__init__()
        self.sha256 = sha256

        def keep(name: str, value: np.ndarray, dtype: torch.dtype = torch.float32) -> None:
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(value)).to(dtype), persistent=False)

        mean, owner = arrays["verts"].astype(np.float64), arrays["owner"]
        keep("mean", mean)
        keep("identity", _expand(arrays["identity"], arrays["identity_rigid"], mean, owner))
        keep("expression", _expand(arrays["expression"], arrays["expression_rigid"], mean, owner))
        for name in ("joints", "joints_identity", "turns", "joint_weights", "eye_radius", "eye_radius_identity"):
            keep(name, arrays[name])
        keep("head_weight", arrays["head_weight"])
        for name in ("faces", "uv_faces", "face_parts", "mirror", "collar", "mediapipe_faces", "ibug68_faces"):
            keep(name, arrays[name].astype(np.int64), torch.int64)
        for name in ("uv", "mediapipe_bary", "mediapipe_weights", "ibug68_bary", "cornea"):
            keep(name, arrays[name])
        for joint, weights in enumerate(arrays["joint_weights"].T):
            keep(f"held_{joint}", np.flatnonzero(weights), torch.int64)
            keep(f"hold_{joint}", weights[weights != 0])
        keep("lids", arrays["lids"].astype(np.int64), torch.int64)
        keep("lid_gap", arrays["lid_gap"])
        keep("regions", arrays["regions"], torch.bool)
        self.region_names = tuple(str(name) for name in arrays["region_names"])
        self.n_shape, self.n_expression = len(self.identity), len(self.expression)

    @staticmethod
    def load(path: str | Path | None = None) -> OpenHead:
        """Read the packaged head, or another file of the same layout."""
        source = Path(path) if path else Path(str(files("gpavatar.face") / "open_head.npz"))
        with np.load(source, allow_pickle=False) as arrays:
            return OpenHead(dict(arrays), hashlib.sha256(source.read_bytes()).hexdigest())

    @property
    def topology(self) -> HeadTopology:
        """Faces, texture coordinates, landmarks and regions, on this module's device."""
        return HeadTopology(
            self.faces,
            self.uv,
            self.uv_faces,
            SurfacePoints(self.mediapipe_faces, self.mediapipe_bary),
            SurfacePoints(self.ibug68_faces, self.ibug68_bary),
            self.mediapipe_weights,
            dict(zip(self.region_names, self.regions, strict=True)),
        )

    @property
    def held(self) -> tuple[tuple[Int[Tensor, " some"], Float[Tensor, " some"]], ...]:
        """Per joint the vertices it moves, and how much of its rotation they take."""
        return tuple((getattr(self, f"held_{joint}"), getattr(self, f"hold_{joint}")) for joint in range(4))

    def with_shape(self, shape: Float[Tensor, "*batch n_shape"]) -> ShapedOpenHead:
        """The neutral head of a person; `shape` in standard deviations."""
        verts = self.mean + (shape @ self.identity.flatten(1)).unflatten(-1, (-1, 3))
        joints = self.joints + (shape @ self.joints_identity.flatten(1)).unflatten(-1, (-1, 3))
        return ShapedOpenHead(self, verts, joints, self.eye_radius + shape @ self.eye_radius_identity)

    def verts(self, params: HeadParams) -> Float[Tensor, "*batch vert 3"]:
        """Vertices in head space. A shape expanded over frames (stride 0) is evaluated once."""
        shape = params.shape
        shared = shape.ndim == 2 and shape.stride(0) == 0
        person = self.with_shape(shape[0] if shared else shape)
        return person.with_expression(params.expression).posed(params.jaw_pose, params.neck_pose, params.eye_pose)


def _expand(skin: np.ndarray, rigid: np.ndarray, mean: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Displacements of all vertices: stored for the first, from an affine map (3, 4) per part for the others."""
    out = np.zeros((len(skin), len(mean), 3), np.float32)
    out[:, : skin.shape[1]] = skin
    for part in range(rigid.shape[1]):
        own = owner == PARTS.index("eye_left") + part
        out[:, own] = np.einsum("kij,vj->kvi", rigid[:, part, :, :3], mean[own]) + rigid[:, part, None, :, 3]
    return out


@dataclass(frozen=True)
class ShapedOpenHead:
    """A person's neutral head."""

    head: OpenHead
    verts: Float[Tensor, "*batch vert 3"]
    joints: Float[Tensor, "*batch 4 3"]  # centres of shoulders (mid neck), jaw, left eye, right eye
    eye_radius: Float[Tensor, "*batch 2"]

    def with_expression(self, expression: Float[Tensor, "*batch n_expression"]) -> ExpressedOpenHead:
        """Add expressions: ARKit weights, meant for [0, 1]."""
        moved = self.verts + (expression @ self.head.expression.flatten(1)).unflatten(-1, (-1, 3))
        return ExpressedOpenHead(self, moved, (expression @ self.head.turns.flatten(1)).unflatten(-1, (3, 3)))


@dataclass(frozen=True)
class ExpressedOpenHead:
    """A person's head with an expression, not yet posed."""

    person: ShapedOpenHead
    verts: Float[Tensor, "*batch vert 3"]
    turns: Float[Tensor, "*batch 3 3"]  # axis-angle that the expression gives jaw, left eye, right eye

    def posed(
        self,
        jaw_pose: Float[Tensor, "*batch 3"],
        neck_pose: Float[Tensor, "*batch 3"],
        eye_pose: Float[Tensor, "*batch 2 3"],
    ) -> Float[Tensor, "*batch vert 3"]:
        """Turn the joints (axis-angle, radians); the skull stands still."""
        head, person = self.person.head, self.person
        own = torch.stack([-neck_pose, jaw_pose + self.turns[..., 0, :]], -2)
        rotations = axis_angle_to_matrix(torch.cat([own, eye_pose + self.turns[..., 1:, :]], -2))
        verts = clear_lids(self.verts, head, person.joints[..., 2:, :], person.eye_radius, rotations[..., 2:, :, 2])
        return turn_joints(verts, person.joints, rotations, head)


def clear_lids(
    verts: Float[Tensor, "*#batch vert 3"],
    head: OpenHead,
    centres: Float[Tensor, "*#batch 2 3"],
    radii: Float[Tensor, "*#batch 2"],
    axes: Float[Tensor, "*#batch 2 3"],
) -> Float[Tensor, "*#batch vert 3"]:
    """Push the lids out of eyeball and cornea: p ← c + (p − c) max(1, gap · r / |p − c|), one after the other.

    A straight blend between open and closed would cut through the ball. `axes` are the gaze directions (unit);
    `head.lid_gap` is 1 % more than touching, or what the average head has at rest where that is less.
    """
    offset, cornea = head.cornea
    lids = verts[..., head.lids, :]
    moved = lids
    for centre, radius, gap in (
        (centres, radii, head.lid_gap[0]),
        (centres + offset * radii[..., None] * axes, cornea * radii, head.lid_gap[1]),
    ):
        away = moved - centre[..., None, :]
        reach = (gap * radius[..., None] / away.norm(dim=-1)).clamp_min(1)
        moved = centre[..., None, :] + away * reach[..., None]
    return verts.index_add(-2, head.lids.flatten(), (moved - lids).flatten(-3, -2))


def turn_joints(
    verts: Float[Tensor, "*#batch vert 3"],
    joints: Float[Tensor, "*#batch 4 3"],
    rotations: Float[Tensor, "*#batch 4 3 3"],
    head: OpenHead,
) -> Float[Tensor, "*#batch vert 3"]:
    """V = L + Σ_j w_j (R_j − I)(L − c_j), each joint on the vertices it holds only; twin of `skinning.lbs`."""
    out = verts
    eye = torch.eye(3, dtype=verts.dtype, device=verts.device)
    for joint, (ids, weights) in enumerate(head.held):
        offset = verts[..., ids, :] - joints[..., None, joint, :]
        turned = offset @ (rotations[..., joint, :, :] - eye).transpose(-1, -2)
        out = out.index_add(-2, ids, turned * weights[:, None])
    return out
