"""The open head: its parameters do what their names say, its fast forward equals a plain float64 one."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from gpavatar.camera import axis_angle_to_matrix
from gpavatar.face.landmarks import (
    EYE_LEFT,
    EYE_RIGHT,
    IRIS_LEFT,
    IRIS_RIGHT,
    LIPS_INNER,
    MEDIAPIPE_MIRROR,
    mirrored_name,
)
from gpavatar.face.morphable import MorphableHead
from gpavatar.face.open_head import JAW, PARTS, OpenHead, turn_joints
from gpavatar.face.raster import rasterize
from gpavatar.face.skinning import lbs
from gpavatar.types import HeadParams

FILE = Path(__file__).parents[2] / "gpavatar" / "face" / "open_head.npz"
MM = 200.0  # per unit
MIRROR = torch.tensor([-1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def head() -> OpenHead:
    return OpenHead.load()


@pytest.fixture(scope="module")
def neutral(head) -> HeadParams:
    return HeadParams.neutral(head.n_shape, head.n_expression)


def expressing(head, neutral, **weights) -> HeadParams:
    expression = neutral.expression.clone()
    for name, weight in weights.items():
        expression[head.expression_names.index(name)] = weight
    return dataclasses.replace(neutral, expression=expression)


def person(head, seed: int, spread: float = 1.0) -> torch.Tensor:
    return torch.randn(head.n_shape, generator=torch.Generator().manual_seed(seed)) * spread


def random_params(head, batch: tuple[int, ...] = (), seed: int = 0) -> HeadParams:
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*batch, *size, generator=generator)

    expression = torch.rand(*batch, head.n_expression, generator=generator) * 0.5
    return HeadParams(normal(head.n_shape), expression, normal(3) * 0.1, normal(3) * 0.2, normal(2, 3) * 0.2)


def pixels_seen(head, verts, parts: tuple[str, ...], yaw_deg: float = 0.0, pitch_deg: float = 0.0) -> int:
    """How many pixels of a 2 px/mm orthographic rendering, lashes left out, show one of `parts`."""
    yaw, pitch = (torch.tensor(angle).deg2rad() for angle in (yaw_deg, pitch_deg))
    zero = torch.zeros(())
    turn = axis_angle_to_matrix(torch.stack([pitch, zero, zero])) @ axis_angle_to_matrix(torch.stack([zero, yaw, zero]))
    turned = verts @ turn.T
    screen = torch.stack([turned[:, 0] * 400 + 256, 200 - turned[:, 1] * 400, 4 - turned[:, 2]], 1)
    faces = head.face_parts != PARTS.index("lashes")
    seen = rasterize(screen, head.faces[faces], 512, 512).face_ids
    wanted = torch.tensor([PARTS.index(part) for part in parts])
    return int(torch.isin(head.face_parts[faces][seen[seen >= 0]], wanted).sum())


def reference(params: HeadParams) -> np.ndarray:
    """The forward in float64 straight from the file, vertex group by vertex group: the slow twin."""
    stored = np.load(FILE, allow_pickle=False)
    z = {name: v.astype(float) if v.dtype.kind == "f" else v for name, v in stored.items()}
    shape, psi = params.shape.double().numpy(), params.expression.double().numpy()
    skin, mean = z["identity"].shape[1], z["verts"]
    verts = mean.copy()
    verts[:skin] += np.einsum("k,kvi->vi", shape, z["identity"]) + np.einsum("k,kvi->vi", psi, z["expression"])
    maps = np.einsum("k,kpij->pij", shape, z["identity_rigid"]) + np.einsum("k,kpij->pij", psi, z["expression_rigid"])
    for part, change in enumerate(maps):
        own = z["owner"] == 4 + part
        verts[own] += mean[own] @ change[:, :3].T + change[:, 3]
    joints = z["joints"] + np.einsum("k,kji->ji", shape, z["joints_identity"])
    radius = z["eye_radius"] + shape @ z["eye_radius_identity"]
    turns = np.einsum("k,kji->ji", psi, z["turns"])
    angles = np.stack([-params.neck_pose.double().numpy(), params.jaw_pose.double().numpy() + turns[0],
                       *(params.eye_pose.double().numpy() + turns[1:])])  # fmt: skip
    rotations = axis_angle_to_matrix(torch.from_numpy(angles)).numpy()
    offset, cornea = z["cornea"]
    for eye in (0, 1):
        ball = joints[2 + eye]
        for centre, size, gap in (
            (ball, radius[eye], z["lid_gap"][0, eye]),
            (ball + offset * radius[eye] * rotations[2 + eye][:, 2], cornea * radius[eye], z["lid_gap"][1, eye]),
        ):
            for vertex, least in zip(z["lids"][eye], gap * size, strict=True):
                away = verts[vertex] - centre
                distance = np.linalg.norm(away)
                if distance < least:
                    verts[vertex] = centre + away / distance * least
    posed = verts.copy()
    for joint in range(4):
        moved = (verts - joints[joint]) @ rotations[joint].T + joints[joint]
        posed += z["joint_weights"][:, joint, None] * (moved - verts)
    return posed


def test_is_a_morphable_head_of_the_promised_size(head):
    assert isinstance(head, MorphableHead)
    assert head.n_shape >= 100
    assert head.n_expression == 52
    assert FILE.stat().st_size <= 6_000_000
    assert head.sha256 == hashlib.sha256(FILE.read_bytes()).hexdigest()
    assert head.sha256 in (FILE.parent / "open_head_provenance.yaml").read_text()
    assert {"face", "eyes", "lips", "mouth_interior", "ears", "neck", "scalp"} <= set(head.topology.regions)


@pytest.mark.parametrize("seed", [0, 1])
def test_forward_equals_the_plain_float64_one(head, seed):
    params = random_params(head, seed=seed)
    difference = (head.verts(params).double() - torch.from_numpy(reference(params))).abs().max()
    assert difference < 2e-6  # 0.0004 mm; measured 7e-7


def test_turning_joints_one_by_one_equals_linear_blend_skinning(head):
    generator = torch.Generator().manual_seed(3)
    rotations = axis_angle_to_matrix(torch.randn(4, 3, generator=generator) * 0.3)
    skull = torch.eye(3)[None]
    weights = torch.cat([1 - head.joint_weights.sum(1, keepdim=True), head.joint_weights], 1)
    joints = torch.cat([torch.zeros(1, 3), head.joints])
    expected = lbs(head.mean, joints, (-1, 0, 0, 0, 0), weights, torch.cat([skull, rotations]))
    torch.testing.assert_close(turn_joints(head.mean, head.joints, rotations, head), expected, atol=2e-6, rtol=0)


def test_zero_parameters_give_the_neutral_mesh(head, neutral):
    torch.testing.assert_close(head.verts(neutral), head.mean, atol=1e-6, rtol=0)


def test_a_batch_equals_its_frames_and_a_shared_shape_is_no_exception(head):
    params = random_params(head, batch=(3,))
    together = head.verts(params)
    torch.testing.assert_close(together, torch.stack([head.verts(params[i]) for i in range(3)]), atol=2e-6, rtol=0)
    shared = dataclasses.replace(params, shape=params.shape[0].expand(3, -1))
    copied = dataclasses.replace(params, shape=params.shape[0].repeat(3, 1))
    torch.testing.assert_close(head.verts(shared), head.verts(copied), atol=2e-6, rtol=0)


def test_gradients_reach_every_parameter(head):
    params = random_params(head, batch=(2,))
    leaves = {f.name: getattr(params, f.name).requires_grad_() for f in dataclasses.fields(params)}
    weight = torch.randn(len(head.mean), 3, generator=torch.Generator().manual_seed(1))
    (head.verts(HeadParams(**leaves)) * weight).sum().backward()
    for name, leaf in leaves.items():
        assert leaf.grad.isfinite().all(), name
        assert (leaf.grad != 0).all(), name


def test_gradients_are_finite_at_neutral(head, neutral):
    shape, jaw = neutral.shape.clone().requires_grad_(), neutral.jaw_pose.clone().requires_grad_()
    head.verts(dataclasses.replace(neutral, shape=shape, jaw_pose=jaw)).square().sum().backward()
    assert shape.grad.isfinite().all()
    assert jaw.grad.isfinite().all()


def test_mean_is_symmetric_and_every_component_is_symmetric_or_antisymmetric(head):
    torch.testing.assert_close(head.mean[head.mirror] * MIRROR, head.mean, atol=1e-5, rtol=0)
    for component in head.identity:
        flipped, size = component[head.mirror] * MIRROR, component.abs().max()
        assert min((flipped - component).abs().max(), (flipped + component).abs().max()) < 0.03 * size


@pytest.fixture(scope="module")
def units(head) -> torch.Tensor:
    """The average head with each expression at weight 1, in turn."""
    poses = (torch.zeros(52, 3), torch.zeros(52, 3), torch.zeros(52, 2, 3))
    return head.with_shape(torch.zeros(head.n_shape)).with_expression(torch.eye(52)).posed(*poses)


def test_left_and_right_expressions_mirror_each_other(head, units):
    partner = [head.expression_names.index(mirrored_name(name)) for name in head.expression_names]
    torch.testing.assert_close(units[:, head.mirror] * MIRROR, units[partner], atol=7e-4, rtol=0)  # stored as fp16


def test_every_expression_moves_what_its_name_says(head, neutral, units):
    at = head.verts(neutral)
    for name, verts in zip(head.expression_names, units, strict=True):
        moved = (verts - at).norm(dim=1) * MM
        assert moved.max() > 1.5, name
        if name.endswith("Left") and name not in ("jawLeft", "mouthLeft"):  # a shape of one side stays there
            assert moved[at[:, 0] < -0.12].max() < 0.35 * moved.max(), name
        assert moved[head.topology.regions["scalp"]].max() < 4.0, name


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_jaw_open_separates_the_lips(head, neutral, seed):
    shape = neutral.shape if seed is None else person(head, seed)
    upper, lower = LIPS_INNER[5], LIPS_INNER[15]  # the middle of either lip
    gaps = []
    for weight in (0.0, 0.25, 0.5, 1.0):
        params = dataclasses.replace(expressing(head, neutral, jawOpen=weight), shape=shape)
        points = head.topology.mediapipe.on(head.verts(params), head.faces)
        gaps.append(float(points[upper, 1] - points[lower, 1]) * MM)
    assert abs(gaps[0]) < 3.0
    assert gaps[1] - gaps[0] > 4.0
    assert gaps[3] - gaps[0] > 20.0
    assert gaps == sorted(gaps)


def test_lower_teeth_and_tongue_follow_the_jaw_rigidly(head, neutral):
    at, posed = head.verts(neutral), head.verts(expressing(head, neutral, jawOpen=1.0))
    for region in ("teeth", "tongue"):
        ids = (head.topology.regions[region] & (head.joint_weights[:, JAW] == 1)).nonzero()[:, 0][::7]
        assert len(ids) > 20
        assert (torch.cdist(at[ids], at[ids]) - torch.cdist(posed[ids], posed[ids])).abs().max() * MM < 0.05
    upper = head.topology.regions["teeth"] & (head.joint_weights[:, JAW] == 0)
    torch.testing.assert_close(posed[upper], at[upper])


def test_mouth_close_shuts_an_open_jaw(head, neutral):
    inside = ("mouth_bag", "tongue", "teeth_upper", "teeth_lower", "gums_upper", "gums_lower")
    wide = pixels_seen(head, head.verts(expressing(head, neutral, jawOpen=1.0)), inside)
    shut = pixels_seen(head, head.verts(expressing(head, neutral, jawOpen=1.0, mouthClose=1.0)), inside)
    assert wide > 1500
    assert shut < 0.03 * wide


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_no_teeth_show_through_closed_lips(head, neutral, seed):
    verts = head.verts(neutral if seed is None else dataclasses.replace(neutral, shape=person(head, seed)))
    teeth = ("teeth_upper", "teeth_lower", "gums_upper", "gums_lower")
    assert all(
        pixels_seen(head, verts, teeth, yaw, pitch) <= 8
        for yaw, pitch in ((0.0, 0.0), (40.0, 0.0), (-40.0, 0.0), (0.0, 15.0))
    )


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_blink_closes_the_lids_over_the_eyes(head, neutral, seed):
    shape = neutral.shape if seed is None else person(head, seed)
    for left, right in ((1.0, 0.0), (0.0, 1.0)):
        params = dataclasses.replace(expressing(head, neutral, eyeBlinkLeft=left, eyeBlinkRight=right), shape=shape)
        verts = head.verts(params)
        seen = [pixels_seen(head, verts, (part,)) for part in ("eye_left", "eye_right")]
        shut, open_ = seen if left else seen[::-1]
        assert open_ > 300
        assert shut < 0.02 * open_


def test_lids_never_enter_the_eyeballs(head):
    for seed in range(4):
        params = random_params(head, seed=seed)
        person_ = head.with_shape(params.shape)
        still = dataclasses.replace(params, jaw_pose=params.jaw_pose * 0, neck_pose=params.neck_pose * 0)
        verts = person_.with_expression(params.expression).posed(still.jaw_pose, still.neck_pose, still.eye_pose)
        centres = person_.joints[2:]
        reach = (verts[head.lids] - centres[:, None]).norm(dim=-1) / person_.eye_radius[:, None]
        assert (reach > head.lid_gap[0] - 0.03).all()


def test_eye_rotation_moves_no_skin_but_the_lids(head, neutral):
    at = head.verts(neutral)
    skin = torch.zeros(len(at), dtype=torch.bool)
    skin[head.faces[head.face_parts == PARTS.index("skin")].flatten()] = True
    elsewhere = skin.clone()
    for centre, radius in zip(head.joints[2:], head.eye_radius, strict=True):
        elsewhere &= (at - centre).norm(dim=1) > 2.31 * radius
    eye_pose = torch.tensor([[0.3, 0.4, 0.0], [0.3, 0.4, 0.0]])
    turned = head.verts(dataclasses.replace(neutral, eye_pose=eye_pose))
    looking = head.verts(expressing(head, neutral, eyeLookDownLeft=1.0, eyeLookOutRight=1.0, eyeLookUpRight=1.0))
    for posed in (turned, looking):
        torch.testing.assert_close(posed[elsewhere], at[elsewhere])
        assert (posed - at)[head.topology.regions["eyes"]].norm(dim=1).max() * MM > 3
    lids = torch.zeros(len(at), dtype=torch.bool)
    lids[head.lids.flatten()] = True
    torch.testing.assert_close(turned[skin & ~lids], at[skin & ~lids])


@pytest.mark.parametrize(("name", "axis", "sign"), [("Up", 1, 1), ("Down", 1, -1), ("In", 0, -1), ("Out", 0, 1)])
def test_gaze_weights_turn_the_left_iris_the_way_they_say(head, neutral, name, axis, sign):
    irises = [
        head.topology.mediapipe.on(head.verts(p), head.faces)[IRIS_LEFT[0]]
        for p in (neutral, expressing(head, neutral, **{f"eyeLook{name}Left": 1.0}))
    ]
    assert sign * (irises[1] - irises[0])[axis] * MM > 4


def test_neck_pose_turns_the_shoulders_under_a_resting_skull(head, neutral):
    yaw = dataclasses.replace(neutral, neck_pose=torch.tensor([0.0, 0.5, 0.0]))
    at, posed = head.verts(neutral), head.verts(yaw)
    skull = head.head_weight == 1
    assert skull[head.topology.regions["face"]].float().mean() > 0.9
    torch.testing.assert_close(posed[skull], at[skull])
    # The head turns towards +x against the shoulders, so the shoulders' front goes towards -x.
    collar = head.collar[at[head.collar, 2].argmax()]
    assert head.head_weight[collar] == 0
    assert (posed - at)[collar, 0] < -0.1


def test_landmarks_lie_where_they_belong(head, neutral):
    at = head.topology.mediapipe.on(head.mean, head.faces)
    torch.testing.assert_close(at[list(MEDIAPIPE_MIRROR)] * MIRROR, at, atol=0.01, rtol=0)  # 2 mm
    part = head.face_parts[head.mediapipe_faces]
    irises = torch.zeros(478, dtype=torch.bool)
    irises[list(IRIS_LEFT + IRIS_RIGHT)] = True
    assert (part[~irises] == PARTS.index("skin")).all()
    assert (part[list(IRIS_LEFT)] == PARTS.index("eye_left")).all()
    for points in (head.topology.mediapipe, head.topology.ibug68):
        torch.testing.assert_close(points.bary.sum(1), torch.ones(len(points.bary)))
        assert (points.bary >= -1e-6).all()
    assert 55 < (at[IRIS_LEFT[0]] - at[IRIS_RIGHT[0]]).norm() * MM < 68  # distance of the pupils, mm
    for contour, centre in ((EYE_LEFT, head.joints[2]), (EYE_RIGHT, head.joints[3])):
        assert ((at[list(contour)] - centre).norm(dim=1) * MM < 26).all()
    assert ((head.mediapipe_weights > 0) & (head.mediapipe_weights <= 1)).all()


def test_texture_islands_do_not_overlap(head):
    corners = head.uv[head.uv_faces]
    assert (corners >= 0).all()
    assert (corners <= 1).all()
    edge = corners[:, 1:] - corners[:, :1]
    signed = edge[:, 0, 0] * edge[:, 1, 1] - edge[:, 0, 1] * edge[:, 1, 0]
    for part in ("skin", "mouth_bag"):  # flattened in one piece: no triangle may be turned over
        own = signed[head.face_parts == PARTS.index(part)]
        assert (own.sign() == own[0].sign()).all()
    assert (signed != 0).all()
    # Σ of the areas against the area covered: any overlap makes the sum larger.
    size = 2048
    screen = torch.cat([head.uv * size, torch.ones(len(head.uv), 1)], 1)
    covered = (rasterize(screen, head.uv_faces, size, size).face_ids >= 0).float().mean()
    assert signed.abs().sum() / 2 == pytest.approx(float(covered), rel=5e-4)


def test_skin_texture_is_symmetric(head):
    skin = head.face_parts == PARTS.index("skin")
    uv = {}
    for face, uv_face in zip(head.faces[skin].flatten().tolist(), head.uv_faces[skin].flatten().tolist(), strict=True):
        uv.setdefault(face, set()).add(uv_face)
    for vertex, ids in list(uv.items())[::17]:
        own = {(round(float(1 - head.uv[i, 0]), 3), round(float(head.uv[i, 1]), 3)) for i in ids}
        other = [head.uv[i].tolist() for i in uv[int(head.mirror[vertex])]]
        assert all(min(abs(u - a) + abs(v - b) for a, b in other) < 2e-3 for u, v in own)


def test_eyeballs_stay_balls_for_every_person(head):
    for seed in (1, 2):
        shaped = head.with_shape(person(head, seed))
        back = head.mean[:, 2] < head.joints[2, 2]
        for eye, part in enumerate(("eye_left", "eye_right")):
            own = torch.zeros(len(head.mean), dtype=torch.bool)
            own[head.faces[head.face_parts == PARTS.index(part)].flatten()] = True
            distance = (shaped.verts[own & back] - shaped.joints[2 + eye]).norm(dim=1)
            torch.testing.assert_close(distance, shaped.eye_radius[eye].expand_as(distance), atol=1e-5, rtol=0)
