"""InvertAvatar in a size that takes no time."""

from __future__ import annotations

from gpavatar.avatars.animatable_prior import PriorConfig
from gpavatar.avatars.invertavatar import InversionConfig, InvertAvatarConfig
from gpavatar.render.volume import VolumeConfig
from gpavatar.synthesis.mapping import MappingConfig
from gpavatar.synthesis.residual_trunk import TrunkConfig
from gpavatar.synthesis.style_generator import StyleGeneratorConfig
from gpavatar.synthesis.super_resolution import SuperResolutionConfig

TRUNK = TrunkConfig([1, 1, 1, 1], 8)


def tiny_config(**changed) -> InvertAvatarConfig:
    """Pictures of 32 px from planes of 64, 16 × 16 rays with 8 + 8 samples."""
    prior = PriorConfig(
        mapping=MappingConfig(8),
        backbone=StyleGeneratorConfig(64, 8, 256, 8),
        plane_dim=4,
        conditioned_px=(8, 16, 32),
        decoder_dim=8,
        feat_dim=6,
        volume=VolumeConfig(16, 8, 8),
        super_resolution=SuperResolutionConfig(16, [8]),
    )
    inversion = {"picture_px": 32, "atlas_px": 64, "latent": TRUNK, "texture": TRUNK, "plane": TRUNK} | changed
    return InvertAvatarConfig(prior, InversionConfig(**inversion))
