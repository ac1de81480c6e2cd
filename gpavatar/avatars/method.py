"""What methods behind the protocol of `avatars/base.py` have in common: who may read whose files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from gpavatar.avatars.base import AvatarState
from gpavatar.avatars.checkpoint import ANY_HEAD, Weights, read_weights
from gpavatar.avatars.state_file import save_state
from gpavatar.types import InputError


@runtime_checkable
class NamedHead(Protocol):
    """A head, and the sum of its file."""

    name: str
    sha256: str


Head = TypeVar("Head", bound=NamedHead)


class LearnedMethod:
    """A method with trained weights, which were made for one head; a saved avatar belongs to both."""

    name: str
    version: str  # of the method: changes when the same weights and photos give other pictures or another state
    head: NamedHead
    research_only: bool  # by the card of the weights

    def __init__(self, device: torch.device | str):
        self.device = torch.device(device)

    def _read(self, weights: str | Path | None, config: type[Any]) -> Weights:
        """A file of `gpavatar.avatars.checkpoint` with a `config` in it. InputError without one."""
        if weights is None:
            raise InputError(f"{self.name} is a learned method: give its weights as --model FILE.safetensors")
        read = read_weights(weights, config)
        self._weights_sha256, self.research_only = read.sha256, read.info.research_only
        return read

    @staticmethod
    def _made_for(head: Head, weights: Weights) -> Head:
        """The head; InputError where the weights are another one's."""
        info = weights.info
        if info.head != head.name or info.head_sha256 not in (ANY_HEAD, head.sha256):
            raise InputError(f"{weights.path}: was made for another version of the head {info.head}; get a newer one")
        return head

    def save(self, state: AvatarState, path: str | Path) -> None:
        """Write one safetensors file; InputError where it cannot be written."""
        save_state(state, path, self._identity())

    @property
    def sha256(self) -> str:
        """Of all that the pictures depend on beside the photos: weights, head file and version."""
        return hashlib.sha256(repr(sorted(self._identity().items())).encode()).hexdigest()

    def _identity(self) -> dict[str, str]:
        return {
            "method": self.name,
            "version": self.version,
            "head": self.head.name,
            "head_sha256": self.head.sha256,
            "weights_sha256": self._weights_sha256,
        }

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device)
