"""Content Credentials: made on any computer, valid for C2PA's own reader, broken by any change, and silent on paths."""

from __future__ import annotations

import io
import json
import multiprocessing
import socket
import stat
import threading
from pathlib import Path

import c2pa
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from gpavatar.media import producer as producer_module
from gpavatar.media.producer import config_folder, new_key_and_certificates, this_producer
from gpavatar.media.provenance import Ingredient, Marks, _statement, read_credentials
from gpavatar.media.writer import open_writer
from gpavatar.types import InputError

INPUTS = (Ingredient("me.jpg", "ab" * 32), Ingredient("clip.mp4", "cd" * 32))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """An empty place for the user's settings."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    producer_module._read.cache_clear()
    yield tmp_path / "config" / "gpavatar"
    producer_module._read.cache_clear()


def write(path: Path, marks: Marks | None, num_frames: int = 12) -> Path:
    rng = np.random.default_rng(0)
    with open_writer(path, 96, 64, marks=marks) as writer:
        for _ in range(num_frames):
            writer.write(rng.integers(0, 256, (64, 96, 3), np.uint8))
    return path


def test_a_producer_is_made_once_for_the_user_alone(folder):
    made = this_producer()
    assert 0 <= made.id < 2**32 and made.algorithm == "es256"
    assert {path.name for path in folder.iterdir()} == {"producer.yaml", "signing.pem"}
    assert [stat.S_IMODE((folder / name).stat().st_mode) for name in ("producer.yaml", "signing.pem")] == [0o600] * 2
    producer_module._read.cache_clear()
    assert this_producer() == made
    assert "PRIVATE" not in repr(made) and "PRIVATE" in made.key_pem.decode()


def _producer_of_another_process(barrier, results):
    producer_module._read.cache_clear()
    barrier.wait()
    made = this_producer()
    results.put((made.id, made.key_pem))


def test_processes_that_start_together_agree(folder):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(8), context.Queue()
    processes = [context.Process(target=_producer_of_another_process, args=(barrier, results)) for _ in range(8)]
    for process in processes:
        process.start()
    found = {results.get(timeout=30) for _ in processes}
    for process in processes:
        process.join()
    assert found == {(this_producer().id, this_producer().key_pem)}
    assert {path.name for path in folder.iterdir()} == {"producer.yaml", "signing.pem"}


def test_a_key_of_the_users_own_signs(folder, tmp_path):
    """A key on another curve, with its certificates in a file of their own, named in the settings."""
    own = new_key_and_certificates(7)
    (tmp_path / "key.pem").write_bytes(private(own))
    (tmp_path / "chain.pem").write_bytes(chain(own))
    folder.mkdir(parents=True)
    settings = f"producer_id: 0x00c0ffee\nsigning_key: {tmp_path}/key.pem\ncertificates: {tmp_path}/chain.pem\n"
    (folder / "producer.yaml").write_text(settings)
    assert this_producer().id == 0xC0FFEE
    credentials = read_credentials(write(tmp_path / "a.png", Marks(), 1))
    assert credentials.valid and credentials.signer == "producer 00000007"
    assert not (folder / "signing.pem").exists()


def encrypted(pem: bytes) -> bytes:
    key = load_pem_private_key(pem, None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")) + chain(pem)


def chain(pem: bytes) -> bytes:
    return pem[pem.index(b"-----BEGIN CERT") :]


def private(pem: bytes) -> bytes:
    return pem[: pem.index(b"-----BEGIN CERT")]


def of_the_authority(pem: bytes) -> bytes:
    return private(pem) + x509.load_pem_x509_certificates(pem)[1].public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    ("settings", "pem", "said"),
    [
        ("producer_id: 4294967296\n", None, "producer_id 4294967296"),
        ("producer_idd: 1\n", None, "producer_id"),
        ("producer_id: 1\nsigning_key: nowhere.pem\n", None, "nowhere.pem: cannot be read"),
        ("producer_id: 1\n", lambda pem: b"rubbish", "not an unencrypted PEM key"),
        ("producer_id: 1\n", encrypted, "not an unencrypted PEM key"),
        ("producer_id: 1\n", private, "not an unencrypted PEM key"),
        ("producer_id: 1\n", lambda pem: private(new_key_and_certificates(2)) + chain(pem), "is not that of"),
        ("producer_id: 1\n", of_the_authority, "is not that of"),
    ],
)
def test_settings_that_cannot_be_used_are_one_line(folder, tmp_path, settings, pem, said):
    folder.mkdir(parents=True)
    (folder / "producer.yaml").write_text(settings)
    if pem:
        (folder / "signing.pem").write_bytes(pem(new_key_and_certificates(1)))
    with pytest.raises(InputError) as error:
        open_writer(tmp_path / "a.mp4", 96, 64)
    assert said in str(error.value) and str(folder) in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.glob("*.mp4"))


def test_a_certificate_that_may_not_sign_media_is_refused_before_the_work(folder, tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "no organisation, no purpose")])
    made = producer_module._certificate(name, key.public_key(), name, key, is_authority=True)
    folder.mkdir(parents=True)
    (folder / "producer.yaml").write_text("producer_id: 1\n")
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, producer_module.NoEncryption())
    (folder / "signing.pem").write_bytes(private + made.public_bytes(Encoding.PEM))
    with pytest.raises(InputError, match="cannot sign Content Credentials"):
        open_writer(tmp_path / "a.mp4", 96, 64)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"producer\.yaml: cannot be written"):
        this_producer()


def test_home_is_where_it_is_by_default(monkeypatch):
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert config_folder() == Path.home() / ".config" / "gpavatar"


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.m4v", "a.png", "a.jpg", "a.webp"])
def test_the_reader_of_c2pa_finds_it_valid(tmp_path, name):
    path = write(tmp_path / name, Marks(consent="Jané, to a demo", inputs=INPUTS), 12 if name[2] == "m" else 1)
    with c2pa.Reader(path) as reader:
        assert reader.get_validation_state() == "Valid" and reader.is_embedded()
        store = json.loads(reader.json())
    assert {status["code"] for status in store["validation_status"]} == {"signingCredential.untrusted"}
    manifest = store["manifests"][store["active_manifest"]]
    assert manifest["title"] == name and "thumbnail" not in manifest
    assert [(each["title"], each["relationship"]) for each in manifest["ingredients"]] == [
        ("me.jpg", "inputTo"),
        ("clip.mp4", "inputTo"),
    ]
    said = {assertion["label"]: assertion["data"] for assertion in manifest["assertions"]}
    created, watermarked = said["c2pa.actions.v2"]["actions"]
    assert created["action"] == "c2pa.created" and len(created["parameters"]["ingredients"]) == 2
    assert created["digitalSourceType"].endswith("/compositeWithTrainedAlgorithmicMedia")
    assert watermarked["action"] == "c2pa.watermarked.unbound"
    assert str(tmp_path) not in json.dumps(store)

    found = read_credentials(path)
    assert found.valid and found.ai_generated and not found.trusted and found.problems == ()
    assert (found.inputs, found.consent) == (INPUTS, "Jané, to a demo")
    assert found.signer == f"producer {this_producer().id:08x}"


@pytest.mark.parametrize("name", ["a.mp4", "a.png", "a.jpg"])
def test_one_changed_byte_makes_it_invalid(tmp_path, name):
    path = write(tmp_path / name, Marks(), 12 if name == "a.mp4" else 1)
    content = bytearray(path.read_bytes())
    position = content.index(b"mdat") + 500 if name == "a.mp4" else len(content) - 200
    content[position] ^= 1
    path.write_bytes(content)
    found = read_credentials(path)
    assert not found.valid and any("mismatch" in problem for problem in found.problems)


def test_what_says_nothing_has_no_credentials(tmp_path):
    assert read_credentials(write(tmp_path / "a.mp4", None)) is None
    assert read_credentials(write(tmp_path / "a.png", None, 1)) is None
    (tmp_path / "a.txt").write_text("no picture")
    assert read_credentials(tmp_path / "a.txt") is None


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.mp4"])
def test_damaged_credentials_are_invalid_or_say_the_same(tmp_path, name):
    """Bits are turned all over the statement; a few of them carry nothing (padding, a flag of a box)."""
    path = write(tmp_path / name, Marks(inputs=INPUTS), 12 if name == "a.mp4" else 1)
    content, said = path.read_bytes(), read_credentials(path)
    damaged, start = tmp_path / f"b{path.suffix}", content.index(b"jumb")
    invalid = 0
    for position in range(start, start + 2200, 37):
        turned = bytearray(content)
        turned[position] ^= 0x15
        damaged.write_bytes(turned)
        found = read_credentials(damaged)
        assert found is None or not found.valid or found == said, position
        invalid += found is None or not found.valid
    assert invalid > 50


def test_a_strangers_file_makes_no_call(tmp_path):
    """Credentials may live behind an address; looking at a file shall not tell its maker who looks."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(1.0)
        calls = []
        thread = threading.Thread(target=lambda: calls.append(_accept(server)))
        thread.start()
        plain = write(tmp_path / "a.png", None, 1)
        signed = io.BytesIO()
        made = this_producer()
        info = c2pa.C2paSignerInfo(made.algorithm.encode(), made.certificates_pem, made.key_pem, None)
        with c2pa.Builder(_statement("a", Marks(), made)) as builder:
            builder.set_no_embed()
            builder.set_remote_url(f"http://127.0.0.1:{server.getsockname()[1]}/a.c2pa")
            with plain.open("rb") as source, c2pa.Signer.from_info(info) as signer:
                builder.sign(signer, "image/png", source, signed)
        (tmp_path / "b.png").write_bytes(signed.getvalue())
        assert b"/a.c2pa" in signed.getvalue()
        found = read_credentials(tmp_path / "b.png")
        thread.join()
    assert calls == [False]
    assert found is None or not found.valid


def _accept(server: socket.socket) -> bool:
    try:
        server.accept()[0].close()
    except TimeoutError:
        return False
    return True


def test_the_label_is_left_out_only_with_a_consent():
    assert Marks(label=False, consent="Jane, to a film").consent == "Jane, to a film"
    for marks in ({"label": False}, {"label": False, "consent": " "}, {"consent": ""}):
        with pytest.raises(InputError, match="consent"):
            Marks(**marks)
