"""Methods that are broken on purpose: each scores worse than the right one by the metrics meant to catch it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import kornia
import pytest
from torch import Tensor

from gpavatar.avatars.textured_mesh import TexturedMesh, TexturedMeshState
from gpavatar.camera import Camera
from gpavatar.data.shards import ShardSet
from gpavatar.evaluation.judge import source_frame
from gpavatar.evaluation.protocols import ProtocolConfig
from gpavatar.evaluation.run import Evaluation
from gpavatar.evaluation.summary import Summary, summarize
from gpavatar.types import HeadParams, RenderOutput, SourceFrame

pytestmark = pytest.mark.download


class Right:
    """textured_mesh; remembers the people it has encoded."""

    name, sha256 = "right", "0" * 64
    states: ClassVar[dict[bytes, TexturedMeshState]] = {}

    def __init__(self, mesh: TexturedMesh) -> None:
        self.mesh = mesh
        self.update, self.save, self.load = mesh.update, mesh.save, mesh.load

    def encode(self, frames: Sequence[SourceFrame]) -> TexturedMeshState:
        key = frames[0].image.numpy().tobytes()
        if key not in self.states:
            self.states[key] = self.mesh.encode(frames)
        return self.states[key]

    def render(
        self,
        state: TexturedMeshState,
        params: HeadParams,
        camera: Camera,
        size_px: int,
        background: Tensor | None = None,
    ) -> RenderOutput:
        return self.mesh.render(state, params, camera, size_px, background)


class WrongPoseSign(Right):
    """Turns the head to the left where it should go to the right, and up where it should go down."""

    name = "wrong_pose_sign"

    def render(self, state, params, camera, size_px, background=None):
        source = state.reference.camera.w2c
        turn = camera.w2c[:3, :3] @ source[:3, :3].T
        w2c = camera.w2c.clone()
        w2c[:3, :3] = turn.T @ source[:3, :3]
        return super().render(state, params, Camera.from_w2c(w2c, camera.intrinsics), size_px, background)


class SwappedExpression(Right):
    """Makes the face of another instant."""

    name = "swapped_expression"

    def __init__(self, mesh: TexturedMesh, shards: ShardSet) -> None:
        super().__init__(mesh)
        faces = [shards.sample(row).params for row in range(len(shards.table))]
        half = len(faces) // 2
        self.other = {
            one.expression.numpy().tobytes(): other
            for one, other in zip(faces, faces[half:] + faces[:half], strict=True)
        }

    def render(self, state, params, camera, size_px, background=None):
        other = self.other[params.expression.numpy().tobytes()]
        params = dataclasses.replace(params, expression=other.expression, jaw_pose=other.jaw_pose)
        return super().render(state, params, camera, size_px, background)


class Blurred(Right):
    """Everything in place, nothing sharp."""

    name = "blurred"

    def render(self, state, params, camera, size_px, background=None):
        out = super().render(state, params, camera, size_px, background)
        return dataclasses.replace(out, image=kornia.filters.gaussian_blur2d(out.image[None], (15, 15), (2.5, 2.5))[0])


class SomebodyElse(Right):
    """Another person's face on the right background, in the right pose."""

    name = "somebody_else"

    def __init__(self, mesh: TexturedMesh, shards: ShardSet) -> None:
        super().__init__(mesh)
        firsts = [source_frame(shards.sample(int((shards.table.clip == clip).int().argmax()))) for clip in range(2)]
        self.following = {
            one.image.numpy().tobytes(): other for one, other in zip(firsts, firsts[1:] + firsts[:1], strict=True)
        }

    def encode(self, frames):
        return super().encode([self.following[frames[0].image.numpy().tobytes()]])


CATCHES = {
    "wrong_pose_sign": (("frame", "apd"), ("frame", "akd_mediapipe"), ("face", "psnr"), ("full", "lpips")),
    "swapped_expression": (("frame", "aed"), ("frame", "akd_mediapipe")),
    "blurred": (("face", "lpips"), ("foreground", "lpips"), ("foreground", "ssim")),
    "somebody_else": (("frame", "csim"), ("foreground", "psnr"), ("foreground", "lpips")),
}


@pytest.fixture(scope="module")
def summary(people, quick_mesh, tmp_path_factory) -> Summary:
    shards = ShardSet.open(people)
    methods = [
        Right(quick_mesh),
        WrongPoseSign(quick_mesh),
        SwappedExpression(quick_mesh, shards),
        Blurred(quick_mesh),
        SomebodyElse(quick_mesh, shards),
    ]
    config = ProtocolConfig(
        name="broken", about="a test", set=str(people), crop="as drawn", tasks=["self"], sources={1: [0.0]},
        identity="sface", independent=False, resamples=100,
    )  # fmt: skip
    evaluation = Evaluation(config, methods, tmp_path_factory.mktemp("broken"))
    list(evaluation.do_missing())
    return summarize(evaluation.takes(), evaluation.conditions, config)


@pytest.mark.parametrize(
    ("method", "region", "metric"), [(name, *one) for name, caught in CATCHES.items() for one in caught]
)
def test_a_broken_method_is_ranked_below_the_right_one(summary, method, region, metric):
    right, broken = (summary.cell(name, "self", 1, region, metric) for name in ("right", method))
    better = 1 if metric in ("psnr", "ssim", "csim") else -1
    assert better * (right.value.mean - broken.value.mean) > 0
    assert right.num_failed == 0
