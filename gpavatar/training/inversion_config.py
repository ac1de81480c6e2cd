"""How the encoders of InvertAvatar are trained (supplementary 6.2; what it leaves out as released)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gpavatar.synthesis.discriminator import DiscriminatorConfig
from gpavatar.training.prior_config import PriorTrainingConfig

ENCODERS_JUDGE = DiscriminatorConfig(with_landmarks=False, with_pose=False)  # "we remove the pose condition"


@dataclass(frozen=True)
class StartConfig:
    """Weights files to begin with; later ones win."""

    prior: str = ""  # of `invertavatar_prior`
    latent: str = ""  # of E_latent by itself, as a reconstructed prior leaves it
    weights: str = ""  # of an earlier stage, prior and all


@dataclass(frozen=True)
class InversionTrainingConfig:
    """Weights of the terms are those of Eq. 3; configs/invertavatar_latent.yaml has those of Eq. 2."""

    start: StartConfig = field(default_factory=StartConfig)
    l1: float = 1.0
    perceptual: float = 1.0  # λ_lpips; 0: no network is loaded
    identity: float = 0.0  # λ_id, of SFace; 0: no network is loaded
    delta: float = 0.0  # of the layers' difference to the first one's style; released for E_latent: 0.001
    raw: float = 1.0  # λ_raw: of rendered features (synthetic people) or the rendered picture (real ones)
    texture: float = 0.001  # λ_tex; synthetic people
    planes: float = 0.001  # λ_tri; synthetic people
    opacity: float = 0.0  # squared difference of opacity and matte; of use where the prior learns
    adversarial: float = 0.1  # λ_adv; E_latent: 1
    adversarial_from: int = -1  # step; -1: never
    judge: PriorTrainingConfig = field(default_factory=lambda: PriorTrainingConfig(ENCODERS_JUDGE, 1e-3, r1_gamma=1.0))
    """The discriminator's own affairs; of E_latent's only rate and R1."""
    pool: int = 50  # older styles that E_latent's discriminator is shown
    synthetic: Literal["sampled", "mixed"] = "sampled"
    """People of the prior: styles by chance, or (a prior that was learned as an auto-encoder knows none) mixtures of
    those that E_latent finds in the batch."""
    synthetic_share: float = 0.5  # of the steps
    truncation: float = 0.7  # of sampled people
    prior_learns: bool = False
    """The one-shot stage goes on with generators and E_latent at the rates of `prior_training`, for a prior that was
    learned as an auto-encoder: it has never seen what the encoders can tell it."""
    coarse_share: float = 0.2  # of the steps in which the prior learns: the coarse avatar alone, so that it stays one
    drawn: int = 2  # frames that are drawn and compared: the target, and sources by chance
    frames: int = 32  # longest sequence of the recurrent stage: the sources over and over
    in_graph: int = 4  # its last frames, through which gradients flow
