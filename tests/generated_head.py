"""A head of 478 vertices, each one a landmark, and detections of it that are exact: for tests of the tracker."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gpavatar.camera import Camera, axis_angle_to_matrix
from gpavatar.face.morphable import HeadTopology, SurfacePoints
from gpavatar.pretrained.detector import FaceDetection
from gpavatar.types import ARKIT_NAMES, HeadParams

OUTER_CORNERS = {33: (-0.23, 0.15, 0.35), 263: (0.23, 0.15, 0.35)}  # MediaPipe's indices; they give the fit its scale


class GeneratedHead:
    """Points on a bulged oval; shape and expression are random smooth dents."""

    name = "generated"
    sha256 = "2" * 64
    n_shape = 20
    n_expression = 52
    expression_names = ARKIT_NAMES

    def __init__(self, seed: int = 0):
        random = np.random.default_rng(seed)
        x, y = random.uniform(-1, 1, (2, 478)) * [[0.35], [0.45]]
        mean = np.stack([x, y, 0.5 - 2 * x**2 - y**2], 1)
        for index, place in OUTER_CORNERS.items():
            mean[index] = place

        def dents(number: int, depth: float) -> Tensor:
            centres, ways = mean[random.integers(0, 478, number)], random.standard_normal((number, 3))
            near = np.exp(-((mean - centres[:, None]) ** 2).sum(-1) / (2 * 0.1**2))
            return torch.from_numpy(depth * near[..., None] * ways[:, None]).float()

        self.mean, self.shapes, self.expressions = torch.from_numpy(mean).float(), dents(20, 0.02), dents(52, 0.06)
        index = torch.arange(478)
        corners = torch.stack([index, (index + 1) % 478, (index + 2) % 478], 1)
        points = SurfacePoints(index, torch.tensor([[1.0, 0.0, 0.0]]).repeat(478, 1))
        self.topology = HeadTopology(corners, torch.zeros(478, 2), corners, points, points, torch.ones(478), {})

    def with_shape(self, shape: Tensor) -> Tensor:
        """The neutral points."""
        return self.mean + torch.einsum("...s,svc->...vc", shape, self.shapes)

    def verts(self, params: HeadParams) -> Tensor:
        """Points; jaw, neck and eyes do not turn."""
        return self.with_shape(params.shape) + torch.einsum("...e,evc->...vc", params.expression, self.expressions)


def facing_camera(axis_angle: tuple[float, float, float], position: tuple[float, float, float], focal: float) -> Camera:
    """A camera in which the head stands at `position`, turned by `axis_angle` from looking straight into it."""
    w2c = torch.eye(4)
    w2c[:3, :3] = torch.diag(torch.tensor([1.0, -1.0, -1.0])) @ axis_angle_to_matrix(torch.tensor(axis_angle))
    w2c[:3, 3] = torch.tensor(position)
    return Camera.from_w2c(w2c, torch.tensor([focal, focal, 0.5, 0.5]))


def exact_detection(
    head: GeneratedHead,
    shape: Tensor,
    expression: Tensor,
    camera: Camera,
    side_px: int = 512,
    scores: Tensor | None = None,
) -> FaceDetection:
    """What a faultless detector says of the head in a square picture."""
    params = HeadParams.neutral(head.n_shape, head.n_expression)
    points = head.verts(HeadParams(shape, expression, params.jaw_pose, params.neck_pose, params.eye_pose))
    pose = torch.eye(4)
    pose[:3, :3] = torch.diag(torch.tensor([1.0, -1.0, -1.0])) @ camera.w2c[:3, :3]
    return FaceDetection(
        landmarks_px=camera.project_px(points, side_px, side_px),
        landmarks_z=torch.zeros(478),
        blendshapes=expression if scores is None else scores,
        pose=pose,
    )
