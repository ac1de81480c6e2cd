"""How the animatable prior is trained (InvertAvatar 3.1, supplementary 6.1; what these leave out as in EG3D)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gpavatar.synthesis.discriminator import DiscriminatorConfig


@dataclass(frozen=True)
class VariationConfig:
    """Pictures are varied before the discriminator sees them, real and drawn ones alike, so that it cannot learn a
    small set by heart (Karras et al. 2020b)."""

    mode: Literal["none", "fixed", "adaptive"] = "none"
    probability: float = 0.2  # of each variation; where adaptive, at the start it is 0
    target: float = 0.6  # mean sign of D(real) that an adaptive probability steers towards
    speed_images: int = 500_000  # in which it could rise from 0 to 1
    shift: float = 0.125  # of the side
    log_scale: float = 0.2  # standard deviation, to the base of 2
    turn_deg: float = 15.0
    brightness: float = 0.2  # standard deviation
    log_contrast: float = 0.5  # standard deviation, to the base of 2
    log_saturation: float = 1.0


@dataclass(frozen=True)
class PriorTrainingConfig:
    """Beside what every training has: losses, schedules and the discriminator's own affairs."""

    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    discriminator_lr: float = 0.002
    generator_lr: float = 0.0025
    landmark_px: int = 128  # side of the map of the landmarks
    mapping_rate: float = 0.01  # of the mapping network, as a share of the generators'
    latent_lr: float = 1e-4  # of E_latent (reconstruction)
    adversarial_from: int = -1  # step at which the discriminator comes into a reconstruction; -1: never
    adversarial: float = 1.0
    r1_gamma: float = 8.0
    r1_every: int = 16  # steps
    density: float = 0.25
    density_every: int = 4  # steps
    reconstruction: float = 1.0  # L1 of image and raw rendering (reconstruction)
    perceptual: float = 0.5  # LPIPS of the same; 0: no network is loaded
    opacity: float = 1.0  # squared difference of opacity and matte
    pose_swap: float = 0.5  # probability that the generator is told another pose than the one it is drawn from
    blur_px: float = 10.0  # standard deviation at the start
    blur_images: int = 200_000  # until it has faded
    first_raw_px: int = 64  # side of the raw rendering at the start; later the model's own
    raw_fades_at: int = 25_000_000  # images
    raw_fades_over: int = 1_000_000  # images
    variation: VariationConfig = field(default_factory=VariationConfig)
