"""The shard format: what goes in comes out, the same to the byte, from anywhere; what is hostile is refused."""

from __future__ import annotations

import dataclasses
import functools
import http.server
import io
import json
import tarfile
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from generated_set import HEAD, LOSSLESS, SIZE, make_sample, make_set
from PIL import Image
from safetensors.torch import load, save

from gpavatar.data.sample import DEPTH_STEPS, decode_sample, encode_sample
from gpavatar.data.shard_root import file_sha256, open_file
from gpavatar.data.shards import ClipInfo, Encoding, PackedClip, ShardSet, ShardWriter, pack_clip, read_shard
from gpavatar.data.tar_stream import END, parse_block, read_samples, tar_block
from gpavatar.types import InputError

CLIPS = [("a0", "anna", "train", 5), ("b0", "ben", "val", 3), ("a1", "anna", "train", 4), ("c0", "carl", "train", 2)]
INFO = ClipInfo("a0", "anna", "train", "real", "open", "CC0-1.0")


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sets") / "set"
    make_set(path, CLIPS, max_shard_mb=1)
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


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("image", ["jpeg", "webp"])
@pytest.mark.parametrize("alpha", ["png", "webp", "jpeg"])
def test_a_sample_comes_back(image, alpha):
    depth = torch.rand(1, SIZE, SIZE) * 15.9
    landmarks_px = torch.cat([torch.full((1, 2), torch.nan), torch.rand(477, 2) * SIZE])
    ids = {"role": "source", "view": 3, "instant": 7}
    sample = make_sample("a0", "anna", 12, depth=depth, landmarks_px=landmarks_px, **ids)
    again = decode_sample(sample.key, encode_sample(sample, Encoding(image, 95, alpha, 95)), "here")
    for name in ("clip", "identity", "frame_index", "time_s", "role", "view", "instant"):
        assert getattr(again, name) == getattr(sample, name)
    for ours, theirs in ((sample.params, again.params), (sample.camera, again.camera)):
        assert all(torch.equal(a, b) for a, b in zip(vars(ours).values(), vars(theirs).values(), strict=True))
    assert (again.depth - depth).abs().max() <= 0.5 / DEPTH_STEPS * 1.001
    assert again.landmarks_px[0].isnan().all()
    assert (again.landmarks_px[1:] - landmarks_px[1:]).abs().max() <= SIZE / 16384 * 1.001
    error = np.abs(again.image_u8.astype(int) - sample.image_u8)
    assert error.max() <= (3 if image == "jpeg" else 9)  # measured 2 and 6
    error = np.abs(again.alpha_u8.astype(int) - sample.alpha_u8)
    assert error.max() <= (2 if alpha == "jpeg" else 0)


def test_a_set_comes_back_in_order(directory):
    shards = ShardSet.open(directory, verify=True)
    assert shards.index.splits == {"train": ("anna", "carl"), "val": ("ben",)}
    assert [clip.clip for clip in shards.index.clips] == ["a0", "a1", "c0", "b0"]
    assert [clip.weight for clip in shards.index.clips] == [0.5, 0.5, 1.0, 1.0]
    keys = [f"{clip.clip}-{i:06d}" for clip in shards.index.clips for i in range(clip.num_frames)]
    assert [sample.key for sample in shards.samples()] == keys
    assert [sample.clip for sample in shards.samples("val")] == ["b0"] * 3
    for row in (0, 6, 13):
        assert shards.sample(row).key == keys[row]
        assert torch.equal(shards.table.rotation[row].view(3, 3), shards.sample(row).camera.w2c[:3, :3])


def test_the_same_samples_make_the_same_bytes(directory, tmp_path):
    with ShardWriter(tmp_path / "again", HEAD, SIZE, max_shard_mb=1) as writer:
        for number, (clip, identity, split, count) in enumerate(CLIPS):
            info = ClipInfo(clip, identity, split, "real", "open", "CC0-1.0")
            samples = [make_sample(clip, identity, i, number) for i in range(count)]
            path = tmp_path / f"{clip}.clip"
            pack_clip(info, samples, HEAD, SIZE).save(path)
            writer.add_packed(PackedClip.load(path))
    assert contents(tmp_path / "again") == contents(directory)


def test_webdataset_and_tar_read_it(directory):
    webdataset = pytest.importorskip("webdataset")
    samples = list(webdataset.WebDataset(str(directory / "train-00000.tar"), shardshuffle=False).decode("pil"))
    assert [sample["__key__"] for sample in samples] == [s.key for s in ShardSet.open(directory).samples("train")]
    assert samples[3]["jpg"].size == (SIZE, SIZE) and samples[3]["json"]["identity"] == "anna"
    with tarfile.open(directory / "train-00000.tar") as tar:
        member = tar.getmember("a0-000002.json")
        assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")


def test_shards_are_bounded_and_hold_whole_clips(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    with ShardWriter(tmp_path, HEAD, 256, max_shard_mb=1) as writer:
        for clip, count in (("a", 3), ("b", 3), ("c", 9), ("d", 1)):
            info = dataclasses.replace(INFO, clip=clip)
            writer.add(info, (make_sample(clip, "anna", i, size=256, image_u8=noise) for i in range(count)))
    index = ShardSet.open(tmp_path, verify=True).index
    assert [(clip.clip, clip.shard) for clip in index.clips] == [
        ("a", "train-00000.tar"), ("b", "train-00000.tar"), ("c", "train-00001.tar"), ("d", "train-00002.tar")
    ]  # fmt: skip
    assert [shard.num_bytes <= 1 << 20 for shard in index.shards] == [True, False, True]
    assert [(tmp_path / shard.file).stat().st_size for shard in index.shards] == [s.num_bytes for s in index.shards]


@pytest.fixture
def server(directory):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("kind", ["http", "pipe"])
def test_http_and_pipes_give_the_same_samples(kind, directory, server, tmp_path, monkeypatch):
    monkeypatch.setenv("GPAVATAR_CACHE", str(tmp_path))
    root = server if kind == "http" else f"pipe:cat {directory}/{{}}"
    ours, theirs = ShardSet.open(directory), ShardSet.open(root, verify=True)
    assert [s.key for s in theirs.samples()] == [s.key for s in ours.samples()]
    assert np.array_equal(theirs.sample(7).image_u8, ours.sample(7).image_u8)
    assert len(list(tmp_path.rglob("*.tar"))) == 1  # only the shard that was asked for is cached
    one = server + "/val-00000.tar" if kind == "http" else f"pipe:cat {directory}/val-00000.tar"
    assert [sample.key for sample in read_shard(one)] == ["b0-000000", "b0-000001", "b0-000002"]
    assert next(iter(read_shard(one))).key == "b0-000000"  # and a reader that leaves early is no error


def test_sources_that_fail_say_so(directory, server):
    with pytest.raises(InputError, match=r"exit code 3"):
        list(read_shard(f"pipe:cat {directory}/val-00000.tar; exit 3"))
    with pytest.raises(InputError, match=r"(?i)not found"):
        ShardSet.open(server + "/nothing")
    with pytest.raises(InputError, match="No such file"):
        ShardSet.open(directory / "nothing")


def test_a_file_name_is_never_a_command(directory, tmp_path):
    for name in ("../set/shards.json", "/etc/passwd", "a;touch x.tar", "pipe:touch x", ".hidden.tar", "a..tar", ""):
        with pytest.raises(InputError, match="not the name of a file"), open_file("pipe:cat {}", name):
            pass


def test_nothing_is_left_of_a_set_that_failed(tmp_path):
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, HEAD, SIZE) as writer:
        writer.add(INFO, [make_sample("a0", "anna", 0), make_sample("a0", "anna", 1)])
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".train-00000.77.tmp.tar").write_bytes(b"of a run that was killed")
    (tmp_path / "train-00007.tar").write_bytes(b"of a run that was killed")
    make_set(tmp_path, CLIPS)
    names = ["frames.safetensors", "shards.json", "train-00000.tar", "val-00000.tar"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    with pytest.raises(InputError, match="there is a set already"):
        make_set(tmp_path, CLIPS)
    assert len(make_set(tmp_path, CLIPS[:1], overwrite=True).index.clips) == 1
    assert not (tmp_path / "val-00000.tar").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"identity": "ben"}, "is of ben, the clip a0 of anna"),
        ({"image_u8": np.zeros((16, 16, 3), np.uint8), "alpha_u8": np.zeros((16, 16, 1), np.uint8)}, "16 px large"),
        ({"image_u8": np.zeros((4, 4, 3), np.uint8), "alpha_u8": np.zeros((4, 4, 1), np.uint8)}, "4 px large"),
        ({"time_s": float("nan")}, "time_s finite"),
        ({"frame_index": 10**6}, "frame must be in"),
        ({"view": -1}, "view and instant must be in"),
        ({"depth": torch.full((1, SIZE, SIZE), 16.0)}, "depth must be in"),
    ],
)
def test_a_wrong_sample_is_not_written(change, said):
    with pytest.raises(InputError, match=said):
        pack_clip(INFO, [make_sample("a0", "anna", 0), make_sample("a0", "anna", 1, **change)], HEAD, SIZE)


def test_parameters_that_do_not_fit_are_not_written():
    sample = make_sample("a0", "anna", 0)
    params = dataclasses.replace(sample.params, expression=torch.full((52,), torch.nan))
    with pytest.raises(InputError, match="expression holds values that are not finite"):
        pack_clip(INFO, [dataclasses.replace(sample, params=params)], HEAD, SIZE)
    with pytest.raises(InputError, match="another head"):
        pack_clip(INFO, [sample], dataclasses.replace(HEAD, n_shape=7), SIZE)
    with pytest.raises(InputError, match="twice"):
        pack_clip(INFO, [sample, sample], HEAD, SIZE)


def test_an_identity_is_in_one_split(tmp_path):
    with pytest.raises(InputError, match="anna is in the splits train and val"):
        make_set(tmp_path, [("a0", "anna", "train", 2), ("a1", "anna", "val", 2)])
    with pytest.raises(InputError, match="clip a0 is there twice"):
        make_set(tmp_path, [("a0", "anna", "train", 2), ("a0", "anna", "train", 2)])
    assert list(tmp_path.iterdir()) == []


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


def test_the_two_readers_of_tar_agree():
    blocks = [tar_block(f"k-{i}", {".a": b"x" * i, ".b.c": bytes(512 * i)}) for i in range(4)]
    offsets = np.cumsum([0] + [len(block) for block in blocks])
    for i, raw in enumerate(read_samples(io.BytesIO(b"".join(blocks) + END), "here")):
        alone = parse_block(blocks[i], "here")
        assert (raw.key, raw.members, raw.num_bytes) == (alone.key, alone.members, alone.num_bytes)
        assert raw.offset == offsets[i]
    for bad in (b"".join(blocks[:2]), blocks[1][:-512], blocks[1][512:], b""):
        with pytest.raises(InputError):
            parse_block(bad, "here")
