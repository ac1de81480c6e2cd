"""GPAvatar in a size that takes no time."""

from __future__ import annotations

from gpavatar.avatars.gpavatar import GPAvatarConfig
from gpavatar.field.point_field import PointFieldConfig
from gpavatar.field.radiance import RadianceConfig
from gpavatar.render.volume import VolumeConfig
from gpavatar.synthesis.style_unet import StyleUNetConfig
from gpavatar.synthesis.upsampler import UpsamplerConfig
from gpavatar.triplane.attention import AttentionConfig
from gpavatar.triplane.encoder import EncoderConfig

NARROW = {"style_dim": 8, "mlp_depth": 2, "width": 0.01}


def tiny_config(**changed) -> GPAvatarConfig:
    """Pictures of 32 px from planes of 16, 8 × 8 rays with 8 + 8 samples."""
    parts = {
        "encoder": EncoderConfig(net=StyleUNetConfig(32, 16, 3, 12, **NARROW)),
        "attention": AttentionConfig(plane_dim=4, plane_size=16),
        "point_field": PointFieldConfig(4, 8, 6, num_neighbours=3, octaves=2),
        "radiance": RadianceConfig(8, 8, 5, view_octaves=1),
        "volume": VolumeConfig(8, 8, 8),
        "upsampler": UpsamplerConfig(net=StyleUNetConfig(32, 32, 5, 3, **NARROW)),
    }
    return GPAvatarConfig(**(parts | changed))
