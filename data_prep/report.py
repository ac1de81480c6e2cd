"""The page at the end of a run: what was kept, what was dropped and why, and what the set looks like. One file."""

from __future__ import annotations

import base64
import html
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from data_prep.clips import Tools
from data_prep.manifest import ClipRecord, Workplace, write_text
from data_prep.outcome import Outcome
from data_prep.settings import PrepConfig
from data_prep.verify import FILTERS
from gpavatar.data.sample import Sample, decode_sample
from gpavatar.data.shards import PackedClip
from gpavatar.data.tar_stream import parse_block
from gpavatar.media.image import resize_u8
from gpavatar.track import overlay
from gpavatar.types import FaceStatus, TrackedFrame

CELL_PX, COLUMNS, MAX_CELLS = 176, 6, 24
LISTED = 500  # rows of a table at most
BACKING = np.array([92, 168, 120])  # what is seen through the matte on the sheet
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .8rem;border-bottom:1px solid #ddd;"
    "text-align:left;vertical-align:top}td.n{text-align:right;font-variant-numeric:tabular-nums}"
    "svg{margin:0 1.5rem 1rem 0}img{max-width:100%}"
)


def write_report(outcome: Outcome, place: Workplace, config: PrepConfig) -> None:
    """`report.html` in the folder of the set; it opens without a network."""
    kept = outcome.kept
    packed = [PackedClip.load(place.packed_file(clip.clip)) for clip in _spread(kept, MAX_CELLS)]
    parts = [
        f"<h1>{html.escape(place.out.name)}</h1>",
        _totals(outcome, config),
        "<h2>Filters</h2>",
        _table(("filter", "clips"), [(name, str(count)) for name, count in _counts(outcome)]),
        "<h2>What the frames show</h2>",
        *_histograms(kept),
        "<h2>Samples, before a plain background and with the fitted head</h2>",
        _picture(sheet([_middle(clip) for clip in packed])) if packed else "<p>None.</p>",
        "<h2>Dropped clips</h2>",
        _table(("clip", "filter", "why"), [(c.clip, c.dropped, c.why) for c in outcome.clips if c.dropped]),
        "<h2>Quarantined files</h2>",
        _table(("file", "why"), _quarantined(outcome)),
    ]
    title = f"<title>{html.escape(place.out.name)}</title>"
    page = f"<!doctype html><html lang=en><meta charset=utf-8>{title}<style>{STYLE}</style>{''.join(parts)}</html>\n"
    write_text(place.out / "report.html", page)


def sheet(samples: Sequence[Sample]) -> UInt8[np.ndarray, "height width 3"]:
    """The samples in rows: each as it is over its matte, with the fitted head beside it."""
    head = Tools.of_process().head
    cells = []
    for sample in samples:
        alpha = sample.alpha_u8 / 255
        plain = (sample.image_u8 * alpha + BACKING * (1 - alpha)).astype(np.uint8)
        tracked = TrackedFrame(0, sample.time_s, FaceStatus.TRACKED, sample.params, sample.camera, sample.landmarks_px)
        drawn = overlay(sample.image_u8, tracked, head)
        cells.append(np.concatenate([resize_u8(view, CELL_PX, CELL_PX) for view in (plain, drawn)], 0))
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % COLUMNS if len(cells) > COLUMNS else 0)
    columns = min(COLUMNS, len(cells))
    rows = [np.concatenate(cells[start : start + columns], 1) for start in range(0, len(cells), columns)]
    return np.concatenate(rows, 0)


def _totals(outcome: Outcome, config: PrepConfig) -> str:
    kept = outcome.kept
    frames = sum(len(clip.choose.frames) for clip in kept)
    seconds = sum(clip.cut.end_s - clip.cut.start_s + 1 / clip.cut.fps for clip in kept)
    read = sum(source.seconds for source in outcome.sources)
    num_bytes = sum(clip.matte.num_bytes for clip in kept)
    rows = [
        ("footage looked at", f"{len(outcome.sources)} files, {read / 3600:.3f} hours"),
        ("clips kept", f"{len(kept)} of {len(outcome.clips)}, {seconds / 3600:.3f} hours"),
        ("people", str(len({clip.identity for clip in kept}))),
        ("frames kept", f"{frames} of {config.size_px} px, {num_bytes / 2**20:.1f} MiB"),
    ]
    return _table(("", ""), rows)


def _counts(outcome: Outcome) -> list[tuple[str, int]]:
    dropped = Counter(clip.dropped for clip in outcome.clips)
    rows = [("kept", dropped.pop("", 0)), *((name, dropped[name]) for name in FILTERS)]
    return [*rows, ("quarantined files", len(_quarantined(outcome)))]


def _quarantined(outcome: Outcome) -> list[tuple[str, str]]:
    rows = [(one.file, one.why) for one in outcome.found.refused]
    return rows + [(one.file, one.quarantined) for one in outcome.sources if one.quarantined]


def _histograms(kept: list[ClipRecord]) -> list[str]:
    def every(name: str) -> list[float]:
        return list(chain.from_iterable(getattr(clip.choose, name) for clip in kept))

    sides = [clip.crop.side_px for clip in kept]
    lengths = [clip.cut.end_s - clip.cut.start_s for clip in kept]
    return [
        histogram("yaw, degrees", every("yaw_deg"), -90, 90),
        histogram("pitch, degrees", every("pitch_deg"), -45, 45),
        histogram("jaw open", every("jaw_open"), 0, 1),
        histogram("smile", every("smile"), 0, 1),
        histogram("eyes shut", every("blink"), 0, 1),
        histogram("side of the crop in the footage, px", sides, 0, max([512, *sides])),
        histogram("length of the clips, s", lengths, 0, max([10, *lengths])),
        histogram("tracker residual", [clip.track.residual for clip in kept], 0, 0.1),
    ]


def histogram(title: str, values: Iterable[float], low: float, high: float, bins: int = 24) -> str:
    """A drawing (SVG) of how often values lie where between `low` and `high`; those beyond count at the ends."""
    values = np.clip(list(values), low, high)
    counts, _ = np.histogram(values, bins, (low, high))
    width, height, bar = 312, 110, 312 / bins
    tall = counts / max(counts.max(initial=0), 1) * height
    bars = "".join(
        f'<rect x="{i * bar:.1f}" y="{height - h:.1f}" width="{bar - 1:.1f}" height="{h:.1f}" fill="#47a"/>'
        for i, h in enumerate(tall)
    )
    median = f", median {np.median(values):.3g}" if len(values) else ""
    return (
        f'<svg width="{width}" height="{height + 40}" font-size="12" role="img">{bars}'
        f'<text x="0" y="{height + 14}">{low:g}</text>'
        f'<text x="{width}" y="{height + 14}" text-anchor="end">{high:.4g}</text>'
        f'<text x="0" y="{height + 32}">{html.escape(title)}{median}</text></svg>'
    )


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return "<p>None.</p>"
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}" for cell in row) for row in rows[:LISTED])
    more = f"<p>and {len(rows) - LISTED} more, see manifest.jsonl</p>" if len(rows) > LISTED else ""
    return f"<table><tr>{''.join(f'<th>{html.escape(name)}' for name in header)}{lines}</table>{more}"


def _picture(image_u8: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image_u8).save(buffer, "JPEG", quality=88)
    return f'<img alt="samples" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _middle(clip: PackedClip) -> Sample:
    """The frame in the middle of a packed clip."""
    row = len(clip.table) // 2
    start, size = int(clip.table.offset[row]), int(clip.table.num_bytes[row])
    raw = parse_block(clip.block[start : start + size], clip.info.clip)
    return decode_sample(raw.key, raw.members, clip.info.clip)


def _spread(records: list[ClipRecord], count: int) -> list[ClipRecord]:
    at = torch.linspace(0, len(records) - 1, min(count, len(records))).round().long().tolist()
    return [records[index] for index in at]
