"""`python -m data_prep inspect DIR`: is a set whole, what is in it, and how does it look?

Reads every frame once and checks hashes, index and frame table, that pictures decode and numbers are finite, that the
head lies on the pictures, and that nobody and no picture is in two splits. Draws a contact sheet: one frame of each of
some clips, cut out by its alpha, and with the head's mesh.
"""

from __future__ import annotations

import hashlib
import webbrowser
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import tyro
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from rich.progress import track
from torch import Tensor

from gpavatar.data.shard_root import is_local
from gpavatar.data.shards import Sample, ShardInfo, ShardSet
from gpavatar.face.open_head import OpenHead
from gpavatar.face.raster import rasterize, to_screen
from gpavatar.media.image import write_image
from gpavatar.types import InputError

MAX_MISFIT = 0.05  # median distance of landmarks and head, in sides of the picture; good fits have 0.01
SHEET = "contact_sheet.jpg"
TILE_PX, COLUMNS = 160, 6
GREY, MESH = 200.0, np.array([80.0, 190.0, 255.0], np.float32)


@dataclass
class Findings:
    """What a pass over all frames found."""

    problems: list[str] = field(default_factory=list)
    frames: int = 0
    roles: Counter = field(default_factory=Counter)
    yaw_deg: list[float] = field(default_factory=list)
    misfit: list[float] = field(default_factory=list)  # in sides of the picture
    without_landmarks: int = 0
    with_depth: int = 0
    shown: list[Sample] = field(default_factory=list)  # one frame of each clip that is drawn


def inspect(
    directory: tyro.conf.Positional[str],
    sheet: Path | None = None,
    view: tyro.conf.FlagCreatePairsOff[bool] = False,
    clips: int = 48,
) -> int:
    """Check a set, say what is in it and draw a contact sheet. Returns 1 where something is wrong with it.

    Args:
        directory: The set: a folder, an http(s) address, or "pipe:COMMAND {}".
        sheet: Where to draw the contact sheet (png or jpg); as a rule contact_sheet.jpg beside the index.
        view: Open it.
        clips: How many clips it shows.
    """
    shards = ShardSet.open(directory)
    head = OpenHead.load()
    head = head if head.sha256 == shards.index.head.sha256 else None
    findings = check(shards, head, clips)
    print("\n".join(describe(shards, findings)))
    if head is None:
        print(f"made with the head {shards.index.head.name}, which is not at hand: its fit is not checked, nor drawn")
    sheet = sheet or (Path(directory) / SHEET if is_local(directory) else Path(SHEET))
    if findings.shown:
        write_image(sheet, contact_sheet(findings.shown, head))
        print(f"contact sheet: {sheet}")
        if view:
            webbrowser.open(sheet.resolve().as_uri())
    for problem in findings.problems:
        print(f"problem: {problem}")
    return 1 if findings.problems else 0


def check(shards: ShardSet, head: OpenHead | None, num_shown: int) -> Findings:
    """Read everything once; what is wrong with a shard does not keep the others from being read."""
    findings, index = Findings(), shards.index
    step = max(1, len(index.clips) // num_shown)
    shown = {clip.clip for clip in index.clips[::step][:num_shown]}
    split_of: dict[bytes, str] = {}
    starts, row = {}, 0
    for shard in index.shards:
        starts[shard.file], row = row, row + shard.num_frames
    for shard, sample, number in _all_frames(shards, findings):
        _check_frame(shards, sample, starts[shard.file] + number, head, findings)
        digest = hashlib.sha256(sample.image_u8.tobytes()).digest()
        if split_of.setdefault(digest, shard.split) != shard.split:
            findings.problems.append(f"{sample.key}: the same picture is in {split_of[digest]} and {shard.split}")
        if sample.clip in shown:
            shown.remove(sample.clip)
            findings.shown.append(sample)
    return findings


def _all_frames(shards: ShardSet, findings: Findings) -> Iterator[tuple[ShardInfo, Sample, int]]:
    """Every frame with its shard and its place in it."""
    for shard in track(shards.index.shards, "reading the shards", transient=True):
        try:
            shards.verify(shard)
        except InputError as error:
            findings.problems.append(str(error))
        try:
            for number, sample in enumerate(shards.shard_samples(shard)):
                yield shard, sample, number
        except InputError as error:
            findings.problems.append(str(error))


def _check_frame(shards: ShardSet, sample: Sample, row: int, head: OpenHead | None, findings: Findings) -> None:
    findings.frames += 1
    findings.roles[sample.role] += 1
    findings.with_depth += sample.depth is not None
    rotation = sample.camera.w2c[:3, :3]
    findings.yaw_deg.append(float(torch.atan2(rotation[0, 2], -rotation[2, 2]).rad2deg()))
    table = shards.table
    if int(table.frame_index[row]) != sample.frame_index or not torch.equal(table.rotation[row], rotation):
        findings.problems.append(f"{sample.key}: the frame table says something else; make the set again")
    if not torch.allclose(rotation @ rotation.T, torch.eye(3), atol=1e-3):
        findings.problems.append(f"{sample.key}: the camera's rotation is none; track the clip again")
    if not sample.alpha_u8.any():
        findings.problems.append(f"{sample.key}: alpha is empty; leave the frame out")
    marked = sample.landmarks_px.isfinite().all(1)
    findings.without_landmarks += not bool(marked.any())
    if head is not None and marked.any():
        error_px = (head_points_px(sample, head) - sample.landmarks_px)[marked].norm(dim=1)
        findings.misfit.append(float(error_px.median()) / len(sample.image_u8))
        if not findings.misfit[-1] < MAX_MISFIT:
            findings.problems.append(f"{sample.key}: the head lies beside the face; track the clip again")


def head_points_px(sample: Sample, head: OpenHead) -> Float[Tensor, "478 2"]:
    """Where the parameters put the landmarks."""
    size = len(sample.image_u8)
    return sample.camera.project_px(head.topology.mediapipe.on(head.verts(sample.params), head.faces), size, size)


def describe(shards: ShardSet, findings: Findings) -> list[str]:
    """What is in the set, for a person to read."""
    index = shards.index
    size_mb = sum(shard.num_bytes for shard in index.shards) / 1e6
    lines = [
        f"{shards.root}: {index.size_px} px, head {index.head.name} {index.head.sha256[:8]}, "
        f"{len(index.shards)} shards, {size_mb:.1f} MB"
    ]
    for split, identities in index.splits.items():
        clips = [clip for clip in index.clips if clip.split == split]
        frames = sum(clip.num_frames for clip in clips)
        lines.append(f"  {split}: {len(identities)} identities, {len(clips)} clips, {frames} frames")
    for name in ("kind", "tier", "licence"):
        counts = Counter()
        for clip in index.clips:
            counts[getattr(clip, name)] += clip.num_frames
        lines.append(
            f"  {name}: " + ", ".join(f"{value} {count}" for value, count in counts.most_common(5)) + " frames"
        )
    lines.append("  role: " + ", ".join(f"{role} {count}" for role, count in findings.roles.most_common()))
    if findings.yaw_deg:
        low, middle, high = np.percentile(findings.yaw_deg, (5, 50, 95))
        lines.append(f"  yaw: {low:.0f}, {middle:.0f}, {high:.0f} deg (5, 50, 95 %)")
    if findings.misfit:
        low, high = np.percentile(findings.misfit, (50, 95)) * index.size_px
        lines.append(f"  landmarks to head: {low:.1f}, {high:.1f} px (50, 95 %)")
    lines.append(f"  without landmarks {findings.without_landmarks}, with depth {findings.with_depth}")
    lines.append(f"read {findings.frames} of {index.num_frames} frames; problems: {len(findings.problems)}")
    return lines


def contact_sheet(samples: list[Sample], head: OpenHead | None) -> UInt8[np.ndarray, "height width 3"]:
    """Each frame twice: cut out by its alpha over grey, and with the head's mesh; the clip's name below."""
    caption, columns = 14, min(COLUMNS, len(samples))
    rows = -(-len(samples) // columns)
    sheet = Image.new("RGB", (columns * 2 * TILE_PX, rows * (TILE_PX + caption)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, sample in enumerate(samples):
        x, y = number % columns * 2 * TILE_PX, number // columns * (TILE_PX + caption)
        alpha = sample.alpha_u8 / np.float32(255)
        cut = alpha * sample.image_u8 + (1 - alpha) * GREY
        for side, picture in enumerate((cut, sample.image_u8 if head is None else with_mesh(sample, head))):
            tile = Image.fromarray(np.uint8(picture)).resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS)
            sheet.paste(tile, (x + side * TILE_PX, y))
        draw.text((x + 3, y + TILE_PX + 1), sample.key[-50:], fill="black")
    return np.array(sheet)


def with_mesh(sample: Sample, head: OpenHead) -> Float[np.ndarray, "size size 3"]:
    """The picture with the head over it, lit from the camera, half transparent. Values in [0, 255]."""
    size = len(sample.image_u8)
    verts = head.verts(sample.params)
    seen = rasterize(to_screen(verts, sample.camera, size, size), head.faces, size, size)
    a, b, c = sample.camera.to_view(verts)[head.faces].unbind(1)
    facing = torch.linalg.cross(b - a, c - a)
    facing = (facing[:, 2] / facing.norm(dim=1).clamp_min(1e-12)).abs()
    light = (0.25 + 0.75 * facing[seen.face_ids.clamp_min(0)]).numpy()[..., None]
    covered = 0.55 * seen.covered.numpy()[..., None]
    return (1 - covered) * sample.image_u8 + covered * light * MESH
