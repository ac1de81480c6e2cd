"""How alike two sets of pictures are as sets."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def fid(a: Float[Tensor, "picture_a feature"], b: Float[Tensor, "picture_b feature"]) -> float:
    """Fréchet distance of the Gaussians with the moments of two sets of features (Heusel et al. 2017); 0 is best.

    |μ_a − μ_b|² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½), unbiased covariances, in float64. With Σ = XᵀX of centred and scaled
    features X, the trace of the root is the sum of the singular values of X_a X_bᵀ: exact also where there are
    fewer pictures than features, where the usual root of the product fails. Few pictures bias the distance upwards, so
    a table states their number. At least two pictures in each set.
    """
    assert len(a) > 1 and len(b) > 1, "a covariance needs two pictures"
    mean_a, mean_b = a.double().mean(0), b.double().mean(0)
    root_a, root_b = _root(a.double() - mean_a), _root(b.double() - mean_b)
    common = torch.linalg.svdvals(root_a @ root_b.T).sum()
    distance = ((mean_a - mean_b) ** 2).sum() + (root_a**2).sum() + (root_b**2).sum() - 2 * common
    return float(distance.clamp_min(0))


def _root(centred: Tensor) -> Float[Tensor, "_ feature"]:
    """X with XᵀX the covariance, of no more rows than features."""
    scaled = centred / (len(centred) - 1) ** 0.5
    return torch.linalg.qr(scaled, mode="r").R if len(scaled) > scaled.shape[1] else scaled
