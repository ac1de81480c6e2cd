"""Curves as SVG and pictures as data addresses: a report that needs no other file."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from gpavatar.evaluation.statistics import Estimate
from gpavatar.media.image import resize_u8

COLOURS = ("#6b7280", "#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 400, 260, 56, 12, 30, 36
MAX_STEPS = 4
PICTURE_PX, JPEG_QUALITY = 256, 85


@dataclass(frozen=True)
class Line:
    """One method over the number of sources."""

    label: str
    points: tuple[tuple[int, Estimate], ...]


def curve_svg(title: str, lines: Sequence[Line]) -> str:
    """Means with their intervals over N (on a logarithmic axis), one colour per method."""
    numbers = sorted({n for line in lines for n, _ in line.points})
    ticks = _ticks([value for line in lines for _, value in line.points])
    low, high = ticks[0], ticks[-1]

    def x(n: int) -> float:
        first, last = math.log2(numbers[0]), math.log2(numbers[-1])
        return LEFT + 14 + (math.log2(n) - first) / max(last - first, 1e-9) * (WIDTH - LEFT - RIGHT - 28)

    def y(value: float) -> float:
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<text x="{LEFT}" y="16" class="title">{html.escape(title)}</text>']
    for tick in ticks:
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" class="value">{tick:.4g}</text>')
    parts += [f'<text x="{x(n):.1f}" y="{HEIGHT - 18}" class="count">{n}</text>' for n in numbers]
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" class="count">sources</text>')
    for index, line in enumerate(lines):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(f"{x(n):.1f},{y(value.mean):.1f}" for n, value in line.points)
        parts.append(f'<polyline points="{path}" stroke="{colour}"><title>{html.escape(line.label)}</title></polyline>')
        for n, value in line.points:
            at = x(n) + 3 * (index - (len(lines) - 1) / 2)
            if not math.isnan(value.low):
                ends = f'y1="{y(value.low):.1f}" y2="{y(value.high):.1f}"'
                parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" {ends} stroke="{colour}"/>')
            parts.append(f'<circle cx="{at:.1f}" cy="{y(value.mean):.1f}" r="3" fill="{colour}"/>')
    return f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def legend(labels: Sequence[str]) -> str:
    """Which colour is which method."""
    entries = [
        f'<span><i style="background:{COLOURS[index % len(COLOURS)]}"></i>{html.escape(label)}</span>'
        for index, label in enumerate(labels)
    ]
    return f"<p class=legend>{''.join(entries)}</p>"


def picture(image_u8: UInt8[np.ndarray, "height width 3"], caption: str) -> str:
    """A picture with its caption, inside the page."""
    height, width = image_u8.shape[:2]
    scale = min(1.0, PICTURE_PX / max(height, width))
    small = resize_u8(image_u8, max(1, round(width * scale)), max(1, round(height * scale)))
    buffer = io.BytesIO()
    Image.fromarray(small).save(buffer, "JPEG", quality=JPEG_QUALITY)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    text = html.escape(caption)
    return f'<figure><img src="data:image/jpeg;base64,{data}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def _ticks(values: Sequence[Estimate]) -> list[float]:
    """Round numbers around all means and intervals: steps of 1, 2, 2.5 or 5 times a power of ten."""
    ends = [end for v in values for end in (v.mean, v.low, v.high) if not math.isnan(end)]
    low, high = min(ends), max(ends)
    least = max((high - low) / MAX_STEPS, abs(high) * 1e-3, 1e-9)
    power = 10.0 ** math.floor(math.log10(least))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= least)
    first, last = math.floor(low / step), max(math.ceil(high / step), math.floor(low / step) + 1)
    return [step * number for number in range(first, last + 1)]
