"""The training of GPAvatar (section 3.5)."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gpavatar.avatars.gpavatar import GPAvatar, GPAvatarOutput, HeadSignal, signal_params
from gpavatar.avatars.heads import load_users_flame
from gpavatar.data.batch import Batch
from gpavatar.data.shard_index import HeadInfo
from gpavatar.face.morphable import MorphableHead
from gpavatar.face.open_head import OpenHead
from gpavatar.field.twin import Precision, choose_twin
from gpavatar.pretrained.perceptual import Perceptual
from gpavatar.training.config import TrainConfig
from gpavatar.training.losses import LossTerms, gpavatar_losses, on_black
from gpavatar.training.module import AvatarTraining
from gpavatar.training.precision import Bf16Field, run_compiled, run_in_bf16, use_channels_last
from gpavatar.training.sheet import Sheet, as_grey, enlarged
from gpavatar.types import HeadParams, InputError, map_tensors

SMALLEST_PX = 32  # side of a picture that AlexNet's last stages still see something of


class GPAvatarTraining(AvatarTraining):
    """Sources and target of one person: the target's head drives, its picture is the truth."""

    def __init__(self, config: TrainConfig, info: HeadInfo, folder: Path):
        """`info`: the head that the sets were fitted with. InputError where it is not the one of the method."""
        if config.loss.perceptual and config.gpavatar.volume.size_px < SMALLEST_PX:
            raise InputError(f"loss.perceptual needs gpavatar.volume.size_px of at least {SMALLEST_PX}; or set it to 0")
        head = training_head(config.gpavatar.head, info)
        num_verts = head.verts(HeadParams.neutral(info.n_shape, info.n_expression)).shape[-2]
        super().__init__(config, GPAvatar(config.gpavatar, num_verts, info.n_expression + 9), folder)
        # Constants: outside the module's own parts, so that they are neither saved nor counted.
        self._constants = (head, Perceptual(config.loss.trunk) if config.loss.perceptual else None)
        self.precision: Precision = "reference"  # of the field and its compositing

    @property
    def perceptual(self) -> Perceptual | None:
        """LPIPS, on the device; None where it has no weight."""
        return self._constants[1]

    @property
    def images(self) -> list[nn.Module]:
        """The 2-D networks."""
        return [self.net.encoder, self.net.upsampler]

    @property
    def networks(self) -> list[nn.Module]:
        """What does most of the work."""
        return [*self.images, self.net.attention, self.net.radiance]

    def setup(self, stage: str) -> None:
        """Bring the constants to the device and make the networks fast."""
        device, trainer = self.trainer.strategy.root_device, self.config.trainer
        head, perceptual = self._constants
        head = head.to(device) if isinstance(head, OpenHead) else map_tensors(head, lambda tensor: tensor.to(device))
        self._constants = (head, perceptual.to(device) if perceptual else None)
        if trainer.channels_last:
            use_channels_last(self.images)
        wanted: Precision = "fast" if trainer.precision == "bf16" else "exact"
        if trainer.fused and choose_twin(wanted, device, gradient=True) == "triton":
            self.precision = wanted
        if trainer.precision == "bf16":
            self.use_bf16()
        if trainer.compile == "on" or (trainer.compile == "auto" and device.type == "cuda"):
            run_compiled(self.networks)

    def use_bf16(self) -> None:
        """Encoder, attention, field and super-resolution compute in bf16; cameras, rays and compositing do not."""
        run_in_bf16([*self.images, self.net.attention])
        if self.precision == "fast" and self.config.gpavatar.point_field.normalised_over == "neighbours":
            return  # the fused kernels see to it themselves
        plain = self.net.head_field

        def head_field(planes: Tensor, signal: HeadSignal) -> Bf16Field:
            with torch.autocast(planes.device.type, torch.bfloat16):
                return Bf16Field(plain(planes, signal))

        self.net.head_field = head_field

    def forward(self, batch: Batch, *, jitter: bool = False) -> GPAvatarOutput:
        """The targets of a batch, drawn from its sources."""
        source, target = batch.source, batch.target
        cameras = map_tensors(source.camera, lambda tensor: tensor.flatten(0, 1))
        aligned = self.net.align(on_black(source).flatten(0, 1), cameras).unflatten(0, source.image.shape[:2])
        with torch.no_grad():
            signal = HeadSignal(self._constants[0].verts(target.params), signal_params(target.params))
        return self.net(aligned, signal, target.camera, jitter=jitter, precision=self.precision)

    def terms(self, batch: Batch, *, jitter: bool) -> tuple[Float[Tensor, "batch 3 size size"], LossTerms]:
        """See `AvatarTraining`."""
        out = self(batch, jitter=jitter)
        return out.image, gpavatar_losses(out, batch.target, self.config.loss, self.perceptual)

    def draw(self, batch: Batch) -> Sheet:
        """See `AvatarTraining`."""
        out, size = self(batch), batch.target.image.shape[-1]
        sources = [(f"source {number + 1}", picture) for number, picture in enumerate(on_black(batch.source).unbind(1))]
        near = torch.where(out.opacity > 0.5, -out.depth, -torch.inf)
        columns = [
            *sources,
            ("target", on_black(batch.target)),
            ("output", out.image),
            ("fine pass", enlarged(out.fine[:, :3], size)),
            ("coarse pass", enlarged(out.coarse[:, :3], size)),
            ("opacity", enlarged(out.opacity, size)),
            ("nearness", enlarged(as_grey(near), size)),
        ]
        names, pictures = zip(*columns, strict=True)
        return Sheet(names, torch.stack([picture.expand(-1, 3, -1, -1) for picture in pictures], 1))


def training_head(name: str, info: HeadInfo) -> MorphableHead:
    """The head model whose vertices a method knows. InputError where the sets were fitted with another one."""
    if name != info.name:
        raise InputError(
            f"the sets were fitted with {info.name}, not {name}; set gpavatar.head={info.name} or give other sets"
        )
    head = OpenHead.load() if name == "open_head" else load_users_flame()
    if head.sha256 != info.sha256:
        raise InputError(f"the sets were fitted with another {name} ({info.sha256[:8]}, not {head.sha256[:8]})")
    return head
