"""Ways to break a file: blindly, and so that its container still passes for whole and the damage reaches the reader.

Every mutator takes the bytes of a good file and a random generator. Those for a container (PNG chunks, zip, tar, gzip,
safetensors, NumPy arrays) leave other files as they are; `mutate` picks among those that do something.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence

import numpy as np

Rng = np.random.Generator
Mutator = Callable[[bytes, Rng], bytes]

NUMBERS = (0, 1, -1, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, -(2**31), 2**32 - 1, 2**40, 2**63 - 1)
VALUES = (np.nan, np.inf, -np.inf, 1e38, -1e38, 1e-38, 0.0, 1e9)
WORDS = (
    "null", "true", "[]", "{}", "-1", "1e999", ".nan", "99999999999999999999", "''", "${a}", "${oc.env:HOME}", "*a",
    "&a ", "!!python/object/apply:os.mkdir [touched]", "<<: *a", "? ", "- ", ": ", "\x00", "\u2028", "é", "...", "---",
    "../../x", "/dev/zero", "[" * 200, "F64", "F8_E4M3", "BF16", "BOOL", "U8", "I64", "U64", "[1, 0]", "2001-99-99",
)  # fmt: skip
PNG, GZIP = b"\x89PNG\r\n\x1a\n", b"\x1f\x8b"


def at(data: bytes, rng: Rng) -> int:
    """A place in the file: anywhere, or near its beginning or end, where headers and indices are."""
    near = int(min(len(data), 2 ** rng.integers(4, 13)))
    where = rng.integers(3)
    return int(rng.integers(len(data) + 1) if where == 0 else rng.integers(near + 1) * (1 if where == 1 else -1)) % (
        len(data) + 1
    )


def block(data: bytes, rng: Rng) -> tuple[int, int]:
    """A piece of the file, from a byte to all of it."""
    start = at(data, rng)
    return start, min(len(data), start + int(2 ** rng.uniform(0, np.log2(len(data) + 2))))


def flip_bits(data: bytes, rng: Rng) -> bytes:
    """1 to 16 bits."""
    out = bytearray(data)
    for _ in range(int(2 ** rng.integers(0, 5))):
        out[at(data, rng) % len(out)] ^= 1 << int(rng.integers(8))
    return bytes(out)


def write_number(data: bytes, rng: Rng) -> bytes:
    """A length, size or count replaced by an extreme one, of either byte order."""
    width = int(rng.choice([1, 2, 4, 8]))
    number = int(rng.choice(np.array(NUMBERS, dtype=object))) & (256**width - 1)
    start = at(data, rng)
    return data[:start] + number.to_bytes(width, "little" if rng.integers(2) else "big") + data[start + width :]


def truncate(data: bytes, rng: Rng) -> bytes:
    """As a copy that was broken off."""
    return data[: at(data, rng)]


def cut_out(data: bytes, rng: Rng) -> bytes:
    """A piece left out."""
    start, end = block(data, rng)
    return data[:start] + data[end:]


def blank(data: bytes, rng: Rng) -> bytes:
    """A piece of zeros or ones, as a sector that was lost."""
    start, end = block(data, rng)
    return data[:start] + (b"\x00" if rng.integers(2) else b"\xff") * (end - start) + data[end:]


def noise(data: bytes, rng: Rng) -> bytes:
    """A piece of noise."""
    start, end = block(data, rng)
    return data[:start] + rng.bytes(end - start) + data[end:]


def copy_block(data: bytes, rng: Rng) -> bytes:
    """A piece over another place, or in between."""
    (start, end), to = block(data, rng), at(data, rng)
    return data[:to] + data[start:end] + data[to if rng.integers(2) else min(len(data), to + end - start) :]


def put_word(data: bytes, rng: Rng) -> bytes:
    """Something that text formats give a meaning to, at a word's border."""
    borders = [i for i in range(len(data)) if data[i : i + 1] in b" \n:,[]{}\"'()"] if len(data) < 20_000 else []
    start = int(rng.choice(borders)) if borders else at(data, rng)
    word = WORDS[rng.integers(len(WORDS))].encode()
    return data[:start] + word + data[start + (0 if rng.integers(2) else len(word)) :]


BLIND: tuple[Mutator, ...] = (flip_bits, write_number, truncate, cut_out, blank, noise, copy_block, put_word)


def png_chunk(data: bytes, rng: Rng) -> bytes:
    """A chunk broken, doubled or left out, with its checksum right again."""
    if not data.startswith(PNG):
        return data
    chunks, offset = [], len(PNG)
    while offset + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, offset)
        chunks.append((data[offset + 4 : offset + 8], data[offset + 8 : offset + 8 + length]))
        offset += 12 + length
    chosen = int(rng.integers(len(chunks)))
    kind, content = chunks[chosen]
    if kind == b"IDAT" and rng.integers(2):
        content = zlib.compress(blindly(zlib.decompress(content), rng))
    else:
        content = blindly(content or b"\x00", rng)
    chunks[chosen : chosen + 1] = [[(kind, content)], [], [(kind, content)] * 2][int(rng.choice(3, p=[0.8, 0.1, 0.1]))]
    pieces = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    return PNG + b"".join(pieces)


def zip_member(data: bytes, rng: Rng) -> bytes:
    """A member broken, renamed, doubled or left out, in an archive whose checksums are right."""
    if not data.startswith(b"PK\x03\x04"):
        return data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    chosen = int(rng.integers(len(members)))
    name, content = members[chosen]
    done = int(rng.integers(8))
    if done == 0:
        del members[chosen]
    elif done == 1:
        members[chosen] = (members[int(rng.integers(len(members)))][0], content)
    elif done == 2:
        members[chosen] = (name + "\u0000x", content)
    else:
        change = npy_array if content.startswith(b"\x93NUMPY") and rng.integers(4) else blindly
        members[chosen] = (name, change(content, rng))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def npy_array(data: bytes, rng: Rng) -> bytes:
    """Another value, shape or type in a NumPy file, or a header that lies about them."""
    if not data.startswith(b"\x93NUMPY"):
        return data
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except ValueError:
        return data
    done = int(rng.integers(6))
    if done < 3 and array.dtype.kind == "f" and array.size:
        array = array.copy()
        chosen = rng.integers(array.size, size=int(rng.choice([1, 2, array.size])))
        array.reshape(-1)[chosen] = VALUES[rng.integers(len(VALUES))]
    elif array.dtype.kind == "U":
        return _npy(np.array(blindly(str(array).encode(), rng).decode("utf-8", "replace").replace("\x00", "")))
    elif done == 3:
        array = array.astype(
            [np.float64, np.float16, np.int64, np.uint8, np.complex64, ">f4", "S4", bool][rng.integers(8)]
        )
    elif done == 4:
        array = [array[:0], array[..., None], array[:1], array.T, np.concatenate([array.reshape(-1)] * 3)][
            rng.integers(5)
        ]
    else:
        head = data.index(b"\n") + 1
        header = data[:head].decode("latin1")
        lies = ("10**9", "999999999, 9999999", "-1", "'<f8'", "'|O'", "[('a', '<f4')]", "(" * 90, "1 for x in y")
        word = str(rng.choice(header[10:].split() or ["x"]))
        return header.replace(word, lies[rng.integers(len(lies))]).encode("latin1") + data[head:]
    return _npy(array)


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def tar_member(data: bytes, rng: Rng) -> bytes:
    """A tar (plain or gzipped) with its unpacked bytes broken, or with a header that lies and a right checksum."""
    if data.startswith(GZIP):
        return gzip.compress(tar_member(gzip.decompress(data), rng), 1)
    if data[257:262] != b"ustar":
        return data
    if rng.integers(2):
        return blindly(data, rng)
    heads = [offset for offset in range(0, len(data), 512) if data[offset + 257 : offset + 262] == b"ustar"]
    offset = int(rng.choice(heads))
    header = bytearray(data[offset : offset + 512])
    field, width = [(0, 100), (124, 12), (156, 1), (157, 100), (345, 155)][rng.integers(5)]
    values = (
        b"77777777777",
        b"00000000000",
        b"-0000000001",
        b"\x80" + b"\xff" * 10,
        b"../../../x",
        b"x",
        b"2",
        b"L",
        b"S",
    )
    header[field : field + width] = values[rng.integers(len(values))][:width].ljust(width, b"\x00")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\x00 " % sum(header)
    return data[:offset] + bytes(header) + data[offset + 512 :]


def safetensors_entry(data: bytes, rng: Rng) -> bytes:
    """A tensor of another length, type or value in a whole file, or a header whose text or entries lie."""
    if len(data) < 16 or data[8:9] != b"{":
        return data
    length = int.from_bytes(data[:8], "little")
    header, content = json.loads(data[8 : 8 + length]), data[8 + length :]
    metadata = header.pop("__metadata__", {})
    names, done = list(header), int(rng.integers(8))
    name = names[rng.integers(len(names))]
    entry = header[name]
    start, end = entry["data_offsets"]
    if done == 0:
        return _with_length(blindly(data[8 : 8 + length], rng)) + content
    if done == 1:
        types = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32", "U8", "BOOL", "U64", "F4")
        entry["dtype"] = types[rng.integers(len(types))]
    elif done == 2:
        entry["shape"] = [[], [0], [1, *entry["shape"]], entry["shape"][::-1], [-1], [2**62, 4]][rng.integers(6)]
    elif done == 3:
        entry["data_offsets"] = [[0, 0], [start, 2**62], [end, start], [0, end], [-1, 4]][rng.integers(5)]
    elif done == 4:
        header[str(rng.choice([*names, "layers.x"]))] = header.pop(name)
    elif done == 5 and metadata:
        metadata[str(rng.choice(list(metadata)))] = WORDS[rng.integers(len(WORDS))]
    else:
        tensors = {
            key: (one["dtype"], one["shape"], content[slice(*one["data_offsets"])]) for key, one in header.items()
        }
        tensors[name] = _other_tensor(*tensors[name], rng)
        content = b"".join(raw for _, _, raw in tensors.values())
        ends = np.cumsum([len(raw) for _, _, raw in tensors.values()]).tolist()
        header = {
            key: {"dtype": dtype, "shape": shape, "data_offsets": [end - len(raw), end]}
            for (key, (dtype, shape, raw)), end in zip(tensors.items(), ends, strict=True)
        }
    return _with_length(json.dumps({"__metadata__": metadata, **header}).encode()) + content


def _other_tensor(dtype: str, shape: list[int], raw: bytes, rng: Rng) -> tuple[str, list[int], bytes]:
    """Fewer, more or no rows; or values that are no numbers, or no indices."""
    kinds = {"F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "U8": "u1"}
    values = np.frombuffer(raw, kinds[dtype]).reshape(shape).copy()
    done = int(rng.integers(4))
    if done == 0 and shape:
        axis = int(rng.integers(len(shape)))
        values = np.take(
            values, np.arange(int(rng.choice([0, 1, max(0, shape[axis] - 1)]))) % max(1, shape[axis]), axis
        )
    elif done == 1 and shape:
        values = np.concatenate([values, values], int(rng.integers(len(shape))))
    elif values.size:
        chosen = rng.integers(values.size, size=int(rng.choice([1, values.size])))
        if values.dtype.kind == "f":
            extreme = VALUES
        else:
            limits = np.iinfo(values.dtype)
            extreme = (limits.min, limits.max, 0, limits.max // 2)
        with np.errstate(over="ignore"):
            values.reshape(-1)[chosen] = extreme[rng.integers(len(extreme))]
    return dtype, list(values.shape), values.tobytes()


def _with_length(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


AWARE: tuple[Mutator, ...] = (png_chunk, zip_member, npy_array, tar_member, safetensors_entry)


def blindly(data: bytes, rng: Rng) -> bytes:
    """One or several of the blind mutators."""
    for _ in range(int(rng.choice([1, 1, 1, 2, 4]))):
        data = BLIND[rng.integers(len(BLIND))](data or b"\x00", rng)
    return data


def mutate(data: bytes, rng: Rng, others: Sequence[bytes] = ()) -> bytes:
    """The file broken in one way: half of the time inside its container where there is a mutator for that.

    Now and then its head stands before the tail of one of the `others`.
    """
    if others and rng.random() < 0.03:
        return data[: at(data, rng)] + (other := others[rng.integers(len(others))])[at(other, rng) :]
    if rng.random() < 0.6:
        fitting = [mutator for mutator in AWARE if _fits(mutator, data)]
        if fitting:
            return fitting[rng.integers(len(fitting))](data, rng)
    return blindly(data, rng)


def _fits(mutator: Mutator, data: bytes) -> bool:
    return {
        png_chunk: data.startswith(PNG),
        zip_member: data.startswith(b"PK\x03\x04"),
        npy_array: data.startswith(b"\x93NUMPY"),
        tar_member: data.startswith(GZIP) or data[257:262] == b"ustar",
        safetensors_entry: data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data),
    }[mutator]
