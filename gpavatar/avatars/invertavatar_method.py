"""InvertAvatar behind the protocol of `avatars/base.py`: a stream of photos -> a memory -> frames on a background."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from gpavatar.avatars.animatable_prior import Canonical
from gpavatar.avatars.backdrop import behind_person, laid_over, person_on_black
from gpavatar.avatars.base import Reference
from gpavatar.avatars.gathering import MEMORIES, MeanMemory, NoMemory, RecurrentMemory, WindowMemory
from gpavatar.avatars.heads import DrivenHead, driven_head
from gpavatar.avatars.invertavatar import Evidence, HeadMesh, InvertAvatar, InvertAvatarConfig, PosedFrame
from gpavatar.avatars.method import LearnedMethod
from gpavatar.avatars.state_file import load_state
from gpavatar.camera import Camera
from gpavatar.types import HeadParams, RenderOutput, SourceFrame, map_tensors


@dataclass(frozen=True)
class InvertAvatarState:
    """A person, ready to be drawn, and all that one more photo is added to."""

    reference: Reference
    background: Float[Tensor, "3 height width"]  # [0, 1], behind the person of the first photo
    coarse: Canonical  # of the first photo's styles
    person: Canonical


@dataclass(frozen=True)
class RecurrentState(InvertAvatarState):
    """With the memory of recurrent decoders."""

    memory: RecurrentMemory


@dataclass(frozen=True)
class MeanState(InvertAvatarState):
    """With a mean."""

    memory: MeanMemory


@dataclass(frozen=True)
class WindowState(InvertAvatarState):
    """With a window."""

    memory: WindowMemory


@dataclass(frozen=True)
class CoarseState(InvertAvatarState):
    """With nothing but the first photo."""

    memory: NoMemory


STATES = {"none": CoarseState, "recurrent": RecurrentState, "mean": MeanState, "window": WindowState}


class InvertAvatarMethod(LearnedMethod):
    """The method `invertavatar`; implements `gpavatar.avatars.base.Avatar`."""

    name, version = "invertavatar", "1"

    def __init__(self, device: torch.device | str = "cpu", weights: str | Path | None = None):
        """`weights`: a file of `gpavatar.avatars.checkpoint`. InputError without one, or where it does not fit."""
        super().__init__(device)
        read = self._read(weights, InvertAvatarConfig)
        self.head: DrivenHead = self._made_for(driven_head(read.info.head, self.device), read)
        self.net = read.fill(lambda: InvertAvatar(read.config))
        self.net.eval().requires_grad_(False).to(self.device)
        self.mesh = HeadMesh.of(self.head.topology)
        self.gathering = read.config.inversion.gathering if read.config.inversion.refined else "none"

    def encode(self, frames: Sequence[SourceFrame]) -> InvertAvatarState:
        """The first photo gives styles, reference view and background; then all are taken up one by one."""
        first = frames[0]
        reference = map_tensors(Reference(first.params, first.camera, first.image), self._moved)
        background = behind_person(first).to(self.device)
        with torch.no_grad():
            coarse = self.net.coarse(self._posed(first))
            memory = MEMORIES[self.gathering].first(self.net, coarse, self._evidence(coarse, first))
            for frame in frames[1:]:
                memory = memory.with_frame(self.net, coarse, self._evidence(coarse, frame))
            person = memory.person(self.net, coarse)
        return STATES[self.gathering](reference, background, coarse, person, memory)

    def update(self, state: InvertAvatarState, frame: SourceFrame) -> InvertAvatarState:
        """One more photo (section 3.3); as long and as large whatever came before it."""
        with torch.no_grad():
            memory = state.memory.with_frame(self.net, state.coarse, self._evidence(state.coarse, frame))
            return dataclasses.replace(state, memory=memory, person=memory.person(self.net, state.coarse))

    def render(
        self,
        state: InvertAvatarState,
        params: HeadParams,
        camera: Camera,
        size_px: int,
        background: Float[Tensor, "3 height width"] | None = None,
    ) -> RenderOutput:
        """R(G_face(F_tex), F_tri), laid over the background: I = I_network + (1 − opacity) I_behind."""
        params = map_tensors(dataclasses.replace(params, shape=state.reference.params.shape), self._moved)
        driven = self.head.drive(params, map_tensors(camera, self._moved))
        with torch.no_grad():
            views = self.net.prior.views(driven.verts[None], self.mesh.surface)
            out = self.net.prior.animate(state.person, views, driven.camera[None])
        behind = state.background if background is None else background.to(self.device)
        return laid_over(out.image[0], out.opacity[0], behind, size_px)

    def load(self, path: str | Path) -> InvertAvatarState:
        """Read what `save` wrote; InputError where it was made with other weights or another head."""
        return map_tensors(load_state(STATES[self.gathering], path, self._identity()), self._moved)

    def _posed(self, frame: SourceFrame) -> PosedFrame:
        """The person on black, with the mesh of this very photo's fit."""
        person = person_on_black(frame)
        params, camera = (map_tensors(one, self._moved) for one in (frame.params, frame.camera))
        driven = self.head.drive(params, camera)
        return PosedFrame(person[None].to(self.device), driven.verts[None], driven.camera[None])

    def _evidence(self, coarse: Canonical, frame: SourceFrame) -> Evidence | None:
        return self.net.evidence(coarse, self._posed(frame), self.mesh) if self.net.config.refined else None
