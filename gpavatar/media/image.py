"""Still images: any file that Pillow reads <-> 8-bit RGB, upright, in sRGB."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

from gpavatar.media.files import check_file, fit_size, whole_file
from gpavatar.types import InputError

MAX_IMAGE_PIXELS = 150_000_000  # the largest cameras; beyond it lie decompression bombs
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".avif")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
SRGB = ImageCms.createProfile("sRGB")


def read_image(path: str | Path, max_side_px: int | None = None) -> UInt8[np.ndarray, "height width 3"]:
    """Read a still image as RGB: EXIF orientation and colour profile applied, alpha flattened over white.

    With `max_side_px` a larger image is scaled down, never up. InputError (one line) where it cannot be read.
    """
    rgba = Image.fromarray(read_image_rgba(path, max_side_px), "RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return np.array(Image.alpha_composite(white, rgba).convert("RGB"))


def read_image_rgba(path: str | Path, max_side_px: int | None = None) -> UInt8[np.ndarray, "height width 4"]:
    """As `read_image`, with the alpha channel kept (not premultiplied); 255 where the file has none."""
    path = Path(path)
    with open_image(path) as image:
        try:
            if max_side_px:
                image.draft(None, fit_size(*image.size, max_side_px))  # a JPEG is decoded at 1/2, 1/4 or 1/8
            image.load()
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise InputError(f"{path}: the image is cut off or damaged ({error}); copy it again") from error
        upright = ImageOps.exif_transpose(to_rgba(image))
    if max_side_px and max(upright.size) > max_side_px:
        upright = upright.resize(fit_size(*upright.size, max_side_px), Image.Resampling.LANCZOS)
    return np.array(upright)


def open_image(path: Path) -> Image.Image:
    """Read the header of an image file; InputError where it is none, or claims an absurd size."""
    check_file(path)
    if is_heif(path):
        raise InputError(f"{path}: HEIC photos cannot be read; export it as JPEG or PNG")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: more than {MAX_IMAGE_PIXELS // 10**6} million pixels; scale it down") from error
    except PermissionError as error:
        raise InputError(f"{path}: not allowed to read it; change its permissions") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: not an image that can be read; give a png or jpg") from error
    if image.width * image.height > MAX_IMAGE_PIXELS:
        image.close()
        raise InputError(f"{path}: more than {MAX_IMAGE_PIXELS // 10**6} million pixels; scale it down")
    return image


def is_heif(path: Path) -> bool:
    """Whether the file is an iPhone photo, which would pass for a video (it is one frame of HEVC, in tiles)."""
    with path.open("rb") as file:
        head = file.read(12)
    return head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS


def to_rgba(image: Image.Image) -> Image.Image:
    """Any mode of Pillow -> 8-bit RGBA in sRGB; metadata (EXIF) is kept."""
    exif, profile = image.getexif(), image.info.get("icc_profile")
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "F"):
        values = np.asarray(image, np.float64)
        # floats are taken as [0, 1] unless they go beyond; integers as 16 bit unless they fit into 8
        top = 1.0 if image.mode == "F" and values.max() <= 1 else 65535.0 if values.max() > 255 else 255.0
        top = 65535.0 if image.mode.startswith("I;16") else top
        image, profile = Image.fromarray(np.uint8(np.rint(np.clip(values / top, 0, 1) * 255)), "L"), None
    has_alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    alpha = image.convert("RGBA").getchannel("A") if has_alpha else None
    if image.mode not in ("RGB", "CMYK", "L"):
        image = image.convert("RGBA").convert("RGB")
    rgb = _in_srgb(image, profile).convert("RGB")
    rgba = rgb.convert("RGBA")
    if alpha is not None:
        rgba.putalpha(alpha)
    rgba.info["exif"] = exif.tobytes()
    return rgba


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
    with whole_file(path) as temporary:
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
