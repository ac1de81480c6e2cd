"""Avatar files: what is written is what is read, and nothing else is taken for one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from gpavatar.avatars.base import Reference
from gpavatar.avatars.state_file import FORMAT, load_state, read_metadata, save_state
from gpavatar.camera import Camera
from gpavatar.types import HeadParams, InputError

IDENTITY = {"method": "some_method", "version": "3", "head": "some_head"}


@dataclass(frozen=True)
class SomeState:
    reference: Reference
    numbers: Float[Tensor, "row 3"]
    indices: Int[Tensor, " index"]
    photos: Float[Tensor, "source 3 height width"]
    motions: Float[Tensor, "source 4 4"]


@pytest.fixture
def state(generator) -> SomeState:
    image = torch.rand(3, 8, 8, generator=generator)
    reference = Reference(HeadParams.neutral(4, 52), Camera.frontal(5.0, 2.0), image)
    photos, motions = torch.rand(4, 3, 8, 8, generator=generator), torch.randn(4, 4, 4, generator=generator)
    return SomeState(reference, torch.randn(5, 3, generator=generator), torch.arange(7), photos, motions)


@pytest.fixture
def file(state, tmp_path) -> Path:
    path = tmp_path / "avatar.safetensors"
    save_state(state, path, IDENTITY)
    return path


def rewritten(file: Path, metadata: dict[str, str] | None = None, **tensors: Tensor | None) -> Path:
    """The file with other metadata, and with tensors replaced or (None) left out."""
    kept = load_file(file) | {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    save_file({n: t for n, t in kept.items() if t is not None}, file, metadata or {"format": FORMAT, **IDENTITY})
    return file


def test_what_is_written_is_read(state, file):
    read = load_state(SomeState, file, IDENTITY)
    assert torch.equal(read.numbers, state.numbers) and torch.equal(read.indices, state.indices)
    assert torch.equal(read.reference.camera.c2w, state.reference.camera.c2w)
    assert read.indices.dtype == torch.int64
    # A picture is kept in 8 bits, and nothing else that has four of something.
    assert torch.equal(read.motions, state.motions)
    for one, other in ((read.reference.image, state.reference.image), (read.photos, state.photos)):
        assert 0 < (one - other).abs().max() <= 0.5 / 255 + 1e-6
    assert read_metadata(file) == {"format": FORMAT, **IDENTITY}


def test_writing_what_was_read_changes_nothing(file, tmp_path):
    again = tmp_path / "again.safetensors"
    save_state(load_state(SomeState, file, IDENTITY), again, IDENTITY)
    first, second = load_file(file), load_file(again)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("key", sorted(IDENTITY))
def test_other_metadata(file, key):
    with pytest.raises(InputError, match=f"made for {key}"):
        load_state(SomeState, file, {**IDENTITY, key: "other"})


def test_a_file_of_another_kind(file):
    with pytest.raises(InputError, match="not an avatar"):
        load_state(SomeState, rewritten(file, {"format": "pt"}), IDENTITY)


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_truncated_file(file, length):
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(InputError, match="not an avatar file"):
        load_state(SomeState, file, IDENTITY)


@pytest.mark.parametrize(
    "content", [b"not a tensor", b"\xff" * 200, b"PK\x03\x04" + bytes(100), b"\x80\x04cos\nsystem\n"]
)
def test_a_file_of_rubbish(tmp_path, content):
    path = tmp_path / "rubbish"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not an avatar file"):
        load_state(SomeState, path, IDENTITY)


@pytest.mark.parametrize("place", ["missing.safetensors", "."])
def test_no_file(tmp_path, place):
    with pytest.raises(InputError, match="not an avatar file"):
        load_state(SomeState, tmp_path / place, IDENTITY)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_finite(file, value):
    numbers = torch.zeros(5, 3)
    numbers[2, 1] = value
    with pytest.raises(InputError, match="'numbers' holds values that are not finite"):
        load_state(SomeState, rewritten(file, numbers=numbers), IDENTITY)


@pytest.mark.parametrize(
    "wrong",
    [
        {"numbers": None},
        {"reference__camera__c2w": None},
        {"numbers": torch.zeros(5, 4)},
        {"numbers": torch.zeros(5, 3, dtype=torch.int64)},
        {"indices": torch.zeros(7)},
        {"reference__image": torch.zeros(1, 8, 8, dtype=torch.uint8)},
    ],
    ids=["missing", "missing inside", "shape", "integers", "floats", "picture"],
)
def test_fields_of_the_wrong_kind(file, wrong):
    with pytest.raises(InputError, match="make the avatar again"):
        load_state(SomeState, rewritten(file, **wrong), IDENTITY)


def test_a_place_that_cannot_be_written(state, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        save_state(state, tmp_path / "file" / "avatar.safetensors", IDENTITY)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(state, file, monkeypatch):
    before = file.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(InputError, match="No space left"):
        save_state(state, file, IDENTITY)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]
