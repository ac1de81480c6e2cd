"""Still images: whatever the mode, upright 8-bit RGB in sRGB; damage and absurd sizes are one line."""

from __future__ import annotations

import os
import struct
import zlib

import awkward_files as awkward
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from gpavatar.media.image import read_image, read_image_rgba, resize_u8, to_float, to_u8, write_image
from gpavatar.types import InputError

PICTURE = awkward.marked_frame(96, 64, 20)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    """The stored picture is the upright one turned as the tag says; what is read is upright again."""
    turns = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(turns[orientation](PICTURE)))
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    image = read_image(tmp_path / "a.jpg")
    assert image.shape == PICTURE.shape
    assert awkward.corners(image) == ["red", "green", "blue", "grey"]


@pytest.mark.parametrize(
    ("mode", "suffix", "tolerance"),
    [
        ("RGB", "png", 0),
        ("RGBA", "png", 0),
        ("P", "png", 12),
        ("RGB", "webp", 12),
        ("CMYK", "jpg", 4),
        ("CMYK", "tif", 1),
    ],
)
def test_colour_modes(tmp_path, mode, suffix, tolerance):
    path = tmp_path / f"a.{suffix}"
    picture = Image.fromarray(PICTURE)
    (picture.quantize(256) if mode == "P" else picture.convert(mode)).save(path, quality=98)
    image = read_image(path)
    assert image.dtype == np.uint8 and image.flags.c_contiguous and image.flags.writeable
    inner = np.s_[8:24, 8:40]
    assert np.abs(image[inner].astype(int) - PICTURE[inner]).max() <= tolerance


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16", "I", "F"])
def test_grey_modes(tmp_path, mode):
    ramp = np.tile(np.linspace(0, 255, 96).round().astype(np.uint8), (64, 1))
    expected = ramp
    if mode == "I;16":
        stored = Image.fromarray(ramp.astype(np.uint16) * 257)
    elif mode == "I":
        stored = Image.fromarray(ramp.astype(np.int32) * 257)
    elif mode == "F":
        stored = Image.fromarray(ramp.astype(np.float32) / 255)
    elif mode == "1":
        stored, expected = Image.fromarray(ramp >= 128), np.where(ramp >= 128, 255, 0)
    else:
        stored = Image.fromarray(ramp).convert(mode)
    path = tmp_path / ("a.tif" if mode in ("I", "F") else "a.png")
    stored.save(path)
    image = read_image(path)
    assert image.shape == (64, 96, 3)
    assert np.array_equal(image, np.repeat(expected[..., None], 3, 2))


def test_16_bit_colour_png(tmp_path):
    """Pillow cannot write it, so the file is put together by hand."""
    rows = b"".join(b"\0" + row.tobytes() for row in (PICTURE.astype(">u2") * 257))

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 96, 64, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(data)
    assert np.array_equal(read_image(tmp_path / "a.png"), PICTURE)


def test_alpha_is_flattened_over_white_or_kept(tmp_path):
    alpha = np.zeros((64, 96, 1), np.uint8)
    alpha[:, 24:48], alpha[:, 48:] = 128, 255
    Image.fromarray(np.concatenate([PICTURE, alpha], 2)).save(tmp_path / "a.png")
    flat, kept = read_image(tmp_path / "a.png"), read_image_rgba(tmp_path / "a.png")
    assert (flat[:, :24] == 255).all()
    assert np.array_equal(flat[:, 48:], PICTURE[:, 48:])
    half = PICTURE[:, 24:48] * (128 / 255) + 255 * (127 / 255)
    assert np.abs(flat[:, 24:48] - half).max() <= 1
    assert np.array_equal(kept[..., 3:], alpha) and np.array_equal(kept[:, 24:, :3], PICTURE[:, 24:])
    Image.fromarray(PICTURE).save(tmp_path / "b.png")
    assert (read_image_rgba(tmp_path / "b.png")[..., 3] == 255).all()


def test_palette_with_a_transparent_colour(tmp_path):
    image = Image.fromarray(np.uint8(np.arange(64 * 96).reshape(64, 96) % 2), "P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(tmp_path / "a.png", transparency=0)
    read = read_image(tmp_path / "a.png")
    assert read[0, 0].tolist() == [255, 255, 255] and read[0, 1].tolist() == [200, 100, 50]


def test_colour_profile_is_applied(tmp_path):
    """A picture in XYZ-like linear light becomes brighter in sRGB; a damaged profile changes nothing."""
    grey = Image.new("RGB", (8, 8), (64, 64, 64))
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    grey.save(tmp_path / "same.png", icc_profile=bytes(profile))
    assert np.abs(read_image(tmp_path / "same.png").astype(int) - 64).max() <= 1
    start = profile.index(b"para", 128)
    profile[start + 12 : start + 16] = struct.pack(">i", 65536)  # gamma 2.4 -> 1.0
    grey.save(tmp_path / "linear.png", icc_profile=bytes(profile))
    assert read_image(tmp_path / "linear.png").mean() > 74
    grey.save(tmp_path / "damaged.png", icc_profile=bytes(profile[:200]))
    assert (read_image(tmp_path / "damaged.png") == 64).all()


def test_max_side(tmp_path):
    Image.fromarray(awkward.marked_frame(960, 640)).save(tmp_path / "a.jpg")
    image = read_image(tmp_path / "a.jpg", max_side_px=192)
    assert image.shape == (128, 192, 3) and awkward.corners(image) == ["red", "green", "blue", "grey"]
    assert read_image(tmp_path / "a.jpg", max_side_px=2000).shape == (640, 960, 3)


def absurd_png(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 100) + b"IDAT" + bytes(100)


def cut(path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:2000])


BROKEN = {
    "missing": (lambda path: None, "no such file"),
    "directory": (lambda path: path.mkdir(), "is a directory"),
    "empty": (lambda path: path.touch(), "is empty"),
    "text": (lambda path: path.write_text("hello " * 99), "not an image"),
    "cut off": (cut, "cut off or damaged"),
    "bomb": (lambda path: path.write_bytes(absurd_png(100_000, 100_000)), "more than 120 million pixels"),
    "large": (lambda path: path.write_bytes(absurd_png(11_000, 11_000)), "more than 120 million pixels"),
    "iPhone": (lambda path: path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(99)), "HEIC photos cannot be read"),
    "film": (lambda path: awkward.write_clip(path.with_suffix(".mp4"), [PICTURE]).rename(path), "not an image"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_unreadable_images_give_one_line_that_names_them(tmp_path, kind):
    path = tmp_path / "source.jpg"
    make, message = BROKEN[kind]
    make(path)
    with pytest.raises(InputError, match=message) as caught:
        read_image(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_write_is_whole_or_not_at_all(tmp_path):
    write_image(tmp_path / "a.png", PICTURE)
    assert np.array_equal(read_image(tmp_path / "a.png"), PICTURE)
    write_image(tmp_path / "a.jpg", PICTURE)
    assert np.abs(read_image(tmp_path / "a.jpg")[8:24, 8:40].astype(int) - PICTURE[8:24, 8:40]).max() <= 3
    with pytest.raises(InputError, match="cannot be written"):
        write_image(tmp_path / "no such" / "a.png", PICTURE)
    assert sorted(os.listdir(tmp_path)) == ["a.jpg", "a.png"]


def test_float_round_trip():
    image = to_float(PICTURE)
    assert image.shape == (3, 64, 96) and image.is_contiguous() and image.dtype == torch.float32
    assert image[0, 0, 0] == pytest.approx(awkward.RED[0] / 255)
    assert np.array_equal(to_u8(image), PICTURE)
    beyond = torch.tensor([-1.0, 2.0, 0.5]).view(3, 1, 1)
    assert to_u8(beyond).tolist() == [[[0, 255, 128]]]


def test_resize_does_not_alias():
    lines = np.zeros((64, 64, 3), np.uint8)
    lines[:, ::2] = 255
    small = resize_u8(lines, 16, 16)
    assert small.shape == (16, 16, 3) and np.abs(small[:, 2:-2].astype(int) - 127).max() <= 2
    assert resize_u8(lines, 64, 64) is lines
