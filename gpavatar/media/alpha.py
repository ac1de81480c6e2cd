"""Alpha against colours: the compositing equation I = alpha F + (1 - alpha) B, solved for alpha and then for F.

Both need no network: `matting_laplacian` says how far a mask is from being, in every small window, a linear function
of colour, and `refine_alpha` finds the mask that is so and stays near a coarse one. Pictures of any size; the cost of
all is linear in the number of pixels (at 512 x 512 on one CPU core 0.7 s for alpha, 0.1 s for F).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as nnf
from jaxtyping import Float
from torch import Tensor


def refine_alpha(
    image: Float[Tensor, "3 height width"],
    coarse: Float[Tensor, "1 height width"],
    band_px: int = 6,
    trust: float = 0.05,
    num_steps: int = 30,
) -> Float[Tensor, "1 height width"]:
    """A coarse mask made to follow the picture's own edges and strands.

    Where `coarse` is undecided (between 0.05 and 0.95) or such a pixel is within `band_px`, solves
    (L + trust) alpha = trust coarse, L the matting Laplacian, the rest of alpha held at 0 or 1; conjugate gradients,
    `num_steps` of them. In and out: [0, 1]. Source: Levin, Lischinski and Weiss, A Closed-Form Solution to Natural
    Image Matting, 2008, section 4.
    """
    undecided = ((coarse > 0.05) & (coarse < 0.95)).float()
    unknown = nnf.max_pool2d(undecided, 2 * band_px + 1, stride=1, padding=band_px)
    laplacian = matting_laplacian(image)
    known = (1 - unknown) * (coarse > 0.5)

    def system(alpha: Tensor) -> Tensor:
        return unknown * (laplacian(alpha) + trust * alpha)

    alpha = _conjugate_gradients(system, unknown * (trust * coarse - laplacian(known)), unknown * coarse, num_steps)
    return (known + alpha).clamp(0, 1)


def matting_laplacian(
    image: Float[Tensor, "3 height width"], tolerance: float = 1e-5
) -> Callable[[Float[Tensor, "1 height width"]], Float[Tensor, "1 height width"]]:
    """The function alpha -> L alpha of the matting Laplacian with windows of 3 x 3.

    alpha^T L alpha is the sum over windows of min over (a, b) of sum_i (alpha_i - a . I_i - b)^2 + 9 tolerance |a|^2.
    Never builds the matrix: L alpha = sum over windows of alpha - (a . I + b) at the minimum, which costs a few box
    filters. Source: Levin et al. 2008, eqs. 11-13; He, Sun and Tang, Fast Matting Using Large Kernel Matting
    Laplacian Matrices, 2010, section 3.
    """
    mean = _window_mean(image)
    products = (image[:, None] * image[None]).flatten(0, 1)
    covariance = _window_mean(products).unflatten(0, (3, 3)) - mean[:, None] * mean[None]
    ridge = covariance.permute(2, 3, 0, 1) + tolerance * torch.eye(3).to(image)
    precision = torch.linalg.inv(ridge).permute(2, 3, 0, 1).contiguous()
    windows_per_pixel = _window_sum(torch.ones_like(mean[:1]))

    def apply(alpha: Tensor) -> Tensor:
        means = _window_mean(torch.cat([alpha, alpha * image]))
        cross = means[1:] - means[:1] * mean
        slope = (precision * cross[None]).sum(1)
        offset = means[:1] - (slope * mean).sum(0, keepdim=True)
        sums = _window_sum(torch.cat([offset, slope]))
        return windows_per_pixel * alpha - sums[:1] - (sums[1:] * image).sum(0, keepdim=True)

    return apply


def guided_filter(
    image: Float[Tensor, "3 height width"],
    masks: Float[Tensor, "channel height width"],
    radius_px: int = 4,
    tolerance: float = 1e-4,
) -> Float[Tensor, "channel height width"]:
    """Masks smoothed within the picture's edges, and still a partition where they were one.

    In every window of side 2 radius + 1 a mask is a linear function of colour, the ridge regression (penalty
    `tolerance`, a variance of colour); a pixel gets the mean over its windows. Source: He, Sun and Tang, Guided Image
    Filtering, 2013, eqs. 14-16.
    """

    def mean(channels: Tensor) -> Tensor:
        for side, padding in (((2 * radius_px + 1, 1), (radius_px, 0)), ((1, 2 * radius_px + 1), (0, radius_px))):
            channels = nnf.avg_pool2d(channels[None], side, stride=1, padding=padding, count_include_pad=False)[0]
        return channels

    centre, level = mean(image), mean(masks)
    products = mean((image[:, None] * image[None]).flatten(0, 1)).unflatten(0, (3, 3))
    ridge = (products - centre[:, None] * centre[None]).permute(2, 3, 0, 1) + tolerance * torch.eye(3).to(image)
    cross = mean((image[:, None] * masks[None]).flatten(0, 1)).unflatten(0, (3, -1)) - centre[:, None] * level[None]
    precision = torch.linalg.inv(ridge).permute(2, 3, 0, 1)
    slope = sum(precision[:, i, None] * cross[None, i] for i in range(3))
    offset = mean(level - (slope * centre[:, None]).sum(0))
    return (mean(slope.flatten(0, 1)).unflatten(0, (3, -1)) * image[:, None]).sum(0) + offset


def foreground(
    image: Float[Tensor, "3 height width"], alpha: Float[Tensor, "1 height width"]
) -> Float[Tensor, "3 height width"]:
    """The colour F of what is in front, without the background that shines through soft edges.

    Minimises, from coarse to fine, sum_i |alpha_i F_i + (1 - alpha_i) B_i - I_i|^2 plus, over neighbours, (1e-5 +
    |alpha_i - alpha_j|) (|F_i - F_j|^2 + |B_i - B_j|^2). In [0, 1]; equals `image` where alpha is 1 and is continued
    smoothly where it is 0. Source: Germer et al., Fast Multi-Level Foreground Estimation, 2020, eqs. 4 and 9-10.
    """
    height, width = image.shape[1:]
    num_levels = max(height, width).bit_length()
    front = behind = nnf.interpolate(image[None], size=(1, 1), mode="area")[0]
    for level in reversed(range(num_levels)):
        size = (max(height >> level, 1), max(width >> level, 1))
        small = nnf.interpolate(image[None], size=size, mode="area")[0]
        cover = nnf.interpolate(alpha[None], size=size, mode="area")[0]
        front, behind = (nnf.interpolate(layer[None], size=size, mode="nearest")[0] for layer in (front, behind))
        front, behind = _unmix(small, cover, front, behind, num_steps=20 if max(size) <= 32 else 6)
    return torch.where(alpha == 1, image, front)


def _unmix(image: Tensor, alpha: Tensor, front: Tensor, behind: Tensor, num_steps: int) -> tuple[Tensor, Tensor]:
    """Jacobi steps at one resolution: in each pixel a 2 x 2 system, whose matrix is a rank-one change of a diagonal."""
    pull = 1e-5 + (_neighbours(alpha) - alpha[:, None]).abs()
    total = pull.sum(1)
    share = total + alpha.square() + (1 - alpha).square()
    for _ in range(num_steps):
        front_mean = (pull * _neighbours(front)).sum(1) / total
        behind_mean = (pull * _neighbours(behind)).sum(1) / total
        error = (image - alpha * front_mean - (1 - alpha) * behind_mean) / share
        front = (front_mean + alpha * error).clamp(0, 1)
        behind = (behind_mean + (1 - alpha) * error).clamp(0, 1)
    return front, behind


def _neighbours(image: Tensor) -> Tensor:
    """channel height width -> channel 4 height width: left, right, above, below; the border repeats."""
    padded = nnf.pad(image[None], (1, 1, 1, 1), mode="replicate")[0]
    return torch.stack([padded[:, 1:-1, :-2], padded[:, 1:-1, 2:], padded[:, :-2, 1:-1], padded[:, 2:, 1:-1]], 1)


def _window_mean(image: Tensor) -> Tensor:
    """channel height width -> channel height-2 width-2: the mean over each 3 x 3 window."""
    return nnf.avg_pool2d(image, 3, stride=1)


def _window_sum(windows: Tensor) -> Tensor:
    """channel height-2 width-2 -> channel height width: for each pixel the sum over the windows it lies in."""
    return 9 * nnf.avg_pool2d(nnf.pad(windows, (2, 2, 2, 2)), 3, stride=1)


def _conjugate_gradients(system: Callable[[Tensor], Tensor], target: Tensor, start: Tensor, num_steps: int) -> Tensor:
    solution, residual = start, target - system(start)
    direction, norm = residual, residual.square().sum()
    for _ in range(num_steps):
        if norm == 0:
            break
        image = system(direction)
        step = norm / (direction * image).sum()
        solution, residual = solution + step * direction, residual - step * image
        norm, previous = residual.square().sum(), norm
        direction = residual + norm / previous * direction
    return solution
