"""What generator and discriminator are told (Goodfellow et al. 2014; Mescheder et al. 2018; EG3D, section 5.1).

With logits D: the generator minimises softplus(−D(fake)) (non-saturating), the discriminator softplus(D(fake)) +
softplus(−D(real)) + γ/2 |∇D(real)|² (R1).
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor

from gpavatar.render.volume import Field


def generator_loss(fake: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Mean of softplus(−D(fake)) = −log of the probability of passing for real."""
    return functional.softplus(-fake).mean()


def discriminator_loss(real: Float[Tensor, " batch"], fake: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Mean of softplus(−D(real)) + softplus(D(fake))."""
    return functional.softplus(-real).mean() + functional.softplus(fake).mean()


def r1_penalty(
    logits: Float[Tensor, " batch"], pictures: Float[Tensor, "batch channel size size"]
) -> Float[Tensor, ""]:
    """Mean over the batch of |∂D/∂picture|²; `pictures` require a gradient, and the result has one."""
    (gradient,) = torch.autograd.grad(logits.sum(), pictures, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()


def density_roughness(
    field: Field, batch: int, *, num: int = 1000, spread: float = 0.008, device: torch.device | str = "cpu"
) -> Float[Tensor, ""]:
    """Mean |σ(x) − σ(x + spread · n)| over random points x of the cube [-1, 1]³ and normal n: fog costs nothing to a
    picture, but it has no shape. `spread` is 0.004 of the cube's width, as released."""
    points = torch.rand(batch, num, 3, device=device) * 2 - 1
    near = points + spread * torch.randn_like(points)
    both = torch.cat([points, near], 1)
    here, there = field(both, torch.zeros_like(both)).sigma.chunk(2, 1)
    return (here - there).abs().mean()


def blurred(
    image: Float[Tensor, "batch channel height width"], sigma_px: float
) -> Float[Tensor, "batch channel height width"]:
    """Gaussian blur, the edge repeated; below half a pixel nothing happens."""
    reach = int(3 * sigma_px)
    if sigma_px < 0.5 or reach == 0:
        return image
    steps = torch.arange(-reach, reach + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-(steps**2) / (2 * sigma_px**2))
    kernel = (kernel / kernel.sum()).expand(image.shape[1], 1, 1, -1)
    for axis in (0, 1):
        padding = (reach, reach, 0, 0) if axis == 0 else (0, 0, reach, reach)
        one = kernel if axis == 0 else kernel.transpose(2, 3)
        image = functional.conv2d(functional.pad(image, padding, mode="replicate"), one, groups=image.shape[1])
    return image
