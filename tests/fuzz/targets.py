"""What strangers' files are given to: each reader with small good files of its kind, and what the program does next.

A target reads the file as far as a program would: all frames of a video and on into a writer, an avatar until it is
drawn. It may only return, or raise a GpavatarError.
"""

from __future__ import annotations

import atexit
import hashlib
import io
import json
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import awkward_files as awkward
import numpy as np
import torch
from fuzz.media_targets import animation_seeds, image_seeds, read_moving, read_still, video_seeds

from gpavatar.types import GpavatarError


@dataclass(frozen=True)
class Target:
    """A reader under test."""

    seeds: Callable[[Path], None]  # writes good files into a folder
    read: Callable[[Path, Path], object]  # (file, empty folder to write to)
    weight: float = 1.0  # share of the cases


def track_seeds(folder: Path) -> None:
    """A short track, one frame of it without a face."""
    from gpavatar.camera import Camera
    from gpavatar.tracking.track_file import TrackSource, save_track
    from gpavatar.types import FaceStatus, HeadParams, Track

    frames, head = 4, method().head
    camera, random = Camera.frontal(10.0, 3.0), torch.Generator().manual_seed(0)
    status = torch.full((frames,), int(FaceStatus.TRACKED), dtype=torch.uint8)
    status[1] = int(FaceStatus.MISSING)
    track = Track(
        times_s=torch.arange(frames, dtype=torch.float64) / 25,
        status=status,
        params=HeadParams.neutral(head.n_shape, head.n_expression, (frames,)),
        camera=Camera(camera.c2w.expand(frames, 4, 4), camera.intrinsics.expand(frames, 4)),
        landmarks_px=torch.rand(frames, 478, 2, generator=random) * 100,
        width_px=128,
        height_px=96,
        head=head.name,
        head_sha256=head.sha256,
    )
    save_track(folder / "a.npz", track, TrackSource("clip.mp4", "0" * 64))


@cache
def method():
    """The method whose avatars are read, its own texture small."""
    from gpavatar.avatars import textured_mesh

    textured_mesh.TEXTURE_SIZE = 64
    return textured_mesh.TexturedMesh()


@cache
def plain_state():
    """An avatar of plain surfaces."""
    from gpavatar.avatars.base import Reference
    from gpavatar.avatars.portrait_layers import Layer, PortraitLayers
    from gpavatar.avatars.textured_mesh import TexturedMeshState
    from gpavatar.camera import Camera
    from gpavatar.face.texture import HeadTexture
    from gpavatar.types import HeadParams, map_tensors

    head = method().head
    corners = torch.tensor([[-1.0, -1, -1], [1, -1, -1], [-1, 1, -1], [1, 1, -1]])
    faces, uv = torch.tensor([[0, 1, 2], [1, 2, 3]]), corners[:, :2] / 2 + 0.5
    layer = Layer(corners, faces, uv, torch.full((4, 8, 8), 0.5), torch.ones(4), torch.arange(4), torch.zeros(4))
    params = HeadParams.neutral(head.n_shape, head.n_expression)
    reference = Reference(params, Camera.frontal(10.0, 3.0), torch.full((3, 16, 16), 0.5))
    seen = HeadTexture(torch.full((3, 8, 8), 0.5), torch.zeros(2, 8, 8), torch.ones(1, 8, 8))
    layers = PortraitLayers(torch.full((3, 16, 16), 0.2), layer, layer, layer)
    offsets = torch.zeros(len(head.mean), 3)
    state = TexturedMeshState(reference, offsets, seen, torch.full((3, 8, 8), 0.5), layers)
    return map_tensors(state, torch.clone)


def avatar_seeds(folder: Path) -> None:
    """A saved avatar."""
    method().save(plain_state(), folder / "a.safetensors")


def read_track(path: Path, scratch: Path) -> None:
    """As a driver: the motion of every frame on an avatar, and the landmarks drawn for a comparison."""
    from gpavatar import pipeline

    pipeline.default_head = lambda: method().head
    driver = pipeline.saved_track(path, None, None)
    person = pipeline.PersonAvatar(method(), plain_state())
    frames = list(pipeline.track_frames(driver, pictures=True))
    for mode in ("driving", "relative"):
        list(
            person.drive(frames[:2], size_px=32, pose=mode, expression="relative" if mode == "relative" else "absolute")
        )


def read_avatar(path: Path, scratch: Path) -> None:
    """Which method made it, the state, a picture of it."""
    from gpavatar.media.image import to_u8, write_image
    from gpavatar.pipeline import PersonAvatar, avatar_method
    from gpavatar.retarget import Pose

    if avatar_method(path) != "textured_mesh":
        return
    person = PersonAvatar(method(), method().load(path))
    reference = person.reference
    picture = person.render(Pose(reference.params, reference.camera), 32)
    write_image(scratch / "out.png", to_u8(picture.image))


def model_seeds(folder: Path) -> None:
    """What FLAME's files look like: pickles of every protocol, archives, single arrays."""
    arrays = {"v_template": np.zeros((20, 3)), "f": np.arange(30, dtype=np.uint32).reshape(10, 3), "weights": np.eye(5)}
    for protocol in (1, 2, 4):
        (folder / f"{protocol}.pkl").write_bytes(pickle.dumps({**arrays, "name": "x", "list": [1, 2]}, protocol))
    np.savez(folder / "a.npz", **arrays)
    np.savez_compressed(folder / "objects.npz", **arrays, names=np.array(["a", 1], object))
    np.save(folder / "a.npy", np.array(arrays, object))


def read_model(path: Path, scratch: Path) -> None:
    """All arrays."""
    from gpavatar.pretrained.restricted_pickle import read_arrays

    read_arrays(path)


def mask_seeds(folder: Path) -> None:
    """What accompanies FLAME: masks, a UV layout as an .obj and as an .npz."""
    from gpavatar.face.flame_surface import MASKS

    masks = {name: np.arange(5) for names in MASKS.values() for name in names}
    (folder / "masks.pkl").write_bytes(pickle.dumps(masks, 2))
    faces = np.array([[0, 1, 2], [1, 2, 3]])
    np.savez(folder / "uv.npz", vt=np.random.default_rng(0).random((4, 2)), ft=faces)
    corners = "".join("f " + " ".join(f"{i + 1}/{i + 1}" for i in face) + "\n" for face in faces)
    (folder / "uv.obj").write_text("v 0 0 0\n" * 4 + "vt 0.5 0.5\n" * 4 + corners)
    lips = np.array([[0.2, 0.3, 0.5]] * 68)
    np.savez(folder / "points.npz", lmk_face_idx=np.zeros(68, np.int64), lmk_b_coords=lips)


def read_masks(path: Path, scratch: Path) -> None:
    """The file as each of them."""
    from gpavatar.face.flame_surface import _ibug68, _mediapipe, load_regions, load_uv

    faces = torch.tensor([[0, 1, 2], [1, 2, 3]])
    readers = (lambda: load_uv(path, faces), lambda: load_regions(path, 20), lambda: _ibug68(path, 2))
    refused = []
    for read in (*readers, lambda: _mediapipe(path, 2)):
        try:
            read()
        except GpavatarError as error:
            refused.append(error)
    if len(refused) == 4:
        raise refused[0]


def yaml_seeds(folder: Path) -> None:
    """The manifest's layout."""
    (folder / "manifest.yaml").write_text(
        "assets:\n  thing:\n    file: thing.bin\n    about: a thing\n    sha256: '00'\n    bytes: 12\n"
        "    licence: CC0\n    permissive: true\n    sources:\n"
        "      - {url: 'https://example.org/x', member: a/b}\n      - pypi: x==1\n"
    )
    (folder / "settings.yaml").write_text(
        "assets: {a: {file: a, about: b, sha256: c, bytes: 1, licence: x, permissive: no, sources: [{npm: a@1}]}}\n"
    )


def read_yaml(path: Path, scratch: Path) -> None:
    """As a manifest, and its lines as pairs on a command line."""
    from gpavatar.assets import Manifest, load_manifest
    from gpavatar.config import load_config

    try:
        for line in path.read_text(errors="replace").splitlines()[:20]:
            load_config(Manifest, overrides=[line.strip().replace(": ", "=")])
    except GpavatarError as error:
        assert "\n" not in str(error)
    load_manifest(path)


def archive_seeds(folder: Path) -> None:
    """A wheel and an npm tarball."""
    with zipfile.ZipFile(folder / "a.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("carrier/thing.bin", b"thing" * 200)
        archive.writestr("carrier/other", b"x")
    for mode, name in (("w:gz", "a.tgz"), ("w", "a.tar")):
        with tarfile.open(folder / name, mode) as archive:
            for member in ("package/package.json", "carrier/thing.bin"):
                info = tarfile.TarInfo(member)
                info.size = 1000
                archive.addfile(info, io.BytesIO(b"thing" * 200))


def read_archive(path: Path, scratch: Path) -> None:
    """As a download whose one member is asked for."""
    import os

    from gpavatar.assets import Asset, Manifest, Source, fetch

    os.environ["GPAVATAR_CACHE"] = str(scratch)
    content = b"thing" * 200
    source = Source(url=path.as_uri(), member="carrier/thing.bin")
    digest = hashlib.sha256(content).hexdigest()
    fetch("thing", Manifest({"thing": Asset("thing.bin", "", digest, len(content), "CC0", True, "", [source])}))


@cache
def good_set() -> Path:
    """A small set of shards with its index and table."""
    import tempfile

    from generated_set import make_set

    folder = Path(tempfile.mkdtemp(prefix="fuzz-set-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    make_set(folder / "set", [("a", "one", "train", 3), ("b", "two", "val", 2)])
    return folder / "set"


def shard_seeds(folder: Path) -> None:
    """One shard."""
    shutil.copy(next(good_set().glob("train-*.tar")), folder / "train-00000.tar")


def read_shard(path: Path, scratch: Path) -> None:
    """All its samples, as a stream."""
    from gpavatar.data.shards import read_shard

    list(read_shard(path))


def index_seeds(folder: Path) -> None:
    """What describes a set."""
    shutil.copy(good_set() / "shards.json", folder)
    shutil.copy(good_set() / "frames.safetensors", folder)


def read_index(path: Path, scratch: Path) -> None:
    """The set with the broken file in its place; the index believes the broken table. All frames by their rows."""
    from gpavatar.data.shards import ShardSet

    whole = scratch.parent / "set"
    shutil.rmtree(whole, ignore_errors=True)
    shutil.copytree(good_set(), whole)
    if path.suffix == ".json":
        shutil.copy(path, whole / "shards.json")
    else:
        shutil.copy(path, whole / "frames.safetensors")
        index = json.loads((whole / "shards.json").read_text())
        index["table_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        (whole / "shards.json").write_text(json.dumps(index))
    shards = ShardSet.open(whole)
    for row in range(min(8, len(shards.table))):
        shards.sample(row)
    list(shards.samples())


def result_seeds(folder: Path) -> None:
    """What this program writes, with its three marks."""
    from gpavatar.media.writer import open_writer

    frames = [awkward.marked_frame(256, 256, index) for index in range(3)]
    for suffix in (".mp4", ".png", ".jpg", ".webp"):
        with open_writer(folder / f"out{suffix}", 256, 256) as writer:
            for frame in frames if suffix == ".mp4" else frames[:1]:
                writer.write(frame)


def read_result(path: Path, scratch: Path) -> None:
    """Its marks."""
    from gpavatar.verify import examine, in_words

    in_words(examine(path))


CONSENT, INPUT_NAME, INPUT_SHA256 = "Jane Doe, to this film", "me.jpg", "0" * 64


def credentials_seeds(folder: Path) -> None:
    """Results so small that most of the file is what is signed."""
    from gpavatar.media.provenance import Ingredient, Marks
    from gpavatar.media.writer import open_writer

    marks = Marks(label=False, consent=CONSENT, inputs=(Ingredient(INPUT_NAME, INPUT_SHA256),))
    for suffix in (".mp4", ".mov", ".png", ".jpg", ".webp"):
        with open_writer(folder / f"out{suffix}", 32, 32, marks=marks) as writer:
            writer.write(awkward.marked_frame(32, 32))


def read_signed(path: Path, scratch: Path) -> None:
    """The credentials alone, which `verify` reads only from files whose picture is sound.

    What was broken may still be valid, where the damage lies outside of what is signed, but may not say anything else.
    """
    from gpavatar.media.provenance import Ingredient, read_credentials

    found = read_credentials(path)
    if found is not None and found.valid:
        said = (found.ai_generated, found.consent, found.inputs)
        assert said == (True, CONSENT, (Ingredient(INPUT_NAME, INPUT_SHA256),))


def weights_seeds(folder: Path) -> None:
    """A learned method in a size that takes no time, in full and half precision."""
    from gpavatar.avatars.checkpoint import WeightsInfo, config_yaml, save_weights, to_half
    from gpavatar.avatars.gpavatar import GPAvatar
    from tests.avatars.tiny_gpavatar import tiny_config

    head = method().head
    net = GPAvatar(tiny_config(), len(head.mean), head.n_expression + 9)
    info = WeightsInfo("gpavatar", "open_head", "any", config_yaml(tiny_config()))
    save_weights(net.state_dict(), folder / "full.safetensors", info)
    save_weights(to_half(net.state_dict()), folder / "half.safetensors", info)


def read_weights(path: Path, scratch: Path) -> None:
    """As a model: config, networks, numbers."""
    from gpavatar.avatars.gpavatar_method import GPAvatarMethod

    GPAvatarMethod(weights=path)


def released_seeds(folder: Path) -> None:
    """What PyTorch saves."""
    state = {"points": torch.zeros(3, 4), "attn_module.scale": torch.ones(1), "half": torch.ones(2).half()}
    torch.save({"state_dict": state, "epoch": 3, "history": [1.0, "a"]}, folder / "a.ckpt")


def read_released(path: Path, scratch: Path) -> None:
    """A released checkpoint."""
    from gpavatar.avatars.official import read_released

    read_released(path)


TARGETS = {
    "image": Target(image_seeds, read_still, 2),
    "animation": Target(animation_seeds, read_moving, 1),
    "video": Target(video_seeds, read_moving, 3),
    "track": Target(track_seeds, read_track, 1.5),
    "avatar": Target(avatar_seeds, read_avatar, 1.5),
    "model": Target(model_seeds, read_model, 1.5),
    "masks": Target(mask_seeds, read_masks, 0.5),
    "yaml": Target(yaml_seeds, read_yaml, 0.5),
    "weights": Target(weights_seeds, read_weights, 0.5),
    "released": Target(released_seeds, read_released, 0.5),
    "archive": Target(archive_seeds, read_archive, 0.5),
    "shard": Target(shard_seeds, read_shard),
    "index": Target(index_seeds, read_index, 0.5),
    "result": Target(result_seeds, read_result, 0.1),
    "credentials": Target(credentials_seeds, read_signed, 0.5),
}
