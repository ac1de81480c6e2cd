"""What a rendered frame is judged by in training (GPAvatar section 3.5).

    L_rec  = |I_lr − I_t| + |I_hr − I_t| + λ_p (|φ(I_lr) − φ(I_t)| + |φ(I_hr) − φ(I_t)|)        (Eq. 3)
    L_norm = ‖d_n‖₂                                                                             (Eq. 4)
    L      = λ_r L_rec + λ_n L_norm                                                             (Eq. 5)

and, as a switch, the term of the released code in which Eq. 3 looks at the face alone. I_lr are the first three
channels of what is rendered, after the coarse and after the fine pass. All terms are means over the batch, so that the
mean over processes with equal batches is the loss of one process with all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor

from gpavatar.avatars.gpavatar import GPAvatarOutput
from gpavatar.data.batch import Views

Distance = Callable[[Tensor, Tensor], Tensor]
"""Of two batches of pictures in [0, 1]: one number each."""


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms."""

    reconstruction: float = 1.0  # λ_r
    perceptual: float = 0.05  # λ_p, of LPIPS; 0: no network is loaded
    trunk: Literal["alex", "vgg"] = "alex"
    density: float = 1e-5  # λ_n
    face_box: float = 0.0  # 1: the released code's term
    face_box_px: int = 256  # side of the face when it is looked at alone
    face_box_margin: float = 1.25  # side of the box over the longer side of the landmarks' box
    # of gpavatar_lite alone; see training/gpavatar_lite.py
    alpha: float = 0.0  # λ_α
    square: float = 0.0  # λ_s, of the squared difference
    details: float = 0.0  # λ_d, of mouth and eyes
    depth: float = 0.0  # λ_z, of the rays against the tracked mesh
    low_epochs: int = 0  # first epochs, in which the rays' picture alone is judged


@dataclass(frozen=True)
class LossTerms:
    """Each term without its weight."""

    l1: Float[Tensor, ""]  # low (coarse and fine) + high resolution
    perceptual: Float[Tensor, ""]
    density: Float[Tensor, ""]
    face_box: Float[Tensor, ""]

    def total(self, config: LossConfig) -> Float[Tensor, ""]:
        """Eq. 5."""
        reconstruction = self.l1 + config.perceptual * self.perceptual + config.face_box * self.face_box
        return config.reconstruction * reconstruction + config.density * self.density

    def named(self) -> dict[str, Float[Tensor, ""]]:
        """By name, for logs."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def gpavatar_losses(
    out: GPAvatarOutput, target: Views, config: LossConfig, perceptual: Distance | None = None
) -> LossTerms:
    """All terms of a batch against its targets, the person on black. `perceptual` is φ's distance (LPIPS).

    Terms without weight are 0 and cost nothing.
    """
    high = on_black(target)
    pairs = [(low[:, :3], _shrunk(high, low.shape[-1])) for low in (out.coarse, out.fine)] + [(out.image, high)]
    zero = high.new_zeros(())
    distance = perceptual if config.perceptual and perceptual else None
    face_box = sum(
        face_box_distance(image, truth, target.landmarks_px * (truth.shape[-1] / high.shape[-1]), config, distance)
        for image, truth in pairs
    ) if config.face_box else zero  # fmt: skip
    return LossTerms(
        sum((image - truth).abs().mean() for image, truth in pairs),
        sum(distance(image, truth).mean() for image, truth in pairs) if distance else zero,
        density_norm(out.density) if config.density else zero,
        face_box,
    )


def on_black(views: Views) -> Float[Tensor, "*batch 3 height width"]:
    """The person, the background taken away: α I."""
    return views.image * views.alpha


def density_norm(density: Float[Tensor, "batch ray sample"]) -> Float[Tensor, ""]:
    """Eq. 4: ‖d_n‖₂ of each example, and of these the mean."""
    return torch.linalg.vector_norm(density.flatten(1), dim=1).mean()


def face_box_distance(
    image: Float[Tensor, "batch 3 height width"],
    target: Float[Tensor, "batch 3 height width"],
    landmarks_px: Float[Tensor, "batch point 2"],
    config: LossConfig,
    perceptual: Distance | None = None,
) -> Float[Tensor, ""]:
    """(L1 + λ_p φ) / 2 of the faces alone, cut out and scaled to one size. 0 for an example without landmarks."""
    box, found = face_boxes(landmarks_px, config.face_box_margin)
    ours, theirs = (_cut(picture, box, config.face_box_px) for picture in (image, target))
    distance = (ours - theirs).abs().mean((1, 2, 3))
    if perceptual:
        distance = distance + config.perceptual * perceptual(ours, theirs)
    return (distance * found).mean() / 2


def face_boxes(
    landmarks_px: Float[Tensor, "batch point 2"], margin: float
) -> tuple[Float[Tensor, "batch 3"], Float[Tensor, " batch"]]:
    """Per example the square around its landmarks (centre x, y and side in pixels), and 1 where there are any."""
    known = landmarks_px.isfinite()
    low = torch.where(known, landmarks_px, torch.inf).amin(1)
    high = torch.where(known, landmarks_px, -torch.inf).amax(1)
    found = known.any(2).any(1)
    centre = torch.where(found[:, None], (low + high) / 2, 0.0)
    side = torch.where(found, (high - low).amax(1) * margin, 1.0)
    return torch.cat([centre, side[:, None]], 1), found.to(landmarks_px.dtype)


def _cut(
    image: Float[Tensor, "batch 3 height width"], box: Float[Tensor, "batch 3"], size_px: int
) -> Float[Tensor, "batch 3 {size_px} {size_px}"]:
    """The box of each picture, bilinear; black where it reaches outside."""
    steps = (torch.arange(size_px, dtype=image.dtype, device=image.device) + 0.5) / size_px - 0.5
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    centre_x, centre_y, side = box[:, :, None, None].unbind(1)
    height, width = image.shape[-2:]
    at = torch.stack([(centre_x + x * side) * (2 / width) - 1, (centre_y + y * side) * (2 / height) - 1], -1)
    return functional.grid_sample(image, at, align_corners=False)


def _shrunk(image: Float[Tensor, "batch 3 height width"], size_px: int) -> Float[Tensor, "batch 3 low low"]:
    """The mean over each low-resolution pixel's area."""
    return functional.interpolate(image, (size_px, size_px), mode="area")
