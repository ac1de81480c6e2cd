"""Stage choose: the frames of a clip that are kept, as different in pose and expression as the clip has them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from data_prep.settings import ChooseConfig
from gpavatar.camera import matrix_to_axis_angle
from gpavatar.types import Track

TURN, EXPRESSION = 5.0, 4.0  # 0.2 rad of head rotation counts as much as a quarter of an expression's range


def choose(track: Track, sharpness: Float[Tensor, " frame"], config: ChooseConfig) -> list[int]:
    """Indices of the frames to keep, in order of time.

    First `even` frames spaced evenly over those tracked, then, one after the other, the frame whose pose and expression
    are farthest from all that are kept (GPAvatar appendix A.2: as diverse as possible); those blurred against the rest
    of the clip do not count, nor, while there are others, those next to a kept one.
    """
    usable = track.tracked
    candidates = torch.where(usable)[0]
    at = torch.linspace(0, len(candidates) - 1, min(max(config.even, 1), config.frames, len(candidates))).round().long()
    chosen = candidates[at].unique().tolist()
    step = max(min(config.min_step, len(candidates) // config.frames - 1), 0)
    usable = usable & (sharpness >= config.min_sharpness * sharpness[usable].median())
    features = pose_and_expression(track)
    while len(chosen) < config.frames:
        left = _free(usable, chosen, step)
        if left.any():
            nearest = torch.cdist(features, features[chosen]).amin(1)
            chosen.append(int(torch.where(left, nearest, -torch.inf).argmax()))
        elif step > 0:
            step -= 1
        else:
            break
    return sorted(chosen)


def pose_and_expression(track: Track) -> Float[Tensor, "frame feature"]:
    """What frames are compared by."""
    turn = matrix_to_axis_angle(track.camera.w2c[:, :3, :3].mT @ track.camera.w2c[:1, :3, :3])
    return torch.cat([TURN * turn, EXPRESSION * track.params.expression], 1)


def _free(usable: Bool[Tensor, " frame"], chosen: list[int], step: int) -> Bool[Tensor, " frame"]:
    """The usable frames that are not kept and have `step` frames between them and each that is."""
    free = usable.clone()
    for index in chosen:
        free[max(index - step, 0) : index + step + 1] = False
    return free
