"""GPAvatar behind the protocol of `avatars/base.py`: photos -> planes kept in a state -> frames on a background."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gpavatar.avatars.backdrop import behind_person, laid_over, person_on_black
from gpavatar.avatars.base import Reference
from gpavatar.avatars.gpavatar import GPAvatar, GPAvatarConfig, HeadSignal, signal_params
from gpavatar.avatars.heads import Driven, DrivenHead, driven_head
from gpavatar.avatars.method import LearnedMethod
from gpavatar.avatars.state_file import load_state
from gpavatar.camera import Camera
from gpavatar.field.occupancy import Occupancy, find_occupancy
from gpavatar.field.twin import Precision, choose_twin, has_bfloat16
from gpavatar.render.captured import Captured
from gpavatar.synthesis.upsampler import Upsampler
from gpavatar.types import HeadParams, RenderOutput, SourceFrame, map_tensors

JAW_OPEN = 0.35  # radians
OCCUPANCY_PIECE = 2**13  # points at once


@dataclass(frozen=True)
class GPAvatarState:
    """A person, ready to be drawn."""

    reference: Reference
    source_planes: Float[Tensor, "source 3 channel size size"]  # half precision; kept for `update`
    planes: Float[Tensor, "3 channel size size"]  # fused
    background: Float[Tensor, "3 height width"]  # [0, 1], behind the person of the first photo
    occupied: Bool[Tensor, "side side side"]  # where the person can be, whatever the face does; see `Occupancy`


class GPAvatarMethod(LearnedMethod):
    """The method `gpavatar`; implements `gpavatar.avatars.base.Avatar`."""

    name, version = "gpavatar", "2"

    def __init__(self, device: torch.device | str = "cpu", weights: str | Path | None = None):
        """`weights`: a file of `gpavatar.avatars.checkpoint`. InputError without one, or where it does not fit."""
        super().__init__(device)
        self.precision: Precision = "exact"
        read = self._read(weights, GPAvatarConfig)
        self.head: DrivenHead = self._made_for(driven_head(read.info.head, self.device), read)
        self.net = read.fill(lambda: GPAvatar(read.config, self.head.num_verts, self.head.num_params))
        self.net.eval().requires_grad_(False).to(self.device)
        for network in (self.net.encoder, self.net.upsampler):
            network.to(memory_format=torch.channels_last)
        self._narrow: Upsampler | None = None  # the super-resolution in bfloat16, once it is asked for
        self._captured: dict[Precision, Captured] = {}

    def encode(self, frames: Sequence[SourceFrame]) -> GPAvatarState:
        """Sections 3.1 and 3.3; the first photo is the reference view and gives the background."""
        first = frames[0]
        reference = map_tensors(Reference(first.params, first.camera, first.image), lambda t: t.to(self.device))
        background = behind_person(first)
        planes = torch.cat([self._planes(frame) for frame in frames])
        fused = self._fuse(planes)
        occupied = self._occupied(fused, reference)
        return GPAvatarState(reference, planes.half(), fused, background.to(self.device), occupied)

    def update(self, state: GPAvatarState, frame: SourceFrame) -> GPAvatarState:
        """One more photo: its planes join the others, and all are fused anew."""
        planes = torch.cat([state.source_planes.float(), self._planes(frame)])
        fused = self._fuse(planes)
        occupied = self._occupied(fused, state.reference)
        return dataclasses.replace(state, source_planes=planes.half(), planes=fused, occupied=occupied)

    def render(
        self,
        state: GPAvatarState,
        params: HeadParams,
        camera: Camera,
        size_px: int,
        background: Float[Tensor, "3 height width"] | None = None,
    ) -> RenderOutput:
        """Sections 3.2 and 3.4, laid over the background: I = I_network + (1 − opacity) I_behind."""
        params = map_tensors(dataclasses.replace(params, shape=state.reference.params.shape), self._moved)
        driven = self.head.drive(params, map_tensors(camera, self._moved))
        signal, camera = _signal(driven), driven.camera[None]
        inputs = (state.planes[None], signal.verts, signal.params, camera.c2w, camera.intrinsics, state.occupied)
        drawn, opacity = self._frame(*inputs)
        behind = state.background if background is None else background.to(self.device)
        return laid_over(drawn[0], opacity[0], behind, size_px)

    def load(self, path: str | Path) -> GPAvatarState:
        """Read what `save` wrote; InputError where it was made with other weights or another head."""
        state = map_tensors(load_state(GPAvatarState, path, self._identity()), self._moved)
        return dataclasses.replace(state, planes=_channels_last(state.planes))

    @property
    def _frame(self) -> Callable[..., tuple[Tensor, ...]]:
        """`_draw`, as a CUDA graph where the fused kernels draw: nothing in it waits for the device then."""
        released = self.net.config.point_field.normalised_over == "pass"
        if choose_twin(self.precision, self.device, gradient=False) != "triton" or released:
            return self._draw
        return self._captured.setdefault(self.precision, Captured(self._draw))

    @torch.no_grad()
    def _draw(
        self,
        planes: Float[Tensor, "1 3 channel size size"],
        verts: Float[Tensor, "1 vert 3"],
        params: Float[Tensor, "1 param"],
        c2w: Float[Tensor, "1 4 4"],
        intrinsics: Float[Tensor, "1 4"],
        occupied: Bool[Tensor, "side side side"],
    ) -> tuple[Float[Tensor, "1 3 large large"], Float[Tensor, "1 1 small small"]]:
        """The network's picture on black, and the opacity."""
        signal, how = HeadSignal(verts, params), {"precision": self.precision, "occupancy": Occupancy(occupied)}
        seen = self.net.look(planes, signal, Camera(c2w, intrinsics), **how)
        return self._upsampled(seen.fine), seen.opacity

    def _upsampled(self, feats: Float[Tensor, "1 feat small small"]) -> Float[Tensor, "1 3 size size"]:
        if self.precision != "fast" or not has_bfloat16(self.device):
            return self.net.upsampler(feats)
        if self._narrow is None:
            self._narrow = copy.deepcopy(self.net.upsampler).to(torch.bfloat16)
        return self._narrow(feats.bfloat16()).float()

    def _occupied(
        self, planes: Float[Tensor, "3 channel size size"], reference: Reference
    ) -> Bool[Tensor, "side side side"]:
        """Whatever moves is looked at where it is at its strongest."""

        def density(params: HeadParams, points: Float[Tensor, "point 3"]) -> Float[Tensor, " point"]:
            field = self.net.head_field(planes[None], _signal(self.head.drive(params, reference.camera)))
            pieces = points.split(OCCUPANCY_PIECE)
            return torch.cat([field(piece[None], torch.zeros_like(piece)[None]).sigma[0] for piece in pieces])

        with torch.no_grad():
            extremes = [partial(density, params) for params in _extremes(reference.params)]
            return find_occupancy(extremes, self.device).filled

    def _planes(self, frame: SourceFrame) -> Float[Tensor, "1 3 channel size size"]:
        """The planes of one photo: the person on black, brought upright."""
        person = person_on_black(frame)
        params, camera = (map_tensors(one, self._moved) for one in (frame.params, frame.camera))
        camera = self.head.drive(params, camera).camera
        with torch.no_grad():
            return self.net.encode(self.net.align(person[None].to(self.device), camera[None])[None])[0]

    def _fuse(self, planes: Float[Tensor, "source 3 channel size size"]) -> Float[Tensor, "3 channel size size"]:
        with torch.no_grad():
            return _channels_last(self.net.fuse(planes[None])[0])


def _channels_last(planes: Float[Tensor, "3 channel size size"]) -> Float[Tensor, "3 channel size size"]:
    """In the order in which samples read them."""
    return planes.contiguous(memory_format=torch.channels_last)


def _extremes(params: HeadParams) -> list[HeadParams]:
    """Faces in which, taken together, every expression is at its strongest, and the jaw wide open in some."""
    number = torch.arange(params.expression.shape[-1], device=params.expression.device)
    chosen = [number < 0, *(number % 4 == rest for rest in range(4))]
    opened = torch.zeros_like(params.jaw_pose)
    opened[..., 0] = JAW_OPEN
    faces = [dataclasses.replace(params, expression=one.to(params.expression)) for one in chosen]
    return [*faces, dataclasses.replace(faces[0], jaw_pose=opened)]


def _signal(driven: Driven) -> HeadSignal:
    return HeadSignal(driven.verts[None], signal_params(driven.params)[None])
