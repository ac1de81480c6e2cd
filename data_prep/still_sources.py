"""One portrait -> pictures of the same person in other poses, expressions and lights, drawn by `textured_mesh`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data_prep.still_light import StillLight, relit
from gpavatar.avatars.textured_mesh import TexturedMesh, TexturedMeshState
from gpavatar.camera import Camera, axis_angle_to_matrix
from gpavatar.data.synthetic_motion import gaze_weights, random_expressions
from gpavatar.retarget import NECK_JOINT, Pose
from gpavatar.tracking.sources import yaw_pitch_deg
from gpavatar.types import RenderOutput, SourceFrame

EXPRESSION_FRAMES = 30  # of the talk that an expression is picked from
OWN_EXPRESSION = 0.2  # share of the sources that keep the photo's expression
# Teeth and what is behind them were not on a photo with closed lips, and lips drawn over teeth that were smear.
JAW_LIMIT = 0.25  # of jawOpen, unless the photo's own mouth stands further open
TEETH_SHOWN = 0.05  # opening of the lips over the distance of the outer eye corners
TEETH_REACH = 0.3  # how much of the way from its own to the drawn expression a mouth that shows teeth goes
LIPS, EYES = (13, 14), (33, 263)  # MediaPipe's inner lips, upper and lower; outer eye corners


@dataclass(frozen=True)
class Variety:
    """How far sources stray from the photo."""

    yaw_deg: float = 25.0
    pitch_deg: float = 12.0
    roll_deg: float = 8.0
    furthest_yaw_deg: float = 38.0  # against the camera: further round the photo has shown too little
    shift: float = 0.12  # units of head space, sideways
    zoom: float = 0.07
    light: float = 1.0  # 0: none but the photo's own


def drawn_poses(
    photo: SourceFrame, names: tuple[str, ...], count: int, variety: Variety, rng: np.random.Generator
) -> list[Pose]:
    """`count` poses around that of the photo, their yaws spread evenly over the range."""
    own_yaw_deg, _ = yaw_pitch_deg(photo.camera)
    low = max(-variety.yaw_deg, -variety.furthest_yaw_deg - own_yaw_deg)
    high = min(variety.yaw_deg, variety.furthest_yaw_deg - own_yaw_deg)
    yaws = low + (high - low) * (np.arange(count) + rng.random(count)) / count
    poses = []
    for yaw in yaws:
        angles = np.array([rng.uniform(-1, 1) * variety.pitch_deg, yaw, rng.normal(0, 0.5) * variety.roll_deg])
        shift = rng.uniform(-variety.shift, variety.shift, 2)
        camera = _moved(photo.camera, angles, shift, math.exp(rng.uniform(-1, 1) * variety.zoom))
        talk = random_expressions(rng, names, EXPRESSION_FRAMES)[rng.integers(EXPRESSION_FRAMES)]
        gaze = gaze_weights(names, rng.normal(0, 7, 1) - 0.3 * yaw, rng.normal(0, 4, 1))[0]
        drawn = torch.from_numpy((talk + gaze).clip(0, 1)).float()
        own = rng.random() < OWN_EXPRESSION
        expression = photo.params.expression if own else _believable(drawn, photo, names)
        poses.append(Pose(replace(photo.params, expression=expression), camera))
    return poses


def _believable(drawn: Float[Tensor, " weight"], photo: SourceFrame, names: tuple[str, ...]) -> Tensor:
    """A drawn expression as far as the photo can show it; see the limits at the top of this file."""
    own = photo.params.expression
    at = photo.landmarks_px
    opening = (at[LIPS[0]] - at[LIPS[1]]).norm() / (at[EYES[0]] - at[EYES[1]]).norm()
    mouth = torch.tensor([name.startswith(("mouth", "jaw")) for name in names])
    reach = torch.where(mouth & (opening > TEETH_SHOWN), TEETH_REACH, 1.0)
    weights = own + reach * (drawn - own)
    jaw = names.index("jawOpen")
    weights[jaw] = weights[jaw].clamp(max=max(JAW_LIMIT, float(own[jaw])))
    return weights


def _moved(camera: Camera, angles_deg: np.ndarray, shift: np.ndarray, zoom: float) -> Camera:
    """The camera as it sees the head turned about the neck joint by pitch, yaw (positive: as `yaw_pitch_deg`), roll."""
    neck = torch.tensor(NECK_JOINT)
    turn = axis_angle_to_matrix(torch.from_numpy(np.deg2rad(angles_deg) * [1, -1, 1]).float())
    w2c = camera.w2c
    rotation = w2c[:3, :3] @ turn.T
    position = w2c[:3, :3] @ neck + w2c[:3, 3]
    position = position * torch.tensor([1, 1, 1 / zoom]) + torch.tensor([*shift, 0]).float()
    moved = torch.eye(4)
    moved[:3, :3], moved[:3, 3] = rotation, position - rotation @ neck
    return Camera.from_w2c(moved, camera.intrinsics)


@dataclass(frozen=True)
class DrawnSource:
    """A rendered source, its pose, and where the head's surface is in it."""

    pose: Pose
    picture: RenderOutput
    verts: Float[Tensor, "vert 3"]


def draw_source(
    model: TexturedMesh, state: TexturedMeshState, pose: Pose, light: StillLight, size_px: int
) -> DrawnSource:
    """Render a pose and put it in another light."""
    verts = model.head.verts(pose.params) + state.offsets
    drawn = model.render(state, pose.params, pose.camera, size_px)
    image = relit(drawn.image, drawn.alpha, light, model.head, verts, pose.camera)
    return DrawnSource(pose, RenderOutput(image, drawn.alpha), verts)
