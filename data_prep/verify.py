"""Stage verify, and the later filters: which clips are worth keeping; a verdict says the figure and the threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from data_prep.cut import Shot
from data_prep.manifest import CropRecord, CutRecord, VerifyRecord
from data_prep.settings import FilterConfig
from gpavatar.face.morphable import MorphableHead
from gpavatar.media.align import FACE_OVAL
from gpavatar.types import Track

NO_FACE, SEVERAL, CUTS, SHORT, SLOW = "no face", "several faces", "cuts", "too short", "too few frames per second"
SMALL, CUT_OFF, BLURRED, OCCLUDED, RESIDUAL = "too small", "cut off", "blurred", "occluded", "tracker residual"
FILTERS = (NO_FACE, SEVERAL, CUTS, SHORT, SLOW, SMALL, CUT_OFF, BLURRED, OCCLUDED, RESIDUAL)
OUTER_EYE_CORNERS = (33, 263)
RESIDUAL_FRAMES = 24


@dataclass(frozen=True)
class Verdict:
    """`dropped` is the filter that failed, "" for a clip that passes."""

    dropped: str = ""
    why: str = ""


def measure(shot: Shot, scale: float, config: FilterConfig) -> VerifyRecord:
    """What the filters look at; `scale` is pixels of the footage per pixel in which the faces were seen."""
    seen = shot.seen
    if not seen:
        return VerifyRecord(0.0, 0.0, 0.0, 0.0, 0.0)
    outline = torch.stack([frame.sighting.face.landmarks_px for frame in seen])[:, list(FACE_OVAL)]
    size = outline.new_tensor([seen[0].sighting.width_px, seen[0].sighting.height_px])
    return VerifyRecord(
        tracked=len(seen) / len(shot.frames),
        others=float(np.mean([frame.other >= config.other_size for frame in seen])),
        cut_off=float(((outline < 0) | (outline > size)).any(-1).float().mean()),
        face_px=float((outline.amax(1) - outline.amin(1)).amax(1).median()) * scale,
        sharpness=float(np.median([frame.sharpness for frame in seen])),
    )


def verdict(
    cut: CutRecord, record: VerifyRecord, crop: CropRecord | None, config: FilterConfig, size_px: int, alone: bool
) -> Verdict:
    """The filters that need no fitted head; `alone`: the clip is all of its footage, not what lies between two cuts.

    A photo (one frame that is alone) has no length and no rate.
    """
    seconds = cut.end_s - cut.start_s + 1 / cut.fps
    photo = alone and cut.num_frames == 1
    if crop is None or record.tracked < config.min_tracked:
        return Verdict(NO_FACE, f"a face in {record.tracked:.0%} of the frames, {config.min_tracked:.0%} asked")
    if not photo and seconds < config.min_s:
        return Verdict(SHORT if alone else CUTS, f"{seconds:.2f} s, {config.min_s:g} s asked")
    if not photo and cut.fps < config.min_fps:
        return Verdict(SLOW, f"{cut.fps:.1f} frames/s, {config.min_fps:g} asked")
    if record.others > config.max_others:
        return Verdict(SEVERAL, f"another face in {record.others:.0%} of the frames, {config.max_others:.0%} allowed")
    if crop.side_px < config.min_side * size_px:
        asked = config.min_side * size_px
        return Verdict(SMALL, f"head and shoulders have {crop.side_px:.0f} px, {asked:.0f} asked for {size_px}")
    if record.face_px < config.min_face * size_px:
        asked = config.min_face * size_px
        return Verdict(SMALL, f"the face has {record.face_px:.0f} px, {asked:.0f} asked for {size_px}")
    if record.cut_off > config.max_cut_off:
        return Verdict(CUT_OFF, f"{record.cut_off:.0%} of the face is outside, {config.max_cut_off:.0%} allowed")
    if crop.side_px < config.min_room * record.face_px:
        room = crop.side_px / record.face_px
        return Verdict(CUT_OFF, f"the picture is {room:.2f} faces high, {config.min_room:g} asked")
    if record.sharpness < config.min_sharpness:
        return Verdict(BLURRED, f"sharpness {record.sharpness:.1e}, {config.min_sharpness:.1e} asked")
    return Verdict()


def residual(track: Track, head: MorphableHead) -> float:
    """Median distance of the fitted head's landmarks from the detected ones, in distances of the outer eye corners.

    Measured in up to `RESIDUAL_FRAMES` of the frames tracked, evenly spaced.
    """
    seen = torch.where(track.tracked)[0]
    frames = seen[torch.linspace(0, len(seen) - 1, min(RESIDUAL_FRAMES, len(seen))).round().long()]
    points = head.topology.mediapipe.on(head.verts(track.params[frames]), head.topology.faces)
    landmarks_px = track.landmarks_px[frames]
    error = (track.camera[frames].project_px(points, track.width_px, track.height_px) - landmarks_px).norm(dim=-1)
    right, left = OUTER_EYE_CORNERS
    eyes = (landmarks_px[:, right] - landmarks_px[:, left]).norm(dim=-1)
    return float((error.median(1).values / eyes).median())
