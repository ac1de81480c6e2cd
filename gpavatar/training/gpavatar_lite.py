"""The training of `gpavatar_lite`: sources and target of one person, the person on black.

    L = |I_lr − I_t| + |I_hr − I_t| + λ_s (I_hr − I_t)² + λ_p φ(I_hr, I_t) + λ_α (|α_lr − α_t| + |α_hr − α_t|)
        + λ_d L_details + λ_z L_depth

The square is what the far end of a shoulder that went elsewhere costs: no head says where shoulders go.
L_details is the L1 distance around mouth and eyes, which are small and decide; L_depth holds the rays' depth to that of
the tracked mesh where the mesh covers a pixel. In the first `loss.low_epochs` epochs the rays alone are judged.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor, nn

from gpavatar.avatars.gpavatar_lite import GPAvatarLite, LiteOutput
from gpavatar.avatars.gpavatar_lite_warp import LiteHead
from gpavatar.data.batch import Batch, Views
from gpavatar.data.shard_index import HeadInfo
from gpavatar.face.landmarks import EYE_LEFT, EYE_RIGHT, LIPS_OUTER
from gpavatar.face.open_head import OpenHead
from gpavatar.pretrained.perceptual import Perceptual
from gpavatar.training.config import TrainConfig
from gpavatar.training.gpavatar import training_head
from gpavatar.training.losses import Distance, LossConfig, on_black
from gpavatar.training.module import AvatarTraining
from gpavatar.training.precision import run_compiled, run_in_bf16, use_channels_last
from gpavatar.training.sheet import Sheet, as_grey, enlarged
from gpavatar.types import InputError, map_tensors

DETAILS = (LIPS_OUTER, EYE_LEFT, EYE_RIGHT)
MARGIN = 0.3  # by which a box around one of them is larger, of its longer side


@dataclass(frozen=True)
class LiteTerms:
    """Each term without its weight."""

    low: Float[Tensor, ""]
    high: Float[Tensor, ""]
    square: Float[Tensor, ""]
    perceptual: Float[Tensor, ""]
    alpha: Float[Tensor, ""]
    details: Float[Tensor, ""]
    depth: Float[Tensor, ""]

    def total(self, config: LossConfig) -> Float[Tensor, ""]:
        """The equation at the head of this file."""
        seen = self.low + self.high + config.square * self.square + config.details * self.details
        seen = seen + config.perceptual * self.perceptual
        return config.reconstruction * seen + config.alpha * self.alpha + config.depth * self.depth

    def named(self) -> dict[str, Float[Tensor, ""]]:
        """By name, for logs."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def lite_losses(
    out: LiteOutput, target: Views, config: LossConfig, perceptual: Distance | None = None, low_only: bool = False
) -> LiteTerms:
    """All terms of a batch; terms without weight are 0 and cost nothing."""
    truth, size = on_black(target), out.low.shape[-1]
    low_truth, low_alpha = (functional.interpolate(x, (size, size), mode="area") for x in (truth, target.alpha))
    zero = truth.new_zeros(())
    low = (out.low - low_truth).abs().mean()
    alpha = (out.opacity - low_alpha).abs().mean()
    surely = (out.cover > 0.99) * out.opacity.detach()
    depth = ((out.depth - out.relief).abs() * surely).mean() if config.depth else zero
    if low_only:
        return LiteTerms(low, zero, zero, zero, alpha, zero, depth)
    difference = (out.image - truth).abs()
    marked = detail_mask(target.landmarks_px, truth.shape[-1])
    return LiteTerms(
        low,
        difference.mean(),
        difference.square().mean() if config.square else zero,
        perceptual(out.image, truth).mean() if config.perceptual and perceptual else zero,
        alpha + (out.alpha - target.alpha).abs().mean(),
        (difference * marked).sum() / (3 * marked.sum()).clamp_min(1) if config.details else zero,
        depth,
    )


def detail_mask(landmarks_px: Float[Tensor, "batch 478 2"], size_px: int) -> Float[Tensor, "batch 1 size size"]:
    """1 in the boxes around mouth and eyes; 0 everywhere for an example without landmarks."""
    at = torch.arange(size_px, device=landmarks_px.device) + 0.5
    mask = landmarks_px.new_zeros(len(landmarks_px), 1, size_px, size_px)
    for points in DETAILS:
        part = landmarks_px[:, list(points)]
        low, high = part.amin(1), part.amax(1)
        margin = MARGIN * (high - low).amax(-1, keepdim=True)
        column, row = ((at > (low - margin)[:, axis, None]) & (at < (high + margin)[:, axis, None]) for axis in (0, 1))
        mask = torch.maximum(mask, (row[:, None, :, None] & column[:, None, None, :]).to(mask))
    return mask


class GPAvatarLiteTraining(AvatarTraining):
    """Sources and target of one person: the target's head drives, its picture is the truth."""

    def __init__(self, config: TrainConfig, info: HeadInfo, folder: Path):
        """`info`: the head that the sets were fitted with. InputError where it is not the open head."""
        head = training_head(config.gpavatar_lite.head, info)
        if not isinstance(head, OpenHead):
            raise InputError("gpavatar_lite knows the open head only; give sets that were fitted with it")
        super().__init__(config, GPAvatarLite(config.gpavatar_lite, LiteHead(head)), folder)
        # Outside the module's own parts, so that it is neither saved nor counted.
        self._constants = (Perceptual(config.loss.trunk) if config.loss.perceptual else None,)

    @property
    def perceptual(self) -> Perceptual | None:
        """LPIPS, on the device; None where it has no weight."""
        return self._constants[0]

    @property
    def networks(self) -> list[nn.Module]:
        """What does most of the work."""
        net = self.net
        return [net.encoder, net.shallow, net.picture, net.attention, net.choice, net.radiance]

    def setup(self, stage: str) -> None:
        """Bring the constants to the device and make the networks fast."""
        device, trainer = self.trainer.strategy.root_device, self.config.trainer
        self._constants = (self.perceptual.to(device) if self.perceptual else None,)
        if trainer.channels_last:
            use_channels_last([self.net.encoder, self.net.shallow, self.net.picture])
        if trainer.precision == "bf16":
            run_in_bf16(self.networks)
        if trainer.compile == "on" or (trainer.compile == "auto" and device.type == "cuda"):
            run_compiled(self.networks)

    def forward(self, batch: Batch, *, jitter: bool = False) -> LiteOutput:
        """The targets of a batch, drawn from its sources."""
        source, target, head = batch.source, batch.target, self.net.head
        shape = source.image.shape[:2]
        with torch.no_grad():
            flat = map_tensors(source, lambda tensor: tensor.flatten(0, 1))
            pose = head.pose(flat.params, flat.camera)
            offsets = head.landmark_offsets(pose, flat.landmarks_px / flat.image.shape[-1])
            pose = map_tensors(head.pose(flat.params, flat.camera, offsets), lambda tensor: tensor.unflatten(0, shape))
            driven = head.pose(target.params, target.camera, offsets.unflatten(0, shape).mean(1))
        return self.net(self.net.encode(source.image, source.alpha, pose), driven, jitter=jitter)

    def terms(self, batch: Batch, *, jitter: bool) -> tuple[Float[Tensor, "batch 3 size size"], LiteTerms]:
        """See `AvatarTraining`."""
        out, config = self(batch, jitter=jitter), self.config.loss
        low_only = self.training and batch.epoch < config.low_epochs
        return out.image, lite_losses(out, batch.target, config, self.perceptual, low_only)

    def draw(self, batch: Batch) -> Sheet:
        """See `AvatarTraining`."""
        out, size = self(batch), batch.target.image.shape[-1]
        sources = [(f"source {number + 1}", picture) for number, picture in enumerate(on_black(batch.source).unbind(1))]
        near = torch.where(out.opacity > 0.5, -out.depth, -torch.inf)
        columns = [
            *sources,
            ("target", on_black(batch.target)),
            ("output", out.image.clamp(0, 1)),
            ("warped", out.base),
            ("rays", enlarged(out.low.clamp(0, 1), size)),
            ("alpha", out.alpha),
            ("nearness", enlarged(as_grey(near), size)),
        ]
        names, pictures = zip(*columns, strict=True)
        return Sheet(names, torch.stack([picture.expand(-1, 3, -1, -1) for picture in pictures], 1))
