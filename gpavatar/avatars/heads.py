"""Heads that a learned method can be driven with, from the parameters that the tracker gives.

The tracker fits the open head. A method whose features belong to another head needs that one's vertices, and cameras in
its space.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from gpavatar.camera import Camera
from gpavatar.face.flame import Flame
from gpavatar.face.morphable import HeadTopology
from gpavatar.face.open_head import OpenHead
from gpavatar.face.translate import HeadTranslator, TranslatedPerson
from gpavatar.types import HeadParams, InputError, map_tensors

FLAME_VARIABLE = "GPAVATAR_FLAME"
MEDIAPIPE_EMBEDDING, LANDMARK_EMBEDDING = "mediapipe_landmark_embedding.npz", "landmark_embedding.npy"


@dataclass(frozen=True)
class Driven:
    """A frame on the head that the method knows."""

    verts: Float[Tensor, "vert 3"]
    params: HeadParams
    camera: Camera


@runtime_checkable
class DrivenHead(Protocol):
    """Tracked parameters -> vertices of a head, and the camera in its space."""

    name: str
    sha256: str
    num_verts: int
    num_params: int  # of `gpavatar.avatars.gpavatar.signal_params`
    topology: HeadTopology

    def drive(self, params: HeadParams, camera: Camera) -> Driven:
        """Where the vertices are, and the same camera seen from this head. `params.shape` is the person's."""


class DrivenOpenHead:
    """The head that the tracker fits: nothing to be translated."""

    def __init__(self, device: torch.device):
        self._head = OpenHead.load().to(device)
        self.name, self.sha256 = self._head.name, self._head.sha256
        self.num_verts = len(self._head.mean)
        self.num_params = self._head.n_expression + 9  # jaw and two eyes
        self.topology = self._head.topology

    def drive(self, params: HeadParams, camera: Camera) -> Driven:
        """See `DrivenHead`."""
        return Driven(self._head.verts(params), params, camera)


class DrivenFlame:
    """FLAME from the file that the variable GPAVATAR_FLAME names, its landmark files beside it."""

    def __init__(self, device: torch.device):
        source, self._flame = OpenHead.load(), load_users_flame()
        self._translator, self._device = HeadTranslator(source, self._flame), device
        self.name, self.sha256 = self._flame.name, self._flame.sha256
        self.num_verts = len(self._flame.template)
        self.num_params = self._flame.n_expression + 9
        self.topology = self._flame.topology
        self._people: dict[bytes, TranslatedPerson] = {}

    def drive(self, params: HeadParams, camera: Camera) -> Driven:
        """See `DrivenHead`. Small problems with many steps: they are solved on the CPU."""
        params = map_tensors(params, lambda tensor: tensor.cpu())
        person = self._person(params.shape)
        translated = self._translator.params(person, params)
        moved = replace(camera, c2w=person.camera(map_tensors(camera, lambda tensor: tensor.cpu())).c2w)
        driven = Driven(self._flame.verts(translated), translated, moved)
        return map_tensors(driven, lambda tensor: tensor.to(self._device))

    def _person(self, shape: Float[Tensor, " n_shape"]) -> TranslatedPerson:
        key = shape.numpy().tobytes()
        if key not in self._people:
            self._people[key] = self._translator.person(shape)
        return self._people[key]


def load_users_flame() -> Flame:
    """The FLAME model of the file in GPAVATAR_FLAME. InputError where it is not set or a file is missing."""
    name = os.environ.get(FLAME_VARIABLE)
    if not name:
        raise InputError(
            f"this model needs FLAME, which may not be passed on: get generic_model.pkl and {MEDIAPIPE_EMBEDDING} from "
            f"flame.is.tue.mpg.de into one directory and set {FLAME_VARIABLE} to the model file"
        )
    beside = [Path(name).with_name(file) for file in (LANDMARK_EMBEDDING, MEDIAPIPE_EMBEDDING)]
    landmarks, mediapipe = (file if file.exists() else None for file in beside)
    return Flame.load(name, landmarks, mediapipe_embedding=mediapipe)


def driven_head(name: str, device: torch.device) -> DrivenHead:
    """The head called `name`. InputError for one that this program does not have, or whose file is missing."""
    heads = {"open_head": DrivenOpenHead, "flame": DrivenFlame}
    if name not in heads:
        raise InputError(f"no head is called {name!r}; there are: {', '.join(heads)}")
    return heads[name](device)
