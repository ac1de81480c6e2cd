"""A method and a head that need no photo, file or network: a grey square as bright as the first expression weight."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gpavatar.avatars.base import Reference
from gpavatar.camera import Camera
from gpavatar.types import HeadParams, RenderOutput, SourceFrame

FIELDS = ("shape", "expression", "jaw_pose", "neck_pose", "eye_pose")


@dataclass(frozen=True)
class TinyHead:
    """As much of a head as a saved track and avatar ask for."""

    name: str = "tiny"
    sha256: str = "1" * 64
    n_shape: int = 4
    n_expression: int = 52
    expression_names: tuple[str, ...] = ()
    topology: None = None

    def with_shape(self, shape: Tensor) -> None:
        """Never asked for."""

    def verts(self, params: HeadParams) -> None:
        """Never asked for."""


@dataclass(frozen=True)
class FlatState:
    reference: Reference


class FlatAvatar:
    name = "flat"
    sha256 = "0" * 64
    delay_s = 0.0
    num_rendered = 0

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def encode(self, frames: Sequence[SourceFrame]) -> FlatState:
        return FlatState(Reference(frames[0].params, frames[0].camera, frames[0].image))

    def update(self, state: FlatState, frame: SourceFrame) -> FlatState:
        return state

    def render(
        self, state: FlatState, params: HeadParams, camera: Camera, size_px: int, background: Tensor | None = None
    ) -> RenderOutput:
        time.sleep(self.delay_s)
        type(self).num_rendered += 1
        image = torch.zeros(3, size_px, size_px) if background is None else background.clone()
        quarter = size_px // 4
        image[:, quarter:-quarter, quarter:-quarter] = params.expression[0]
        return RenderOutput(image, (image.sum(0, keepdim=True) > 0).float())

    def save(self, state: FlatState, path: str) -> None:
        reference = state.reference
        tensors = {name: getattr(reference.params, name) for name in FIELDS}
        tensors |= {"c2w": reference.camera.c2w, "intrinsics": reference.camera.intrinsics, "image": reference.image}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"method": self.name})

    def load(self, path: str) -> FlatState:
        tensors = load_file(path)
        params = HeadParams(*(tensors[name] for name in FIELDS))
        return FlatState(Reference(params, Camera(tensors["c2w"], tensors["intrinsics"]), tensors["image"]))
