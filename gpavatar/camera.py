"""The one camera convention of the project, and the only converters to other conventions.

Head space: right-handed, +x to the right of the image, +y up, +z out of the face, 1 unit = 0.2 m. Camera axes as in
OpenCV: +x right, +y down, +z into the scene. `c2w` takes camera coordinates to head space. Intrinsics are divided by
the image size: u = fx x/z + cx, v = fy y/z + cy with (0, 0) the upper left corner of the image and (1, 1) the lower
right. The head never moves: its rotation and translation against the world are in `c2w` (GPAvatar section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

METRES_PER_UNIT = 0.2


@dataclass(frozen=True)
class Camera:
    """A pinhole camera; `*batch` is absent or one axis of frames."""

    c2w: Float[Tensor, "*batch 4 4"]
    intrinsics: Float[Tensor, "*batch 4"]  # fx, fy, cx, cy, each divided by the width (fx, cx) or height (fy, cy)

    @staticmethod
    def frontal(distance: float, focal: float) -> Camera:
        """A camera on the +z axis looking at the origin, `distance` units away; `focal` in image sizes."""
        c2w = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
        c2w[2, 3] = distance
        return Camera(c2w, torch.tensor([focal, focal, 0.5, 0.5]))

    @staticmethod
    def from_w2c(w2c: Float[Tensor, "*batch 4 4"], intrinsics: Float[Tensor, "*batch 4"]) -> Camera:
        """From the rigid transform head space -> camera."""
        return Camera(invert_rigid(w2c), intrinsics)

    @staticmethod
    def from_pytorch3d(transform: Float[Tensor, "*batch 3 4"], focal: float) -> Camera:
        """From PyTorch3D's [R | T] of a square picture: x_view = x R + T for row vectors, +x left, +y up, +z into the
        scene, focal length in half image sizes. GPAvatar's `transform_matrix`."""
        rotation, translation = transform[..., :3], transform[..., 3:]
        c2w = torch.zeros(*transform.shape[:-2], 4, 4, dtype=transform.dtype, device=transform.device)
        c2w[..., :3, :3] = rotation * transform.new_tensor([-1.0, -1.0, 1.0])
        c2w[..., :3, 3:] = -rotation @ translation
        c2w[..., 3, 3] = 1.0
        intrinsics = transform.new_tensor([focal / 2, focal / 2, 0.5, 0.5])
        return Camera(c2w, intrinsics.expand(*transform.shape[:-2], 4))

    @property
    def w2c(self) -> Float[Tensor, "*batch 4 4"]:
        """Head space -> camera coordinates."""
        return invert_rigid(self.c2w)

    def __getitem__(self, index) -> Camera:
        """Index the frame axis of a batched camera."""
        return Camera(self.c2w[index], self.intrinsics[index])

    def to_view(self, points: Float[Tensor, "*batch point 3"]) -> Float[Tensor, "*batch point 3"]:
        """Head space -> camera coordinates, x_c = R x + t."""
        w2c = self.w2c
        return points @ w2c[..., :3, :3].transpose(-1, -2) + w2c[..., None, :3, 3]

    def project(self, points: Float[Tensor, "*batch point 3"]) -> Float[Tensor, "*batch point 2"]:
        """Head space -> normalised image coordinates, (0, 0) upper left, (1, 1) lower right."""
        view = self.to_view(points)
        focal, centre = self.intrinsics[..., None, :2], self.intrinsics[..., None, 2:]
        return view[..., :2] / view[..., 2:] * focal + centre

    def project_px(
        self, points: Float[Tensor, "*batch point 3"], width_px: int, height_px: int
    ) -> Float[Tensor, "*batch point 2"]:
        """Head space -> pixels; the centre of the upper left pixel is (0.5, 0.5)."""
        return self.project(points) * points.new_tensor([width_px, height_px])

    def crop(self, x0: float, y0: float, x1: float, y1: float) -> Camera:
        """The camera of the part [x0, x1] × [y0, y1] of the image, in normalised coordinates (may reach outside)."""
        origin, size = self.intrinsics.new_tensor([x0, y0]), self.intrinsics.new_tensor([x1 - x0, y1 - y0])
        focal, centre = self.intrinsics[..., :2] / size, (self.intrinsics[..., 2:] - origin) / size
        return replace(self, intrinsics=torch.cat([focal, centre], -1))


def invert_rigid(transform: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Inverse of a rigid transform: [R t]⁻¹ = [Rᵀ −Rᵀt]."""
    rotation = transform[..., :3, :3].transpose(-1, -2)
    inverse = torch.zeros_like(transform)
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3] = -(rotation @ transform[..., :3, 3:])[..., 0]
    inverse[..., 3, 3] = 1.0
    return inverse


def axis_angle_to_matrix(axis_angle: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rodrigues' formula, R = I + a(θ²) K + b(θ²) K², smooth (with gradients) at zero.

    Near zero the coefficients sin θ / θ and (1 − cos θ) / θ² are taken from their series.
    """
    squared = (axis_angle * axis_angle).sum(-1)[..., None, None]
    small = squared < 1e-6
    safe = torch.where(small, torch.ones_like(squared), squared)
    angle = safe.sqrt()
    a = torch.where(small, 1 - squared / 6, angle.sin() / angle)
    b = torch.where(small, 0.5 - squared / 24, (1 - angle.cos()) / safe)
    x, y, z = axis_angle.unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*axis_angle.shape[:-1], 3, 3)
    return torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device) + a * skew + b * (skew @ skew)


def matrix_to_axis_angle(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Inverse of `axis_angle_to_matrix` for angles up to π; at π either of the two axes, and not differentiable.

    Below a quarter turn the axis comes from R − Rᵀ = 2 sin θ [n]×; above, where that fades, from its symmetric
    partner (R + Rᵀ) / 2 − cos θ I = (1 − cos θ) n nᵀ, the sign from the former.
    """
    vector, sine, cosine = _sine_and_cosine(rotation)
    angle = torch.atan2(sine, cosine)
    small = sine < 1e-6
    below = vector * torch.where(small, torch.full_like(sine, 0.5), angle / (2 * torch.where(small, 1, sine)))

    eye = torch.eye(3, dtype=rotation.dtype, device=rotation.device)
    squares = (rotation + rotation.transpose(-1, -2)) / 2 - cosine[..., None] * eye
    largest = squares.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None].expand(*squares.shape[:-1], 1)
    axis = torch.nn.functional.normalize(squares.gather(-1, largest)[..., 0], dim=-1)
    above = torch.where((axis * vector).sum(-1, keepdim=True) < 0, -axis, axis) * angle
    return torch.where(cosine < 0, above, below)


def rotation_angle_deg(a: Float[Tensor, "*batch 3 3"], b: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch"]:
    """Angle of the rotation that takes `a` to `b`, degrees in [0, 180]."""
    _, sine, cosine = _sine_and_cosine(a.transpose(-1, -2) @ b)
    return torch.atan2(sine, cosine)[..., 0].rad2deg()


def _sine_and_cosine(
    rotation: Float[Tensor, "*batch 3 3"],
) -> tuple[Float[Tensor, "*batch 3"], Float[Tensor, "*batch 1"], Float[Tensor, "*batch 1"]]:
    """2 sin θ n, sin θ and cos θ of a rotation by θ in [0, π] about n."""
    lower = rotation[..., [2, 0, 1], [1, 2, 0]]
    upper = rotation[..., [1, 2, 0], [2, 0, 1]]
    vector = lower - upper
    trace = rotation.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
    return vector, vector.norm(dim=-1, keepdim=True) / 2, (trace - 1) / 2
