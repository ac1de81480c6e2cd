"""HDR video (what phones record by default) brought to the range and colours of an ordinary screen.

FFmpeg's own conversion takes seconds to set up and leaves stripes in saturated colours, hence this table of 33³
colours, applied by Pillow.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from av.video.reformatter import ColorTrc
from jaxtyping import Float, UInt8
from PIL import Image, ImageFilter

HDR_CURVES = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)  # PQ (HDR10), HLG
WHITE_NITS = 203.0  # what stands for paper white in HDR (ITU-R BT.2408)
HLG_PEAK_NITS = 1000.0
KNEE = 0.8  # share of the ordinary range that is kept as it is; highlights share the rest
TABLE_SIZE = 33
# Linear BT.2020 -> linear BT.709 (ITU-R BT.2087, annex 2)
BT709_FROM_BT2020 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
LUMINANCE_BT2020 = np.array([0.2627, 0.6780, 0.0593])


def to_sdr_u8(image_u8: UInt8[np.ndarray, "height width 3"], curve: int) -> UInt8[np.ndarray, "height width 3"]:
    """BT.2020 RGB under an HDR `curve` -> BT.709 RGB (sRGB curve)."""
    return np.array(Image.fromarray(image_u8).filter(_table(curve)))


def sdr_from_hdr(signal: Float[np.ndarray, "*batch 3"], curve: int) -> Float[np.ndarray, "*batch 3"]:
    """The colour by its definition; signals in [0, 1].

    Light (ITU-R BT.2100 tables 4 and 5), divided by paper white; highlights bent by
    f(m) = k + (1 − k)(1 − e^(−(m − k)/(1 − k))) for m > k with m the strongest channel, so that hue is kept; then the
    primaries and the sRGB curve.
    """
    light = (_pq_nits(signal) if curve == ColorTrc.SMPTE2084 else _hlg_nits(signal)) / WHITE_NITS
    strongest = light.max(-1, keepdims=True)
    bent = KNEE + (1 - KNEE) * (1 - np.exp(-(strongest - KNEE) / (1 - KNEE)))
    light = light * np.where(strongest > KNEE, bent / np.maximum(strongest, KNEE), 1.0)
    light = np.clip(light @ BT709_FROM_BT2020.T, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def _pq_nits(signal: np.ndarray) -> np.ndarray:
    power = signal ** (32 / 2523)
    return 10_000 * (np.maximum(power - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * power)) ** (8192 / 1305)


def _hlg_nits(signal: np.ndarray) -> np.ndarray:
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luminance = (scene @ LUMINANCE_BT2020)[..., None]
    return HLG_PEAK_NITS * scene * np.maximum(luminance, 1e-9) ** 0.2


@lru_cache(maxsize=2)
def _table(curve: int) -> ImageFilter.Color3DLUT:
    levels = np.linspace(0, 1, TABLE_SIZE)
    blue, green, red = np.meshgrid(levels, levels, levels, indexing="ij")  # Pillow wants red to run fastest
    colours = sdr_from_hdr(np.stack([red, green, blue], -1), curve)
    return ImageFilter.Color3DLUT(TABLE_SIZE, colours.reshape(-1).tolist())
