"""The weights of an ONNX file by name, read straight from its bytes: no runtime, no graph, nothing executed.

A file is nested messages of (field number, kind, value) in Protocol Buffers' wire format; of the fields only those are
looked at on the way model (7: graph) -> graph (5: weights) -> tensor (1: sizes, 2: type, 4 or 9: numbers, 8: name).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gpavatar.types import AssetError

GRAPH, WEIGHTS, SIZES, TYPE, FLOATS, NAME, BYTES = 7, 5, 1, 2, 4, 8, 9
FLOAT32 = 1
VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5


def read_weights(path: str | Path) -> dict[str, np.ndarray]:
    """All float32 weights. AssetError where it is no such file, or cut off."""
    try:
        model = Path(path).read_bytes()
        graphs = [value for field, value in _fields(memoryview(model)) if field == GRAPH]
        tensors = [_tensor(value) for graph in graphs for field, value in _fields(graph) if field == WEIGHTS]
    except (ValueError, IndexError, TypeError) as error:
        raise AssetError(f"{path}: not an ONNX file, or cut off ({error}); fetch it again") from error
    return dict(pair for pair in tensors if pair is not None)


def _tensor(message: memoryview) -> tuple[str, np.ndarray] | None:
    sizes: list[int] = []
    kind, name, data = 0, "", memoryview(b"")
    for field, value in _fields(message):
        if field == SIZES:
            sizes += [value] if isinstance(value, int) else list(_varints(value))
        elif field == TYPE:
            kind = value
        elif field == NAME:
            name = bytes(value).decode()
        elif field in (FLOATS, BYTES):
            data = value
    if kind != FLOAT32 or not len(data):
        return None
    return name, np.frombuffer(data, "<f4").reshape(sizes)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == VARINT:
            value, at = _varint(message, at)
        elif kind == LENGTH:
            size, at = _varint(message, at)
            value, at = message[at : at + size], at + size
        elif kind in (EIGHT_BYTES, FOUR_BYTES):
            size = 8 if kind == EIGHT_BYTES else 4
            value, at = message[at : at + size], at + size
        else:
            raise ValueError(f"a field of kind {kind}")
        if at > len(message):
            raise ValueError("a field reaches beyond the end")
        yield key >> 3, value


def _varints(packed: memoryview) -> Iterator[int]:
    at = 0
    while at < len(packed):
        value, at = _varint(packed, at)
        yield value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
