"""`gpavatar_lite` behind the protocol of `avatars/base.py`: photos -> what a person is driven from -> frames."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from gpavatar.avatars.backdrop import behind_person, laid_over, resized
from gpavatar.avatars.base import Reference
from gpavatar.avatars.gpavatar_lite import GPAvatarLite, GPAvatarLiteConfig, LiteOutput, Person
from gpavatar.avatars.gpavatar_lite_warp import LiteHead
from gpavatar.avatars.method import LearnedMethod
from gpavatar.avatars.state_file import load_state
from gpavatar.camera import Camera, rotation_angle_deg
from gpavatar.face.open_head import OpenHead
from gpavatar.field.twin import Precision
from gpavatar.types import HeadParams, InputError, RenderOutput, SourceFrame, map_tensors

MAX_PHOTOS = 8  # that are kept: what a frame costs and a state holds has an end
KEPT = 8  # states that are ready to be drawn: `reenact --watch-build` draws that many side by side
FINE_PX = 512  # side of the photos where they have more than the network
ANGLE_DEG = 15.0  # a turn that makes two photos as different as a change of expression by 0.5 (`data/sampling.py`)


T = TypeVar("T")


@dataclass(frozen=True)
class LitePhotos:
    """The photos that are kept: at the network's size, or at `FINE_PX` where the first has more."""

    image: Float[Tensor, "source 3 height width"]
    alpha: Float[Tensor, "source 1 height width"]
    params: HeadParams
    camera: Camera
    offsets: Float[Tensor, "source vert 3"]  # what the head model lacks to meet the landmarks of each


@dataclass(frozen=True)
class GPAvatarLiteState:
    """A person, ready to be drawn."""

    reference: Reference
    photos: LitePhotos
    background: Float[Tensor, "3 height width"]  # [0, 1], behind the person of the first photo


class GPAvatarLiteMethod(LearnedMethod):
    """The method `gpavatar_lite`; implements `gpavatar.avatars.base.Avatar`."""

    name, version = "gpavatar_lite", "2"

    def __init__(self, device: torch.device | str = "cpu", weights: str | Path | None = None):
        """`weights`: a file of `gpavatar.avatars.checkpoint`. InputError without one, or where it does not fit."""
        super().__init__(device)
        self.precision: Precision = "exact"
        read = self._read(weights, GPAvatarLiteConfig)
        self.head = LiteHead(self._made_for(OpenHead.load(), read))
        self.net = read.fill(lambda: GPAvatarLite(read.config, self.head))
        self.net.eval().requires_grad_(False).to(self.device)
        self.net.picture.to(memory_format=torch.channels_last)
        self._people, self._behind = _Latest(), _Latest()

    def encode(self, frames: Sequence[SourceFrame]) -> GPAvatarLiteState:
        """The first photo is the reference view and gives the background."""
        first = frames[0]
        reference = map_tensors(Reference(first.params, first.camera, first.image), self._moved)
        background = behind_person(first).to(self.device)
        size = self._sizes[first.image.shape[-1] > self.net.config.size_px]
        photos = _joined([self._photo(frame, size) for frame in frames])
        return GPAvatarLiteState(reference, _most_different(photos), background)

    def update(self, state: GPAvatarLiteState, frame: SourceFrame) -> GPAvatarLiteState:
        """One more photo; beyond `MAX_PHOTOS` those are kept that differ most."""
        photos = _most_different(_joined([state.photos, self._photo(frame, state.photos.image.shape[-1])]))
        return dataclasses.replace(state, photos=photos)

    def render(
        self,
        state: GPAvatarLiteState,
        params: HeadParams,
        camera: Camera,
        size_px: int,
        background: Float[Tensor, "3 height width"] | None = None,
    ) -> RenderOutput:
        """I = I_network + (1 − α) I_behind."""
        out = self._drawn(state, params, camera, size_px)
        behind = self._background(state, size_px) if background is None else background.to(self.device)
        return laid_over(out.image[0], out.alpha[0], behind, size_px)

    def depth(
        self, state: GPAvatarLiteState, params: HeadParams, camera: Camera, size_px: int
    ) -> Float[Tensor, "1 height width"]:
        """Of the person along the optical axis, units of head space; 0 where there is nobody."""
        out = self._drawn(state, params, camera, self.net.config.size_px)
        return resized(out.depth[0], size_px) * (resized(out.opacity[0], size_px) > 0.5)

    def load(self, path: str | Path) -> GPAvatarLiteState:
        """Read what `save` wrote; InputError where it was made with other weights or another head."""
        state = load_state(GPAvatarLiteState, path, self._identity())
        verts = len(self.head.head.mean)
        found = state.photos.image.shape[-1] in self._sizes, state.photos.offsets.shape[1] == verts
        if not all(found) or state.photos.params.shape.shape[-1] != self.head.head.n_shape:
            raise InputError(f"{path}: its sizes are not those of this model; make the avatar again")
        return map_tensors(state, lambda t: t.to(self.device, torch.float32 if t.is_floating_point() else t.dtype))

    def person(self, state: GPAvatarLiteState) -> Person:
        """The photos as the network takes them; those of the last states are kept."""

        def made() -> Person:
            photos = state.photos
            pose = self.head.pose(photos.params, photos.camera, photos.offsets)
            with torch.no_grad():
                person = self.net.encode(photos.image[None], photos.alpha[None], map_tensors(pose, lambda t: t[None]))
            return dataclasses.replace(person, maps=_channels_last(person.maps), planes=_channels_last(person.planes))

        return self._people(state, 0, made)

    @property
    def _sizes(self) -> tuple[int, int]:
        """Of photos: small, large."""
        small = self.net.config.size_px
        return small, max(FINE_PX, small)

    def _background(self, state: GPAvatarLiteState, size_px: int) -> Tensor:
        """Of the first photo, at this size; those of the last states are kept."""
        return self._behind(state, size_px, lambda: resized(state.background, size_px))

    def _drawn(self, state: GPAvatarLiteState, params: HeadParams, camera: Camera, size_px: int) -> LiteOutput:
        params = map_tensors(dataclasses.replace(params, shape=state.reference.params.shape), self._moved)
        camera = map_tensors(camera, self._moved)
        pose = self.head.pose(params[None], camera[None], state.photos.offsets.mean(0))
        with torch.no_grad():
            return self.net(self.person(state), pose, precision=self.precision, size_px=size_px)

    def _photo(self, frame: SourceFrame, size: int) -> LitePhotos:
        params, camera = (map_tensors(one, self._moved)[None] for one in (frame.params, frame.camera))
        landmarks = frame.landmarks_px[None].to(self.device) / frame.image.shape[-1]
        offsets = self.head.landmark_offsets(self.head.pose(params, camera), landmarks)
        image, alpha = (resized(one.to(self.device), size)[None] for one in (frame.image, frame.alpha))
        return LitePhotos(image, alpha, params, camera, offsets)


class _Latest(Generic[T]):
    """What is made of the last states, once, whichever of the threads that draw asks first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, int], tuple[GPAvatarLiteState, T]] = OrderedDict()
        self._lock = Lock()

    def __call__(self, state: GPAvatarLiteState, size_px: int, make: Callable[[], T]) -> T:
        """`make()` of this state and size, or what it gave before; the state is held, so that its id stays its own."""
        key = id(state), size_px
        with self._lock:
            if key not in self._kept:
                self._kept[key] = state, make()
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return self._kept[key][1]


def _channels_last(planes: Float[Tensor, "batch plane channel height width"]) -> Tensor:
    """The same, in memory as the compiled samples (`gpavatar_lite_numba`) read it, without a copy for each frame."""
    return planes.movedim(2, -1).contiguous().movedim(-1, 2)


def _joined(photos: Sequence[LitePhotos]) -> LitePhotos:
    def joined(values: Sequence) -> object:
        if isinstance(values[0], Tensor):
            return torch.cat(list(values))
        names = [field.name for field in dataclasses.fields(values[0])]
        return type(values[0])(*(joined([getattr(value, name) for value in values]) for name in names))

    return joined(photos)


def _most_different(photos: LitePhotos) -> LitePhotos:
    """At most `MAX_PHOTOS`: the first, then always the one that is farthest from those chosen."""
    count = len(photos.image)
    if count <= MAX_PHOTOS:
        return photos
    turned = photos.camera.w2c[:, :3, :3]
    angles = rotation_angle_deg(*(side.expand(count, count, 3, 3) for side in (turned[:, None], turned[None])))
    motion = torch.cat([photos.params.expression, photos.params.jaw_pose], -1)
    distance = angles / ANGLE_DEG + torch.cdist(motion, motion) / 0.5
    chosen = [0]
    while len(chosen) < MAX_PHOTOS:
        chosen.append(int(distance[chosen].amin(0).argmax()))
    return map_tensors(photos, lambda tensor: tensor[sorted(chosen)])
