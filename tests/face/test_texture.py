"""Blending photos into one texture, and completing it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gpavatar.face.texture import HeadTexture, SkinMap, complete_eye, complete_skin, erode, matching_light
from gpavatar.face.uv import UnprojectedTexture

SIZE = 128


def photo(generator: torch.Generator, brightness: float = 1.0) -> UnprojectedTexture:
    """Random colours and weights; hair and skin labels in the last two channels."""
    colour = torch.rand(5, SIZE, SIZE, generator=generator) * torch.tensor([0.6, 0.6, 0.6, 1, 1])[:, None, None]
    colour[:3] *= brightness
    return UnprojectedTexture(colour, torch.rand(1, SIZE, SIZE, generator=generator))


def same_light(photos: list[UnprojectedTexture]) -> list[UnprojectedTexture]:
    """One colour and one weight everywhere but in a patch of each photo's own: no exposure to match."""
    out = []
    for number, one in enumerate(photos):
        colour = torch.full_like(one.colour, 0.4)
        weight = torch.zeros_like(one.weight)
        weight[:, :64] = 0.9
        rows = slice(64 + 20 * number, 84 + 20 * number)
        colour[:, rows], weight[:, rows] = one.colour[:, rows], one.weight[:, rows]
        out.append(UnprojectedTexture(colour, weight))
    return out


def blended(photos: list[UnprojectedTexture]) -> HeadTexture:
    texture = HeadTexture.empty(SIZE)
    for one in photos:
        texture = texture.add(one)
    return texture


def skin_map(lids: bool = False, scalp: bool = False) -> SkinMap:
    everywhere, marks = torch.ones(SIZE, SIZE, dtype=torch.bool), torch.zeros(SIZE, SIZE, dtype=torch.bool)
    lid, crown = marks.clone(), marks.clone()
    lid[60:70] = lids
    crown[:20] = scalp
    nowhere = torch.zeros(1, SIZE, SIZE)
    return SkinMap(skin=everywhere, scalp=crown, lids=lid, lashes=nowhere, under_jaw=nowhere)


def known(colour: Tensor, seen: Tensor, hair: float | Tensor = 0.0, skin: float | Tensor = 1.0) -> HeadTexture:
    labels = torch.stack([torch.as_tensor(value).expand(SIZE, SIZE) for value in (hair, skin)])
    return HeadTexture(colour, labels.clone(), seen[None].float())


def test_one_photo_is_kept_as_it_is(generator):
    one = photo(generator)
    texture = blended([one])
    where = (one.weight > 0.1).expand(3, -1, -1)
    assert torch.allclose(texture.colour[where], one.colour[:3][where], atol=1e-4)
    assert (texture.seen[one.weight > 0.6] == 1).all() and (texture.seen[one.weight < 0.1] == 0).all()


def test_order_does_not_matter_under_equal_light(generator):
    photos = same_light([photo(generator) for _ in range(3)])
    there, back = blended(photos), blended(photos[::-1])
    assert torch.allclose(there.colour, back.colour, atol=1e-3)
    assert torch.allclose(there.labels, back.labels, atol=1e-5)
    assert torch.allclose(there.weight, back.weight, atol=1e-6)


def test_the_photo_that_faces_a_spot_decides_it():
    def plain(value: float, weight: float) -> UnprojectedTexture:
        return UnprojectedTexture(torch.full((5, SIZE, SIZE), value), torch.full((1, SIZE, SIZE), weight))

    texture = blended([plain(0.40, 1.0), plain(0.44, 0.5)])
    assert torch.allclose(texture.labels, torch.tensor(0.40), atol=2e-3)
    assert texture.colour.mean() - 0.40 < 2e-3


def test_a_photo_of_other_exposure_is_matched(generator):
    bright, dark = photo(generator), photo(generator)
    # the same surface in less light, seen from elsewhere
    dark = replace(dark, colour=torch.cat([0.8 * bright.colour[:3], bright.colour[3:]]))
    texture = blended([bright, dark])
    where = (torch.maximum(bright.weight, dark.weight) > 0.3).expand(3, -1, -1)
    assert (texture.colour - bright.colour[:3]).abs()[where].max() < 0.02


def test_a_photo_that_saw_nothing_changes_nothing(generator):
    texture = blended([photo(generator)])
    more = texture.add(replace(photo(generator), weight=torch.zeros(1, SIZE, SIZE)))
    assert torch.equal(more.colour, texture.colour) and torch.equal(more.weight, texture.weight)


def test_seen_skin_is_kept(generator):
    """Also on the lids, whose colour is never taken for the filling."""
    colour = torch.rand(3, SIZE, SIZE, generator=generator)
    seen = torch.zeros(SIZE, SIZE)
    seen[20:100, 10:90] = 1
    done = complete_skin(known(colour, seen), skin_map(lids=True))
    inside = erode(seen[None], 3)[0] > 0
    assert torch.allclose(done[:, inside], colour[:, inside], atol=1e-4)


def test_the_unseen_side_is_the_mirrored_one(generator):
    half = torch.rand(3, SIZE, SIZE // 2, generator=generator)
    colour = torch.cat([half, torch.zeros_like(half)], -1)
    seen = torch.zeros(SIZE, SIZE)
    seen[:, : SIZE // 2] = 1
    done = complete_skin(known(colour, seen), skin_map())
    inner = slice(SIZE // 2 + 16, SIZE - 16)
    assert torch.allclose(done[:, 16:-16, inner], colour.flip(-1)[:, 16:-16, inner], atol=1e-3)


def test_the_mirrored_side_takes_the_light_of_its_new_place():
    """One side stands in less light; what is copied there from the bright side is darkened as much."""
    light = torch.where(torch.arange(SIZE) < SIZE // 2, 1.0, 0.8)
    colour = (0.5 * light).expand(3, SIZE, SIZE).clone()
    seen = torch.ones(SIZE, SIZE)
    seen[40:80, SIZE // 2 + 16 : -16] = 0
    colour[:, 40:80, SIZE // 2 + 16 : -16] = 0
    done = complete_skin(known(colour, seen), skin_map())
    assert torch.allclose(done[:, 50:70, SIZE // 2 + 24 : -24], torch.tensor(0.4), atol=0.03)


def test_every_texel_gets_a_colour(generator):
    seen = (torch.rand(SIZE, SIZE, generator=generator) > 0.3).float()
    seen[:, :30] = 0
    seen[:, -30:] = 0
    colour = 0.3 + 0.4 * torch.rand(3, SIZE, SIZE, generator=generator)
    done = complete_skin(known(colour * seen, seen), skin_map(lids=True, scalp=True))
    assert done.isfinite().all() and done.min() > 0.05 and done.max() <= 1


def test_a_scalp_nobody_saw_takes_the_hair_that_was_seen():
    """Skin is light, hair dark; of the crown only its lower rows, which are hair, were seen."""
    colour, hair = torch.full((3, SIZE, SIZE), 0.7), torch.zeros(SIZE, SIZE)
    hair[12:30] = 1
    colour[:, 12:30] = 0.1
    seen = torch.ones(SIZE, SIZE)
    seen[:12] = 0
    done = complete_skin(known(colour * seen, seen, hair, 1 - hair), skin_map(scalp=True))
    assert done[:, :6].mean() < 0.25
    bald = complete_skin(known(0.7 * seen.expand(3, -1, -1), seen), skin_map(scalp=True))
    assert bald[:, :6].mean() > 0.6


def test_lids_are_filled_from_beyond_the_lids():
    """An open eye shows dark lashes next to the lids: they must not spread over them."""
    colour, seen = torch.full((3, SIZE, SIZE), 0.7), torch.ones(SIZE, SIZE)
    colour[:, 60:70] = 0.1
    seen[62:70] = 0
    done = complete_skin(known(colour, seen), skin_map(lids=True))
    assert done[:, 64:68].mean() > 0.6


@pytest.mark.parametrize("shift", [0.0, 0.15])
def test_an_eye_is_completed_round_the_iris(shift):
    """Rings of colour, the upper half covered by the lid: the rings are closed."""
    row, column = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    radius = ((row - 64.0) ** 2 + (column - 64.0) ** 2).sqrt()
    rings = (0.5 + 0.4 * (radius / 9).sin()).expand(3, -1, -1)
    seen = (row > 64 - shift * SIZE).float()[None]
    on_eye = radius < 50
    done = complete_eye(rings * seen, seen, torch.where(on_eye, radius, torch.nan))
    assert (done - rings)[:, on_eye].abs().max() < 0.12  # 48 bins of radius, measured 0.07
    assert torch.equal(done[:, ~on_eye], (rings * seen)[:, ~on_eye])


def test_an_eye_nobody_saw_stays():
    plain = torch.full((3, SIZE, SIZE), 0.3)
    radius = torch.rand(SIZE, SIZE)
    assert torch.equal(complete_eye(plain, torch.zeros(1, SIZE, SIZE), radius), plain)


def test_erode_is_the_least_value_around(generator):
    mask = torch.rand(1, 16, 16, generator=generator)
    out = erode(mask, 2)
    assert out[0, 8, 8] == mask[0, 6:11, 6:11].min()
    assert (out <= mask).all()


def test_light_from_another_side_is_matched_side_by_side(generator):
    """Two photos of one surface, one lit from the left: the gain follows the light across the texture."""
    known = 0.3 + 0.4 * torch.rand(3, 64, 64, generator=generator)
    light = torch.linspace(0.7, 1.4, 64).expand(1, 64, 64)
    gain = matching_light(known, known / light, torch.ones(1, 64, 64))
    off = (gain / light - 1).abs()
    assert off.max() < 0.02  # measured 0.010; one gain for all is off by 0.44
    unseen = matching_light(known, known / light, torch.zeros(1, 64, 64))
    assert torch.equal(unseen, torch.ones(3, 64, 64))
