"""Synthetic people -> shards: people × instants × views, with exact parameters, cameras, depth and alpha.

    python -m data_prep synthetic --out sets/synthetic --set people=500       # for training
    python -m data_prep synthetic --out sets/synthetic-val --preset val       # 20 people × 12 instants × 5 views

A person is a clip. Its instants come from one talking, moving take; every instant is seen by the same cameras, the
first in front, the others around it. The same settings give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from data_prep.manifest import Workplace, output_errors
from data_prep.parts import each, write_set
from gpavatar.camera import Camera, axis_angle_to_matrix
from gpavatar.config import load_config
from gpavatar.data.shards import ClipInfo, Encoding, HeadInfo, Sample, pack_clip
from gpavatar.data.synthetic import SyntheticFrame, SyntheticPerson, render
from gpavatar.data.synthetic_motion import random_camera, random_motion
from gpavatar.face.open_head import OpenHead
from gpavatar.media.image import to_u8

# Who is drawn for what. A seed is a person: sets whose seeds do not meet have no person in common.
TEST_SEEDS = range(9_000)
BENCHMARK_SEEDS = range(9_000, 10_000)
CALIBRATION_SEEDS = range(20_000, 22_001)  # data_prep/landmark_errors.py
VAL_SEEDS = range(900_000, 901_000)
TRAIN_SEEDS = range(1_000_000, 2_000_000)

TAKE_FRAMES, FRAMES_PER_S = 30, 10.0  # of the take that instants are picked from, evenly
LICENCE = "CC0-1.0"  # rendered by this project; the head is CC0


@dataclass(frozen=True)
class SyntheticConfig:
    """What is drawn."""

    people: int = 200
    instants: int = 12
    views: int = 2
    size_px: int = 256
    first_seed: int = TRAIN_SEEDS.start
    split: str = "train"
    yaw_deg: float = 30.0  # how far heads turn to either side of the first camera
    view_yaw_deg: float = 40.0  # how far around the other cameras stand
    view_pitch_deg: float = 14.0
    spread: float = 0.8  # of the shapes, standard deviations
    glasses: float = 0.2  # share of people
    supersample: int = 2  # samples per pixel, squared
    depth: bool = True  # exact, but more than half of a set's bytes
    texture: float = 3.0  # sides of the head's texture per side of the picture, up to 1024; more is not seen
    encoding: Encoding = field(default_factory=Encoding)

    @property
    def texture_size(self) -> int:
        """Texels along a side of the head's texture."""
        return min(1024, round(self.texture * self.size_px))

    @property
    def sha256(self) -> str:
        """Of all values."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


SYNTHETIC_TRAIN = SyntheticConfig()
SYNTHETIC_VAL = SyntheticConfig(people=20, instants=12, views=5, first_seed=VAL_SEEDS.start, split="val")
PRESETS = {"train": SYNTHETIC_TRAIN, "val": SYNTHETIC_VAL}


def command(
    out: Path,
    preset: Literal["train", "val"] = "train",
    set: tuple[str, ...] = (),
    workers: int | None = None,
) -> None:
    """Synthetic people with exact parameters, cameras, depth and alpha.

    Args:
        out: Where the set goes. Run again with the same arguments, a stopped run goes on.
        preset: train, or val: the project's own validation set of 20 people x 12 instants x 5 views.
        set: Single settings that differ from the preset's, e.g. --set people=500 size_px=512 views=3.
        workers: Processes; all cores where left out.
    """
    differing = [
        f"{f.name}={getattr(PRESETS[preset], f.name)}" for f in fields(SyntheticConfig) if f.name != "encoding"
    ]
    synthetic(out, load_config(SyntheticConfig, overrides=[*differing, *set]), workers)


def synthetic(out: Path, config: SyntheticConfig = SYNTHETIC_TRAIN, workers: int | None = None) -> None:
    """Draw synthetic people into a set. Run again with the same settings, a stopped run goes on.

    `workers` None takes all cores. OutputError where `out` cannot be written, or holds work done with other settings.
    """
    place = Workplace(out)
    seeds = range(config.first_seed, config.first_seed + config.people)
    parts = [place.packed_file(clip_name(seed)) for seed in seeds]
    with place.held(config.sha256):
        missing = [seed for seed, part in zip(seeds, parts, strict=True) if not part.exists()]
        each(partial(draw_part, place=place, config=config), missing, "synthetic people", workers)
        write_set(parts, out, HeadInfo.of(_head()), config.size_px, config.encoding)


def draw_part(seed: int, place: Workplace, config: SyntheticConfig) -> None:
    """Draw and encode one person."""
    name = clip_name(seed)
    info = ClipInfo(name, name, config.split, "synthetic", "open", LICENCE)
    packed = pack_clip(info, person_samples(seed, config), HeadInfo.of(_head()), config.size_px, config.encoding)
    with output_errors():
        packed.save(place.packed_file(name))


def person_samples(seed: int, config: SyntheticConfig) -> Iterator[Sample]:
    """All views of all instants of one person; `frame_index` = instant × views + view."""
    person = SyntheticPerson.random(
        seed, _head(), texture_size=config.texture_size, spread=config.spread, glasses=config.glasses
    )
    rng = np.random.default_rng([seed, 52])
    cameras = rig(random_camera(rng, person), config, np.random.default_rng([seed, 54]))
    frames = max(TAKE_FRAMES, config.instants)
    chosen = np.linspace(0, frames - 1, config.instants).round().astype(int)
    state = rng.bit_generator.state
    takes = []
    for camera in cameras:  # the same take before each camera
        rng.bit_generator.state = state
        takes.append(list(random_motion(rng, person, camera, frames, config.yaw_deg)))
    for instant, index in enumerate(chosen):
        for view, take in enumerate(takes):
            params, camera = take[index]
            frame = render(person, params, camera, config.size_px, config.supersample)
            yield _sample(frame, person, seed, instant, view, index / FRAMES_PER_S, config)


def rig(front: Camera, config: SyntheticConfig, rng: np.random.Generator) -> list[Camera]:
    """`front` and the other still cameras: swung about the head, to one side and the other in turn, and up or down."""
    cameras = [front]
    side = rng.choice([-1.0, 1.0])
    for number in range(1, config.views):
        side = -side
        yaw = side * config.view_yaw_deg * rng.uniform(0.3, 1.0) * (1.0 if number < 3 else 0.6)
        turn = np.deg2rad([config.view_pitch_deg * rng.uniform(-1, 1), yaw, 0.0])
        pivot = torch.tensor([0.0, float(front.c2w[1, 3]), -0.1])
        swing = torch.eye(4)
        swing[:3, :3] = axis_angle_to_matrix(torch.from_numpy(turn).float())
        swing[:3, 3] = pivot - swing[:3, :3] @ pivot
        cameras.append(replace(front, c2w=swing @ front.c2w))
    return cameras


def clip_name(seed: int) -> str:
    """Of the person of a seed: clip and identity."""
    return f"synthetic_{seed:07d}"


def _sample(
    frame: SyntheticFrame, person: SyntheticPerson, seed: int, instant: int, view: int, time_s: float,
    config: SyntheticConfig,
) -> Sample:  # fmt: skip
    name, size = clip_name(seed), config.size_px
    landmarks = person.head.topology.mediapipe.on(frame.verts, person.head.faces)
    return Sample(
        clip=name,
        identity=name,
        frame_index=instant * config.views + view,
        time_s=time_s,
        image_u8=to_u8(frame.image),
        alpha_u8=to_u8(frame.alpha),
        params=frame.params,
        camera=frame.camera,
        landmarks_px=frame.camera.project_px(landmarks, size, size),
        depth=frame.depth if config.depth else None,
        view=view,
        instant=instant,
    )


@cache
def _head() -> OpenHead:
    return OpenHead.load()
