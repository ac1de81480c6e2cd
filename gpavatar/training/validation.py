"""How near a drawn picture is to the true one, for the curves of a training.

Tables come from `gpavatar.eval`, which has protocols, regions and faces; these few numbers only say whether the
training gets somewhere.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from gpavatar.data.batch import Views
from gpavatar.training.losses import Distance, on_black


def validation_metrics(
    image: Float[Tensor, "batch 3 height width"], target: Views, perceptual: Distance | None = None
) -> dict[str, Float[Tensor, ""]]:
    """Means over a batch of L1, PSNR (dB), SSIM and, where it is given, LPIPS of the person on black; PSNR also of the
    person alone, its pixels weighted with α."""
    image, truth = image.clamp(0, 1), on_black(target)
    squared = (image - truth).square()
    person = target.alpha / target.alpha.mean((1, 2, 3), keepdim=True).clamp_min(1e-6)
    found = {
        "l1": (image - truth).abs().mean(),
        "psnr": psnr(squared.mean((1, 2, 3))).mean(),
        "psnr_person": psnr((squared * person).mean((1, 2, 3))).mean(),
        "ssim": structural_similarity_index_measure(image, truth, data_range=1.0),
    }
    return found | {"lpips": perceptual(image, truth).mean()} if perceptual else found


def psnr(mean_squared_error: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """−10 log₁₀ MSE for values in [0, 1], in dB; at most 100."""
    return -10 * torch.log10(mean_squared_error.clamp_min(1e-10))
