"""Weights of a learned method as one safetensors file: tensors, and in the metadata what they are.

    method    which class they are for          config       its dataclass, as yaml
    head      the head model whose vertices     head_sha256  its file; "any" where every user brings their own
              they know                         card         free text: data, steps, licence

Nothing in the file is executed. Half precision is widened when it is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from omegaconf import OmegaConf
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from gpavatar.config import parse_config
from gpavatar.media.files import check_file, sha256_of, write_tensors
from gpavatar.types import InputError, one_line

T = TypeVar("T")
Module = TypeVar("Module", bound=nn.Module)
FORMAT = "gpavatar weights"
ANY_HEAD = "any"
RESEARCH_ONLY = "**Research only**"  # in a card


@dataclass(frozen=True)
class WeightsInfo:
    """What a weights file says of itself."""

    method: str
    head: str
    head_sha256: str
    config_yaml: str
    card: str = ""

    @property
    def research_only(self) -> bool:
        """By the card: what the weights were trained on may not serve other ends."""
        return RESEARCH_ONLY in self.card


@dataclass(frozen=True)
class Weights(Generic[T]):
    """A weights file, read."""

    info: WeightsInfo
    config: T
    tensors: dict[str, Tensor]
    sha256: str  # of the file
    path: Path

    def fill(self, make: Callable[[], Module]) -> Module:
        """The module that `make` makes, with these weights. InputError where an entry is missing or does not fit.

        Made without memory first: a config may ask for more than any machine has, the file then lacks the numbers.
        """
        try:
            with torch.device("meta"):
                make().load_state_dict(self.tensors, assign=True)
            module = make()
            module.load_state_dict(self.tensors)
            return module
        except (RuntimeError, ValueError, TypeError, ZeroDivisionError, OverflowError, AssertionError) as error:
            line = one_line(" ".join(str(error).splitlines()[:2]))
            raise InputError(f"{self.path}: does not fit its own config ({line}); export it again") from error


def config_yaml(config: Any) -> str:
    """A config dataclass as text, every value written out."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def save_weights(tensors: dict[str, Tensor], path: str | Path, info: WeightsInfo) -> None:
    """Write the file; it appears under its name only when whole. InputError where it cannot be written."""
    metadata = {
        "format": FORMAT,
        "method": info.method,
        "head": info.head,
        "head_sha256": info.head_sha256,
        "config": info.config_yaml,
        "card": info.card,
    }
    write_tensors(tensors, Path(path), metadata)


def read_info(path: str | Path) -> WeightsInfo:
    """The metadata of a weights file. InputError where it is not one."""
    check_file(Path(path))
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cut off, or not a safetensors file; export or download it again") from error
    if metadata.get("format") != FORMAT or not {"method", "head", "head_sha256", "config"} <= metadata.keys():
        raise InputError(f"{path}: a safetensors file, but not weights of a method; make one with gpavatar export")
    if not metadata["method"].isidentifier():
        raise InputError(
            f"{path}: names the method {metadata['method'][:80]!a}, which no method is called; export it again"
        )
    return WeightsInfo(
        metadata["method"], metadata["head"], metadata["head_sha256"], metadata["config"], metadata.get("card", "")
    )


def read_weights(path: str | Path, schema: type[T]) -> Weights[T]:
    """Read a weights file whose config is a `schema`.

    Raises InputError where the file is no weights file, its config has other keys, or a number is not finite.
    """
    path = Path(path)
    info = read_info(path)
    try:
        config = parse_config(schema, info.config_yaml, "config")
    except InputError as error:
        raise InputError(f"{path}: its config is of another version ({error}); export it again") from error
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            tensors[name] = tensor.float()
            if not tensors[name].isfinite().all():
                raise InputError(
                    f"{path}: {one_line(name)} holds values that are not finite; export or download it again"
                )
    return Weights(info, config, tensors, sha256_of(path), path)


def to_half(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Floating point entries in 16 bits: half the file."""
    return {
        name: tensor.to(torch.float16) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
    }
