"""The matting Laplacian against its matrix, and the compositing equation solved for alpha and for F."""

import pytest
import torch

from gpavatar.media.alpha import foreground, guided_filter, matting_laplacian, refine_alpha


def laplacian_matrix(image: torch.Tensor, tolerance: float) -> torch.Tensor:
    """The slow twin: Levin et al. 2008, eq. 12, window by window (its epsilon is 9 tolerance)."""
    _, height, width = image.shape
    index = torch.arange(height * width).view(height, width)
    matrix = image.new_zeros(height * width, height * width)
    for row in range(height - 2):
        for column in range(width - 2):
            window = index[row : row + 3, column : column + 3].flatten()
            colours = image.flatten(1)[:, window].T
            centred = colours - colours.mean(0)
            covariance = centred.T @ centred / 9 + tolerance * torch.eye(3, dtype=image.dtype)
            affinity = (1 + centred @ torch.linalg.inv(covariance) @ centred.T) / 9
            matrix[window[:, None], window[None]] += torch.eye(9, dtype=image.dtype) - affinity
    return matrix


def test_laplacian_is_that_of_the_paper(generator):
    image = torch.rand(3, 6, 7, generator=generator, dtype=torch.float64)
    alpha = torch.rand(1, 6, 7, generator=generator, dtype=torch.float64)
    expected = laplacian_matrix(image, 1e-3) @ alpha.flatten()
    torch.testing.assert_close(matting_laplacian(image, 1e-3)(alpha).flatten(), expected, rtol=0, atol=1e-12)


def test_a_linear_function_of_colour_costs_nothing(generator):
    image = torch.rand(3, 12, 12, generator=generator, dtype=torch.float64)
    laplacian = matting_laplacian(image, 1e-12)
    assert (
        laplacian(0.2 + (torch.tensor([0.3, -0.5, 0.1])[:, None, None] * image).sum(0, keepdim=True)).abs().max() < 1e-8
    )
    assert laplacian(image.square().sum(0, keepdim=True)).abs().max() > 1e-2


def composite(generator, side: int = 128):
    """Strands and a disc of two smooth colours over two others: image, alpha, F."""
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    disc = (8 * (0.55 - (rows**2 + columns**2).sqrt()) + 0.5).clamp(0, 1)
    strands = ((torch.sin(9 * columns + 4 * rows) - 0.9) * 8).clamp(0, 1) * (rows.abs() < 0.8)
    alpha = torch.maximum(disc, strands)[None]
    front = torch.stack([0.30 + 0.1 * rows, 0.20 + 0.05 * columns, 0.15 + 0.05 * rows])
    behind = torch.stack([0.6 + 0.2 * columns, 0.75 + 0.1 * rows, 0.8 - 0.1 * columns])
    noise = 0.005 * torch.randn(3, side, side, generator=generator)
    return (alpha * front + (1 - alpha) * behind + noise).clamp(0, 1), alpha, front


def test_a_blurred_mask_becomes_the_true_one(generator):
    image, alpha, _ = composite(generator)
    coarse = torch.nn.functional.avg_pool2d(alpha, 9, stride=1, padding=4, count_include_pad=False)
    refined = refine_alpha(image, coarse, trust=0.01)
    assert 0 <= refined.min() and refined.max() <= 1
    before, after = (coarse - alpha).abs().mean(), (refined - alpha).abs().mean()
    assert after < 0.65 * before, f"mean error {after:.4f}, before {before:.4f}"


def test_what_is_decided_stays(generator):
    image, _, _ = composite(generator)
    coarse = torch.zeros(1, 128, 128)
    coarse[:, :64], coarse[:, 64:66] = 1.0, 0.5
    refined = refine_alpha(image, coarse, band_px=6)
    assert torch.equal(refined[:, :58], coarse[:, :58]) and torch.equal(refined[:, 72:], coarse[:, 72:])


def test_foreground_is_what_was_composited(generator):
    image, alpha, front = composite(generator)
    found = foreground(image, alpha)
    seen = (alpha > 0.1).expand(3, -1, -1)
    error, bleeding = (found - front).abs()[seen].mean(), (image - front).abs()[seen].mean()
    assert error < 0.02 and error < bleeding / 3, f"mean error {error:.4f}, of the picture itself {bleeding:.4f}"
    opaque = (alpha == 1).expand(3, -1, -1)
    assert torch.equal(found[opaque], image[opaque])


def test_guided_masks_still_sum_to_one(generator):
    image = torch.rand(3, 40, 50, generator=generator)
    masks = torch.rand(4, 40, 50, generator=generator).softmax(0)
    filtered = guided_filter(image, masks)
    torch.testing.assert_close(filtered.sum(0), torch.ones(40, 50), rtol=0, atol=1e-3)
    assert filtered.std() < masks.std()


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_an_empty_or_full_mask_is_left_alone(generator, level):
    coarse = torch.full((1, 32, 32), level)
    assert torch.equal(refine_alpha(torch.rand(3, 32, 32, generator=generator), coarse), coarse)
