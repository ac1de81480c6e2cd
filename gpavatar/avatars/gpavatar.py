"""GPAvatar (Chu et al., ICLR 2024): photos -> canonical planes; expression field; volume rendering; super-resolution.

    I_t = R(MTA(E(I_i)), PEF(head(shape, expression_t, pose_t), θ), camera)

`GPAvatar` reads in the order of the paper's section 3. Defaults are the paper's; where the released code does otherwise
a switch says so (`avatars/official.py` sets them all, docs/reproduction.md lists them).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gpavatar.camera import Camera
from gpavatar.field.head_field import HeadField
from gpavatar.field.occupancy import Occupancy
from gpavatar.field.point_field import PointField, PointFieldConfig
from gpavatar.field.radiance import RadianceConfig, RadianceHead
from gpavatar.field.twin import Precision
from gpavatar.render.rays import camera_rays
from gpavatar.render.volume import VolumeConfig, render_volume
from gpavatar.synthesis.upsampler import Upsampler, UpsamplerConfig
from gpavatar.triplane.attention import AttentionConfig, PlaneAttention
from gpavatar.triplane.encoder import CanonicalEncoder, EncoderConfig, align
from gpavatar.types import HeadParams


@dataclass(frozen=True)
class GPAvatarConfig:
    """The parts of the method; their sizes and switches stand above each part."""

    head: str = "open_head"
    """Whose vertices carry the expression field."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    expression: Literal["points", "parameters"] = "points"
    """The point-based field, or the head's parameters given to every sample (ablation "w/o PEF")."""
    point_field: PointFieldConfig = field(default_factory=PointFieldConfig)
    radiance: RadianceConfig = field(default_factory=RadianceConfig)
    volume: VolumeConfig = field(default_factory=VolumeConfig)
    upsampler: UpsamplerConfig = field(default_factory=UpsamplerConfig)
    image_scale: float = 1.0
    """Factor on images in [0, 1] before the encoder; released: 255/256."""


@dataclass(frozen=True)
class HeadSignal:
    """What drives a frame."""

    verts: Float[Tensor, "batch vert 3"]  # head space
    params: Float[Tensor, "batch param"]  # expression, jaw and eyes as numbers; see `signal_params`


def signal_params(params: HeadParams) -> Float[Tensor, "*batch param"]:
    """Expression, jaw and eye pose side by side: what moves in the face, without what the camera does."""
    return torch.cat([params.expression, params.jaw_pose, params.eye_pose.flatten(-2)], -1)


@dataclass(frozen=True)
class Rendered:
    """What the rays of a batch of frames found, on black."""

    coarse: Float[Tensor, "batch channel small small"]  # after the first pass; RGB first
    fine: Float[Tensor, "batch channel small small"]
    opacity: Float[Tensor, "batch 1 small small"]  # [0, 1], of the fine pass
    depth: Float[Tensor, "batch 1 small small"]  # head units along the ray
    density: Float[Tensor, "batch ray sample"]  # [0, 1], the first pass's alphas: d_n of Eq. 4


@dataclass(frozen=True)
class GPAvatarOutput(Rendered):
    """A batch of frames, on black."""

    image: Float[Tensor, "batch 3 size size"]  # [0, 1]


class GPAvatar(nn.Module):
    """The networks. They know neither the head model (it comes as vertices) nor a trainer."""

    def __init__(self, config: GPAvatarConfig, num_verts: int, num_params: int):
        super().__init__()
        self.config = config
        self.encoder = CanonicalEncoder(config.encoder)
        self.attention = PlaneAttention(config.attention)
        with_points = config.expression == "points"
        self.point_field = PointField(num_verts, config.point_field) if with_points else None
        plane_dim = config.encoder.net.out_dim // 3
        self.radiance = RadianceHead(
            plane_dim + (config.point_field.out_dim if with_points else num_params), config.radiance
        )
        self.upsampler = Upsampler(config.upsampler)

    def align(
        self, images: Float[Tensor, "batch 3 height width"], camera: Camera
    ) -> Float[Tensor, "batch 3 size size"]:
        """Section 3.1: photos (on black) brought upright by their head pose, in the encoder's size and range."""
        return align(images, camera, self.config.encoder.net.in_size_px) * self.config.image_scale

    def encode(
        self, aligned: Float[Tensor, "batch source 3 height width"]
    ) -> Float[Tensor, "batch source 3 channel size size"]:
        """Section 3.1: each photo's canonical tri-planes."""
        return self.encoder(aligned.flatten(0, 1)).unflatten(0, aligned.shape[:2])

    def fuse(
        self,
        planes: Float[Tensor, "batch source 3 channel size size"],
        present: Bool[Tensor, "batch source"] | None = None,
    ) -> Float[Tensor, "batch 3 channel size size"]:
        """Section 3.3: Multi Tri-planes Attention over any number of photos."""
        return self.attention(planes, present)

    def head_field(self, planes: Float[Tensor, "batch 3 channel size size"], signal: HeadSignal) -> HeadField:
        """Sections 3.2 and 3.4: canonical planes and expression field, as one field of density and features."""
        volume = self.config.volume
        queries = volume.size_px**2 * (volume.num_coarse + volume.num_fine)
        points = self.point_field(signal.verts, queries) if self.point_field is not None else None
        return HeadField(planes, self.radiance, points, signal.params, self.config.encoder.planes)

    def render(
        self,
        planes: Float[Tensor, "batch 3 channel size size"],
        signal: HeadSignal,
        camera: Camera,
        *,
        jitter: bool = False,
        rng: torch.Generator | None = None,
        precision: Precision = "reference",
    ) -> GPAvatarOutput:
        """Section 3.4: two-pass volume rendering of 32 channels at 128 × 128, then super-resolution to 512 × 512.

        `precision` is that of the first; see `gpavatar.field.twin`.
        """
        seen = self.look(planes, signal, camera, jitter=jitter, rng=rng, precision=precision)
        return GPAvatarOutput(**vars(seen), image=self.upsampler(seen.fine))

    def look(
        self,
        planes: Float[Tensor, "batch 3 channel size size"],
        signal: HeadSignal,
        camera: Camera,
        *,
        jitter: bool = False,
        rng: torch.Generator | None = None,
        precision: Precision = "reference",
        occupancy: Occupancy | None = None,
    ) -> Rendered:
        """`render` as far as the super-resolution; `occupancy`: where the one person of the batch can be."""
        volume = self.config.volume
        rays = camera_rays(camera, volume.size_px, volume.pixel_grid)
        field = self.head_field(planes, signal)
        if occupancy is not None:
            field = replace(field, occupancy=occupancy)
        seen = render_volume(field, rays, volume, jitter=jitter, rng=rng, precision=precision)
        coarse, fine = (_picture(one, volume.size_px) for one in (seen.coarse.feats, seen.fine.feats))
        opacity, depth = (_picture(one[..., None], volume.size_px) for one in (seen.fine.opacity, seen.fine.depth))
        return Rendered(coarse, fine, opacity, depth, seen.coarse.alpha)

    def forward(
        self,
        aligned: Float[Tensor, "batch source 3 height width"],
        signal: HeadSignal,
        camera: Camera,
        present: Bool[Tensor, "batch source"] | None = None,
        *,
        jitter: bool = False,
        rng: torch.Generator | None = None,
        precision: Precision = "reference",
    ) -> GPAvatarOutput:
        """The whole way, as in training: aligned photos, a driving head, a camera -> the frame."""
        planes = self.fuse(self.encode(aligned), present)
        return self.render(planes, signal, camera, jitter=jitter, rng=rng, precision=precision)


def _picture(values: Float[Tensor, "batch ray channel"], size_px: int) -> Float[Tensor, "batch channel size size"]:
    return values.transpose(1, 2).unflatten(2, (size_px, size_px))
