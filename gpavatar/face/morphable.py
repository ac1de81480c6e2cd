"""The morphable-head protocol: a head model as a chain of typed values.

    head -> with_shape -> with_expression -> posed -> vertices

Each value can only do what it has data for. `head.verts(params)` is the whole chain. Vertices are in head space
(see `gpavatar.camera`): the global pose is the camera's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

from gpavatar.types import HeadParams


@dataclass(frozen=True)
class SurfacePoints:
    """Points fixed to a mesh: Σ_i bary_i · verts[faces[face_ids]_i]."""

    face_ids: Int[Tensor, " point"]
    bary: Float[Tensor, "point 3"]  # sums to 1

    def on(
        self, verts: Float[Tensor, "*batch vert axis"], faces: Int[Tensor, "face 3"]
    ) -> Float[Tensor, "*batch point axis"]:
        """Positions of the points on a mesh with these vertices, in space or in an atlas."""
        corners = verts[..., faces[self.face_ids], :]
        return (corners * self.bary[..., None]).sum(-2)


@dataclass(frozen=True)
class HeadTopology:
    """What never changes with the parameters.

    `regions` marks vertices by name; every head has "face", "eyes", "lips", "mouth_interior", "ears", "neck", "scalp".
    `uv` in [0, 1]², (0, 0) the upper left texel's corner; `uv_faces` index `uv` (seams duplicate UVs, not vertices).
    """

    faces: Int[Tensor, "face 3"]
    uv: Float[Tensor, "uv_vert 2"]
    uv_faces: Int[Tensor, "face 3"]
    mediapipe: SurfacePoints  # 478 points, in MediaPipe's order
    ibug68: SurfacePoints  # 68 points, in the iBUG order
    mediapipe_weights: Float[Tensor, " 478"]  # [0, 1], how far each point can be trusted in a fit
    regions: dict[str, Bool[Tensor, " vert"]]


@runtime_checkable
class ExpressedHead(Protocol):
    """A person's head with an expression, not yet posed."""

    def posed(
        self,
        jaw_pose: Float[Tensor, "*batch 3"],
        neck_pose: Float[Tensor, "*batch 3"],
        eye_pose: Float[Tensor, "*batch 2 3"],
    ) -> Float[Tensor, "*batch vert 3"]: ...


@runtime_checkable
class ShapedHead(Protocol):
    """A person's neutral head."""

    def with_expression(self, expression: Float[Tensor, "*batch n_expression"]) -> ExpressedHead: ...


@runtime_checkable
class MorphableHead(Protocol):
    """A parametric head: `OpenHead`, `Flame`."""

    name: str
    sha256: str
    n_shape: int
    n_expression: int
    expression_names: tuple[str, ...]
    topology: HeadTopology

    def with_shape(self, shape: Float[Tensor, "*batch n_shape"]) -> ShapedHead: ...

    def verts(self, params: HeadParams) -> Float[Tensor, "*batch vert 3"]: ...
