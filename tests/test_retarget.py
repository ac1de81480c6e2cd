"""Laws of the motion transfer: what is the same person stays where it is, and nothing hangs on an assumed focal."""

from __future__ import annotations

import pytest
import torch

from gpavatar.camera import Camera, axis_angle_to_matrix, rotation_angle_deg
from gpavatar.retarget import (
    NECK_JOINT,
    Pose,
    Retargeter,
    line_of_sight,
    neck_in_view,
    orbit,
    retarget_camera,
    retarget_params,
    seen_rotation,
)
from gpavatar.types import FaceStatus, HeadParams, TrackedFrame

MEASURED_DEG = 2e-2  # float32 acos-free angle of a product of three rotations


def camera(turn=(0.0, 0.0, 0.0), position=(0.0, 0.0, 10.0), focal=2.0, centre=(0.5, 0.5)) -> Camera:
    w2c = torch.eye(4)
    w2c[:3, :3] = torch.diag(torch.tensor([1.0, -1.0, -1.0])) @ axis_angle_to_matrix(torch.tensor(turn))
    w2c[:3, 3] = torch.tensor(position)
    return Camera.from_w2c(w2c, torch.tensor([focal, focal, *centre]))


SOURCE = camera((0.1, 0.5, -0.05), (0.6, -0.4, 9.0), 1.6, (0.3, 0.6))
DRIVING = camera((-0.3, -0.4, 0.2), (-1.0, 0.5, 12.0))
REFERENCE = camera((0.05, 0.2, 0.0), (-0.4, 0.2, 10.0))


def turned_about_the_neck(view: Camera, axis_angle: tuple[float, float, float]) -> Camera:
    w2c = view.w2c.clone()
    w2c[:3, :3] = w2c[:3, :3] @ axis_angle_to_matrix(torch.tensor(axis_angle))
    w2c[:3, 3] = neck_in_view(view) - w2c[:3, :3] @ torch.tensor(NECK_JOINT)
    return Camera.from_w2c(w2c, view.intrinsics)


def frame(index: int, status: FaceStatus, view: Camera = DRIVING, weight: float = 0.5) -> TrackedFrame:
    params = HeadParams(*(torch.full(shape, weight) for shape in ((4,), (52,), (3,), (3,), (2, 3))))
    return TrackedFrame(index, index / 25, status, params, view, torch.zeros(478, 2))


def test_line_of_sight_turns_the_axis_onto_the_position() -> None:
    position = torch.tensor([1.0, -2.0, 4.0])
    rotation = line_of_sight(position)
    torch.testing.assert_close(rotation @ torch.tensor([0.0, 0.0, 1.0]), position / position.norm())
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3))
    assert torch.linalg.det(rotation) > 0
    axis = torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0]), position)
    torch.testing.assert_close(rotation @ axis, axis)  # the smallest rotation moves nothing along its axis


@pytest.mark.parametrize("mode", ["driving", "relative"])
def test_a_clip_that_drives_its_own_first_frame_gives_back_its_cameras(mode: str) -> None:
    out = retarget_camera(REFERENCE, DRIVING, REFERENCE, mode)
    torch.testing.assert_close(out.c2w, DRIVING.c2w, atol=3e-6, rtol=0)


def test_relative_motion_starts_at_the_source() -> None:
    out = retarget_camera(SOURCE, REFERENCE, REFERENCE, "relative")
    torch.testing.assert_close(out.c2w, SOURCE.c2w, atol=3e-6, rtol=0)


@pytest.mark.parametrize("mode", ["driving", "relative", "fixed", "orbit"])
def test_the_output_has_the_sources_intrinsics(mode: str) -> None:
    torch.testing.assert_close(retarget_camera(SOURCE, DRIVING, REFERENCE, mode).intrinsics, SOURCE.intrinsics)


def test_driving_shows_the_drivers_view_of_the_head() -> None:
    out = retarget_camera(SOURCE, DRIVING, REFERENCE, "driving")
    assert rotation_angle_deg(seen_rotation(out), seen_rotation(DRIVING)) < MEASURED_DEG
    moved = neck_in_view(out) - neck_in_view(SOURCE)
    torch.testing.assert_close(moved[:2], (neck_in_view(DRIVING) - neck_in_view(REFERENCE))[:2], atol=4e-6, rtol=0)


@pytest.mark.parametrize("mode", ["driving", "relative"])
def test_a_head_that_only_turns_leaves_the_neck_where_it_was(mode: str) -> None:
    out = retarget_camera(SOURCE, turned_about_the_neck(REFERENCE, (0.2, 0.6, 0.1)), REFERENCE, mode)
    torch.testing.assert_close(neck_in_view(out), neck_in_view(SOURCE), atol=4e-6, rtol=0)


def test_relative_rotation_is_the_change_in_the_heads_own_axes() -> None:
    nod = (0.3, 0.0, 0.0)
    out = retarget_camera(SOURCE, turned_about_the_neck(REFERENCE, nod), REFERENCE, "relative")
    torch.testing.assert_close(out.c2w, turned_about_the_neck(SOURCE, nod).c2w, atol=4e-6, rtol=0)


@pytest.mark.parametrize("mode", ["driving", "relative"])
def test_the_drivers_assumed_focal_length_does_not_matter(mode: str) -> None:
    """A tracker that takes the focal length k times too long finds every depth k times too great, and no more."""

    def misjudged(view: Camera, k: float = 1.7) -> Camera:
        neck = neck_in_view(view) * torch.tensor([1.0, 1.0, k])
        w2c = view.w2c.clone()
        w2c[:3, :3] = line_of_sight(neck) @ seen_rotation(view)
        w2c[:3, 3] = neck - w2c[:3, :3] @ torch.tensor(NECK_JOINT)
        return Camera.from_w2c(w2c, view.intrinsics * torch.tensor([k, k, 1.0, 1.0]))

    exact = retarget_camera(SOURCE, DRIVING, REFERENCE, mode)
    out = retarget_camera(SOURCE, misjudged(DRIVING), misjudged(REFERENCE), mode)
    torch.testing.assert_close(out.c2w, exact.c2w, atol=3e-6, rtol=0)


def test_orbit_swings_thirty_degrees_about_the_neck() -> None:
    torch.testing.assert_close(orbit(SOURCE, 0.0).c2w, SOURCE.c2w)
    turned = orbit(SOURCE, 1.0)
    assert abs(rotation_angle_deg(turned.c2w[:3, :3], SOURCE.c2w[:3, :3]) - 30) < 1e-3
    torch.testing.assert_close(neck_in_view(turned), neck_in_view(SOURCE), atol=4e-6, rtol=0)
    torch.testing.assert_close(orbit(SOURCE, 4.0).c2w, SOURCE.c2w, atol=1e-5, rtol=0)


def test_absolute_expression_is_the_drivers_on_the_sources_shape() -> None:
    source, driving, reference = (frame(0, FaceStatus.TRACKED, weight=w).params for w in (0.1, 0.9, 0.4))
    out = retarget_params(source, driving, reference, "absolute", "driving")
    assert torch.equal(out.shape, source.shape)
    for name in ("expression", "jaw_pose", "neck_pose", "eye_pose"):
        assert torch.equal(getattr(out, name), getattr(driving, name)), name


def test_relative_expression_adds_the_change_and_stays_within_the_limits() -> None:
    source, driving, reference = (frame(0, FaceStatus.TRACKED, weight=w).params for w in (0.2, 0.9, 0.4))
    out = retarget_params(source, driving, reference, "relative", "relative")
    assert torch.equal(out.shape, source.shape)
    for name in ("expression", "jaw_pose", "neck_pose", "eye_pose"):
        torch.testing.assert_close(getattr(out, name), torch.full_like(getattr(out, name), 0.7), msg=name)
    up, down = (retarget_params(source, *pair, "relative", "fixed").expression for pair in
                ((driving, source), (reference, driving)))  # fmt: skip
    assert torch.all(up <= 1) and torch.all(down == 0)


@pytest.mark.parametrize("pose", ["fixed", "orbit"])
def test_the_neck_stays_with_the_pose(pose: str) -> None:
    source, driving = (frame(0, FaceStatus.TRACKED, weight=w).params for w in (0.1, 0.9))
    assert torch.equal(retarget_params(source, driving, driving, "absolute", pose).neck_pose, source.neck_pose)


def test_frames_without_a_face_hold_the_last_one() -> None:
    source = Pose(frame(0, FaceStatus.TRACKED, weight=0.1).params, SOURCE)
    retarget = Retargeter(source, "driving", "absolute")
    assert retarget(frame(0, FaceStatus.MISSING)) is source
    first = retarget(frame(1, FaceStatus.TRACKED, REFERENCE))
    torch.testing.assert_close(neck_in_view(first.camera), neck_in_view(SOURCE), atol=4e-6, rtol=0)
    moved = retarget(frame(2, FaceStatus.INTERPOLATED, DRIVING, weight=0.8))
    assert moved.params.expression[0] == 0.8
    exact = retarget_camera(SOURCE, DRIVING, REFERENCE, "driving")  # the first face stays the reference
    torch.testing.assert_close(moved.camera.c2w, exact.c2w)
    assert retarget(frame(3, FaceStatus.MISSING)) is moved


def test_orbit_goes_on_while_the_face_is_away() -> None:
    source = Pose(frame(0, FaceStatus.TRACKED, weight=0.1).params, SOURCE)
    retarget = Retargeter(source, "orbit", "absolute")
    seen = retarget(frame(255, FaceStatus.TRACKED, weight=0.8))
    torch.testing.assert_close(seen.camera.c2w, SOURCE.c2w)  # starts with the clip, not with its time stamps
    held = retarget(frame(265, FaceStatus.MISSING))
    assert held.params.expression[0] == 0.8
    assert rotation_angle_deg(held.camera.c2w[:3, :3], SOURCE.c2w[:3, :3]) > 10


def test_the_neck_joint_is_that_of_the_open_head() -> None:
    from gpavatar.face.open_head import SHOULDERS, OpenHead

    torch.testing.assert_close(torch.tensor(NECK_JOINT), OpenHead.load().joints[SHOULDERS], atol=0.005, rtol=0)
