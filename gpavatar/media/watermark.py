"""The invisible watermark: a faint keyed pattern in the brightness of every frame that carries a 32-bit payload.

Direct-sequence spread spectrum (Cox, Kilian, Leighton and Shamoon, "Secure spread spectrum watermarking for
multimedia", IEEE Trans. Image Processing 1997) in a tile that repeats over the picture, so that what is left after a
crop still holds all of it (Honsinger and Rabbani, "Data embedding using phase dispersion", 2000). A quarter of the
tile is the same in every mark and tells the reader (`watermark_reader.py`) where it is and at what scale; the rest
carries the channel bits of `watermark_code.py`. The pattern is faint where the picture is flat, louder where structure
hides it, and fainter again where there is so much structure that it drowns. It lies between 1/17 and 1/7 cycles per
pixel: higher frequencies do not survive H.264, lower ones are seen.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from gpavatar.media.watermark_code import CHANNEL_BITS, encode

KEY = "gpavatar watermark 1"  # not a secret, a mark that anybody can read is worth more than one that nobody can forge
CHIP_PX = 4
TILE_CHIPS = 32
TILE_PX = CHIP_PX * TILE_CHIPS
CHIPS_PER_BIT = 4
SYNC_CHIPS = TILE_CHIPS**2 - CHIPS_PER_BIT * CHANNEL_BITS
SYNC_AMPLITUDE = 1.25  # of a sync chip against the others: what is not found cannot be read
BAND = (0.06, 0.15)  # cycles per pixel
PATTERN_GAIN = 21.0  # gives the pattern of such chips a mean square of 1
SMALL_PX = 160  # below this side a picture holds too little of a tile: the pattern is drawn at half its size there

# Amplitude in grey levels of 255 (root mean square of what is added): in flat areas the first over the side of the
# picture in pixels, within bounds (below the lower, rounding to whole levels erases the pattern); there in black, by
# how much more; per grey level of local standard deviation; at most; and over the whole frame (42.2 dB). Beyond BUSY
# grey levels of deviation it falls with the root of the deviation: there a grey level of it tells the reader least, a
# quarter of what it tells in flat areas, and costs most bits of a compressed file.
FLAT_PX, FLAT_BOUNDS, IN_BLACK = 384.0, (0.6, 1.9), 0.8
PER_DEVIATION, LOUDEST, LOUDEST_FRAME, BUSY = 0.20, 2.6, 1.95, 8.0
DARK_LEVEL = 48.0  # below it a screen shows a grey level ever less


def add_watermark(image_u8: UInt8[np.ndarray, "height width 3"], payload: int) -> UInt8[np.ndarray, "height width 3"]:
    """A copy of the frame with the pattern of `payload` (32 bits) added to its brightness, at 42 dB or better.

    image + round(amplitude · pattern), the same in red, green and blue; about 1 ms at 512².
    """
    height, width = image_u8.shape[:2]
    change = _frame_pattern(payload, height, width) * amplitude(image_u8)
    level = np.sqrt(cv2.mean(change * change)[0])
    if level > LOUDEST_FRAME:
        change *= LOUDEST_FRAME / level
    return cv2.add(image_u8, cv2.merge([np.rint(change)] * 3), dtype=cv2.CV_8U)


def amplitude(image_u8: UInt8[np.ndarray, "height width 3"]) -> Float[np.ndarray, "height width"]:
    """How loud the pattern is at each pixel, grey levels: min(flat + PER_DEVIATION · d, LOUDEST) · min(1, √(BUSY / d)).

    d is the standard deviation of the brightness in a window of 10 pixels; busy surroundings hide a pattern (masking).
    In flat areas a larger picture needs less, because it holds more tiles, and a dark one bears more.
    """
    height, width = image_u8.shape[:2]
    flat = min(max(FLAT_PX / np.sqrt(height * width), FLAT_BOUNDS[0]), FLAT_BOUNDS[1])
    grey = cv2.cvtColor(image_u8, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA)
    small = small.astype(np.float32)
    mean = cv2.blur(small, (5, 5))
    deviation = np.sqrt(np.maximum(cv2.blur(small * small, (5, 5)) - mean * mean, 0))
    darkness = np.maximum(1 - mean * np.float32(1 / DARK_LEVEL), 0)
    loudness = np.minimum(flat * (1 + IN_BLACK * darkness) + PER_DEVIATION * deviation, LOUDEST).astype(np.float32)
    loudness *= np.sqrt(BUSY / np.maximum(deviation, BUSY))
    return cv2.resize(cv2.blur(loudness, (5, 5)), (width, height), interpolation=cv2.INTER_LINEAR)


@lru_cache(maxsize=4)
def _frame_pattern(payload: int, height: int, width: int) -> Float[np.ndarray, "height width"]:
    tile = tile_pattern(payload)
    if height * width < SMALL_PX**2:
        around = cv2.copyMakeBorder(tile, 4, 4, 4, 4, cv2.BORDER_WRAP)
        tile = 1.1 * cv2.resize(around, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)[2:-2, 2:-2]
    repeats = [-(-side // tile.shape[0]) for side in (height, width)]
    return np.ascontiguousarray(np.tile(tile, repeats)[:height, :width])


def tile_pattern(payload: int) -> Float[np.ndarray, "tile tile"]:
    """The pattern of a payload, one period, with root mean square 1."""
    chips = np.empty(TILE_CHIPS**2, np.float32)
    order = chip_order()
    chips[order[:SYNC_CHIPS]] = sync_chips()
    chips[order[SYNC_CHIPS:]] = np.repeat(encode(payload) * 2.0 - 1, CHIPS_PER_BIT) * spreading_chips()
    return shaped(chips)


def shaped(chips: Float[np.ndarray, " chip"]) -> Float[np.ndarray, "tile tile"]:
    """Chips as the pattern that shows them: impulses on the grid, filtered to the band; about 1 in the mean square."""
    impulses = np.zeros((TILE_PX, TILE_PX), np.float32)
    impulses[::CHIP_PX, ::CHIP_PX] = chips.reshape(TILE_CHIPS, TILE_CHIPS)
    pattern = np.fft.irfft2(np.fft.rfft2(impulses) * band_filter(), s=impulses.shape)
    return (pattern * PATTERN_GAIN).astype(np.float32)


@lru_cache(maxsize=1)
def band_filter() -> Float[np.ndarray, "tile half"]:
    """The transfer function of a chip's shape on the tile's frequencies: 1 inside BAND, with soft ends."""
    frequency = np.hypot(np.fft.fftfreq(TILE_PX)[:, None], np.fft.rfftfreq(TILE_PX)[None])
    low, high = BAND
    return (1 - np.exp(-((frequency / low) ** 4))) * np.exp(-((frequency / high) ** 4))


@lru_cache(maxsize=1)
def chip_order() -> Int[np.ndarray, " chip"]:
    """Where on the tile (row-major) the sync chips lie, then the chips of each channel bit in turn: shuffled by KEY."""
    return np.argsort(np.frombuffer(_stream("order", 8 * TILE_CHIPS**2), "<u8"), kind="stable")


@lru_cache(maxsize=1)
def sync_chips() -> Float[np.ndarray, " chip"]:
    """The same in every mark."""
    return SYNC_AMPLITUDE * _signs("sync", SYNC_CHIPS)


@lru_cache(maxsize=1)
def spreading_chips() -> Float[np.ndarray, " chip"]:
    """±1 that multiply the channel bits, so that no payload is a plain pattern."""
    return _signs("data", CHIPS_PER_BIT * CHANNEL_BITS)


def _signs(purpose: str, count: int) -> Float[np.ndarray, " count"]:
    return np.frombuffer(_stream(purpose, count), np.uint8) % 2 * np.float32(2) - np.float32(1)


def _stream(purpose: str, count: int) -> bytes:
    """Random bytes that no version of a library will ever change."""
    return hashlib.shake_256(f"{KEY} {purpose}".encode()).digest(count)
