"""How the synthetic people move: a head that turns, a face that speaks and reacts, a camera that stands still."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float

from gpavatar.camera import Camera, axis_angle_to_matrix, invert_rigid
from gpavatar.data.synthetic_person import SyntheticPerson
from gpavatar.face.open_head import SHOULDERS
from gpavatar.types import HeadParams

# Mouth shapes of speech as ARKit weights.
VISEMES: tuple[dict[str, float], ...] = (
    {"jawOpen": 0.55, "mouthLowerDownLeft": 0.25, "mouthLowerDownRight": 0.25, "mouthUpperUpLeft": 0.15,
     "mouthUpperUpRight": 0.15},  # ah
    {"jawOpen": 0.15, "mouthStretchLeft": 0.35, "mouthStretchRight": 0.35, "mouthUpperUpLeft": 0.2,
     "mouthUpperUpRight": 0.2},  # ee
    {"jawOpen": 0.25, "mouthFunnel": 0.7, "mouthPucker": 0.35},  # oh
    {"jawOpen": 0.05, "mouthPucker": 0.85},  # oo
    {"mouthPressLeft": 0.45, "mouthPressRight": 0.45, "mouthRollLower": 0.25, "mouthRollUpper": 0.2},  # m
    {"jawOpen": 0.12, "mouthRollLower": 0.45, "mouthUpperUpLeft": 0.2, "mouthUpperUpRight": 0.2},  # f
)  # fmt: skip
# Reactions: weights, and how many frames they last at most.
REACTIONS: tuple[tuple[dict[str, float], int], ...] = (
    ({"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0}, 6),
    ({"mouthSmileLeft": 0.9, "mouthSmileRight": 0.9, "cheekSquintLeft": 0.45, "cheekSquintRight": 0.45}, 16),
    ({"browInnerUp": 0.9, "browOuterUpLeft": 0.6, "browOuterUpRight": 0.6, "eyeWideLeft": 0.3,
      "eyeWideRight": 0.3}, 12),
    ({"mouthPucker": 0.9}, 9),
    ({"jawOpen": 0.85, "mouthLowerDownLeft": 0.2, "mouthLowerDownRight": 0.2}, 10),
    ({"browDownLeft": 0.8, "browDownRight": 0.8, "eyeSquintLeft": 0.35, "eyeSquintRight": 0.35}, 12),
    ({"mouthFrownLeft": 0.6, "mouthFrownRight": 0.6, "browInnerUp": 0.5}, 12),
    ({"mouthLeft": 0.6}, 8),
    ({"mouthRight": 0.6}, 8),
    ({"cheekPuff": 0.7}, 9),
    ({"noseSneerLeft": 0.7, "noseSneerRight": 0.7, "mouthUpperUpLeft": 0.4, "mouthUpperUpRight": 0.4}, 8),
)  # fmt: skip
SPOKEN_FRAMES = 4.5  # of a mouth shape
GAZE_DEG = 30.0  # of the eyeball at an eyeLook weight of 1
MEASURED = 5  # of REACTIONS, the first ones, are in every clip
FRAMES_PER_REACTION = 7  # on average between the starts of reactions


def random_camera(rng: np.random.Generator, person: SyntheticPerson) -> Camera:
    """A camera in front of the person at eye height, give or take; head and shoulders fill the picture."""
    focal = rng.uniform(1.7, 3.2)
    marks = person.head.topology.mediapipe.on(person.head.with_shape(person.shape).verts, person.head.faces)
    height = 2.0 * float(marks[10, 1] - marks[152, 1])
    camera = Camera.frontal(focal * height * rng.uniform(1.05, 1.45), focal)
    middle = float(marks[10, 1] + marks[152, 1]) / 2 - 0.06
    c2w = camera.c2w.clone()
    c2w[:2, 3] = torch.tensor([rng.uniform(-0.08, 0.08), middle + rng.uniform(-0.08, 0.08)])
    return Camera(c2w, camera.intrinsics)


def random_motion(
    rng: np.random.Generator, person: SyntheticPerson, camera: Camera, num_frames: int, yaw_deg: float
) -> Iterator[tuple[HeadParams, Camera]]:
    """Parameters of each frame, and the still camera in the space of the moving head."""
    head = person.head
    expression = random_expressions(rng, head.expression_names, num_frames)
    t = np.arange(num_frames) / max(num_frames, 2)
    nod, tilt = 6 * _wave(rng, t, 1.6) + rng.uniform(-5, 4), 6 * _wave(rng, t, 1.3)
    turns = np.deg2rad(np.stack([nod, yaw_deg * _sweep(rng, t), tilt], -1))
    shift = np.stack([0.06 * _wave(rng, t, 1.0), 0.03 * _wave(rng, t, 1.5), 0.10 * _wave(rng, t, 0.8)], -1)
    left_deg = 9 * _wave(rng, t, 2.4) - 0.25 * np.rad2deg(turns[:, 1])
    expression = torch.from_numpy(expression + gaze_weights(head.expression_names, left_deg, 5 * _wave(rng, t, 2.0)))
    centre = head.with_shape(person.shape).joints[SHOULDERS]
    for frame in range(num_frames):
        rotation = axis_angle_to_matrix(torch.from_numpy(turns[frame]).float())
        to_world = torch.eye(4)
        to_world[:3, :3] = rotation
        to_world[:3, 3] = centre - rotation @ centre + torch.from_numpy(shift[frame]).float()
        neck = torch.from_numpy(turns[frame]).float()
        params = replace(person.params(), expression=expression[frame].float(), neck_pose=neck)
        yield params, Camera(invert_rigid(to_world) @ camera.c2w, camera.intrinsics)


def random_expressions(
    rng: np.random.Generator, names: tuple[str, ...], num_frames: int
) -> Float[np.ndarray, "frame name"]:
    """ARKit weights in [0, 1]: speech with pauses, and every kind of reaction in turn."""
    weights = np.zeros((num_frames, len(names)))
    t = np.arange(num_frames)

    def add(shape: dict[str, float], middle: float, half: float, strength: float) -> None:
        bump = np.clip(1 - np.abs(t - middle) / half, 0, 1)
        bump = bump * bump * (3 - 2 * bump) * strength
        for name, weight in shape.items():
            weights[:, names.index(name)] = np.maximum(weights[:, names.index(name)], weight * bump)

    middle = rng.uniform(0, SPOKEN_FRAMES)
    while middle < num_frames:
        if rng.random() < 0.8:
            shape = VISEMES[rng.integers(len(VISEMES))]
            add(shape, middle, SPOKEN_FRAMES * rng.uniform(0.9, 1.4), rng.uniform(0.6, 1.0))
        middle += SPOKEN_FRAMES * rng.uniform(0.7, 1.4)
    # The reactions that are measured (blink, smile, brows, pucker, open mouth) come first: a short clip has them all.
    count = max(MEASURED, round(num_frames / FRAMES_PER_REACTION))
    places = rng.permutation(count)
    for index in range(count):
        kind = index if index < MEASURED else int(rng.integers(len(REACTIONS)))
        shape, longest = REACTIONS[kind]
        start = (places[index] + rng.uniform(0.2, 0.8)) * num_frames / count
        add(shape, start, longest / 2 * rng.uniform(0.7, 1.0), rng.uniform(0.75, 1.0))
    smile = np.maximum(weights[:, names.index("mouthSmileLeft")], weights[:, names.index("mouthSmileRight")])
    for name in ("mouthPucker", "mouthFunnel"):  # a mouth cannot be wide and round at once
        weights[:, names.index(name)] *= 1 - 0.8 * smile
    return weights.clip(0, 1)


def gaze_weights(
    names: tuple[str, ...], left_deg: Float[np.ndarray, " frame"], up_deg: Float[np.ndarray, " frame"]
) -> Float[np.ndarray, "frame name"]:
    """The eyeLook weights that turn both eyes to the person's left and up by these angles."""
    weights = np.zeros((len(left_deg), len(names)))
    for name, angle in (
        ("eyeLookOutLeft", left_deg), ("eyeLookInRight", left_deg), ("eyeLookInLeft", -left_deg),
        ("eyeLookOutRight", -left_deg), ("eyeLookUpLeft", up_deg), ("eyeLookUpRight", up_deg),
        ("eyeLookDownLeft", -up_deg), ("eyeLookDownRight", -up_deg),
    ):  # fmt: skip
        weights[:, names.index(name)] = np.clip(angle / GAZE_DEG, 0, 1)
    return weights


def _wave(rng: np.random.Generator, t: np.ndarray, cycles: float) -> np.ndarray:
    """Smooth wandering in about [−1, 1], with `cycles` swings over t in [0, 1]."""
    parts = [(cycles, 0.65), (1.9 * cycles, 0.3), (3.3 * cycles, 0.1)]
    return sum(size * np.sin(2 * np.pi * (rate * t + rng.random())) for rate, size in parts)


def _sweep(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    """From one side to the other and back, [−1, 1]."""
    return rng.choice([-1.0, 1.0]) * np.sin(2 * np.pi * (t * rng.uniform(0.9, 1.2) + 0.1 * rng.random()))
