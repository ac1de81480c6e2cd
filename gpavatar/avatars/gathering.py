"""What an avatar remembers of the frames that it is made from: three ways, each of one size however many there are.

A memory is a value: `with_frame` gives the next one, `person` what follows from it. All have one person in the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Protocol, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from gpavatar.avatars.animatable_prior import Canonical
from gpavatar.avatars.inversion_encoders import FoundMaps
from gpavatar.avatars.invertavatar import Evidence, InvertAvatar
from gpavatar.synthesis.fusion_unet import WINDOW
from gpavatar.types import map_tensors

T = TypeVar("T")


class Memory(Protocol):
    """What is kept between frames."""

    def with_frame(self, net: InvertAvatar, coarse: Canonical, evidence: Evidence) -> Memory:
        """After one more frame."""

    def person(self, net: InvertAvatar, coarse: Canonical) -> Canonical:
        """The avatar of all frames so far."""


@dataclass(frozen=True)
class RecurrentMemory:
    """The states of both recurrent decoders."""

    maps: FoundMaps

    @staticmethod
    def first(net: InvertAvatar, coarse: Canonical, evidence: Evidence) -> RecurrentMemory:
        """After the first frame."""
        return RecurrentMemory(net.step(net.begin(evidence), evidence))

    def with_frame(self, net: InvertAvatar, coarse: Canonical, evidence: Evidence) -> RecurrentMemory:
        """See `Memory`."""
        return RecurrentMemory(net.step(self.maps, evidence))

    def person(self, net: InvertAvatar, coarse: Canonical) -> Canonical:
        """See `Memory`."""
        return net.person(coarse, self.maps)


@dataclass(frozen=True)
class MeanMemory:
    """The mean of the avatars that each frame alone would give: F_tex and F_tri (section 4.2.2, "Ours-OS")."""

    mean: Canonical
    num_frames: Int[Tensor, ""]

    @staticmethod
    def first(net: InvertAvatar, coarse: Canonical, evidence: Evidence) -> MeanMemory:
        """After the first frame."""
        return MeanMemory(net.person(coarse, net.single(evidence)), torch.tensor(1))

    def with_frame(self, net: InvertAvatar, coarse: Canonical, evidence: Evidence) -> MeanMemory:
        """See `Memory`."""
        alone = net.person(coarse, net.single(evidence))
        return MeanMemory(joined_mean(self.mean, alone, int(self.num_frames)), self.num_frames + 1)

    def person(self, net: InvertAvatar, coarse: Canonical) -> Canonical:
        """See `Memory`."""
        return self.mean


@dataclass(frozen=True)
class WindowMemory:
    """ConvFusion (section 4.3.1): the frames of the present window, and the mean of the windows before it."""

    frames: FoundMaps  # of the trunks; the batch axis counts the frames of the window
    settled: Canonical
    num_settled: Int[Tensor, ""]

    @staticmethod
    def first(net: InvertAvatar, coarse: Canonical, evidence: Evidence) -> WindowMemory:
        """After the first frame."""
        return WindowMemory(FoundMaps(evidence.texture, evidence.plane), coarse, torch.tensor(0))

    def with_frame(self, net: InvertAvatar, coarse: Canonical, evidence: Evidence) -> WindowMemory:
        """See `Memory`."""
        new = FoundMaps(evidence.texture, evidence.plane)
        if len(self.frames.texture.half) < WINDOW:
            return replace(self, frames=zipped(self.frames, new, lambda old, one: torch.cat([old, one])))
        return WindowMemory(new, self.person(net, coarse), self.num_settled + 1)

    def person(self, net: InvertAvatar, coarse: Canonical) -> Canonical:
        """See `Memory`."""
        number = len(self.frames.texture.half)
        frames = [map_tensors(self.frames, lambda maps, at=at: maps[at : at + 1]) for at in range(number)]
        seen = torch.ones(1, dtype=torch.bool, device=self.frames.texture.half.device)
        present = net.person(coarse, net.window([Evidence(one.texture, one.plane, seen) for one in frames]))
        return joined_mean(self.settled, present, int(self.num_settled))


@dataclass(frozen=True)
class NoMemory:
    """The first frame's styles are all there is (Table 3, "wo both Enc"); later frames are counted."""

    num_frames: Int[Tensor, ""]

    @staticmethod
    def first(net: InvertAvatar, coarse: Canonical, evidence: Evidence | None) -> NoMemory:
        """After the first frame."""
        return NoMemory(torch.tensor(1))

    def with_frame(self, net: InvertAvatar, coarse: Canonical, evidence: Evidence | None) -> NoMemory:
        """See `Memory`."""
        return NoMemory(self.num_frames + 1)

    def person(self, net: InvertAvatar, coarse: Canonical) -> Canonical:
        """See `Memory`."""
        return coarse


MEMORIES: dict[str, type[RecurrentMemory | MeanMemory | WindowMemory | NoMemory]] = {
    "none": NoMemory,
    "recurrent": RecurrentMemory,
    "mean": MeanMemory,
    "window": WindowMemory,
}


def joined_mean(mean: Canonical, one: Canonical, count: int) -> Canonical:
    """The mean of `count` avatars and one more."""
    return zipped(mean, one, lambda a, b: torch.lerp(a, b, 1 / (count + 1)))


def zipped(a: T, b: T, join: Callable[[Tensor, Tensor], Tensor]) -> T:
    """A nested dataclass of the joined tensors of two."""
    pairs = {field.name: (getattr(a, field.name), getattr(b, field.name)) for field in fields(a)}
    return replace(a, **{n: zipped(*pair, join) if is_dataclass(pair[0]) else join(*pair) for n, pair in pairs.items()})
