"""What no recording can show: one synthetic person doing what another did. Drawn anew by the generator."""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gpavatar.camera import Camera
from gpavatar.data.shards import Sample, ShardSet
from gpavatar.data.synthetic import SyntheticFrame, SyntheticPerson, render
from gpavatar.face.open_head import OpenHead
from gpavatar.types import HeadParams, InputError

NAME = re.compile(r"synthetic_(\d+)")  # of the clips of `python -m data_prep synthetic`: the seed is the person
SPREAD, GLASSES, SUPERSAMPLE = 0.8, 0.2, 2  # with which that program draws unless told otherwise
TEXELS_PER_PIXEL, MAX_TEXTURE = 3.0, 1024
LARGEST_ERROR = 0.02  # mean absolute; JPEG costs 0.006 at 128 px, another person 0.14 and more
KEPT = 2  # people in memory


@dataclass(frozen=True)
class TrueFrames:
    """Drawn frames."""

    images: Float[Tensor, "frame 3 height width"]
    alpha: Float[Tensor, "frame 1 height width"]
    depth: Float[Tensor, "frame 1 height width"]  # units of head space, 0 where there is nothing


class SyntheticTruth:
    """Draws the people of a synthetic set in other poses and with other expressions."""

    def __init__(self, shards: ShardSet):
        self._root, self._size_px, self._head = str(shards.root), shards.index.size_px, OpenHead.load()
        self._people: OrderedDict[str, SyntheticPerson] = OrderedDict()

    @staticmethod
    def serves(shards: ShardSet, clip: str) -> bool:
        """Whether the clip is of a person that the generator knows."""
        kind = next(info.kind for info in shards.index.clips if info.clip == clip)
        return kind == "synthetic" and NAME.fullmatch(clip) is not None

    def frames(self, shown: Sample, poses: list[tuple[HeadParams, Camera]]) -> TrueFrames:
        """The person of the frame `shown` in these poses.

        InputError where drawing `shown` again gives another picture: the set was made with other settings.
        """
        person = self._person(shown)
        drawn = [self._draw(person, params, camera) for params, camera in poses]
        return TrueFrames(*(torch.stack([getattr(one, name) for one in drawn]) for name in ("image", "alpha", "depth")))

    def _person(self, shown: Sample) -> SyntheticPerson:
        if shown.clip not in self._people:
            texture = min(MAX_TEXTURE, round(TEXELS_PER_PIXEL * self._size_px))
            seed = int(NAME.fullmatch(shown.clip)[1])
            person = SyntheticPerson.random(seed, self._head, texture_size=texture, spread=SPREAD, glasses=GLASSES)
            error = float((self._draw(person, shown.params, shown.camera).image - shown.image).abs().mean())
            if error > LARGEST_ERROR:
                raise InputError(
                    f"{self._root}: {shown.clip} was drawn with other settings than the generator's own (mean error "
                    f"{error:.3f}); leave out the task cross, or make the set with: python -m data_prep synthetic"
                )
            self._people[shown.clip] = person
            while len(self._people) > KEPT:
                self._people.popitem(last=False)
        return self._people[shown.clip]

    def _draw(self, person: SyntheticPerson, params: HeadParams, camera: Camera) -> SyntheticFrame:
        return render(person, params, camera, self._size_px, SUPERSAMPLE)
