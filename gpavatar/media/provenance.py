"""Content Credentials (C2PA): a signed statement inside a file that it is AI-generated, and from what it was made.

The statement names no path and holds no picture of the inputs: their names and sha256 only. What it proves is in
docs/provenance.md.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from functools import lru_cache
from io import BufferedIOBase
from pathlib import Path

import c2pa
from PIL import Image

from gpavatar import __version__
from gpavatar.media.producer import Producer
from gpavatar.types import InputError, one_line

# IPTC's codes for how a picture came about. Ours mix parts of real photos with what a learned model adds.
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
AI_SOURCE_TYPES = ("trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia")
OUR_SOURCE_TYPE = "compositeWithTrainedAlgorithmicMedia"
CONSENT_ASSERTION = "org.gpavatar.consent"
WATERMARK_ASSERTION = "org.gpavatar.watermark"
FORMATS = {
    ".mp4": "video/mp4",
    ".m4v": "video/x-m4v",
    ".mov": "video/quicktime",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
}
VALID_STATES = ("Valid", "Trusted")
UNTRUSTED = "signingCredential.untrusted"


@dataclass(frozen=True)
class Ingredient:
    """A file that went into a result: its name without the folders, and its sha256."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Marks:
    """How results are marked: with a visible label, an invisible watermark and Content Credentials.

    Only the first can be left out, and only where `consent` says who agreed to that, and to what. InputError otherwise.
    """

    label: bool = True
    consent: str | None = None
    inputs: tuple[Ingredient, ...] = ()

    def __post_init__(self) -> None:
        if self.consent is not None and not self.consent.strip():
            raise InputError("the consent is empty; say who agreed, to what")
        if not self.label and self.consent is None:
            raise InputError('a result without the visible label needs --consent "who agreed, to what"')


@dataclass(frozen=True)
class Credentials:
    """What the credentials of a file say. They prove something only where `valid`."""

    valid: bool  # the signature fits, and nothing of the file was changed since
    trusted: bool  # the signer is on a list of trusted ones (never so for a key made by this program)
    ai_generated: bool
    signer: str
    inputs: tuple[Ingredient, ...]
    consent: str | None
    problems: tuple[str, ...]  # C2PA's codes of what does not fit


def sign(path: Path, signed: Path, title: str, marks: Marks, producer: Producer) -> None:
    """Copy the media file `path` to `signed` with credentials in it; `title` is the name it will stand under.

    OSError where the copy cannot be written.
    """
    with path.open("rb") as source, signed.open("w+b") as target:
        try:
            _sign(source, target, FORMATS[path.suffix.lower()], title, marks, producer)
        except c2pa.C2paError.Io as error:
            raise OSError(f"when it was signed: {one_line(error)}") from error


@lru_cache(maxsize=4)
def check_producer(producer: Producer) -> None:
    """InputError where the producer's key and certificates cannot sign, found on a picture of one pixel."""
    picture, signed = io.BytesIO(), io.BytesIO()
    Image.new("L", (1, 1)).save(picture, "PNG")
    try:
        _sign(picture, signed, "image/png", "check", Marks(), producer)
        with c2pa.Reader("image/png", signed) as reader:
            state = reader.get_validation_state()
    except c2pa.C2paError as error:
        state = one_line(error)
    if state not in VALID_STATES:
        raise InputError(f"{producer.source}: its key and certificates cannot sign Content Credentials ({state})")


def _sign(
    source: BufferedIOBase, target: BufferedIOBase, kind: str, title: str, marks: Marks, producer: Producer
) -> None:
    signer_info = c2pa.C2paSignerInfo(producer.algorithm.encode(), producer.certificates_pem, producer.key_pem, None)
    settings = {
        "builder": {"thumbnail": {"enabled": False}},  # no picture of anybody beside the result itself
        "core": {"backing_store_memory_threshold_in_mb": 64},  # a long video is copied on disk, not in memory
    }
    with (
        c2pa.Context.from_dict(settings) as context,
        c2pa.Signer.from_info(signer_info) as signer,
        c2pa.Builder(_statement(title, marks, producer), context=context) as builder,
    ):
        builder.sign(signer, kind, source, target)


def read_credentials(path: Path) -> Credentials | None:
    """The credentials of an mp4, mov, png, jpg or webp as C2PA's own reader sees them; None where it has none."""
    kind = _format(path)
    if kind is None:
        return None
    # a file may name an address to fetch its credentials from: a stranger's file shall not call anybody
    settings = {"verify": {"remote_manifest_fetch": False}}
    try:
        with path.open("rb") as stream, c2pa.Context.from_dict(settings) as context:
            reader = c2pa.Reader.try_create(kind, stream, context=context)
            if reader is None:
                return None
            with reader:
                return _credentials(json.loads(reader.json()))
    except c2pa.C2paError as error:
        return Credentials(False, False, False, "", (), None, (one_line(error),))


def _statement(title: str, marks: Marks, producer: Producer) -> dict:
    """The manifest: created by this program, from these inputs, carrying this watermark."""
    agent = {"name": "gpavatar", "version": __version__}
    ingredients = [
        {
            "title": ingredient.name,
            "format": FORMATS.get(Path(ingredient.name).suffix.lower(), "application/octet-stream"),
            "relationship": "inputTo",
            "label": f"input_{number}",
            "description": f"sha256 {ingredient.sha256}",
        }
        for number, ingredient in enumerate(marks.inputs)
    ]
    created = {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPES + OUR_SOURCE_TYPE, "softwareAgent": agent}
    if ingredients:
        created["parameters"] = {"ingredientIds": [ingredient["label"] for ingredient in ingredients]}
    actions = [created, {"action": "c2pa.watermarked.unbound", "softwareAgent": agent}]
    watermark = {"payload": f"{producer.id:08x}", "label": marks.label}
    assertions = [
        {"label": "c2pa.actions.v2", "data": {"actions": actions}},
        {"label": WATERMARK_ASSERTION, "data": watermark},
    ]
    if marks.consent is not None:
        assertions.append({"label": CONSENT_ASSERTION, "data": {"consent": marks.consent}})
    return {
        "claim_generator_info": [agent],
        "title": title,
        "ingredients": ingredients,
        "assertions": assertions,
    }


def _credentials(store: dict) -> Credentials:
    manifest = store.get("manifests", {}).get(store.get("active_manifest"))
    state = store.get("validation_state")
    problems = tuple(status["code"] for status in store.get("validation_status", []))
    if manifest is None:  # the store is there, but what it points to is not
        return Credentials(False, False, False, "", (), None, problems or ("claim.missing",))
    data = {assertion["label"]: assertion.get("data") for assertion in manifest.get("assertions", [])}
    actions = _mapping(data.get("c2pa.actions.v2", data.get("c2pa.actions"))).get("actions", [])
    source_types = [str(action.get("digitalSourceType")).rpartition("/")[2] for action in actions]
    consent = _mapping(data.get(CONSENT_ASSERTION)).get("consent")
    return Credentials(
        valid=state in VALID_STATES,
        trusted=state == "Trusted",
        ai_generated=any(kind in AI_SOURCE_TYPES for kind in source_types),
        signer=manifest.get("signature_info", {}).get("common_name", ""),
        inputs=tuple(
            Ingredient(ingredient.get("title", ""), ingredient.get("description", "").removeprefix("sha256 "))
            for ingredient in manifest.get("ingredients", [])
        ),
        consent=consent if isinstance(consent, str) else None,
        problems=tuple(code for code in problems if code != UNTRUSTED),
    )


def _mapping(data: object) -> dict:
    """The data of an assertion, which in a stranger's file may be of any kind."""
    return data if isinstance(data, dict) else {}


def _format(path: Path) -> str | None:
    """The media type by the first bytes of a file; None for kinds that this program does not write."""
    with path.open("rb") as stream:
        head = stream.read(16)
    if head.startswith(b"\x89PNG"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    if head[4:8] == b"ftyp":
        return "video/quicktime" if head[8:12] == b"qt  " else "video/mp4"
    return None
