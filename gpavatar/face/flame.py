"""FLAME 2020 and 2023 (Li, Bolkart, Black, Li, Romero 2017) from the file that a user brings.

The model is not ours to give: it comes from https://flame.is.tue.mpg.de under its own terms. The file's axes and origin
are kept, for there too +x is to the right of the image, +y up and +z out of the face; metres become head units, × 5.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gpavatar.camera import METRES_PER_UNIT, axis_angle_to_matrix
from gpavatar.face.flame_surface import build_topology
from gpavatar.face.morphable import HeadTopology
from gpavatar.face.skinning import hold_joint, joint_transforms, skin
from gpavatar.pretrained.restricted_pickle import read_arrays
from gpavatar.types import HeadParams, InputError

PARENTS = (-1, 0, 1, 1, 1)  # root, neck, jaw, left eye, right eye
NECK = 1  # turns the whole head against the shoulders
N_VERTS, N_SHAPE, N_EXPRESSION = 5023, 300, 100
LAYOUT = {
    "v_template": (N_VERTS, 3),
    "shapedirs": (N_VERTS, 3, N_SHAPE + N_EXPRESSION),
    "posedirs": (N_VERTS, 3, 36),
    "J_regressor": (5, N_VERTS),
    "weights": (N_VERTS, 5),
    "kintree_table": (2, 5),
    "f": (None, 3),
}


@dataclass(frozen=True, eq=False)
class Flame:
    """M(β, θ, ψ) = W(T + B_S(β) + B_P(θ) + B_E(ψ), J(β), θ): FLAME, equations 1 to 5, seen from the head.

    The global rotation lives in the camera, and so does what the neck does to the head: the neck joint is held, and
    the shoulders turn the other way. Parameters are standard deviations (β, ψ) and axis-angles in radians (θ).
    """

    name: str
    sha256: str  # of the user's file
    topology: HeadTopology
    template: Float[Tensor, "vert 3"]
    shape_basis: Float[Tensor, "n_shape vert*3"]
    expression_basis: Float[Tensor, "n_expression vert*3"]
    pose_basis: Float[Tensor, "36 vert*3"]
    joint_regressor: Float[Tensor, "5 vert"]
    skin_weights: Float[Tensor, "vert 5"]
    joints_follow_expression: bool

    @staticmethod
    def load(
        path: str | Path,
        landmark_embedding: str | Path | None = None,
        *,
        mediapipe_embedding: str | Path | None = None,
        uv_layout: str | Path | None = None,
        masks: str | Path | None = None,
        n_shape: int = 100,
        n_expression: int = 50,
        joints_follow_expression: bool = False,
    ) -> Flame:
        """Read the model (`.pkl` or `.npz`; nothing in it is run) and what accompanies it on FLAME's site.

        landmark_embedding: 68 points, `landmark_embedding.npy` (keys full_lmk_faces_idx, full_lmk_bary_coords) or a
            `.pkl`/`.npz` with lmk_face_idx and lmk_b_coords; without it `topology.ibug68` has no points.
        mediapipe_embedding: `mediapipe_landmark_embedding.npz`, 105 of the 478 points; the others have weight 0.
        uv_layout: `head_template.obj` or `FLAME_texture.npz`; without it a simple layout is generated.
        masks: `FLAME_masks.pkl`; without it regions are cut by rough proportions.
        joints_follow_expression: J(β, ψ) as in the released PyTorch code, for parameters fitted by it; the paper has
            J(β).

        Raises InputError when a file is missing, unsafe, or has another layout.
        """
        if not (0 < n_shape <= N_SHAPE and 0 < n_expression <= N_EXPRESSION):
            raise InputError(
                f"FLAME has {N_SHAPE} shape and {N_EXPRESSION} expression components, not {n_shape} and {n_expression}"
            )
        arrays = _read_model(Path(path))
        template, directions, pose, regressor, weights = (
            torch.from_numpy(arrays[key]).float()
            for key in ("v_template", "shapedirs", "posedirs", "J_regressor", "weights")
        )
        template = template / METRES_PER_UNIT
        basis = directions.flatten(0, 1).T.contiguous() / METRES_PER_UNIT
        return Flame(
            name="flame",
            sha256=hashlib.sha256(Path(path).read_bytes()).hexdigest(),
            topology=build_topology(
                template=template,
                faces=torch.from_numpy(arrays["f"].astype(np.int64)),
                joints=regressor @ template,
                skin_weights=weights,
                landmark_embedding=landmark_embedding,
                mediapipe_embedding=mediapipe_embedding,
                uv_layout=uv_layout,
                masks=masks,
            ),
            template=template,
            shape_basis=basis[:n_shape].contiguous(),
            expression_basis=basis[N_SHAPE : N_SHAPE + n_expression].contiguous(),
            pose_basis=pose.flatten(0, 1).T.contiguous() / METRES_PER_UNIT,
            joint_regressor=regressor,
            skin_weights=weights,
            joints_follow_expression=joints_follow_expression,
        )

    @property
    def n_shape(self) -> int:
        """Number of identity components."""
        return self.shape_basis.shape[0]

    @property
    def n_expression(self) -> int:
        """Number of expression components."""
        return self.expression_basis.shape[0]

    @property
    def expression_names(self) -> tuple[str, ...]:
        """FLAME's expressions are principal components without names: "pc_0", "pc_1", ..."""
        return tuple(f"pc_{index}" for index in range(self.n_expression))

    def with_shape(self, shape: Float[Tensor, "*batch n_shape"]) -> ShapedFlame:
        """T + B_S(β) and J(β) = 𝒥 (T + B_S(β)); equations 2 and 5."""
        verts = self.template + (shape @ self.shape_basis).unflatten(-1, (-1, 3))
        return ShapedFlame(self, verts, self.joint_regressor @ verts)

    def verts(self, params: HeadParams) -> Float[Tensor, "*batch vert 3"]:
        """The whole chain, in head space."""
        expressed = self.with_shape(params.shape).with_expression(params.expression)
        return expressed.posed(params.jaw_pose, params.neck_pose, params.eye_pose)


@dataclass(frozen=True, eq=False)
class ShapedFlame:
    """A person's neutral head: vertices and joints at rest."""

    model: Flame
    verts: Float[Tensor, "*batch vert 3"]
    joints: Float[Tensor, "*batch 5 3"]

    def with_expression(self, expression: Float[Tensor, "*batch n_expression"]) -> ExpressedFlame:
        """Add B_E(ψ). A shape without frames may meet an expression with frames, and the other way round."""
        model = self.model
        verts = self.verts + (expression @ model.expression_basis).unflatten(-1, (-1, 3))
        joints = model.joint_regressor @ verts if model.joints_follow_expression else self.joints
        return ExpressedFlame(model, verts, joints)


@dataclass(frozen=True, eq=False)
class ExpressedFlame:
    """A person's head with an expression, at rest."""

    model: Flame
    verts: Float[Tensor, "*frames vert 3"]
    joints: Float[Tensor, "*batch 5 3"]

    def posed(
        self,
        jaw_pose: Float[Tensor, "*batch 3"],
        neck_pose: Float[Tensor, "*batch 3"],
        eye_pose: Float[Tensor, "*batch 2 3"],
    ) -> Float[Tensor, "*frames vert 3"]:
        """Add B_P(θ) = Σ (R(θ) − I) P (equation 3) and skin (equation 1), holding the neck joint."""
        model = self.model
        root = torch.zeros_like(neck_pose)
        pose = torch.cat([torch.stack([root, neck_pose, jaw_pose], -2), eye_pose], -2)
        rotations = axis_angle_to_matrix(pose)
        turned = (rotations[..., 1:, :, :] - torch.eye(3, dtype=pose.dtype, device=pose.device)).flatten(-3)
        verts = self.verts + (turned @ model.pose_basis).unflatten(-1, (-1, 3))
        joints = self.joints.expand(*verts.shape[:-2], 5, 3)
        transforms = joint_transforms(joints, PARENTS, rotations.expand(*verts.shape[:-2], 5, 3, 3))
        return skin(verts, model.skin_weights, hold_joint(transforms, NECK))


def _read_model(path: Path) -> dict[str, np.ndarray]:
    arrays = read_arrays(path, tuple(LAYOUT))
    for key, shape in LAYOUT.items():
        if key not in arrays:
            raise InputError(f"{path}: has no `{key}`; give FLAME's own model file (2020 or 2023, .pkl or .npz)")
        found = arrays[key].shape
        if len(found) != len(shape) or any(size not in (None, own) for size, own in zip(shape, found, strict=True)):
            raise InputError(f"{path}: `{key}` is {found}, not {shape} as in FLAME 2020 and 2023; give that file")
        if not np.isfinite(arrays[key]).all():
            raise InputError(f"{path}: `{key}` has values that are no numbers; download the file again")
    parents = tuple(arrays["kintree_table"][0, 1:].astype(np.int64))
    if parents != PARENTS[1:] or arrays["f"].min() < 0 or arrays["f"].max() >= N_VERTS:
        raise InputError(f"{path}: joints or faces are not FLAME's; give FLAME's own model file")
    return arrays
