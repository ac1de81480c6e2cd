"""Heads that a learned method can be driven with, from the parameters that the tracker gives.

The tracker fits the open head. A method whose features belong to another head needs its vertices instead, and cameras
in that head's space.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from gpavatar.camera import Camera
from gpavatar.face.open_head import OpenHead
from gpavatar.types import HeadParams, InputError


@runtime_checkable
class DrivenHead(Protocol):
    """Tracked parameters -> vertices of a head, and the camera in its space."""

    name: str
    sha256: str
    num_verts: int
    num_params: int  # of `gpavatar.avatars.gpavatar.signal_params`

    def drive(self, params: HeadParams, camera: Camera) -> tuple[Float[Tensor, "vert 3"], Camera]:
        """Where the vertices are, and the same camera seen from this head."""

    def camera(self, params: HeadParams, camera: Camera) -> Camera:
        """The camera alone."""


class DrivenOpenHead:
    """The head that the tracker fits: nothing to be translated."""

    def __init__(self, device: torch.device):
        self._head = OpenHead.load().to(device)
        self.name, self.sha256 = self._head.name, self._head.sha256
        self.num_verts = len(self._head.mean)
        self.num_params = self._head.n_expression + 9  # jaw and two eyes

    def drive(self, params: HeadParams, camera: Camera) -> tuple[Float[Tensor, "vert 3"], Camera]:
        """See `DrivenHead`."""
        return self._head.verts(params), camera

    def camera(self, params: HeadParams, camera: Camera) -> Camera:
        """See `DrivenHead`."""
        return camera


def driven_head(name: str, device: torch.device) -> DrivenHead:
    """The head called `name`. InputError for one that this program does not have."""
    if name == "open_head":
        return DrivenOpenHead(device)
    if name == "flame":
        from gpavatar.avatars.driven_flame import DrivenFlame

        return DrivenFlame(device)
    raise InputError(f"no head is called {name!r}; there are: open_head, flame")
