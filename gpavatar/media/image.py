"""Still images: any file that Pillow reads <-> 8-bit RGB, upright, in sRGB."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageCms
from torch import Tensor

from gpavatar.limits import MAX_IMAGE_PIXELS
from gpavatar.media.files import check_file, fit_size, whole_file
from gpavatar.types import InputError, one_line

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".avif")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
SRGB = ImageCms.createProfile("sRGB")
FROM_16_BIT = np.rint(np.arange(65536) / 257).astype(np.uint8)
EXIF_ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: str | Path, max_side_px: int | None = None) -> UInt8[np.ndarray, "height width 3"]:
    """Read a still image as RGB: EXIF orientation and colour profile applied, alpha flattened over white.

    With `max_side_px` a larger image is scaled down, never up. InputError (one line) where it cannot be read.
    """
    return np.array(flatten(_read(Path(path), max_side_px)))


def read_image_rgba(path: str | Path, max_side_px: int | None = None) -> UInt8[np.ndarray, "height width 4"]:
    """As `read_image`, with the alpha channel kept (not premultiplied); 255 where the file has none."""
    return np.array(_read(Path(path), max_side_px).convert("RGBA"))


def _read(path: Path, max_side_px: int | None) -> Image.Image:
    """Decoded, scaled and upright. At most two copies of a picture are held at a time: one may take 600 MB."""
    with open_image(path) as opened, damage_named(path):
        if max_side_px:
            opened.draft(None, fit_size(*opened.size, max_side_px))  # a JPEG is decoded at 1/2, 1/4 or 1/8
        opened.load()
        turn = TURNS.get(opened.getexif().get(EXIF_ORIENTATION))
        image = _scaled(opened, max_side_px)
    image = _scaled(to_srgb(image), max_side_px)
    return image.transpose(turn) if turn is not None else image


def _scaled(image: Image.Image, max_side_px: int | None) -> Image.Image:
    """Scaled down, in modes in which that is a mean of colours."""
    if not max_side_px or max(image.size) <= max_side_px or image.mode not in ("RGB", "RGBA", "L", "CMYK"):
        return image
    if "transparency" in image.info:  # one colour stands for it: no mean of colours must become it
        return image
    profile = image.info.get("icc_profile")
    image = image.resize(fit_size(*image.size, max_side_px), Image.Resampling.LANCZOS)
    image.info["icc_profile"] = profile
    return image


def open_image(path: Path) -> Image.Image:
    """Read the header of an image file; InputError where it is none, or claims an absurd size."""
    check_file(path)
    if is_heif(path):
        raise InputError(f"{path}: HEIC photos cannot be read; export it as JPEG or PNG")
    try:
        image = _opened(path)
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: more than {MAX_IMAGE_PIXELS // 10**6} million pixels; scale it down") from error
    except PermissionError as error:
        raise InputError(f"{path}: not allowed to read it; change its permissions") from error
    except Exception as error:  # what Pillow's readers raise at a damaged header is up to each of them
        raise InputError(f"{path}: not an image that can be read; give a png or jpg") from error
    if image.width * image.height > MAX_IMAGE_PIXELS:
        image.close()
        raise InputError(f"{path}: more than {MAX_IMAGE_PIXELS // 10**6} million pixels; scale it down")
    return image


def is_image(path: Path) -> bool:
    """Whether Pillow knows the kind of file; one of an absurd size is an image too."""
    try:
        with _opened(path):
            return True
    except Image.DecompressionBombError:
        return True
    except Exception:  # what Pillow's readers raise at a damaged header is up to each of them
        return False


def _opened(path: Path) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is ours
        return Image.open(path)


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """InputError for whatever Pillow raises in the block: at damage, each of its readers raises what it likes."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        said = one_line(error)
        raise InputError(f"{path}: the image is cut off or damaged ({said}); copy it again") from error


def is_heif(path: Path) -> bool:
    """Whether the file is an iPhone photo, which would pass for a video (it is one frame of HEVC, in tiles)."""
    with path.open("rb") as file:
        head = file.read(12)
    return head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS


def to_srgb(image: Image.Image) -> Image.Image:
    """Any mode of Pillow -> 8-bit RGB in sRGB, or RGBA where the image has transparency."""
    profile = image.info.get("icc_profile")
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "F"):
        image, profile = _to_8_bit(image), None
    has_alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if has_alpha and image.mode != "RGBA":
        image = image.convert("RGBA")
    if has_alpha and not profile:
        return image
    alpha = image.getchannel("A") if has_alpha else None
    if has_alpha or image.mode not in ("RGB", "CMYK", "L"):
        image = image.convert("RGB")
    image = _in_srgb(image, profile)
    if image.mode != "RGB":  # convert copies even where there is nothing to do
        image = image.convert("RGB")
    if alpha is not None:
        image.putalpha(alpha)
    return image


def flatten(image: Image.Image) -> Image.Image:
    """RGB or RGBA -> RGB, over white."""
    if image.mode == "RGB":
        return image
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def _to_8_bit(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray(FROM_16_BIT[np.asarray(image)], "L")
    values = np.array(image, np.float32)
    # floats are taken as [0, 1] unless they go beyond; integers as 16 bit unless they fit into 8
    top = 1.0 if image.mode == "F" and values.max() <= 1 else 65535.0 if values.max() > 255 else 255.0
    np.nan_to_num(values, copy=False)
    values *= 255 / top
    return Image.fromarray(np.rint(values, out=values).clip(0, 255, out=values).astype(np.uint8), "L")


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Colours by the embedded profile; a profile that is damaged or of another mode is as good as none."""
    if not profile:
        return image
    try:
        return ImageCms.profileToProfile(image, io.BytesIO(profile), SRGB, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return image


def write_image(path: str | Path, image_u8: UInt8[np.ndarray, "height width channel"], quality: int = 95) -> None:
    """Write a png, jpg or webp (by suffix); under its name only when whole. InputError where it cannot be written."""
    path = Path(path)
    with whole_file(path, on_disk=False) as temporary:
        save_image(temporary, image_u8, quality)


def save_image(path: Path, image_u8: UInt8[np.ndarray, "height width channel"], quality: int = 95) -> None:
    """As `write_image`, straight under its name; OSError where it cannot be written."""
    options = {"compress_level": 3} if path.suffix.lower() == ".png" else {"quality": quality, "subsampling": 0}
    Image.fromarray(image_u8).save(path, **options)


def resize_u8(
    image_u8: UInt8[np.ndarray, "height width 3"], width_px: int, height_px: int
) -> UInt8[np.ndarray, "_ _ 3"]:
    """Scale to the given size with antialiasing (bilinear, its support widened when shrinking)."""
    if image_u8.shape[:2] == (height_px, width_px):
        return image_u8
    return np.array(Image.fromarray(image_u8).resize((width_px, height_px), Image.Resampling.BILINEAR))


def to_float(image_u8: UInt8[np.ndarray, "height width channel"]) -> Float[Tensor, "channel height width"]:
    """8-bit channels-last -> float in [0, 1], channels first, contiguous."""
    return torch.from_numpy(image_u8).permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format) / 255


def to_u8(image: Float[Tensor, "channel height width"]) -> UInt8[np.ndarray, "height width channel"]:
    """Float in [0, 1] (clamped), channels first -> 8-bit channels-last, rounded, contiguous, on the CPU."""
    rounded = image.detach().clamp(0, 1).mul(255).round_().to(torch.uint8)
    return rounded.permute(1, 2, 0).contiguous().cpu().numpy()
