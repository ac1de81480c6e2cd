"""Weights files: what goes in comes out, and nothing else is taken for one."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gpavatar.avatars.checkpoint import (
    WeightsInfo,
    config_yaml,
    read_info,
    read_weights,
    save_weights,
    to_half,
)
from gpavatar.avatars.gpavatar import GPAvatarConfig
from gpavatar.methods import load_model
from gpavatar.types import InputError
from tests.avatars.tiny_gpavatar import tiny_config


def info(**changed) -> WeightsInfo:
    fields = {"method": "gpavatar", "head": "open_head", "head_sha256": "1" * 64}
    return WeightsInfo(**(fields | {"config_yaml": config_yaml(tiny_config()), "card": "made up"} | changed))


def test_round_trip(tmp_path, generator):
    tensors = {"a.weight": torch.randn(3, 4, generator=generator), "used": torch.arange(5)}
    save_weights(tensors, tmp_path / "deep" / "w.safetensors", info())
    read = read_weights(tmp_path / "deep" / "w.safetensors", GPAvatarConfig)
    assert read.config == tiny_config() and read.info == info() == read_info(tmp_path / "deep" / "w.safetensors")
    torch.testing.assert_close(read.tensors, tensors, rtol=0, atol=0)
    save_weights(to_half(tensors), tmp_path / "half.safetensors", info())
    half = read_weights(tmp_path / "half.safetensors", GPAvatarConfig)
    assert half.tensors["a.weight"].dtype == torch.float32 and half.sha256 != read.sha256
    torch.testing.assert_close(half.tensors, tensors, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("changed", "tensors", "said"),
    [
        ({"config_yaml": "rays: 3"}, {}, "another version .*rays"),
        ({}, {"a": torch.tensor([torch.nan])}, "a holds values that are not finite"),
    ],
)
def test_unfit_content_is_refused(changed, tensors, said, tmp_path):
    save_weights(tensors, tmp_path / "w.safetensors", info(**changed))
    with pytest.raises(InputError, match=said):
        read_weights(tmp_path / "w.safetensors", GPAvatarConfig)


def test_other_files_are_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors", {"method": "gpavatar"})
    (tmp_path / "cut.safetensors").write_bytes(b"\x00" * 40)
    for name, said in (("other", "not weights of a method"), ("cut", "cut off"), ("none", "no such file")):
        with pytest.raises(InputError, match=said):
            read_info(tmp_path / f"{name}.safetensors")


def test_weights_that_name_themselves_as_their_method_are_refused(tmp_path):
    """A model that is named by a file is the method that the file names: this one would be looked up for ever."""
    path = tmp_path / "w.safetensors"
    save_weights({}, path, info(method=str(path)))
    with pytest.raises(InputError, match="which no method is called"):
        load_model(str(path))


def test_weights_of_another_size_are_refused(tmp_path):
    save_weights({"weight": torch.zeros(2, 3)}, tmp_path / "w.safetensors", info())
    read = read_weights(tmp_path / "w.safetensors", GPAvatarConfig)
    with pytest.raises(InputError, match="does not fit its own config"):
        read.fill(lambda: nn.Linear(4, 2))
    with pytest.raises(InputError, match="does not fit its own config"):  # 4 TB, which must never be asked for
        read.fill(lambda: nn.Linear(2**20, 2**20))
    assert read.fill(lambda: nn.Linear(3, 2, bias=False)).weight.shape == (2, 3)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("head: ${oc.env:HOME}", "outside"),
        ("head: &a x\nencoder: *a", "alias"),
        ("head: " + "[" * 5000, "nested"),
        ("head: " + "9" * 5000, "not valid yaml"),
        ("- head", "mapping"),
    ],
)
def test_a_config_that_reaches_out_or_unfolds_is_refused(config, said, tmp_path):
    save_weights({}, tmp_path / "w.safetensors", info(config_yaml=config))
    with pytest.raises(InputError, match=f"config.*{said}"):
        read_weights(tmp_path / "w.safetensors", GPAvatarConfig)
