"""What a fill must never do, and what it should continue."""

import pytest
import torch

from gpavatar.media.inpaint import inpaint, push_pull


@pytest.fixture
def hole() -> torch.Tensor:
    mask = torch.zeros(1, 100, 90)
    mask[:, 35:65, 30:60] = 1
    return mask


def stripes(height: int, width: int) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    wave = 0.5 + 0.4 * torch.sin((rows + 0.5 * columns) * 0.5)
    return torch.stack([wave, 1 - wave, 0.3 + 0 * wave])


def test_the_known_pixels_are_untouched_and_the_hole_has_no_say(generator, hole):
    image = torch.rand(3, 100, 90, generator=generator)
    filled = inpaint(image, hole)
    known = (hole == 0).expand(3, -1, -1)
    assert torch.equal(filled[known], image[known])
    assert torch.equal(inpaint(torch.where(known, image, torch.nan), hole > 0), filled)
    assert image.amin() <= filled.amin() and filled.amax() <= image.amax() + 1e-6


def test_stripes_go_on(hole):
    image = stripes(100, 90)
    inside = hole.bool().expand(3, -1, -1)
    error = (inpaint(image, hole) - image).abs()[inside].mean()
    smooth_error = (push_pull(image, 1 - hole) - image).abs()[inside].mean()
    assert error < 0.4 * smooth_error, f"mean error {error:.3f}, of the smooth fill {smooth_error:.3f}"


def test_deep_inside_it_is_the_smooth_fill(hole):
    image = stripes(100, 90)
    filled = inpaint(image, hole, rim_px=10.0)
    deep = (slice(None), slice(46, 54), slice(41, 49))
    torch.testing.assert_close(filled[deep], push_pull(image, 1 - hole)[deep])
    assert not torch.allclose(filled[:, 36:40, 40:50], push_pull(image, 1 - hole)[:, 36:40, 40:50], atol=1e-2)


@pytest.mark.parametrize("fill", [inpaint, lambda image, mask: push_pull(image, 1 - mask)])
def test_one_colour_stays_one_colour(fill, hole):
    image = torch.tensor([0.2, 0.5, 0.9])[:, None, None].expand(3, 100, 90)
    torch.testing.assert_close(fill(image, hole), image, rtol=0, atol=1e-5)


def test_push_pull_follows_a_slope(hole):
    slope = torch.linspace(0, 1, 90).expand(1, 100, 90)
    assert (push_pull(slope, 1 - hole) - slope).abs().max() < 0.1


def test_nothing_and_everything_masked(generator):
    image = torch.rand(3, 40, 40, generator=generator)
    assert torch.equal(inpaint(image, torch.zeros(1, 40, 40)), image)
    assert torch.equal(inpaint(image, torch.ones(1, 40, 40)), torch.zeros(3, 40, 40))


def test_too_little_to_copy_from_is_blended():
    mask = torch.ones(1, 40, 40)
    mask[:, :3] = 0
    image = torch.full((3, 40, 40), 0.5)
    torch.testing.assert_close(inpaint(image, mask), image, rtol=0, atol=1e-5)
