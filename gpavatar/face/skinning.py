"""Linear blend skinning, shared by every morphable head."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def joint_transforms(
    joints: Float[Tensor, "*batch joint 3"], parents: tuple[int, ...], rotations: Float[Tensor, "*batch joint 3 3"]
) -> Float[Tensor, "*batch joint 3 4"]:
    """Rest pose -> posed space of every joint: A_j = [R_j | t_j] with A_j joints_j the posed position of joint j.

    The chain of FLAME (Li et al. 2017, section 3), as SMPL: G_j = G_p · [rotations_j | joints_j − joints_p]
    and A_j = G_j · [I | −joints_j], p the parent of j. Parents stand before their children; the root's parent is −1.
    """
    rotation, position = [], []
    for joint, parent in enumerate(parents):
        if parent < 0:
            rotation.append(rotations[..., joint, :, :])
            position.append(joints[..., joint, :, None])
        else:
            bone = (joints[..., joint, :] - joints[..., parent, :])[..., None]
            rotation.append(rotation[parent] @ rotations[..., joint, :, :])
            position.append(position[parent] + rotation[parent] @ bone)
    turned, moved = torch.stack(rotation, -3), torch.stack(position, -3)
    return torch.cat([turned, moved - turned @ joints[..., None]], -1)


def hold_joint(transforms: Float[Tensor, "*batch joint 3 4"], joint: int) -> Float[Tensor, "*batch joint 3 4"]:
    """The same pose seen from `joint`, which stays at rest while the others turn around it: A_joint⁻¹ A_j.

    Holding the head's joint keeps the canonical head still: a neck rotation then turns the shoulders the other way.
    """
    inverse = transforms[..., joint, None, :, :3].transpose(-1, -2)
    moved = transforms[..., 3:] - transforms[..., joint, None, :, 3:]
    return torch.cat([inverse @ transforms[..., :3], inverse @ moved], -1)


def skin(
    verts: Float[Tensor, "*batch vert 3"],
    weights: Float[Tensor, "vert joint"],
    transforms: Float[Tensor, "*batch joint 3 4"],
) -> Float[Tensor, "*batch vert 3"]:
    """Move each vertex by its weighted mean of the joints' transforms: Σ_j weights_vj (R_j v + t_j)."""
    blended = (weights @ transforms.flatten(-2)).unflatten(-1, (3, 4))
    return (blended[..., :3] @ verts[..., None])[..., 0] + blended[..., 3]


def lbs(
    verts: Float[Tensor, "*batch vert 3"],
    joints: Float[Tensor, "*batch joint 3"],
    parents: tuple[int, ...],
    weights: Float[Tensor, "vert joint"],
    rotations: Float[Tensor, "*batch joint 3 3"],
) -> Float[Tensor, "*batch vert 3"]:
    """Linear blend skinning: turn every joint by its local rotation and carry the vertices along.

    `joints` are their rest positions in the units of `verts`; `parents[root]` is −1 and parents stand before their
    children; each row of `weights` sums to 1. Differentiable in everything but `parents`; one dtype throughout.
    """
    return skin(verts, weights, joint_transforms(joints, parents, rotations))
