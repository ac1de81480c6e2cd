"""Pictures, animations and videos: good files of every kind that people bring, and how a program reads them."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import awkward_files as awkward
import numpy as np
from PIL import Image, ImageCms

from gpavatar.types import GpavatarError

MAX_SIDE_PX = 1280  # as sources and drivers are read


def picture(width: int = 48, height: int = 40) -> np.ndarray:
    """Something to compress."""
    noise = np.random.default_rng(0).integers(0, 40, (height, width, 3), np.uint8)
    return awkward.marked_frame(width, height) + noise


def image_seeds(folder: Path) -> None:
    """Every format and mode that people bring."""
    image = Image.fromarray(picture())
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image.save(folder / "a.png", icc_profile=profile, exif=exif)
    image.convert("RGBA").save(folder / "rgba.png")
    image.quantize(16).save(folder / "palette.png", transparency=3)
    Image.fromarray(picture()[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    image.save(folder / "a.jpg", exif=exif, icc_profile=profile)
    image.convert("CMYK").save(folder / "cmyk.jpg", progressive=True)
    image.save(folder / "a.webp")
    image.save(folder / "lossless.webp", lossless=True, exif=exif)
    image.save(folder / "a.bmp")
    image.save(folder / "a.ppm")
    for compression in ("raw", "tiff_lzw", "jpeg", "tiff_adobe_deflate"):
        image.save(folder / f"{compression}.tiff", compression=compression)
    Image.fromarray(np.float32(picture()[..., 0]) / 255).save(folder / "float.tiff")
    for suffix in ("gif", "avif"):
        image.save(folder / f"a.{suffix}")


def animation_seeds(folder: Path) -> None:
    """A few frames each."""
    frames = [Image.fromarray(awkward.marked_frame(40, 32, index)) for index in range(4)]
    for suffix in ("gif", "webp", "png"):
        frames[0].save(folder / f"a.{suffix}", save_all=True, append_images=frames[1:], duration=40, loop=0)


def video_seeds(folder: Path) -> None:
    """The usual containers and codecs, with sound, rotation and time stamps that are not regular."""
    frames = [awkward.marked_frame(96, 64, index) for index in range(8)]
    sound = awkward.clicks(0.3, [0.1])
    fast = {"preset": "ultrafast", "g": "4"}
    awkward.write_clip(folder / "a.mp4", frames, options=fast, sound=sound)
    awkward.write_clip(folder / "turned.mov", frames, options=fast, rotation_deg=90, pixel_shape=Fraction(4, 3))
    awkward.write_clip(folder / "uneven.mkv", frames, [0, 0.1, 0.15, 0.4, 0.5, 0.6, 0.8, 0.9], sound=sound)
    awkward.write_clip(folder / "a.ts", frames, options=fast, container_format="mpegts", sound=sound)
    awkward.write_clip(folder / "a.avi", frames, codec="mpeg4")
    awkward.write_clip(folder / "a.mpg", frames, codec="mpeg2video")
    awkward.write_clip(folder / "a.webm", frames, codec="libvpx", options={"deadline": "realtime", "cpu-used": "8"})
    quick = {"deadline": "realtime", "cpu-used": "8"}
    awkward.write_clip(folder / "nine.webm", frames, codec="libvpx-vp9", options=quick)
    awkward.write_clip(folder / "mjpeg.mov", frames, codec="mjpeg", pix_fmt="yuvj420p")
    awkward.write_clip(folder / "pro.mov", frames, codec="prores_ks", pix_fmt="yuv422p10le")
    awkward.write_clip(
        folder / "hevc.mp4", frames, codec="libx265", options={"preset": "ultrafast", "x265-params": "log-level=none"}
    )


def read_still(path: Path, scratch: Path) -> None:
    """As a photo and as a background."""
    from gpavatar.media.image import read_image, write_image

    write_image(scratch / "out.png", read_image(path, 64))
    read_image(path, MAX_SIDE_PX)


def read_moving(path: Path, scratch: Path) -> None:
    """As a driver: all frames, from the start and from within; then on into a video with its sound."""
    from gpavatar.media.frames import open_frames
    from gpavatar.media.writer import open_writer

    with suppress(GpavatarError):
        list(open_frames(path, max_side_px=MAX_SIDE_PX, start_s=0.1, end_s=0.3))
    reader = open_frames(path, max_side_px=MAX_SIDE_PX)
    info = reader.info
    audio = path if info.has_audio else None
    with open_writer(scratch / "out.mp4", info.width_px, info.height_px, fps=info.fps, audio_from=audio) as writer:
        for frame in reader:
            writer.write(frame.image_u8, frame.time_s)
