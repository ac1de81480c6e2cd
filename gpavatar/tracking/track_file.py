"""`tracks.npz`: a tracked clip on disk. Plain arrays, readable with allow_pickle=False; this file owns the format."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gpavatar.camera import Camera
from gpavatar.face.morphable import MorphableHead
from gpavatar.limits import MAX_TRACK_BYTES
from gpavatar.media.files import check_file, whole_file
from gpavatar.types import FaceStatus, HeadParams, InputError, Track

FORMAT = "gpavatar track"
VERSION = 1
N_LANDMARKS = 478
MAX_VALUE = 1e6  # of anything in a track: seconds, pixels, radians, head units


@dataclass(frozen=True)
class TrackSource:
    """What a track was made from."""

    name: str  # file name, without its folder
    sha256: str


def save_track(path: str | Path, track: Track, source: TrackSource) -> None:
    """Write a track; the name appears when the file is whole. InputError when it cannot be written.

    Arrays: times_s (f8), status (u1, FaceStatus), shape (n_shape: one for the clip), expression, jaw_pose, neck_pose,
    eye_pose, c2w, intrinsics, landmarks_px (all f4, first axis frame), and `meta`, a JSON text with the format, its
    version, the picture's size, the head and the source.
    """
    path = Path(path)
    meta = {
        "format": FORMAT,
        "version": VERSION,
        "width_px": track.width_px,
        "height_px": track.height_px,
        "head": track.head,
        "head_sha256": track.head_sha256,
        "source": source.name,
        "source_sha256": source.sha256,
    }
    params, camera = track.params, track.camera
    arrays = {
        "times_s": track.times_s,
        "status": track.status,
        "shape": params.shape[0],
        "expression": params.expression,
        "jaw_pose": params.jaw_pose,
        "neck_pose": params.neck_pose,
        "eye_pose": params.eye_pose,
        "c2w": camera.c2w,
        "intrinsics": camera.intrinsics,
        "landmarks_px": track.landmarks_px,
    }
    with whole_file(path) as temporary:
        np.savez_compressed(temporary, meta=np.array(json.dumps(meta)), **{k: v.numpy() for k, v in arrays.items()})


def load_track(path: str | Path, head: MorphableHead | None = None) -> Track:
    """Read a track and check all of it; InputError for a file that is damaged, of another version or, with `head`
    given, made with another head.
    """
    path = Path(path)
    arrays, meta = _read(path)
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise InputError(f"{path}: not a track; make one with python -m gpavatar.track")
    if meta.get("version") != VERSION:
        raise InputError(f"{path}: track version {meta.get('version')}, this program reads {VERSION}; track it again")
    if head is not None and meta.get("head_sha256") != head.sha256:
        raise InputError(
            f"{path}: made with the head {meta.get('head')} {str(meta.get('head_sha256'))[:8]}, "
            f"in use is {head.name} {head.sha256[:8]}; track the clip again"
        )
    _check(path, arrays, meta)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    number = len(arrays["times_s"])
    return Track(
        times_s=tensors["times_s"],
        status=tensors["status"],
        params=HeadParams(
            shape=tensors["shape"].expand(number, -1).clone(),
            expression=tensors["expression"],
            jaw_pose=tensors["jaw_pose"],
            neck_pose=tensors["neck_pose"],
            eye_pose=tensors["eye_pose"],
        ),
        camera=Camera(tensors["c2w"], tensors["intrinsics"]),
        landmarks_px=tensors["landmarks_px"],
        width_px=meta["width_px"],
        height_px=meta["height_px"],
        head=meta["head"],
        head_sha256=meta["head_sha256"],
    )


def _read(path: Path) -> tuple[dict[str, np.ndarray], object]:
    check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MAX_TRACK_BYTES:
            size = f"{unpacked >> 20} MB, more than the {MAX_TRACK_BYTES >> 20} of any track"
            raise InputError(f"{path}: unpacks to {size}; track a shorter part (--start, --end)")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return arrays, json.loads(str(arrays.pop("meta", "null")))
    except (InputError, PermissionError):
        raise
    except Exception as error:  # at damage, zip and NumPy's parser of headers raise whatever it makes them
        raise InputError(f"{path}: damaged or not a track; track the clip again") from error


def _check(path: Path, arrays: dict[str, np.ndarray], meta: dict) -> None:
    """Names, types, shapes and values of everything in the file."""

    def refuse(what: str) -> None:
        raise InputError(f"{path}: damaged track, {what}; track the clip again")

    for name in ("width_px", "height_px"):
        if type(meta.get(name)) is not int or not 0 < meta[name] <= 65536:
            refuse(f"{name} is {meta.get(name)!r}")
    for name in ("head", "head_sha256"):
        if not isinstance(meta.get(name), str):
            refuse(f"{name} is {meta.get(name)!r}")
    frame = len(arrays["times_s"]) if np.ndim(arrays.get("times_s")) == 1 else 0
    if frame == 0:
        refuse("it has no frames")
    any_length = -1
    expected = {
        "times_s": (np.float64, (frame,)),
        "status": (np.uint8, (frame,)),
        "shape": (np.float32, (any_length,)),
        "expression": (np.float32, (frame, any_length)),
        "jaw_pose": (np.float32, (frame, 3)),
        "neck_pose": (np.float32, (frame, 3)),
        "eye_pose": (np.float32, (frame, 2, 3)),
        "c2w": (np.float32, (frame, 4, 4)),
        "intrinsics": (np.float32, (frame, 4)),
        "landmarks_px": (np.float32, (frame, N_LANDMARKS, 2)),
    }
    for name, (dtype, shape) in expected.items():
        array = arrays.get(name)
        if not isinstance(array, np.ndarray):  # NumPy hands out as bytes what is no array
            refuse(f"{name} is missing")
        fits = array.ndim == len(shape) and all(b in (any_length, a) for a, b in zip(array.shape, shape, strict=True))
        if array.dtype != dtype or not fits:
            refuse(f"{name} is {array.dtype} {array.shape}")
    if unknown := sorted(set(arrays) - set(expected)):
        refuse(f"unknown content {unknown[0][:80]!a}")
    for name in expected:
        if name != "landmarks_px" and not np.isfinite(arrays[name]).all():
            refuse(f"{name} holds values that are not numbers")
        if (np.abs(arrays[name]) > MAX_VALUE).any():
            refuse(f"{name} holds values beyond {MAX_VALUE:g}")
    if not np.isin(arrays["status"], [int(status) for status in FaceStatus]).all():
        refuse("status holds unknown values")
    if not np.isfinite(arrays["landmarks_px"]).all((1, 2))[arrays["status"] == int(FaceStatus.TRACKED)].all():
        refuse("a tracked frame has no landmarks")
    if (np.diff(arrays["times_s"]) <= 0).any():
        refuse("its times do not grow")
    turn = arrays["c2w"][:, :3, :3]
    if np.abs(turn @ turn.transpose(0, 2, 1) - np.eye(3)).max() > 1e-3 or (arrays["intrinsics"][:, :2] <= 0).any():
        refuse("a camera is not one")
