"""InvertAvatar (Zhao et al. 2023): frames of a person -> the person in the spaces of an animatable prior.

    prior     section 3.1, `animatable_prior.py`: styles, posed face, camera -> picture
    coarse    section 3.2: w = mean + E_latent(I_0);  F_tex_w = G_tex(w), F_tri_w = G_static(w)
    evidence  section 3.2: Î_t = R(G_face(F_tex_w), F_tri_w) with the face and camera of frame t;  ΔI_t = I_t − Î_t
    memory    section 3.3: h_t = E_rec(I_t, ΔI_t, h_{t−1}), in the atlas and in the picture
    person    F_tex = F_tex_w + E_tex(h_t),  F_tri = G_static(w; SFT = E_tri(h_t))

The styles are those of the first frame, and the residual is always against their avatar: what a later frame brings does
not depend on how the earlier ones were understood.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as functional
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gpavatar.avatars.animatable_prior import AnimatablePrior, Canonical, PriorConfig
from gpavatar.avatars.inversion_encoders import (
    FoundMaps,
    LatentEncoder,
    PlaneEncoder,
    PlaneOffsetEncoder,
    TextureEncoder,
)
from gpavatar.camera import Camera
from gpavatar.face.morphable import HeadTopology
from gpavatar.face.plane_views import FaceSurface
from gpavatar.face.unwrap import unwrap
from gpavatar.synthesis.conv_gru import Gate
from gpavatar.synthesis.fusion_unet import FusionUNetConfig
from gpavatar.synthesis.residual_trunk import Pyramid, TrunkConfig

MIN_TRANSFORMED_PX = 16  # the static generator's coarser levels are left to the styles
Gathering = Literal["recurrent", "mean", "window"]


@dataclass(frozen=True)
class InversionConfig:
    """The encoders."""

    picture_px: int = 256
    atlas_px: int = 256
    latent: TrunkConfig = field(default_factory=TrunkConfig)
    texture: TrunkConfig = field(default_factory=TrunkConfig)
    plane: TrunkConfig = field(default_factory=TrunkConfig)
    gathering: Gathering = "recurrent"
    """How frames come together: ConvGRU; the mean of what each frame alone would give (one frame: one-shot); or a
    window of four frames compressed by convolutions, and the mean over windows ("ConvFusion")."""
    gate: Gate = "keeps"
    refined: bool = True
    """False: the coarse avatar alone (Table 3, "wo both Enc")."""
    texture_input: Literal["atlas", "posed"] = "atlas"
    """What E_tex sees; "posed": the picture as it is (Table 3, "wo NT Enc")."""
    plane_output: Literal["transforms", "offsets"] = "transforms"
    """What E_tri gives; "offsets": to be added to the planes (Table 3, "E_tri offsets")."""

    def unet(self, trunk: TrunkConfig) -> FusionUNetConfig:
        """A U-Net on this trunk."""
        return FusionUNetConfig(trunk, "none" if self.gathering == "mean" else self.gathering, self.gate)


@dataclass(frozen=True)
class InvertAvatarConfig:
    """The prior, and what inverts it."""

    prior: PriorConfig = field(default_factory=PriorConfig)
    inversion: InversionConfig = field(default_factory=InversionConfig)

    @property
    def head(self) -> str:
        """Whose mesh carries the texture."""
        return self.prior.head


@dataclass(frozen=True)
class HeadMesh:
    """What never changes of the head model."""

    topology: HeadTopology
    surface: FaceSurface

    @staticmethod
    def of(topology: HeadTopology) -> HeadMesh:
        """The whole head, and of it the face."""
        return HeadMesh(topology, FaceSurface.of(topology))


@dataclass(frozen=True)
class PosedFrame:
    """A picture per batch entry, and how the head stands in it."""

    picture: Float[Tensor, "batch 3 size size"]  # [0, 1], the person on black
    verts: Float[Tensor, "batch vert 3"]
    camera: Camera

    def __getitem__(self, index) -> PosedFrame:
        """Index the batch."""
        return PosedFrame(self.picture[index], self.verts[index], self.camera[index])


@dataclass(frozen=True)
class Evidence:
    """What a frame shows beside the coarse avatar, as far as the trunks understand it."""

    texture: Pyramid
    plane: Pyramid
    seen: Bool[Tensor, " batch"]  # whether any of the head's surface is


class InvertAvatar(nn.Module):
    """Prior and encoders. They know neither the head model (it comes as vertices) nor a trainer."""

    def __init__(self, config: InvertAvatarConfig):
        super().__init__()
        self.config, inversion = config.inversion, config.inversion
        self.prior = AnimatablePrior(config.prior)
        backbone = config.prior.backbone
        self.latent = LatentEncoder(inversion.latent, self.prior.num_styles, backbone.style_dim)
        if not inversion.refined:
            return
        self.texture = TextureEncoder(inversion.unet(inversion.texture), self.prior.texture_shapes, inversion.atlas_px)
        plane = inversion.unet(inversion.plane)
        if inversion.plane_output == "offsets":
            shape = (3 * config.prior.plane_dim, backbone.size_px)
            self.plane: nn.Module = PlaneOffsetEncoder(plane, shape, inversion.picture_px)
        else:
            shapes = tuple((dim // 2, size) for dim, size in self.prior.static_shapes if size >= MIN_TRANSFORMED_PX)
            self.plane = PlaneEncoder(plane, shapes, inversion.picture_px)

    def train(self, mode: bool = True) -> InvertAvatar:
        """The encoders'; the prior has learned, and its noise is what its file holds."""
        super().train(mode)
        self.prior.eval()
        return self

    def styles(self, frame: PosedFrame) -> Float[Tensor, "batch layer style"]:
        """w = mean + E_latent(I), in W+."""
        return self.prior.mean_styles(len(frame.picture)) + self.latent(self.sized(frame.picture))

    def coarse(self, frame: PosedFrame) -> Canonical:
        """The avatar of the first frame's styles."""
        return self.prior.canonical(self.styles(frame))

    def sized(self, picture: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch 3 size2 size2"]:
        """In the encoders' size."""
        size = (self.config.picture_px, self.config.picture_px)
        if picture.shape[-2:] == size:
            return picture
        return functional.interpolate(picture, size, mode="bilinear", align_corners=False, antialias=True)

    def residual(self, coarse: Canonical, frame: PosedFrame, mesh: HeadMesh) -> Float[Tensor, "batch 3 size size"]:
        """ΔI = I − Î in [−1, 1], in the encoders' size; a constant, as in the released code."""
        with torch.no_grad():
            drawn = self.prior.animate(coarse, self.prior.views(frame.verts, mesh.surface), frame.camera).image
            return self.sized(frame.picture) - self.sized(drawn).clamp(0, 1)

    def evidence(self, coarse: Canonical, frame: PosedFrame, mesh: HeadMesh) -> Evidence:
        """Picture and residual through both trunks."""
        picture, residual = 2 * self.sized(frame.picture) - 1, self.residual(coarse, frame, mesh)
        posed = torch.cat([picture, residual], 1)
        atlas = unwrap(posed, frame.camera, frame.verts, mesh.topology, self.config.atlas_px)
        seen = atlas.visible.flatten(1).any(1)
        if self.config.texture_input == "posed":
            size = (self.config.atlas_px, self.config.atlas_px)
            posed_too = functional.interpolate(posed, size, mode="bilinear", align_corners=False, antialias=True)
            texture = torch.cat([posed_too, torch.ones_like(atlas.visible)], 1)
        else:
            texture = torch.cat([atlas.picture, atlas.visible], 1)
        # Rows of a plane run with +y, rows of a picture against it: a frontal picture lies on plane xy as it is.
        return Evidence(self.texture.net.trunk(texture), self.plane.net.trunk(posed.flip(-2)), seen)

    def begin(self, evidence: Evidence) -> FoundMaps:
        """h_0 = 0."""
        return FoundMaps(self.texture.net.begin(evidence.texture), self.plane.net.begin(evidence.plane))

    def step(self, memory: FoundMaps, evidence: Evidence, present: Bool[Tensor, " batch"] | None = None) -> FoundMaps:
        """One more frame, where there is one ("recurrent"); what shows nothing of the surface leaves the texture's
        memory as it is."""
        seen = evidence.seen if present is None else evidence.seen & present
        return FoundMaps(
            self.texture.net.step(evidence.texture, memory.texture, seen),
            self.plane.net.step(evidence.plane, memory.plane, present),
        )

    def single(self, evidence: Evidence) -> FoundMaps:
        """One frame by itself ("mean")."""
        return FoundMaps(self.texture.net.single(evidence.texture), self.plane.net.single(evidence.plane))

    def window(self, evidence: list[Evidence]) -> FoundMaps:
        """Up to four frames at once ("window")."""
        texture, plane = [one.texture for one in evidence], [one.plane for one in evidence]
        return FoundMaps(self.texture.net.window(texture), self.plane.net.window(plane))

    def person(self, coarse: Canonical, found: FoundMaps) -> Canonical:
        """The coarse avatar refined."""
        offsets, plane = self.texture(found.texture), self.plane(found.plane)
        if self.config.plane_output == "offsets":
            return replace(coarse, texture=coarse.texture.plus(offsets), static=coarse.static + plane)
        return replace(coarse, texture=coarse.texture.plus(offsets), static=self.prior.static(coarse.styles, plane))
