"""Reading the watermark back, without the original: from frames that may have been cropped, scaled and compressed.

1. Whitening: what the frames have in common (the mark stands still), without its coarse structure, split by direction,
   each part weighted pixel by pixel by how quiet its surroundings are: along an edge the other directions still tell.
2. Search: for each scale the picture is brought to that scale and folded into one tile; the correlation of the tile
   with the sync chips has a peak where scale and position are right.
3. Reading: the chips at that place give soft channel bits; `watermark_code.py` finds the payload and checks it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import cv2
import numpy as np
import scipy.fft
from jaxtyping import Float, UInt8

from gpavatar.media import watermark_code
from gpavatar.media.watermark import (
    CHIP_PX,
    CHIPS_PER_BIT,
    SYNC_CHIPS,
    TILE_PX,
    band_filter,
    chip_order,
    shaped,
    spreading_chips,
    sync_chips,
)

SCALES = (0.45, 2.2)  # of the picture against the one that was marked
SCALE_STEP = 0.008  # of the search; a step of the refinement is a quarter of it
SEARCH_PX = 512  # side of the part of the picture, at the mark's own scale, that the search looks at
CANDIDATES = 6
LEAST_PEAK = 4.4  # of the sync correlation, in its standard deviations
FRAME_STEP = 4  # neighbours in time are so alike after compression that those between add nothing (measured)
DIRECTIONS = 4
FINE_PX, SURROUNDINGS_PX = 1.4, 1.5  # sigma of what is too coarse to be looked at, and of a pixel's surroundings
QUIET = 0.1  # power that is not told from none: some rounding to whole grey levels
WEIGHT_EXPONENT = 0.85
MIDDLE_PX = 2048  # of a larger frame only its middle is looked at, which holds the mark many times over
BORDER_PX = 12  # mirrored around the frame, so that no direction sees the frame's own edges


@dataclass(frozen=True)
class WatermarkReading:
    """What was found. `payload` is None where there is no mark; then the rest says how near the best guess came."""

    payload: int | None
    bit_error: float | None  # fraction of the channel bits that disagree with those of the payload
    peak: float  # of the sync correlation, in its standard deviations
    scale: float  # of the picture against the one that was marked


@dataclass(frozen=True)
class _Place:
    """Where a mark may lie: the scale, and the tile folded at that scale, shifted so that it begins at its origin."""

    peak: float
    scale: float
    tile: Float[np.ndarray, "tile tile"]


def read_watermark(frames: Iterable[UInt8[np.ndarray, "height width 3"]]) -> WatermarkReading:
    """The payload that is hidden in frames of one size; one is enough if it was not compressed much."""
    evidence = whitened(frames)
    for place in _likely(evidence):
        payload = watermark_code.decode(_soft_bits(place)) if place.peak >= LEAST_PEAK else None
        if payload is not None:
            bit_error = float(np.mean((_soft_bits(place) > 0) != watermark_code.encode(payload)))
            return WatermarkReading(payload, bit_error, round(place.peak, 2), round(place.scale, 4))
    return WatermarkReading(None, None, round(place.peak, 2), round(place.scale, 4))


def _likely(evidence: np.ndarray) -> Iterator[_Place]:
    """Places where a mark may lie: first at the scales of a file that nobody changed, then where the search leads."""
    yield _place(evidence, 1.0, None)
    yield _place(evidence, 0.5, None)
    scales = np.exp(np.arange(*np.log(SCALES), SCALE_STEP)).tolist()
    found = sorted((_place(evidence, scale) for scale in scales), key=lambda place: -place.peak)
    taken: list[float] = []
    for place in found:
        if all(abs(np.log(place.scale / scale)) > 2 * SCALE_STEP for scale in taken):
            taken.append(place.scale)
            yield _refined(evidence, place)
        if len(taken) == CANDIDATES:
            return


def whitened(frames: Iterable[UInt8[np.ndarray, "height width 3"]]) -> Float[np.ndarray, "high wide"]:
    """Sum over frames and directions of b / (v + QUIET)^WEIGHT_EXPONENT, v the power of b around each pixel.

    b is the fine structure of the brightness that runs in one direction. Against Gaussian noise of power v the best
    weight is 1 / v; the mark itself is louder where v is large. Every FRAME_STEP-th frame is looked at, in its middle.
    """
    total = None
    for frame in islice(frames, 0, None, FRAME_STEP):
        top, left = (max(0, side - MIDDLE_PX) // 2 for side in frame.shape[:2])
        middle = frame[top : top + MIDDLE_PX, left : left + MIDDLE_PX]
        grey = cv2.cvtColor(middle, cv2.COLOR_RGB2GRAY).astype(np.float32)
        around = cv2.copyMakeBorder(grey, *[BORDER_PX] * 4, cv2.BORDER_REFLECT)
        spectrum = scipy.fft.rfft2(around)
        for direction in direction_filters(*around.shape):
            part = scipy.fft.irfft2(spectrum * direction, s=around.shape)
            power = cv2.GaussianBlur(part * part, (0, 0), SURROUNDINGS_PX)
            weighted = part / (power + QUIET) ** WEIGHT_EXPONENT
            total = weighted if total is None else total + weighted
    assert total is not None, "no frames"
    return np.ascontiguousarray(total[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX])


@lru_cache(maxsize=2)
def direction_filters(height: int, width: int) -> Float[np.ndarray, "direction height half"]:
    """Transfer functions of the fine structure in each direction, cos⁶ of the angle to it: together 5/4 of all of it.

    Such lobes are steerable (Freeman and Adelson, "The design and use of steerable filters", IEEE Trans. PAMI 1991):
    their sum is the same in every direction.
    """
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    fine = 1 - np.exp(-2 * (np.pi * FINE_PX) ** 2 * (x * x + y * y))
    turns = np.pi / DIRECTIONS * np.arange(DIRECTIONS)[:, None, None]
    return (fine * np.cos(np.arctan2(y, x) - turns) ** (2 * DIRECTIONS - 2)).astype(np.float32)


def _place(evidence: np.ndarray, scale: float, window_px: int | None = SEARCH_PX) -> _Place:
    """The best position at this scale, looking at the middle of the picture or (None) at all of it."""
    tile = _folded(evidence, scale, window_px)
    spectrum = np.fft.rfft2(tile)
    correlation = np.fft.irfft2(spectrum * np.conj(_sync_spectrum()), s=tile.shape)
    top, left = np.unravel_index(correlation.argmax(), correlation.shape)
    peak = correlation[top, left] / (correlation.std() + 1e-12)
    return _Place(float(peak), scale, np.roll(tile, (-top, -left), (0, 1)))


def _refined(evidence: np.ndarray, place: _Place) -> _Place:
    scales = place.scale * (1 + SCALE_STEP / 4 * np.arange(-5, 6))
    return max((_place(evidence, scale, None) for scale in scales.tolist()), key=lambda place: place.peak)


def _folded(evidence: np.ndarray, scale: float, window_px: int | None) -> Float[np.ndarray, "tile tile"]:
    """The picture at the mark's own scale, cut into tiles and summed."""
    height, width = evidence.shape
    if window_px is not None:
        high, wide = (min(side, round(window_px * scale)) for side in (height, width))
        top, left = (height - high) // 2, (width - wide) // 2
        evidence = evidence[top : top + high, left : left + wide]
    if scale != 1:
        size = tuple(max(1, round(side / scale)) for side in evidence.shape[::-1])
        evidence = cv2.resize(evidence, size, interpolation=cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR)
    rows, columns = (-(-side // TILE_PX) for side in evidence.shape)
    padded = np.zeros((rows * TILE_PX, columns * TILE_PX), np.float32)
    padded[: evidence.shape[0], : evidence.shape[1]] = evidence
    return _flat_spectrum(padded.reshape(rows, TILE_PX, columns, TILE_PX).sum((0, 2)))


def _flat_spectrum(tile: Float[np.ndarray, "tile tile"]) -> Float[np.ndarray, "tile tile"]:
    """The tile with each frequency divided by the mean size of its neighbours: no band of the picture drowns others."""
    spectrum = np.fft.fft2(tile)
    size = cv2.GaussianBlur(np.fft.fftshift(np.abs(spectrum)).astype(np.float32), (0, 0), 2)
    return np.fft.ifft2(spectrum / (np.fft.ifftshift(size) + 1e-9)).real


def _soft_bits(place: _Place) -> Float[np.ndarray, " channel_bit"]:
    """The chips of each channel bit, matched with their shape and summed."""
    matched = np.fft.irfft2(np.fft.rfft2(place.tile) * band_filter(), s=place.tile.shape)
    chips = matched[::CHIP_PX, ::CHIP_PX].ravel()[chip_order()[SYNC_CHIPS:]]
    return (chips * spreading_chips()).reshape(-1, CHIPS_PER_BIT).sum(1)


@lru_cache(maxsize=1)
def _sync_spectrum() -> np.ndarray:
    chips = np.zeros(chip_order().size, np.float32)
    chips[chip_order()[:SYNC_CHIPS]] = sync_chips()
    return np.fft.rfft2(shaped(chips))
