"""The driver's motion on the source person: pure functions from tracked frames to what the avatar draws.

The shape is always the source's and the output always has the source crop's intrinsics. Motion is measured against
the driver's reference, its first tracked frame, and at the neck joint, about which heads turn: a head that only turns
moves no shoulders. What is carried over does not depend on the focal length that the driver's tracker assumed:
sideways in head units, in depth as a ratio, and the head's rotation as it is seen along the line of sight (a head at
the edge of a wide picture that faces the camera still faces it in the middle of the output).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from gpavatar.camera import Camera, axis_angle_to_matrix
from gpavatar.types import FaceStatus, HeadParams, TrackedFrame

PoseMode = Literal["driving", "relative", "fixed", "orbit"]
ExpressionMode = Literal["absolute", "relative"]

NECK_JOINT = (0.0, -0.45, -0.11)  # head space: where the open head's skull turns against its shoulders
ORBIT_DEG = 30.0
ORBIT_PERIOD_S = 4.0


@dataclass(frozen=True)
class Pose:
    """What an avatar is drawn from: an expression, and the camera that it is seen by."""

    params: HeadParams
    camera: Camera


def line_of_sight(position: Float[Tensor, " 3"]) -> Float[Tensor, "3 3"]:
    """The smallest rotation that takes the optical axis +z to the direction of `position` (camera coordinates, z > 0).

    R = I + [v]× + [v]×² / (1 + c), v = z × d, c = z · d, with d the unit vector towards `position`.
    """
    x, y, z = (position / position.norm()).unbind()
    shrink = 1 / (1 + z)
    rows = [1 - x * x * shrink, -x * y * shrink, x, -x * y * shrink, 1 - y * y * shrink, y, -x, -y, z]
    return torch.stack(rows).reshape(3, 3)


def neck_in_view(camera: Camera) -> Float[Tensor, " 3"]:
    """Where the neck joint stands in camera coordinates, p = R n + t."""
    return camera.to_view(torch.tensor([NECK_JOINT]))[0]


def seen_rotation(camera: Camera) -> Float[Tensor, "3 3"]:
    """The head's rotation as it appears along the line of sight, A = S(p)ᵀ R, with S = `line_of_sight`."""
    return line_of_sight(neck_in_view(camera)).T @ camera.w2c[:3, :3]


def orbit(source: Camera, time_s: float) -> Camera:
    """The source camera swung about the vertical axis through the neck joint, yaw = 30° sin(2π time / 4 s)."""
    yaw = math.radians(ORBIT_DEG) * math.sin(2 * math.pi * time_s / ORBIT_PERIOD_S)
    turn, neck = torch.eye(4), torch.tensor(NECK_JOINT)
    turn[:3, :3] = axis_angle_to_matrix(torch.tensor([0.0, yaw, 0.0]))
    turn[:3, 3] = neck - turn[:3, :3] @ neck
    return replace(source, c2w=turn @ source.c2w)


def retarget_camera(source: Camera, driving: Camera, reference: Camera, mode: PoseMode) -> Camera:
    """The output camera, with the source's intrinsics.

    With p the neck joint in the camera (`neck_in_view`) and A the rotation as seen (`seen_rotation`), o output,
    s source, d driving and r the driver's reference frame, "driving" and "relative" both put the neck at

        p_o = (p_s + p_d − p_r)_xy, z_s · z_d / z_r

    and turn the head about it by A_o = A_d ("driving") or A_o = A_s A_rᵀ A_d ("relative": the change in the head's own
    axes, so that a nod stays a nod whatever way the two people face). "fixed" is the source camera, where `orbit`
    starts too.
    """
    if mode in ("fixed", "orbit"):
        return source
    p_source, p_driving, p_reference = (neck_in_view(camera) for camera in (source, driving, reference))
    position = p_source + p_driving - p_reference
    position[2] = p_source[2] * p_driving[2] / p_reference[2]
    rotation = seen_rotation(driving)
    if mode == "relative":
        rotation = seen_rotation(source) @ seen_rotation(reference).T @ rotation
    w2c = torch.eye(4)
    w2c[:3, :3] = line_of_sight(position) @ rotation
    w2c[:3, 3] = position - w2c[:3, :3] @ torch.tensor(NECK_JOINT)
    return Camera.from_w2c(w2c, source.intrinsics)


def retarget_params(
    source: HeadParams,
    driving: HeadParams,
    reference: HeadParams,
    expression: ExpressionMode,
    pose: PoseMode,
    limits: tuple[float, float] = (0.0, 1.0),
) -> HeadParams:
    """The source's shape with the driver's expression, jaw and eyes; the neck follows the pose mode.

    "absolute" takes the driver's values; "relative" the source's plus the driver's change since its reference, the
    expression clamped to `limits` (ARKit weights; a head with unbounded coefficients passes infinities).
    """

    def moved(name: str) -> Tensor:
        return getattr(source, name) + getattr(driving, name) - getattr(reference, name)

    necks = {"driving": driving.neck_pose, "relative": moved("neck_pose")}
    neck_pose = necks.get(pose, source.neck_pose)
    if expression == "absolute":
        return replace(driving, shape=source.shape, neck_pose=neck_pose)
    weights = moved("expression").clamp(*limits)
    return HeadParams(source.shape, weights, moved("jaw_pose"), neck_pose, moved("eye_pose"))


class Retargeter:
    """Turns a stream of tracked frames into poses: remembers the driver's reference, and holds its last face.

    A frame without a face (MISSING) repeats the last one that had one; before the first, the source as it is. A pose
    that is merely held is the very same object, so that a caller can tell that there is nothing new to draw.
    """

    def __init__(self, source: Pose, pose: PoseMode, expression: ExpressionMode) -> None:
        self._source, self._pose_mode, self._expression_mode = source, pose, expression
        self._reference: TrackedFrame | None = None
        self._start_s: float | None = None
        self._last = source

    def __call__(self, frame: TrackedFrame) -> Pose:
        """The pose for the next frame of the driver."""
        self._start_s = frame.time_s if self._start_s is None else self._start_s
        source, params, camera = self._source, self._last.params, self._last.camera
        seen = frame.status != FaceStatus.MISSING
        if seen:
            self._reference = self._reference or frame
            modes = (self._expression_mode, self._pose_mode)
            params = retarget_params(source.params, frame.params, self._reference.params, *modes)
        if self._pose_mode == "orbit":
            camera = orbit(source.camera, frame.time_s - self._start_s)
        elif seen and self._reference is not None:
            camera = retarget_camera(source.camera, frame.camera, self._reference.camera, self._pose_mode)
        if seen or self._pose_mode == "orbit":
            self._last = Pose(params, camera)
        return self._last
