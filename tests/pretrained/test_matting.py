"""The layers of a real portrait, and the rules around the network."""

import numpy as np
import pytest
import torch
from PIL import Image

from gpavatar.media.alpha import foreground
from gpavatar.pretrained.matting import (
    CLOTHES,
    FACE_SKIN,
    HAIR,
    NEVER,
    NUM_CLASSES,
    OTHERS,
    _main_component,
    _with_headwear_as_hair,
    matte,
)


@pytest.fixture(scope="module")
def portrait(photo):
    return torch.from_numpy(np.array(Image.open(photo).convert("RGB"))).permute(2, 0, 1)[:, :, 30:474][:, :444] / 255


@pytest.fixture(scope="module")
def layers(portrait):
    return matte(portrait)


def parts(layers):
    return torch.cat([layers.hair, layers.face, layers.body, layers.clothes, layers.others])


def test_the_parts_make_up_the_person(layers):
    assert parts(layers).min() >= 0 and layers.alpha.max() <= 1
    torch.testing.assert_close(parts(layers).sum(0, keepdim=True), layers.alpha, rtol=0, atol=1e-5)


def test_everything_is_what_it_is(layers):
    """Places of the astronaut's photo, in pixels of the crop."""
    places = {"hair": (45, 200), "face": (110, 195), "clothes": (330, 80)}
    for name, (row, column) in places.items():
        assert getattr(layers, name)[0, row, column] > 0.8, name
    assert layers.alpha[0, 60, 350] == 0, "the shuttle is background"
    assert layers.alpha[0, :60, :40].max() == 0, "the flag is background"


def test_a_mirrored_picture_has_mirrored_layers(portrait, layers):
    mirrored = matte(portrait.flip(2).contiguous())
    assert (parts(mirrored).flip(2) - parts(layers)).abs().mean() < 1e-3


def test_a_known_alpha_is_found_again(portrait, layers):
    """The person cut out and put before another background."""
    rows = torch.linspace(0, 1, 444)[:, None].expand(444, 444)
    behind = torch.stack([0.25 + 0.2 * rows, 0.4 + 0 * rows, 0.55 - 0.2 * rows])
    image = layers.alpha * foreground(portrait, layers.alpha) + (1 - layers.alpha) * behind
    error = (matte(image).alpha - layers.alpha).abs().mean()
    assert error < 0.006, f"mean absolute difference {error:.4f}"


def test_nobody_is_nothing():
    assert matte(torch.full((3, 256, 256), 0.5)).alpha.max() == 0


def test_a_hat_counts_as_hair_and_glasses_do_not():
    classes = torch.zeros(NUM_CLASSES, 100, 100)
    classes[FACE_SKIN, 40:80, 30:70] = 1 + NEVER
    hat, glasses, mouthpiece = (
        (slice(20, 40), slice(25, 75)),
        (slice(50, 53), slice(35, 65)),
        (slice(75, 90), slice(71, 80)),
    )
    for place in (hat, glasses, mouthpiece):
        classes[(FACE_SKIN, *place)] = 0
        classes[(OTHERS, *place)] = 1
    result = _with_headwear_as_hair(classes)
    assert result[(HAIR, *hat)].min() == 1 and result[(HAIR, *glasses)].max() == 0
    assert result[(OTHERS, *glasses)].min() == 1 and result[(OTHERS, *mouthpiece)].min() == 1
    torch.testing.assert_close(result.sum(0), classes.sum(0))
    assert result[CLOTHES].max() == 0


def test_only_the_person_with_the_largest_face_stays():
    coarse, face = torch.zeros(1, 50, 50), torch.zeros(50, 50)
    coarse[:, 5:45, 5:25], coarse[:, 5:45, 30:49] = 1, 1
    face[10:20, 10:20], face[10:15, 35:40] = 1, 1
    kept = _main_component(coarse, face)
    assert torch.equal(kept[:, :, :28], coarse[:, :, :28]) and kept[:, :, 28:].max() == 0
