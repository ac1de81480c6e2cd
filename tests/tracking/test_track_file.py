"""Saved tracks: what is written is what is read, and nothing else is."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch

from gpavatar.camera import Camera, axis_angle_to_matrix
from gpavatar.tracking.track_file import TrackSource, load_track, save_track
from gpavatar.types import FaceStatus, HeadParams, InputError, Track, map_tensors
from tests.generated_head import GeneratedHead

HEAD = GeneratedHead()
FRAMES = 5


@pytest.fixture
def track(generator) -> Track:
    def random(*size: int) -> torch.Tensor:
        return torch.rand(*size, generator=generator)

    c2w = torch.eye(4).repeat(FRAMES, 1, 1)
    c2w[:, :3, :3] = axis_angle_to_matrix(random(FRAMES, 3))
    landmarks = random(FRAMES, 478, 2)
    landmarks[1] = torch.nan
    status = [FaceStatus.TRACKED, FaceStatus.INTERPOLATED, *[FaceStatus.TRACKED] * (FRAMES - 2)]
    return Track(
        times_s=torch.arange(FRAMES, dtype=torch.float64) / 25,
        status=torch.tensor([int(one) for one in status], dtype=torch.uint8),
        params=HeadParams(
            random(20).expand(FRAMES, -1).clone(),
            random(FRAMES, 52), random(FRAMES, 3), random(FRAMES, 3), random(FRAMES, 2, 3),
        ),
        camera=Camera(c2w, random(FRAMES, 4) + 0.5),
        landmarks_px=landmarks,
        width_px=640,
        height_px=360,
        head=HEAD.name,
        head_sha256=HEAD.sha256,
    )  # fmt: skip


@pytest.fixture
def saved(track, tmp_path):
    path = tmp_path / "tracks.npz"
    save_track(path, track, TrackSource("clip.mp4", "3" * 64))
    return path


def rewrite(path, **changes) -> None:
    """The same file with arrays replaced, or left out where None."""
    with np.load(path) as file:
        arrays = dict(file) | changes
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})


def rewrite_meta(path, **changes) -> None:
    with np.load(path) as file:
        meta = json.loads(str(file["meta"])) | changes
    rewrite(path, meta=np.array(json.dumps(meta)))


def test_a_track_comes_back_bit_for_bit(track, saved) -> None:
    loaded = load_track(saved, HEAD)
    pairs: list[torch.Tensor] = []
    map_tensors(track, lambda tensor: pairs.append(tensor) or tensor)
    others: list[torch.Tensor] = []
    map_tensors(loaded, lambda tensor: others.append(tensor) or tensor)
    assert len(pairs) == len(others) == 10
    for a, b in zip(pairs, others, strict=True):
        assert a.dtype == b.dtype and torch.equal(a.nan_to_num(7), b.nan_to_num(7))
    assert (loaded.width_px, loaded.height_px, loaded.head) == (640, 360, HEAD.name)


def test_the_file_needs_no_pickle_and_names_its_source(saved) -> None:
    with np.load(saved, allow_pickle=False) as file:
        meta = json.loads(str(file["meta"]))
        assert file["shape"].shape == (20,)
    assert meta["source"] == "clip.mp4" and meta["source_sha256"] == "3" * 64 and meta["version"] == 1


def test_nothing_is_left_where_writing_fails(track, tmp_path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        save_track(tmp_path / "missing" / "tracks.npz", track, TrackSource("clip.mp4", ""))
    assert list(tmp_path.iterdir()) == []


def test_another_head_is_refused(saved) -> None:
    other = GeneratedHead()
    other.sha256 = "4" * 64
    with pytest.raises(InputError, match=r"made with the head generated 22222222, in use is generated 44444444"):
        load_track(saved, other)
    assert len(load_track(saved)) == FRAMES


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"version": 2}, "track version 2"),
        ({"format": "something"}, "not a track"),
        ({"width_px": -5}, "width_px"),
        ({"width_px": "640"}, "width_px"),
        ({"head_sha256": None}, "head_sha256"),
    ],
)
def test_wrong_meta_is_refused(saved, change, complaint) -> None:
    rewrite_meta(saved, **change)
    with pytest.raises(InputError, match=complaint):
        load_track(saved)


nan_pose = np.full((FRAMES, 3), np.nan, np.float32)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"jaw_pose": nan_pose}, "not numbers"),
        ({"jaw_pose": np.zeros((FRAMES, 4), np.float32)}, "jaw_pose"),
        ({"jaw_pose": np.zeros((FRAMES, 3))}, "jaw_pose is float64"),
        ({"expression": np.zeros((FRAMES + 1, 52), np.float32)}, "expression"),
        ({"expression": None}, "expression is missing"),
        ({"extra": np.zeros(3)}, "unknown content 'extra'"),
        ({"status": np.full(FRAMES, 9, np.uint8)}, "status"),
        ({"status": np.full(FRAMES, 2, np.uint8)}, "no landmarks"),
        ({"times_s": np.zeros(FRAMES)}, "times do not grow"),
        ({"times_s": np.zeros(0)}, "no frames"),
        ({"c2w": np.full((FRAMES, 4, 4), 2, np.float32)}, "camera"),
        ({"intrinsics": np.zeros((FRAMES, 4), np.float32)}, "camera"),
        ({"meta": None}, "not a track"),
        ({"meta": np.array("{")}, "damaged"),
        ({"meta": np.array("[1]")}, "not a track"),
    ],
)
def test_damaged_content_is_refused(saved, change, complaint) -> None:
    rewrite(saved, **change)
    with pytest.raises(InputError, match=complaint) as caught:
        load_track(saved)
    assert str(saved) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut off", pickle.dumps({"a": 1})])
def test_other_files_are_refused(tmp_path, content) -> None:
    path = tmp_path / "tracks.npz"
    path.write_bytes(content)
    with pytest.raises(InputError):
        load_track(path)


def test_a_cut_off_file_and_objects_in_it_are_refused(saved) -> None:
    whole = saved.read_bytes()
    for length in (len(whole) // 2, len(whole) - 30):
        saved.write_bytes(whole[:length])
        with pytest.raises(InputError):
            load_track(saved)
    saved.write_bytes(whole)
    rewrite(saved, expression=np.array([{"code": 1}], dtype=object))
    with pytest.raises(InputError):
        load_track(saved)


def test_a_missing_file_and_a_plain_array_are_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_track(tmp_path / "none.npz")
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(InputError, match="not a track"):
        load_track(tmp_path / "array.npy")
