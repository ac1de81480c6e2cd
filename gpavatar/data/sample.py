"""One frame of a training set, and the files that hold it inside a shard.

A sample `KEY` is these members of a tar file (docs/data.md has the fields):

    KEY.alpha.png|webp|jpg    alpha, 8 bit
    KEY.depth.png             exact depth where it is known, 16 bit, 1/4096 units of head space
    KEY.jpg|webp              the picture
    KEY.json                  clip, identity, frame, time_s, role, view, instant
    KEY.tensors.safetensors   head parameters, camera, landmarks
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from gpavatar.camera import Camera
from gpavatar.media.image import to_float
from gpavatar.types import HeadParams, InputError

Role = Literal["any", "source", "target"]
ROLES: tuple[str, ...] = get_args(Role)

DEPTH_STEPS = 4096  # of a stored depth per unit of head space: 0.05 mm, up to 16 units (3.2 m)
LANDMARK_STEPS = 8192  # of a stored landmark per side of the picture: 1/32 px at 256, up to 4 sides away
NO_LANDMARK = -32768
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,69}")  # of clips and identities
MAX_SIDE_PX = 4096
AGAIN = "copy or make the set again"

PARAMS = ("shape", "expression", "jaw_pose", "neck_pose", "eye_pose")
TENSOR_SHAPES = dict(zip(PARAMS, ((None,), (None,), (3,), (3,), (2, 3)), strict=True))  # None: the head's
TENSOR_SHAPES |= {"c2w": (4, 4), "intrinsics": (4,), "landmarks": (478, 2)}
SUFFIXES = {"jpeg": ".jpg", "webp": ".webp", "png": ".png"}
FORMATS = {".jpg": "JPEG", ".webp": "WEBP", ".png": "PNG"}
IMAGE_SUFFIXES, ALPHA_SUFFIXES = (".jpg", ".webp"), (".alpha.png", ".alpha.webp", ".alpha.jpg")


@dataclass(frozen=True)
class Encoding:
    """How pictures are kept in a shard. Readers go by the members' names."""

    image: Literal["jpeg", "webp"] = "jpeg"
    image_quality: int = 95
    alpha: Literal["png", "webp", "jpeg"] = "png"  # png and webp are lossless
    alpha_quality: int = 90  # of jpeg


@dataclass(frozen=True)
class Sample:
    """One square frame with everything that is known of it.

    `camera` and `landmarks_px` belong to this picture (cropped, scaled). A role other than "any" is for pairs made on
    purpose: a frame of role "source" is never a target, and the other way round.
    """

    clip: str  # letters, digits, - and _
    identity: str  # as above
    frame_index: int  # unique in its clip, not negative; where the frame was in the video
    time_s: float
    image_u8: UInt8[np.ndarray, "height width 3"]
    alpha_u8: UInt8[np.ndarray, "height width 1"]  # the person against the background
    params: HeadParams
    camera: Camera
    landmarks_px: Float[Tensor, "478 2"]  # NaN where there is no detection
    depth: Float[Tensor, "1 height width"] | None = None  # units of head space along the optical axis; 0: nothing there
    role: Role = "any"
    view: int | None = None  # of several cameras that saw the same instant
    instant: int | None = None

    @property
    def key(self) -> str:
        """What the members of the sample are called."""
        return f"{self.clip}-{self.frame_index:06d}"

    @property
    def image(self) -> Float[Tensor, "3 height width"]:
        """The picture in [0, 1]."""
        return to_float(self.image_u8)

    @property
    def alpha(self) -> Float[Tensor, "1 height width"]:
        """The person against the background, [0, 1]."""
        return to_float(self.alpha_u8)


def encode_sample(sample: Sample, encoding: Encoding) -> dict[str, bytes]:
    """The members of a sample by suffix, in the order in which they are written.

    Raises InputError for a picture that is not square, parameters that are not finite, a name that cannot be a file
    name, a depth beyond 16 units.
    """
    where, (height, width) = sample.key, sample.image_u8.shape[:2]
    _check_size(width, height, where)
    if sample.depth is not None and not (0 <= float(sample.depth.min()) <= float(sample.depth.max()) < 16):
        raise InputError(f"{where}: depth must be in [0, 16) units of head space")
    image, alpha = Image.fromarray(sample.image_u8), Image.fromarray(sample.alpha_u8[..., 0])
    members = {
        ".alpha" + SUFFIXES[encoding.alpha]: _encode_picture(alpha, encoding.alpha, encoding.alpha_quality, exact=True),
        SUFFIXES[encoding.image]: _encode_picture(image, encoding.image, encoding.image_quality),
        ".json": _encode_ids(sample, where),
        ".tensors.safetensors": _encode_tensors(sample, where),
    }
    if sample.depth is not None:
        steps = (sample.depth[0] * DEPTH_STEPS).round().clamp(max=65535).numpy().astype(np.uint16)
        members[".depth.png"] = _encode_picture(Image.fromarray(steps), "png", 0)
    return dict(sorted(members.items()))


def decode_sample(key: str, members: dict[str, bytes], where: str, with_depth: bool = True) -> Sample:
    """Read what `encode_sample` wrote. `where` names the shard in messages.

    Raises InputError for a member that is missing, damaged, of another size or kind, or holds values that are not
    finite. Nothing is executed, and no picture is decoded beyond `MAX_SIDE_PX`.
    """
    where = f"{where}: {key}"
    ids = _decode_ids(_member(members, (".json",), where)[1], where)
    tensors = _decode_tensors(_member(members, (".tensors.safetensors",), where)[1], where)
    image = decode_image(members, where)
    size = image.shape[0]
    alpha = decode_alpha(members, where, size)
    depth = None
    if with_depth and ".depth.png" in members:
        steps = _decode_picture(members[".depth.png"], ".png", "I;16", size, where + ".depth.png")
        depth = torch.from_numpy(steps.astype(np.float32) / DEPTH_STEPS)[None]
    params = HeadParams(*(tensors[name] for name in PARAMS))
    camera = Camera(tensors["c2w"], tensors["intrinsics"])
    landmarks_px = landmarks_from_steps(tensors["landmarks"], size)
    sample = Sample(
        ids["clip"], ids["identity"], ids["frame"], float(ids["time_s"]), image, alpha, params, camera, landmarks_px,
        depth, ids["role"], ids["view"], ids["instant"],
    )  # fmt: skip
    if sample.key != key:
        raise InputError(f"{where}: holds the sample {sample.key}; {AGAIN}")
    return sample


def decode_image(members: dict[str, bytes], where: str) -> UInt8[np.ndarray, "size size 3"]:
    """The picture among the members of a sample."""
    suffix, data = _member(members, IMAGE_SUFFIXES, where)
    return _decode_picture(data, suffix, "RGB", None, where + suffix)


def decode_alpha(members: dict[str, bytes], where: str, size: int) -> UInt8[np.ndarray, "size size 1"]:
    """The alpha among the members of a sample."""
    suffix, data = _member(members, ALPHA_SUFFIXES, where)
    return _decode_picture(data, suffix.removeprefix(".alpha"), "L", size, where + suffix)[..., None]


def landmarks_to_steps(landmarks_px: Float[Tensor, "478 2"], size: int) -> Tensor:
    """Pixels -> int16, in sides of the picture / `LANDMARK_STEPS`; points more than 4 sides away are brought there."""
    steps = (landmarks_px / size * LANDMARK_STEPS).round().clamp(NO_LANDMARK + 1, -NO_LANDMARK - 1)
    return steps.nan_to_num(NO_LANDMARK).to(torch.int16)


def landmarks_from_steps(steps: Tensor, size: int) -> Float[Tensor, "478 2"]:
    """Inverse of `landmarks_to_steps`, to within size / (2 · LANDMARK_STEPS) px."""
    landmarks_px = steps.float() * (size / LANDMARK_STEPS)
    return torch.where(steps == NO_LANDMARK, torch.nan, landmarks_px)


def _encode_ids(sample: Sample, where: str) -> bytes:
    ids = {
        "clip": sample.clip, "identity": sample.identity, "frame": sample.frame_index, "time_s": sample.time_s,
        "role": sample.role, "view": sample.view, "instant": sample.instant,
    }  # fmt: skip
    _check_ids(ids, where)
    return json.dumps(ids).encode()


def _decode_ids(data: bytes, where: str) -> dict:
    try:
        ids = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}.json: not readable ({error}); {AGAIN}") from error
    if not isinstance(ids, dict):
        raise InputError(f"{where}.json: is no mapping; {AGAIN}")
    _check_ids(ids, where)
    return ids


def _check_ids(ids: dict, where: str) -> None:
    kinds = {"clip": str, "identity": str, "frame": int, "time_s": int | float, "role": str}
    kinds |= {"view": int | None, "instant": int | None}
    for name, kind in kinds.items():
        if name not in ids or not isinstance(ids[name], kind):
            raise InputError(f"{where}.json: {name} is missing or of the wrong kind; {AGAIN}")
    for kind in ("clip", "identity"):
        if not NAME.fullmatch(ids[kind]):
            raise InputError(f"{where}: {kind} {ids[kind][:80]!r} must be 1 to 70 letters, digits, - and _")
    if not 0 <= ids["frame"] < 10**6 or not abs(ids["time_s"]) < 1e9 or ids["role"] not in ROLES:
        raise InputError(f"{where}: frame must be in [0, 10^6), time_s finite, role one of {', '.join(ROLES)}")
    if any(ids[name] is not None and not 0 <= ids[name] < 2**31 for name in ("view", "instant")):
        raise InputError(f"{where}: view and instant must be in [0, 2^31) or none")


def _encode_tensors(sample: Sample, where: str) -> bytes:
    values = [getattr(sample.params, name) for name in PARAMS] + [sample.camera.c2w, sample.camera.intrinsics]
    tensors = {
        name: value.detach().to("cpu", torch.float32).contiguous().clone()
        for name, value in zip((*PARAMS, "c2w", "intrinsics"), values, strict=True)
    }
    tensors["landmarks"] = landmarks_to_steps(sample.landmarks_px.cpu(), len(sample.image_u8))
    _check_tensors(tensors, where)
    return save(tensors)


def _decode_tensors(data: bytes, where: str) -> dict[str, Tensor]:
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{where}: the numbers cannot be read ({error}); {AGAIN}") from error
    _check_tensors(tensors, where)
    return tensors


def _check_tensors(tensors: dict[str, Tensor], where: str) -> None:
    for name, shape in TENSOR_SHAPES.items():
        value, dtype = tensors.get(name), torch.int16 if name == "landmarks" else torch.float32
        fits = value is not None and value.dtype == dtype and value.ndim == len(shape)
        if not fits or any(side not in (None, size) for size, side in zip(value.shape, shape, strict=True)):
            raise InputError(f"{where}: {name} is missing, or of the wrong kind or shape; {AGAIN}")
        if not value.isfinite().all():
            raise InputError(f"{where}: {name} holds values that are not finite; leave the frame out")


def _check_size(width: int, height: int, where: str) -> None:
    if height != width or not 8 <= height <= MAX_SIDE_PX:
        raise InputError(f"{where}: is {width} x {height} px; it must be square, 8 to {MAX_SIDE_PX} px")


def _member(members: dict[str, bytes], suffixes: tuple[str, ...], where: str) -> tuple[str, bytes]:
    found = [suffix for suffix in suffixes if suffix in members]
    if len(found) != 1:
        raise InputError(f"{where}: holds {len(found)} of {', '.join(suffixes)}; {AGAIN}")
    return found[0], members[found[0]]


def _encode_picture(image: Image.Image, kind: str, quality: int, exact: bool = False) -> bytes:
    options = {
        "jpeg": {"quality": quality, "subsampling": 0},  # chroma at full resolution: lips and eyes are small
        "webp": {"lossless": True, "method": 4} if exact else {"quality": quality, "method": 4},
        "png": {"compress_level": 6},
    }[kind]
    buffer = io.BytesIO()
    image.save(buffer, kind.upper(), **options)
    return buffer.getvalue()


def _decode_picture(data: bytes, suffix: str, mode: str, size: int | None, where: str) -> np.ndarray:
    """Pixels of a square picture; only the decoder that the name asks for is tried, and the size is looked at first."""
    try:
        with Image.open(io.BytesIO(data), formats=(FORMATS[suffix],)) as image:
            width, height = image.size
            _check_size(width, height, where)
            if width != (size or width):
                raise InputError(f"{where}: is {width} px large, the picture {size}; {AGAIN}")
            if image.mode != mode and not (mode == "L" and suffix == ".webp" and image.mode == "RGB"):
                raise InputError(f"{where}: has the mode {image.mode}, expected is {mode}")
            pixels = np.array(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{where}: cannot be decoded ({error}); {AGAIN}") from error
    return pixels[..., 0] if mode == "L" and pixels.ndim == 3 else pixels
