"""Linear blend skinning against an explicit chain of 4×4 matrices, vertex by vertex, and its laws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gpavatar.camera import axis_angle_to_matrix
from gpavatar.face.skinning import hold_joint, joint_transforms, lbs, skin

PARENTS = (-1, 0, 1, 1, 3)


def rigid(rotation: Tensor, translation: Tensor) -> Tensor:
    matrix = torch.eye(4, dtype=rotation.dtype)
    matrix[:3, :3], matrix[:3, 3] = rotation, translation
    return matrix


def slow_lbs(verts: Tensor, joints: Tensor, parents: tuple[int, ...], weights: Tensor, rotations: Tensor) -> Tensor:
    """One frame, as the papers write it."""
    identity = torch.eye(3, dtype=verts.dtype)
    posed = []
    for vertex, weight in zip(verts, weights, strict=True):
        total = torch.zeros(3, dtype=verts.dtype)
        for joint in range(len(parents)):
            world, at = torch.eye(4, dtype=verts.dtype), joint
            while at >= 0:
                origin = joints[parents[at]] if parents[at] >= 0 else torch.zeros_like(joints[0])
                world, at = rigid(rotations[at], joints[at] - origin) @ world, parents[at]
            moved = world @ rigid(identity, -joints[joint]) @ torch.cat([vertex, vertex.new_ones(1)])
            total = total + weight[joint] * moved[:3]
        posed.append(total)
    return torch.stack(posed)


def example(batch: tuple[int, ...] = (), dtype=torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)

    def random(*size):
        return torch.randn(*batch, *size, generator=generator, dtype=dtype)

    weights = torch.rand(40, 5, generator=generator, dtype=dtype).softmax(-1)
    return random(40, 3), random(5, 3), weights, axis_angle_to_matrix(random(5, 3))


def test_agrees_with_the_explicit_chain():
    verts, joints, weights, rotations = example()
    torch.testing.assert_close(
        lbs(verts, joints, PARENTS, weights, rotations),
        slow_lbs(verts, joints, PARENTS, weights, rotations),
        atol=2e-15,
        rtol=0,
    )


def test_gradients_agree_with_the_explicit_chain():
    inputs = example()
    gradients = []
    for function in (lbs, slow_lbs):
        verts, joints, weights, rotations = (value.clone().requires_grad_() for value in inputs)
        (function(verts, joints, PARENTS, weights, rotations) ** 2).sum().backward()
        gradients.append([verts.grad, joints.grad, weights.grad, rotations.grad])
    for fast, slow in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, slow, atol=3e-13, rtol=0)


def test_a_batch_is_its_frames():
    verts, joints, weights, rotations = example(batch=(3,))
    frames = [lbs(verts[i], joints[i], PARENTS, weights, rotations[i]) for i in range(3)]
    torch.testing.assert_close(lbs(verts, joints, PARENTS, weights, rotations), torch.stack(frames), atol=2e-15, rtol=0)


def test_float32_agrees_with_float64():
    exact = lbs(*_arguments(torch.float64))
    torch.testing.assert_close(lbs(*_arguments(torch.float32)).double(), exact, atol=1e-6, rtol=0)


def _arguments(dtype):
    verts, joints, weights, rotations = (value.to(dtype) for value in example())
    return verts, joints, PARENTS, weights, rotations


def test_no_rotation_is_the_rest_pose():
    verts, joints, weights, _ = example()
    still = torch.eye(3, dtype=verts.dtype).expand(5, 3, 3)
    torch.testing.assert_close(lbs(verts, joints, PARENTS, weights, still), verts, atol=2e-15, rtol=0)


def test_turning_the_root_turns_everything_about_it():
    verts, joints, weights, rotations = example()
    still = torch.eye(3, dtype=verts.dtype).repeat(5, 1, 1)
    still[0] = rotations[0]
    expected = (verts - joints[0]) @ rotations[0].T + joints[0]
    torch.testing.assert_close(lbs(verts, joints, PARENTS, weights, still), expected, atol=2e-15, rtol=0)


@pytest.mark.parametrize("held", range(5))
def test_a_held_joint_stays_and_the_pose_is_the_same_up_to_a_rigid_motion(held):
    verts, joints, weights, rotations = example()
    transforms = joint_transforms(joints, PARENTS, rotations)
    kept = hold_joint(transforms, held)
    torch.testing.assert_close(kept[held], torch.eye(4, dtype=verts.dtype)[:3], atol=2e-15, rtol=0)
    back = skin(verts, weights, kept) @ transforms[held, :, :3].T + transforms[held, :, 3]
    torch.testing.assert_close(back, skin(verts, weights, transforms), atol=8e-15, rtol=0)
