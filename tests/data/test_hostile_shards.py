"""A set that is damaged, or was made to harm, is an error of one line."""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from generated_set import LOSSLESS, make_sample, make_set
from PIL import Image
from safetensors.torch import load, save

from gpavatar.data.sample import decode_sample, encode_sample
from gpavatar.data.shard_root import file_sha256
from gpavatar.data.shards import ShardSet
from gpavatar.data.tar_stream import END
from gpavatar.types import InputError

CLIPS = [("a0", "anna", "train", 5), ("b0", "ben", "val", 3), ("a1", "anna", "train", 4), ("c0", "carl", "train", 2)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sets") / "set"
    make_set(path, CLIPS)
    return path


@pytest.fixture
def copy(directory, tmp_path) -> Path:
    """The set, to be spoilt."""
    for path in directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def edit_index(directory: Path, change) -> None:
    content = json.loads((directory / "shards.json").read_text())
    change(content)
    (directory / "shards.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(version=2), "version 2, this program reads 1"),
        (lambda c: c.update(format="else"), "not the index of a set"),
        (lambda c: c.pop("head"), "head is missing"),
        (lambda c: c["head"].update(n_shape="120"), "of the wrong kind"),
        (lambda c: c.update(size_px=True), "of the wrong kind"),
        (lambda c: c["clips"][0].update(kind="alien"), "of the wrong kind"),
        (lambda c: c["shards"][0].update(file="../train-00000.tar"), "is not a name"),
        (lambda c: c["shards"][0].update(file="pipe:touch pwned"), "is not a name"),
        (lambda c: c["clips"][0].update(shard="train-00001.tar"), "no shard of its split"),
        (lambda c: c["clips"][0].update(num_frames=6), "has 11 frames, its clips 12"),
        (lambda c: c["clips"][0].update(num_frames=-1), "-1 frames"),
        (lambda c: c["clips"][0].update(weight=float("nan")), "weight nan"),
        (lambda c: c["clips"][3].update(identity="anna"), "anna is in the splits train and val"),
        (lambda c: c["splits"]["val"].append("anna"), "splits do not fit"),
    ],
)
def test_an_index_that_lies_is_refused(copy, change, said):
    edit_index(copy, change)
    with pytest.raises(InputError, match=said):
        ShardSet.open(copy)


def test_an_index_that_is_no_json_is_refused(copy):
    for text in ("[", "[]", "[" * 100_000, '"\\ud800"', "\x00"):
        (copy / "shards.json").write_text(text)
        with pytest.raises(InputError):
            ShardSet.open(copy)


def respoil_table(directory: Path, **columns) -> None:
    table = load((directory / "frames.safetensors").read_bytes())
    data = save({**table, **{name: change(table[name]).contiguous() for name, change in columns.items()}})
    (directory / "frames.safetensors").write_bytes(data)
    edit_index(directory, lambda content: content.update(table_sha256=file_sha256(io.BytesIO(data))))


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("offset", lambda x: x + 10**9),
        ("offset", lambda x: x - 1),
        ("num_bytes", lambda x: x * 0),
        ("clip", lambda x: x.flip(0)),
        ("role", lambda x: x + 3),
        ("view", lambda x: x.float()),
        ("rotation", lambda x: x * float("nan")),
        ("expression", lambda x: x[:, :5]),
        ("frame_index", lambda x: x[:-1]),
    ],
)
def test_a_frame_table_that_lies_is_refused(copy, column, change):
    respoil_table(copy, **{column: change})
    with pytest.raises(InputError, match="does not fit the index"):
        ShardSet.open(copy).table  # noqa: B018


def test_offsets_that_point_elsewhere_are_noticed(copy):
    respoil_table(copy, offset=lambda x: x.roll(1), num_bytes=lambda x: x.roll(1))
    shards = ShardSet.open(copy)
    with pytest.raises(InputError):
        for row in range(len(shards.table)):
            shards.sample(row)


def spoilt_shard(directory: Path, change) -> None:
    """Apply `change` to the bytes of a shard, with its new digest in the index."""
    path = directory / "val-00000.tar"
    path.write_bytes(change(path.read_bytes()))
    digest = file_sha256(io.BytesIO(path.read_bytes()))
    edit_index(directory, lambda c: [s.update(sha256=digest) for s in c["shards"] if s["file"] == path.name])


def tar_of(name: str, data: bytes = b"", **fields) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % 512)


NO_PLACE = "has no place in a shard"


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (tar_of("../b0-000003.jpg", b"x"), NO_PLACE),
        (tar_of("/b0-000003.jpg", b"x"), NO_PLACE),
        (tar_of("dir/b0-000003.jpg", b"x"), NO_PLACE),
        (tar_of("b0-000003.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd"), NO_PLACE),
        (tar_of("b0-000003.jpg", type=tarfile.LNKTYPE, linkname="b0-000000.jpg"), NO_PLACE),
        (tar_of("b0-000003.jpg", type=tarfile.DIRTYPE), NO_PLACE),
        (tar_of("b0-000003.jpg", type=tarfile.CHRTYPE), NO_PLACE),
        (tar_of("b0-000003.jpg", type=tarfile.GNUTYPE_SPARSE), NO_PLACE),
        (tar_of("b0-000003.jpg", b"x", pax_headers={"comment": "x" * 1000}), NO_PLACE),
        (tar_of("b0-000003.jpg", size=(1 << 33) - 1), "claims 8589934591 bytes"),
        (tar_of("b0-000002.json", b"{}"), "b0-000002.json is there twice"),
        (tar_of("a0-000000.json", b"{}"), "clip is missing"),
        (b"\xff" * 512, "not a tar file"),
        (b"\x00" * 511 + b"\x01", "not a tar file"),
    ],
)
def test_members_that_have_no_place_are_refused(copy, block, said):
    spoilt_shard(copy, lambda data: data[: -len(END)] + block + END)
    with pytest.raises(InputError, match=said) as error:
        list(ShardSet.open(copy).samples())
    assert "\n" not in str(error.value)


def test_shards_that_are_cut_off_are_noticed(copy):
    whole = (copy / "val-00000.tar").read_bytes()
    for length in (0, 100, 512, 700, len(whole) // 2, len(whole) - len(END)):
        spoilt_shard(copy, lambda data, length=length: whole[:length])
        with pytest.raises(InputError):
            list(ShardSet.open(copy).samples())
    spoilt_shard(copy, lambda data: whole + b"x")
    with pytest.raises(InputError, match="goes on after its end"):
        list(ShardSet.open(copy).samples())
    with pytest.raises(InputError, match="another sha256"):
        (copy / "val-00000.tar").write_bytes(whole[:-1] + b"x")
        ShardSet.open(copy, verify=True)


def png_bomb(width: int, height: int) -> bytes:
    """A PNG that claims to be large: a few hundred bytes of zeros for each million of pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x00\x00\x00\x00"
    data = zlib.compress(bytes(1 << 20), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def jpeg(size: int, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (size, size)).save(buffer, "JPEG")
    return buffer.getvalue()


def tensors(**changes) -> bytes:
    return save(load(encode_sample(make_sample("a0", "anna", 0), LOSSLESS)[".tensors.safetensors"]) | changes)


@pytest.mark.parametrize(
    ("suffix", "data"),
    [
        (".alpha.png", png_bomb(30_000, 30_000)),
        (".alpha.png", png_bomb(32, 64)),
        (".alpha.png", jpeg(32, "L")),  # only the decoder that the name asks for
        (".alpha.png", b""),
        (".webp", jpeg(32)[:40]),
        (".json", b"{}"),
        (".json", b"[1]"),
        (".json", b"[" * 100_000),
        (".json", json.dumps({"clip": "../x", "identity": "anna", "frame": 0, "time_s": 0, "role": "any", "view": None,
                              "instant": None}).encode()),
        (".json", json.dumps({"clip": "a0", "identity": "anna", "frame": 0, "time_s": 1e999, "role": "any",
                              "view": None, "instant": None}).encode()),
        (".json", json.dumps({"clip": "a0", "identity": "anna", "frame": 0, "time_s": 0, "role": "driver", "view": None,
                              "instant": None}).encode()),
        (".tensors.safetensors", b"\xff" * 64),
        (".tensors.safetensors", (1 << 60).to_bytes(8, "little") + b"{}"),
        (".tensors.safetensors", tensors(c2w=torch.full((4, 4), torch.nan))),
        (".tensors.safetensors", tensors(c2w=torch.eye(3))),
        (".tensors.safetensors", tensors(shape=torch.zeros(2, 3))),
        (".tensors.safetensors", tensors(expression=torch.zeros(52, dtype=torch.float64))),
        (".tensors.safetensors", tensors(landmarks=torch.zeros(477, 2, dtype=torch.int16))),
    ],
)  # fmt: skip
def test_members_with_bad_content_are_refused(suffix, data):
    members = encode_sample(make_sample("a0", "anna", 0), LOSSLESS)
    assert decode_sample("a0-000000", members, "here").clip == "a0"
    with pytest.raises(InputError) as error:
        decode_sample("a0-000000", members | {suffix: data}, "here")
    assert "\n" not in str(error.value) and str(error.value).startswith("here: a0-000000")


def test_a_member_missing_or_twice_is_refused():
    members = encode_sample(make_sample("a0", "anna", 0), LOSSLESS)
    for suffix in members:
        with pytest.raises(InputError, match="holds 0 of"):
            decode_sample("a0-000000", {k: v for k, v in members.items() if k != suffix}, "here")
    with pytest.raises(InputError, match="holds 2 of"):
        decode_sample("a0-000000", members | {".jpg": jpeg(32)}, "here")


def test_any_byte_may_be_wrong(copy):
    """Flipped bytes give an InputError or another picture, never another error."""
    rng = np.random.default_rng(0)
    whole = (copy / "val-00000.tar").read_bytes()
    refused = 0
    for _ in range(150):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(0, 256)
        (copy / "val-00000.tar").write_bytes(data)
        try:
            list(ShardSet.open(copy).samples("val"))
        except InputError:
            refused += 1
    assert refused > 20  # measured 60
