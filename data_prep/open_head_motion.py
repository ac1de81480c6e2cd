"""What moves the open head: the 52 expression shapes, the joints they turn, the lids that slide on the eyeballs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep import open_head_parts as parts
from data_prep.open_head_people import LID_GAP, RIGID, TONGUE_DROP_DM, UNIT_DM, Ball, Reader, rigid
from data_prep.open_head_source import FACE_UNITS, Wheel
from gpavatar.face.landmarks import mirrored_name
from gpavatar.types import ARKIT_NAMES

# Gaze at a weight of 1, degrees, and how much more the lids follow than in the targets, which turn the eye by
# 10, 11, 15 and 15 degrees only. ARKit's own range is about 30 degrees.
GAZE = {"Up": (22.0, 1.9), "Down": (25.0, 1.25), "In": (30.0, 1.6), "Out": (30.0, 1.6)}
LID_REACH = (1.75, 2.3)  # radii from the eyeball's centre: gaze moves the skin fully within, not at all beyond


@dataclass(frozen=True)
class Motion:
    """What the 52 expressions and the joints do to the average head."""

    expression: np.ndarray  # (52, n, 3), of the cropped vertices
    rigid: np.ndarray  # (52, rigid part, 3, 4)
    jaw_weight: np.ndarray  # (n,)
    jaw_joint: np.ndarray  # (3,)
    jaw_open_rad: float  # rotation about +x at jawOpen = 1


def motion(wheel: Wheel, reader: Reader, mean: np.ndarray) -> Motion:
    """The expression targets, made symmetric, with jawOpen and the gaze handed to joints.

    jawOpen turns the jaw joint by the angle that the target gives the lower teeth; its shape only holds what blend
    skinning leaves over, so that at weight 1 the skin is where the target wants it (docs/decisions/0011).
    """
    n = reader.n
    raw = {name: wheel.target(f"{FACE_UNITS}{name}.target")[reader.rows] / UNIT_DM for name in ARKIT_NAMES}
    delta = {name: (raw[name] + reader.flip(raw[mirrored_name(name)])) / 2 for name in ARKIT_NAMES}
    for ball, side in zip(reader.eyes(mean), ("Left", "Right"), strict=True):
        reach = np.linalg.norm(mean[:n] - ball.centre, axis=1) / ball.radius
        near = np.clip((LID_REACH[1] - reach) / (LID_REACH[1] - LID_REACH[0]), 0, 1)
        for way, (_, gain) in GAZE.items():
            delta[f"eyeLook{way}{side}"][:n] *= gain * (near * near * (3 - 2 * near))[:, None]
    teeth = reader.helper["helper-lower-teeth"]
    rotation, shift = rigid(mean[teeth], mean[teeth] + delta["jawOpen"][teeth])
    joint = np.linalg.lstsq(np.eye(3) - rotation, shift, rcond=None)[0] * [0, 1, 1]
    turn = (mean[:n] - joint) @ (rotation - np.eye(3)).T
    wanted = delta["jawOpen"][:n]
    weight = np.clip((wanted * turn).sum(1) / ((turn * turn).sum(1) + 1e-4), 0, 1)
    tongue = np.unique(reader.kept.tongue)
    for _ in range(3):
        weight = reader.smooth(weight)
    weight[tongue] = 1
    rest = wanted - weight[:, None] * turn
    skinning = np.eye(3) + weight[:, None, None] * (rotation - np.eye(3))
    delta["jawOpen"][:n] = np.linalg.solve(skinning, rest[..., None])[..., 0]
    delta["jawOpen"][tongue] = 0
    shut = mean + raw["jawOpen"] + delta["mouthClose"]
    missing = reader.seal_lips(shut * UNIT_DM, lower_share=0.8) / UNIT_DM - shut
    closing = delta["mouthClose"][:n] + missing[:n]  # with the jaw open, which is when this shape is used
    delta["mouthClose"][:n] = np.linalg.solve(skinning, closing[..., None])[..., 0]
    delta["tongueOut"][tongue] += np.array([0, TONGUE_DROP_DM / UNIT_DM, 0])  # out over the lower lip, not through it
    maps = np.zeros((len(ARKIT_NAMES), len(RIGID), 3, 4))
    for index, name in enumerate(ARKIT_NAMES):
        if name in ("jawForward", "jawLeft", "jawRight"):
            maps[index] = reader.follow(mean, mean + delta[name])
    stacked = np.stack([delta[name][:n] for name in ARKIT_NAMES])
    angle = float(np.arctan2(rotation[2, 1], rotation[1, 1]))
    return Motion(stacked, maps, weight, joint, angle)


def turns(jaw_open_rad: float) -> np.ndarray:
    """(52, 3, 3) axis-angle that each expression at weight 1 gives the jaw, the left and the right eye."""
    out = np.zeros((len(ARKIT_NAMES), 3, 3))
    out[ARKIT_NAMES.index("jawOpen"), 0] = [jaw_open_rad, 0, 0]
    for joint, side, outward in ((1, "Left", 1), (2, "Right", -1)):
        axes = {"Up": [-1, 0, 0], "Down": [1, 0, 0], "In": [0, -outward, 0], "Out": [0, outward, 0]}
        for way, (degrees, _) in GAZE.items():
            out[ARKIT_NAMES.index(f"eyeLook{way}{side}"), joint] = np.deg2rad(degrees) * np.array(axes[way])
    return out


def lid_table(reader: Reader, mean: np.ndarray, eyes: tuple[Ball, Ball]) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (eye, lid) that gaze and blink may push, and the least distance (ball | cornea, eye, lid) they keep."""
    offset, cornea = parts.cornea_sphere()
    left = reader.sides[0][np.linalg.norm(mean[reader.sides[0]] - eyes[0].centre, axis=1) < 1.5 * eyes[0].radius]
    lids = np.stack([left, reader.kept.mirror[left]])
    gaps = []
    for ahead, size in ((0.0, 1.0), (offset, cornea)):
        centres = np.array([eye.ahead(ahead) for eye in eyes])
        reach = np.linalg.norm(mean[lids] - centres[:, None], axis=-1) / (size * eyes[0].radius)
        gaps.append(np.minimum(reach, LID_GAP))
    return lids, np.stack(gaps)
