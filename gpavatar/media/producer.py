"""Who signs what the program writes: a producer id for the watermark and a key for the credentials, kept by the user.

Both are made at random on first use, in $XDG_CONFIG_HOME/gpavatar (~/.config/gpavatar). `producer.yaml` there may name
a key and certificates of the user's own instead.
"""

from __future__ import annotations

import datetime
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gpavatar.config import MISSING, load_config
from gpavatar.types import InputError

CONFIG_NAME, KEY_NAME = "producer.yaml", "signing.pem"
VALID_YEARS = 20
KEY_USAGES = (
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "encipher_only",
    "decipher_only",
)
CURVE_ALGORITHMS = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


@dataclass(frozen=True)
class ProducerConfig:
    """The content of `producer.yaml`; paths are relative to its folder."""

    producer_id: int = MISSING  # 32 bits, the payload of the watermark
    signing_key: str = KEY_NAME  # PEM, unencrypted
    certificates: str | None = None  # PEM, the signer's own first; None: they follow the key in its file


@dataclass(frozen=True)
class Producer:
    """Whose marks a result carries."""

    id: int
    source: Path  # the file that the key comes from
    algorithm: str  # as C2PA calls it
    key_pem: bytes = field(repr=False)
    certificates_pem: bytes = field(repr=False)


def config_folder() -> Path:
    """Where the user's own settings are: $XDG_CONFIG_HOME/gpavatar, by default ~/.config/gpavatar."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "gpavatar"


def this_producer() -> Producer:
    """The producer of this user, made now where there is none yet.

    InputError (one line) where the folder cannot be written, or what stands there cannot be used.
    """
    return _read(config_folder())


@lru_cache(maxsize=4)
def _read(folder: Path) -> Producer:
    config_file = folder / CONFIG_NAME
    _make_once(config_file, _new_config)
    config = load_config(ProducerConfig, config_file)
    if not 0 <= config.producer_id < 2**32:
        raise InputError(f"{config_file}: producer_id {config.producer_id} is not in [0, 2^32); correct or delete it")
    key_file = folder / config.signing_key
    if config.signing_key == KEY_NAME:
        _make_once(key_file, lambda: new_key_and_certificates(config.producer_id))
    certificates_file = folder / (config.certificates or config.signing_key)
    try:
        key_pem, certificates_pem = key_file.read_bytes(), certificates_file.read_bytes()
        key, certificates = load_pem_private_key(key_pem, None), x509.load_pem_x509_certificates(certificates_pem)
        algorithm = _algorithm(key)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); see {config_file}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(
            f"{key_file}: not an unencrypted PEM key with certificates that can sign; correct {config_file}, "
            "or delete the file to have a new one made"
        ) from error
    if key.public_key() != certificates[0].public_key():
        raise InputError(f"{certificates_file}: its first certificate is not that of {key_file}; see {config_file}")
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    chain_pem = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
    return Producer(config.producer_id, key_file, algorithm, key_pem, chain_pem)


def _algorithm(key) -> str:
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in CURVE_ALGORITHMS:
        return CURVE_ALGORITHMS[key.curve.name]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    raise ValueError(f"a key of type {type(key).__name__}")


def _make_once(path: Path, content: Callable[[], bytes]) -> None:
    """Write a file that only the user may read, whole, unless it is there; of several processes, the first wins."""
    if path.exists():
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(content())
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(temporary, path)  # unlike a rename, it never replaces what another process has put there
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    except OSError as error:
        why = error.strerror or error
        raise InputError(
            f"{path}: cannot be written ({why}); the key that signs results is kept there: let XDG_CONFIG_HOME name a "
            "folder that can be written"
        ) from error


def _new_config() -> bytes:
    return f"""\
# Who made what gpavatar writes; see docs/provenance.md. Made at random on first use.
producer_id: {secrets.randbits(32):#010x}    # 32 bits, hidden in every picture
signing_key: {KEY_NAME}    # PEM; or the path of a key of your own
# certificates: chain.pem    # PEM, your own certificate first; left out: they follow the key in its file
""".encode()


def new_key_and_certificates(producer_id: int) -> bytes:
    """A P-256 key, a certificate for it, and that of the authority made for it, as C2PA asks for (2.2, section 14.5).

    The authority's key is thrown away: nobody can sign another certificate in its name.
    """
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority, signer = _name(f"authority of producer {producer_id:08x}"), _name(f"producer {producer_id:08x}")
    certificates = (
        _certificate(signer, key.public_key(), authority, authority_key, is_authority=False),
        _certificate(authority, authority_key.public_key(), authority, authority_key, is_authority=True),
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _name(common_name: str) -> x509.Name:
    organisation = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "gpavatar (made on this computer)")
    return x509.Name([organisation, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _certificate(subject, public_key, issuer, issuer_key, *, is_authority: bool) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    usage = dict.fromkeys(KEY_USAGES, False)
    usage |= {"digital_signature": not is_authority, "key_cert_sign": is_authority, "crl_sign": is_authority}
    builder = (
        x509.CertificateBuilder(issuer, subject, public_key, x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365 * VALID_YEARS))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not is_authority:
        purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purpose, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())
