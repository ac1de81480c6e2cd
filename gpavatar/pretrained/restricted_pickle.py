"""Arrays out of other people's model files, without running what else the files may say.

A pickle is a program for a stack machine: an ordinary load imports and calls whatever the file names. Model files of
the SMPL and FLAME family are pickles (`.pkl`), or NumPy archives that may hold pickles (`.npz`, `.npy`). Here every
name that such a file needs is replaced by a class of this module that only remembers data, and every other name is an
error. Neither SciPy nor chumpy, whose classes those files mention, is needed or imported.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gpavatar.limits import MAX_MODEL_BYTES, MAX_PICKLE_OPCODES
from gpavatar.types import InputError

MAX_NAME = 256  # letters before the last slash of a name


def read_arrays(path: str | Path, names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
    """Named numeric arrays of a `.pkl`, `.npz` or `.npy` file (the kind is told by content, not by suffix).

    `names` picks some; without it all are read. Names that the file lacks, or that hold no numbers, are absent from
    the result. Sparse matrices come out dense, chumpy arrays as their values. The pickle or `.npy` must hold a dict;
    what dicts inside it hold is named outer/inner.

    Raises InputError when the file is missing, damaged, too large, or refers to anything but array data. No code of
    the file is run in any case.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_MODEL_BYTES:
            raise InputError(f"{path}: {size} bytes are more than a head model has; give the model's own file")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    try:
        named = _read_archive(data, names) if data.startswith(b"PK") else _read_dict(data)
        arrays = {name: _to_array(value) for name, value in named.items() if names is None or name in names}
    except _Forbidden as error:
        what = ascii(str(error)[:80])
        raise InputError(
            f"{path}: refers to {what}, which no head model needs; nothing was run; get the file from its makers"
        ) from error
    except Exception as error:  # a broken or hostile file can make the parsers raise anything
        raise InputError(
            f"{path}: is damaged, or no model file (pickle protocol 1 or later, npz, npy); get it again"
        ) from error
    return {name: array for name, array in arrays.items() if array is not None}


class _Forbidden(Exception):
    """The pickle names something outside the allow-list."""


class _StandIn:
    """What every foreign class becomes: takes any arguments, keeps a state, does nothing.

    Allowed functions are such classes too: a pickle can set attributes on a function, but not on a class whose
    `__setstate__` asks for an instance.
    """

    state: Any = None

    def __new__(cls, *args):
        return object.__new__(cls)

    def __init__(self, *args):
        """Arguments are forgotten; those that matter come with the state."""

    def __setstate__(self, state):
        self.state = state


class _Chumpy(_StandIn):
    """chumpy.*; a plain array has its values under `x`."""


class _Csc(_StandIn):
    """scipy.sparse csc_matrix or csc_array."""


class _Csr(_StandIn):
    """scipy.sparse csr_matrix or csr_array."""


class _Array(_StandIn):
    """numpy.ndarray; state (version, shape, dtype, column-major, raw bytes or list of objects)."""


class _Scalar(_Array):
    """numpy scalar; called with its dtype and bytes."""

    def __init__(self, dtype, raw=b""):
        self.state = (1, (), dtype, False, raw)


class _FromBuffer(_Array):
    """numpy's array constructor of pickle protocol 5."""

    def __init__(self, raw, dtype, shape, order):
        self.state = (1, shape, dtype, order == "F", bytes(raw))


class _Dtype(_StandIn):
    """numpy.dtype; state (version, byte order, ...)."""

    def __init__(self, code, align=False, copy=True):
        self.code, self.state = code, (3, "=")

    def resolve(self) -> np.dtype:
        """The dtype, when it is a number's or an object's."""
        if not re.fullmatch(r"[biuf]\d{1,2}|O\d?", self.code) or self.state[1] not in "<>=|":
            raise ValueError("neither numbers nor objects")
        return np.dtype(object) if self.code[0] == "O" else np.dtype(self.state[1] + self.code)


class _Reconstructor(_StandIn):
    """copyreg._reconstructor, for stand-ins only."""

    def __new__(cls, kind, base, state):
        if not issubclass(kind, _StandIn):
            raise ValueError("not an object of a known class")
        return kind()


class _Encode(_StandIn):
    """_codecs.encode: how Python 3 writes bytes in old protocols."""

    def __new__(cls, text, encoding="latin1"):
        if encoding not in ("latin1", "latin-1"):
            raise ValueError("not bytes in Latin-1")
        return text.encode("latin1")


class _NoBytes(_StandIn):
    """bytes(): how Python 3 writes empty bytes in old protocols; bytes(10**12) is refused."""

    def __new__(cls):
        return b""


ALLOWED = {
    "__builtin__.bytes": _NoBytes,
    "collections.OrderedDict": OrderedDict,
    "copyreg._reconstructor": _Reconstructor,
    "copy_reg._reconstructor": _Reconstructor,
    "builtins.object": _StandIn,
    "__builtin__.object": _StandIn,
    "builtins.set": _StandIn,
    "__builtin__.set": _StandIn,
    "_codecs.encode": _Encode,
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    "scipy.sparse.csc_matrix": _Csc,
    "scipy.sparse.csr_matrix": _Csr,
    # Landmark embeddings hold PyTorch tensors besides arrays; nothing reads them.
    "torch._utils._rebuild_tensor_v2": _StandIn,
    "torch.storage._load_from_bytes": _StandIn,
}
for _core in ("numpy.core", "numpy._core"):
    ALLOWED[f"{_core}.multiarray._reconstruct"] = _Array
    ALLOWED[f"{_core}.multiarray.scalar"] = _Scalar
    ALLOWED[f"{_core}.numeric._frombuffer"] = _FromBuffer
for _sparse, _format in (("csc", _Csc), ("csr", _Csr)):
    for _module in (_sparse, f"_{_sparse}"):
        ALLOWED[f"scipy.sparse.{_module}.{_sparse}_matrix"] = _format
        ALLOWED[f"scipy.sparse.{_module}.{_sparse}_array"] = _format


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        """The class of this module that stands for `module.name`."""
        if module == "chumpy" or module.startswith("chumpy."):
            return _Chumpy
        try:
            return ALLOWED[f"{module}.{name}"]
        except KeyError:
            raise _Forbidden(f"{module}.{name}") from None


def _unpickle(data: bytes) -> Any:
    # Read through without executing, for two opcodes can hurt: deep nesting, and a far memo index, below which the C
    # unpickler reserves room for every other (64 GB for one opcode).
    for count, (opcode, arg, _) in enumerate(pickletools.genops(data)):
        if count > MAX_PICKLE_OPCODES or (opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and arg > MAX_PICKLE_OPCODES):
            raise ValueError("too large a program")
    return _Unpickler(io.BytesIO(data), encoding="latin1").load()


def _read_dict(data: bytes) -> dict[str, Any]:
    value = _read_npy(data) if data.startswith(b"\x93NUMPY") else _unpickle(data)
    if isinstance(value, _Array):
        value = _single(value)
    if not isinstance(value, dict):
        raise ValueError("not a dict of arrays")
    return dict(_flattened(value, [MAX_PICKLE_OPCODES]))


def _flattened(value: dict, left: list[int], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Entries of dicts in dicts. One dict may stand in many places, or in itself: number and names are bounded."""
    if len(prefix) > MAX_NAME:
        raise ValueError("too deep")
    for name, entry in value.items():
        left[0] -= 1
        if left[0] < 0:
            raise ValueError("too many entries")
        if isinstance(entry, dict):
            yield from _flattened(entry, left, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", entry


def _read_archive(data: bytes, names: tuple[str, ...] | None) -> dict[str, Any]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        asked = [name for name in members if names is None or name in names]
        if sum(members[name].file_size for name in asked) > MAX_MODEL_BYTES:
            raise ValueError("unpacks to more than a model has")
        return {name: _read_npy(archive.read(members[name])) for name in asked}


def _read_npy(data: bytes) -> np.ndarray | Any:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, column_major, dtype = read_header(stream)
    if dtype.hasobject:
        return _unpickle(data[stream.tell() :])
    return _shaped(data[stream.tell() :], dtype, shape, column_major)


def _shaped(raw: bytes, dtype: np.dtype, shape: tuple[int, ...], column_major: bool) -> np.ndarray:
    array = np.frombuffer(raw, dtype).reshape(shape, order="F" if column_major else "C")
    return array.astype(dtype.newbyteorder("="))


def _single(array: _Array) -> Any:
    """The one object in an object array."""
    _, shape, dtype, _, content = array.state
    if not dtype.resolve().hasobject or math.prod(shape) != 1:
        raise ValueError("not one object")
    return content[0]


def _to_array(value: Any) -> np.ndarray | None:
    """Numbers as an array, whatever they were wrapped in; None for anything else (names, styles, histories)."""
    if isinstance(value, _Array) and value.state[2].code[0] == "O" and math.prod(value.state[1]) == 1:
        value = _single(value)
    if isinstance(value, _Chumpy) and isinstance(value.state, dict):
        value = value.state.get("x")
    if isinstance(value, (_Csc, _Csr)):
        return _dense(value)
    if isinstance(value, _Array):
        _, shape, dtype, column_major, raw = value.state
        if not re.match("[biuf]", dtype.code):
            return None
        return _shaped(raw.encode("latin1") if isinstance(raw, str) else raw, dtype.resolve(), shape, column_major)
    if isinstance(value, (list, tuple)) and all(isinstance(item, (int, float)) for item in value):
        value = np.array(value)
    return value if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" else None


def _dense(matrix: _Csc | _Csr) -> np.ndarray:
    data, indices, indptr = (_to_array(matrix.state[key]) for key in ("data", "indices", "indptr"))
    shape = matrix.state.get("_shape", matrix.state.get("shape"))
    rows, columns = shape if isinstance(matrix, _Csr) else shape[::-1]
    if rows * columns * data.itemsize > MAX_MODEL_BYTES or (np.diff(indptr) < 0).any() or (indices < 0).any():
        raise ValueError("no sparse matrix of a model")
    dense = np.zeros((rows, columns), data.dtype)
    np.add.at(dense, (np.repeat(np.arange(rows), np.diff(indptr)), indices), data)
    return dense if isinstance(matrix, _Csr) else dense.T
