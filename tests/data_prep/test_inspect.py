"""`inspect` says what is in a set, and finds what is wrong with it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from generated_set import HEAD, SIZE, make_sample
from PIL import Image

from data_prep.inspect import head_points_px, inspect
from gpavatar.camera import Camera
from gpavatar.config import run_program
from gpavatar.data.shards import ClipInfo, Sample, ShardWriter
from gpavatar.face.open_head import OpenHead
from gpavatar.types import HeadParams


def fitted(clip: str, identity: str, index: int) -> Sample:
    """A frame whose head lies on its landmarks."""
    camera, params = Camera.frontal(5.0 + 0.1 * index, 2.2), HeadParams.neutral(120, 52)
    sample = make_sample(clip, identity, index, params=params, camera=camera)
    return dataclasses.replace(sample, landmarks_px=head_points_px(sample, OpenHead.load()))


def write(directory: Path, clips: dict[str, list[Sample]]) -> None:
    with ShardWriter(directory, HEAD, SIZE, overwrite=True) as writer:
        for name, samples in clips.items():
            split = "val" if name.startswith("v") else "train"
            writer.add(ClipInfo(name, name, split, "real", "open", "CC0-1.0"), samples)


@pytest.fixture
def directory(tmp_path) -> Path:
    path = tmp_path / "set"
    write(path, {name: [fitted(name, name, i) for i in range(3 * n, 3 * n + 3)] for n, name in enumerate("abv")})
    return path


def test_a_good_set_is_described_and_drawn(directory, capsys):
    assert run_program(inspect, [str(directory)]) == 0
    said = capsys.readouterr().out
    for line in ("train: 2 identities, 2 clips, 6 frames", "val: 1 identities", "licence: CC0-1.0 9 frames",
                 "yaw: 0, 0, 0 deg", "landmarks to head: 0.0, 0.0 px", "read 9 of 9 frames; problems: 0"):  # fmt: skip
        assert line in said
    sheet = np.array(Image.open(directory / "contact_sheet.jpg"))
    assert sheet.shape == (174, 960, 3)
    cut, mesh = sheet[:160, :160].astype(int), sheet[:160, 160:320].astype(int)
    assert abs(cut[4, 4] - 200).max() < 8  # grey where alpha is 0
    assert mesh[80, 80, 2] - cut[80, 80, 2] > 30 and abs(mesh[4, 4] - [0, 0, 0]).min() < 8  # blue on the head alone


def test_problems_are_found_and_reading_goes_on(directory, capsys):
    beside = dataclasses.replace(fitted("a", "a", 0), landmarks_px=torch.rand(478, 2) * SIZE + 10)
    bare = dataclasses.replace(fitted("b", "b", 1), alpha_u8=np.zeros((SIZE, SIZE, 1), np.uint8))
    squashed = Camera(torch.diag(torch.tensor([2.0, -1.0, -1.0, 1.0])), torch.tensor([2.2, 2.2, 0.5, 0.5]))
    leaked = dataclasses.replace(fitted("v", "v", 7), image_u8=bare.image_u8)
    nothing = torch.full((478, 2), torch.nan)
    turned = make_sample("c", "c", 2, params=HeadParams.neutral(120, 52), camera=squashed, landmarks_px=nothing)
    write(directory, {"a": [beside], "b": [bare], "c": [turned], "v": [leaked]})
    assert run_program(inspect, [str(directory)]) == 1
    said = capsys.readouterr().out
    for problem in ("a-000000: the head lies beside the face", "b-000001: alpha is empty",
                    "c-000002: the camera's rotation is none", "v-000007: the same picture is in train and val",
                    "without landmarks 1", "problems: 4"):  # fmt: skip
        assert problem in said


def test_damage_in_one_shard_is_named_and_the_others_are_read(directory, capsys):
    path = directory / "train-00000.tar"
    data = bytearray(path.read_bytes())
    data[-2000] ^= 0xFF  # inside the numbers of the last frame of the shard
    path.write_bytes(data)
    assert run_program(inspect, [str(directory)]) == 1
    said = capsys.readouterr().out
    assert "train-00000.tar has another sha256" in said and "of 9 frames" in said and "val: 1 identities" in said


def test_a_set_of_another_head_is_checked_without_its_mesh(directory, capsys):
    index = json.loads((directory / "shards.json").read_text())
    index["head"] |= {"name": "flame", "sha256": "cd" * 32}
    (directory / "shards.json").write_text(json.dumps(index))
    assert run_program(inspect, [str(directory), "--sheet", str(directory / "sheet.png")]) == 0
    assert "head flame, which is not at hand" in capsys.readouterr().out
    assert (directory / "sheet.png").exists()


def test_what_is_no_set_is_one_line(tmp_path, capsys):
    assert run_program(inspect, [str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
