"""FLAME from a generated file of the same layout, against the paper's equations written out in float64."""

from __future__ import annotations

import pickle
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from generated_flame import N_VERTS, generate

from gpavatar.camera import axis_angle_to_matrix
from gpavatar.face.flame import Flame
from gpavatar.face.morphable import MorphableHead
from gpavatar.types import HeadParams, InputError, map_tensors


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return generate()


@pytest.fixture(scope="module")
def npz(arrays, tmp_path_factory):
    path = tmp_path_factory.mktemp("flame") / "flame2023.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def flame(npz) -> Flame:
    return Flame.load(npz)


def example(batch: tuple[int, ...] = ()) -> HeadParams:
    generator = torch.Generator().manual_seed(1)
    neutral = HeadParams.neutral(100, 50, batch)
    params = map_tensors(neutral, lambda value: torch.randn(value.shape, generator=generator))
    return replace(params, jaw_pose=params.jaw_pose * 0.3, neck_pose=params.neck_pose * 0.4)


def rotation(axis_angle: np.ndarray) -> np.ndarray:
    """Rodrigues' formula."""
    angle = np.linalg.norm(axis_angle)
    x, y, z = axis_angle / max(angle, 1e-300)
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * skew @ skew


def published(arrays, params: HeadParams, joints_follow_expression=False) -> tuple[np.ndarray, np.ndarray]:
    """FLAME in metres, root at rest, as in the paper, and the 4×4 transform of the neck joint. float64."""
    beta, psi, jaw, neck, eyes = (
        value.double().numpy()
        for value in (params.shape, params.expression, params.jaw_pose, params.neck_pose, params.eye_pose)
    )
    theta = np.stack([np.zeros(3), neck, jaw, *eyes])
    rotations = [rotation(axis_angle) for axis_angle in theta]
    shaped = arrays["v_template"] + np.einsum("vcs,s->vc", arrays["shapedirs"][:, :, : len(beta)], beta)
    expression = np.einsum("vce,e->vc", arrays["shapedirs"][:, :, 300 : 300 + len(psi)], psi)
    joints = arrays["J_regressor"] @ (shaped + expression * joints_follow_expression)
    pose_feature = np.concatenate([(r - np.eye(3)).reshape(9) for r in rotations[1:]])
    unposed = shaped + expression + np.einsum("vcp,p->vc", arrays["posedirs"], pose_feature)

    world = []
    for joint, parent in enumerate(arrays["kintree_table"][0]):
        local = np.eye(4)
        local[:3, :3], local[:3, 3] = rotations[joint], joints[joint] - (joints[parent] if joint else 0)
        world.append(world[parent] @ local if joint else local)
    for joint, matrix in enumerate(world):
        matrix[:3, 3] -= matrix[:3, :3] @ joints[joint]
    homogeneous = np.concatenate([unposed, np.ones((N_VERTS, 1))], 1)
    posed = sum(arrays["weights"][:, j, None] * (homogeneous @ world[j].T)[:, :3] for j in range(5))
    return posed, world[1]


def seen_from_the_head(posed: np.ndarray, neck: np.ndarray) -> torch.Tensor:
    """Undo the neck's transform, and metres to units."""
    return torch.from_numpy(5 * (posed - neck[:3, 3]) @ neck[:3, :3])


@pytest.mark.parametrize("joints_follow_expression", (False, True))
def test_matches_the_published_equations(npz, arrays, joints_follow_expression):
    torch.manual_seed(2)
    flame = Flame.load(npz, n_shape=300, n_expression=100, joints_follow_expression=joints_follow_expression)
    params = replace(example(), shape=torch.randn(300), expression=torch.randn(100))
    expected = seen_from_the_head(*published(arrays, params, joints_follow_expression))
    torch.testing.assert_close(flame.verts(params).double(), expected, atol=6e-7, rtol=0)


def test_the_default_sizes_take_the_first_components(flame, arrays):
    assert (flame.n_shape, flame.n_expression, len(flame.expression_names)) == (100, 50, 50)
    expected = seen_from_the_head(*published(arrays, example()))
    torch.testing.assert_close(flame.verts(example()).double(), expected, atol=6e-7, rtol=0)


def test_no_parameters_give_the_template_in_units(flame, arrays):
    assert isinstance(flame, MorphableHead)
    template = torch.from_numpy(arrays["v_template"]).float() * 5
    torch.testing.assert_close(flame.verts(HeadParams.neutral(100, 50)), template, atol=2e-7, rtol=0)


def test_the_neck_turns_the_shoulders_and_not_the_head(npz, arrays, tmp_path):
    np.savez(tmp_path / "plain.npz", **{**arrays, "posedirs": arrays["posedirs"] * 0})
    flame = Flame.load(tmp_path / "plain.npz")
    still = replace(example(), neck_pose=torch.zeros(3))
    turned = replace(still, neck_pose=torch.tensor([0.1, 0.5, 0.0]))
    moved = (flame.verts(turned) - flame.verts(still)).norm(dim=-1)
    on_head = flame.skin_weights[:, 0] == 0
    assert moved[on_head].max() < 2e-6 and 3500 < on_head.sum() < 4500
    root = axis_angle_to_matrix(turned.neck_pose).T
    joint = flame.with_shape(still.shape).joints[1]
    weight = flame.skin_weights[:, :1]
    rest = flame.with_shape(still.shape).with_expression(still.expression).verts
    expected = weight * ((rest - joint) @ root.T + joint - rest)
    torch.testing.assert_close(flame.verts(turned) - flame.verts(still), expected, atol=2e-6, rtol=0)


def test_frames_agree_with_single_frames(flame):
    params = example((3,))
    single = torch.stack([flame.verts(params[index]) for index in range(3)])
    torch.testing.assert_close(flame.verts(params), single, atol=2e-7, rtol=0)
    person = flame.with_shape(params.shape[0])
    clip = person.with_expression(params.expression).posed(params.jaw_pose, params.neck_pose, params.eye_pose)
    torch.testing.assert_close(clip[0], single[0], atol=2e-7, rtol=0)
    still = person.with_expression(params.expression[0]).posed(params.jaw_pose, params.neck_pose, params.eye_pose)
    assert still.shape == clip.shape


@pytest.mark.parametrize("at_zero", (False, True))
def test_gradients_reach_every_parameter(flame, at_zero):
    params = HeadParams.neutral(100, 50) if at_zero else example()
    params = map_tensors(params, lambda value: value.clone().requires_grad_())
    (flame.verts(params) * torch.randn(N_VERTS, 3, generator=torch.Generator().manual_seed(0))).sum().backward()
    for value in (params.shape, params.expression, params.jaw_pose, params.neck_pose, params.eye_pose):
        assert value.grad.isfinite().all() and (value.grad != 0).all()


def test_all_tensors_move_together(flame):
    doubled = map_tensors(flame, lambda value: value.double() if value.is_floating_point() else value)
    params = map_tensors(example(), lambda value: value.double())
    torch.testing.assert_close(doubled.verts(params).float(), flame.verts(example()), atol=6e-7, rtol=0)


def test_a_pickle_as_published_needs_neither_chumpy_nor_scipy(tmp_path, monkeypatch, arrays, flame):
    class Ch:
        def __init__(self, x):
            self.x = x

    class csc_matrix:  # noqa: N801
        def __init__(self, dense):
            columns, rows = np.nonzero(dense.T)
            self.__dict__ = {
                "_shape": dense.shape,
                "data": dense[rows, columns],
                "indices": rows.astype(np.int32),
                "indptr": np.append(0, np.cumsum((dense != 0).sum(0))).astype(np.int32),
            }

    with monkeypatch.context() as patch:
        for made, module in ((Ch, "chumpy.ch"), (csc_matrix, "scipy.sparse.csc")):
            parts = module.split(".")
            for name in (".".join(parts[:end]) for end in range(1, len(parts) + 1)):
                patch.setitem(sys.modules, name, types.ModuleType(name))
            made.__module__, made.__qualname__ = module, made.__name__
            setattr(sys.modules[module], made.__name__, made)
        content = {
            **arrays,
            "shapedirs": Ch(arrays["shapedirs"]),
            "J_regressor": csc_matrix(arrays["J_regressor"]),
            "bs_style": "lbs",
            "bs_type": "lrotmin",
        }
        (tmp_path / "generic_model.pkl").write_bytes(pickle.dumps(content, 2))
    for module in ("chumpy", "scipy", "scipy.sparse"):
        monkeypatch.setitem(sys.modules, module, None)
    loaded = Flame.load(tmp_path / "generic_model.pkl")
    assert torch.equal(loaded.verts(example()), flame.verts(example()))
    assert loaded.sha256 != flame.sha256


@pytest.mark.parametrize(
    "spoil, word",
    (
        (lambda arrays: arrays.pop("posedirs"), "posedirs"),
        (lambda arrays: arrays.update(shapedirs=arrays["shapedirs"][:, :, :150]), "shapedirs"),
        (lambda arrays: arrays.update(v_template=arrays["v_template"][:-1]), "v_template"),
        (lambda arrays: arrays.update(v_template=arrays["v_template"] * np.nan), "v_template"),
        (lambda arrays: arrays.update(f=arrays["f"] + 9), "faces"),
        (lambda arrays: arrays.update(kintree_table=np.zeros((2, 5))), "joints"),
    ),
)
def test_another_layout_is_refused_in_one_line(tmp_path, arrays, spoil, word):
    spoiled = dict(arrays)
    spoil(spoiled)
    np.savez(tmp_path / "other.npz", **spoiled)
    with pytest.raises(InputError, match=word) as caught:
        Flame.load(tmp_path / "other.npz")
    assert "\n" not in str(caught.value)


def test_more_components_than_there_are(npz):
    with pytest.raises(InputError, match="300 shape and 100"):
        Flame.load(npz, n_shape=301)
