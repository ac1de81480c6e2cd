"""Avatar states as safetensors files: a nested frozen dataclass of tensors <-> named tensors and text metadata.

Fields are named by their path ("layers.body.verts"). Pictures, which are annotated "... 3 height width" or with 4, are
kept as 8-bit integers, everything else as it is. Nothing in the file is executed; every field's name and kind is
checked when it is read.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import torch
from jaxtyping import jaxtyped
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gpavatar.limits import MAX_AVATAR_BYTES
from gpavatar.media.files import write_tensors
from gpavatar.types import InputError, one_line

State = TypeVar("State")
FORMAT = "gpavatar avatar"
PICTURE = re.compile(r"\b[34] height width$")  # last axes of colours in [0, 1]
STORED_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.int64, torch.int32, torch.bool)


def save_state(state: Any, path: str | Path, metadata: dict[str, str]) -> None:
    """Write `state`; the file appears under its name only when whole. InputError where it cannot be written."""
    # parts of a state may be one tensor in memory, entries of a file may not
    tensors = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in _flatten(state, "")}
    write_tensors(tensors, Path(path), {"format": FORMAT, **metadata})


def read_metadata(path: str | Path) -> dict[str, str]:
    """The text metadata of an avatar file. InputError where it is not one."""
    if Path(path).exists() and Path(path).stat().st_size > MAX_AVATAR_BYTES:
        raise InputError(f"{path} is not an avatar file (more than {MAX_AVATAR_BYTES >> 20} MB); give another")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is not an avatar file ({one_line(error)}); make one with --save-avatar") from error
    if metadata.get("format") != FORMAT:
        raise InputError(f"{path} is a safetensors file, but not an avatar; make one with --save-avatar")
    return metadata


def load_state(kind: type[State], path: str | Path, expected: dict[str, str]) -> State:
    """Read what `save_state` wrote; `expected` metadata (method, version, head ...) must agree.

    Raises InputError where the file is no avatar, was made for something else, lacks a field or holds NaN.
    """
    metadata = read_metadata(path)
    for key, value in expected.items():
        if metadata.get(key) != value:
            found = metadata.get(key, "none")[:80]
            weights = "give its weights as --model FILE.safetensors, or " if key == "weights_sha256" else ""
            raise InputError(f"{path} was made for {key} {found!a}, this is {value!a}; {weights}make the avatar again")
    with safe_open(path, framework="pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    strange = [name for name, tensor in stored.items() if tensor.dtype not in STORED_TYPES]
    if strange:
        kind = str(stored[strange[0]].dtype).removeprefix("torch.")
        raise InputError(f"{path}: field {strange[0]!a} is stored as {kind}, which no avatar is; make the avatar again")
    tensors = {name: _unpack(tensor) for name, tensor in stored.items()}
    bad = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise InputError(f"{path}: field {bad[0]!a} holds values that are not finite; make the avatar again")
    try:
        return _build(kind, tensors, "")
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: field {error} is missing or of the wrong kind; make the avatar again") from error


def _flatten(value: Any, prefix: str) -> list[tuple[str, Tensor]]:
    """The tensors by name, those that their annotation calls pictures as bytes."""
    out, hints = [], get_type_hints(type(value))
    for field in dataclasses.fields(value):
        inner, name = getattr(value, field.name), prefix + field.name
        if dataclasses.is_dataclass(inner):
            out += _flatten(inner, name + ".")
        else:
            out.append((name, _pack(inner) if PICTURE.search(getattr(hints[field.name], "dim_str", "")) else inner))
    return out


def _build(kind: type[State], tensors: dict[str, Tensor], prefix: str) -> State:
    """Each dataclass is one context: an axis that two of its fields name must have one length."""
    with jaxtyped("context"):
        return _checked(kind, tensors, prefix)


def _checked(kind: type[State], tensors: dict[str, Tensor], prefix: str) -> State:
    hints = get_type_hints(kind)
    values = {}
    for field in dataclasses.fields(kind):
        name = prefix + field.name
        inner = hints[field.name]
        if dataclasses.is_dataclass(inner):
            values[field.name] = _build(inner, tensors, name + ".")
        elif isinstance(tensors[name], inner):
            values[field.name] = tensors[name]
        else:
            raise TypeError(name)
    return kind(**values)


def _pack(tensor: Tensor) -> Tensor:
    return (tensor.clamp(0, 1) * 255).round().to(torch.uint8)


def _unpack(tensor: Tensor) -> Tensor:
    return tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor
