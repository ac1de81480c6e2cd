"""Crops: of the image and of its camera alike, and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gpavatar.camera import Camera
from gpavatar.media.align import (
    FACE_OVAL,
    CropBox,
    crop_image,
    head_crop,
    put_back,
    resample,
    resample_u8,
    stable_crop,
)
from gpavatar.media.image import to_float, to_u8

BOXES = [CropBox(31.3, 17.8, 63.4), CropBox(-40.5, 20.2, 150.7), CropBox(60.0, 50.0, 300.0), CropBox(8.0, 8.0, 16.0)]


def smooth_image(height: int = 120, width: int = 160) -> np.ndarray:
    """Soft blobs, so that resampling errors are small."""
    y, x = np.mgrid[:height, :width] / 20
    return np.uint8(np.stack([np.sin(x) + np.cos(y), np.cos(x * 0.7), np.sin(x + y)], -1) * 60 + 128)


def face(centre: tuple[float, float], width: float, height: float) -> torch.Tensor:
    angle = torch.linspace(0, 2 * torch.pi, len(FACE_OVAL) + 1)[:-1]
    points = torch.full((478, 2), 1.0) * torch.tensor(centre)
    outline = torch.stack([angle.sin() * width / 2, -angle.cos() * height / 2], -1)
    points[list(FACE_OVAL)] += outline
    return points


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("size", [64, 200])
def test_fast_and_readable_resampling_agree(box, size):
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    part = box.x_px, box.y_px, box.x_px + box.side_px, box.y_px + box.side_px
    fast = resample_u8(image, *part, size, size)
    readable = resample(to_float(image), *part, size, size) * 255
    assert np.abs(fast - readable.permute(1, 2, 0).numpy()).max() <= 1.5  # rounded twice


@pytest.mark.parametrize("box", BOXES)
def test_crop_of_the_image_is_crop_of_the_camera(box):
    """A dot drawn where the full camera sees a point lies where the cropped camera sees it."""
    height, width, size = 240, 320, 128
    camera = Camera.frontal(distance=6.0, focal=1.5)
    point = torch.tensor([[0.12, 0.2, 0.3]])
    full_px = camera.project_px(point, width, height)[0]
    cropped_px = camera.crop(*box.normalised(width, height)).project_px(point, size, size)[0]
    assert torch.allclose(box.to_crop_px(full_px, size), cropped_px, atol=1e-3)
    assert torch.allclose(box.to_full_px(cropped_px, size), full_px, atol=1e-3)


def test_crop_puts_pixels_where_its_points_go():
    image = np.zeros((240, 320, 3), np.uint8)
    y, x = np.mgrid[:240, :320]
    centre = torch.tensor([150.0, 110.0])
    image[...] = np.uint8(255 * np.exp(-((x + 0.5 - 150) ** 2 + (y + 0.5 - 110) ** 2) / 50))[..., None]
    box = CropBox(100.3, 71.8, 97.7)
    brightness = crop_image(image, box, 128).image[0]
    rows, columns = torch.meshgrid(torch.arange(128) + 0.5, torch.arange(128) + 0.5, indexing="ij")
    found = torch.stack([(brightness * columns).sum(), (brightness * rows).sum()]) / brightness.sum()
    assert torch.allclose(found, box.to_crop_px(centre, 128), atol=0.05)


def test_outside_is_marked_and_repeats_the_edge():
    image = smooth_image()
    crop = crop_image(image, CropBox(-40.0, -20.0, 80.0), 80)
    assert crop.inside.shape == (1, 80, 80)
    assert torch.equal(crop.inside[0, :, 60], (torch.arange(80) >= 20).float())
    assert torch.equal(crop.inside[0, 60], (torch.arange(80) >= 40).float())
    assert torch.allclose(crop.image[:, 20:, 40:], to_float(image)[:, :60, :40])
    assert torch.allclose(crop.image[:, 20:, :40], crop.image[:, 20:, 40:41].expand(3, 60, 40))
    beyond = crop_image(image, CropBox(500.0, 500.0, 80.0), 16)
    assert beyond.inside.sum() == 0 and torch.allclose(beyond.image, to_float(image)[:, -1:, -1:].expand(3, 16, 16))


def test_crop_does_not_alias():
    lines = np.zeros((512, 512, 3), np.uint8)
    lines[:, ::2] = 255
    inner = crop_image(lines, CropBox(0.0, 0.0, 512.0), 64).image[:, :, 1:-1]
    assert (inner - 0.5).abs().max() < 0.01


@pytest.mark.parametrize("box", BOXES[:3])
def test_put_back_undoes_crop(box):
    image = smooth_image()
    crop = crop_image(image, box, 256)
    back = put_back(crop.image, box, image).astype(int)
    assert np.abs(back - image).max() <= 4  # the image is 8-bit and was resampled twice
    inverted = put_back(1 - crop.image, box, image).astype(int)
    columns = (np.arange(160) + 0.5 > box.x_px) & (np.arange(160) + 0.5 < box.x_px + box.side_px)
    rows = (np.arange(120) + 0.5 > box.y_px) & (np.arange(120) + 0.5 < box.y_px + box.side_px)
    under = rows[:, None] & columns
    assert np.abs(inverted + image - 255)[under].max() <= 5
    assert np.array_equal(inverted[~under], image[~under])


def test_put_back_with_alpha():
    image, box = smooth_image(), BOXES[0]
    white = torch.ones(3, 64, 64)
    assert np.array_equal(put_back(white, box, image, torch.zeros(1, 64, 64)), image)
    half = put_back(white, box, image, torch.full((1, 64, 64), 0.5)).astype(float)
    middle = np.s_[40:60, 50:70]
    assert np.abs(half[middle] - (image[middle] / 2.0 + 127.5)).max() <= 1.5
    assert np.array_equal(put_back(white, CropBox(900.0, 900.0, 50.0), image), image)


def test_resample_has_gradients():
    image = torch.rand(2, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: resample(x, 1.3, -2.2, 8.1, 7.7, 5, 4), image)


def test_resample_keeps_constants_and_brightness():
    image = torch.full((1, 30, 40), 0.37)
    assert torch.allclose(resample(image, -9.3, 2.0, 50.1, 28.0, 17, 90), torch.tensor(0.37))


def test_head_crop_has_the_usual_proportion():
    """The face outline is 43 % of the crop high and in its middle; a turned, narrower face gives the same crop."""
    box = head_crop(face((300.0, 200.0), width=90.0, height=110.0))
    assert 110 / box.side_px == pytest.approx(0.43, abs=0.003)
    assert (box.x_px + box.side_px / 2, box.y_px + box.side_px / 2) == pytest.approx((300, 200), abs=0.2)
    assert head_crop(face((300.0, 200.0), 60.0, 110.0)).side_px == pytest.approx(box.side_px)


def test_stable_crop_ignores_lost_frames_and_outliers():
    still = torch.stack([face((300.0, 200.0), 90.0, 110.0)] * 100)
    expected = head_crop(still[0])
    still[3], still[50] = float("nan"), face((900.0, 500.0), 40.0, 50.0)
    box = stable_crop(still)
    assert (box.x_px, box.y_px, box.side_px) == pytest.approx((expected.x_px, expected.y_px, expected.side_px), abs=0.5)


def test_stable_crop_holds_a_moving_head():
    path = torch.linspace(150, 450, 60)
    moving = torch.stack([face((float(x), 200.0), 90.0, 110.0) for x in path])
    box = stable_crop(moving)
    inner = moving[2:-2][:, list(FACE_OVAL)]
    margin_px = 0.15 * box.side_px
    assert box.side_px > head_crop(moving[0]).side_px
    assert inner[..., 0].min() > box.x_px + margin_px and inner[..., 0].max() < box.x_px + box.side_px - margin_px


def test_floats_survive_8_bit():
    crop = crop_image(smooth_image(), BOXES[0], 64)
    assert torch.equal(to_float(to_u8(crop.image)), crop.image)


@pytest.mark.parametrize(
    ("box", "kept"),
    [
        (CropBox(20.0, 10.0, 80.0), CropBox(20.0, 10.0, 80.0)),  # inside: as it is
        (CropBox(-15.0, 50.0, 80.0), CropBox(0.0, 40.0, 80.0)),  # moved in
        (CropBox(10.0, -5.0, 150.0), CropBox(25.0, 0.0, 120.0)),  # shrunk about its centre, then moved
        (CropBox(-40.0, -50.0, 240.0), CropBox(-10.0, -30.0, 180.0)),  # not below 3/4: centred on the picture
    ],
)
def test_kept_inside(box, kept):
    assert box.kept_inside(160, 120) == kept


def test_kept_inside_goes_no_further_than_it_must(generator):
    """What it gives stays as it is when asked again, and only a box larger than the picture reaches outside."""
    for x, y, side in (torch.rand(20, 3, generator=generator) * torch.tensor([300.0, 200.0, 150.0])).tolist():
        box = CropBox(x - 150, y - 100, side + 10).kept_inside(160, 120)
        again = box.kept_inside(160, 120, least=1.0)
        assert (again.x_px, again.y_px, again.side_px) == pytest.approx((box.x_px, box.y_px, box.side_px))
        inside_x, inside_y = 0 <= box.x_px <= 160 - box.side_px, 0 <= box.y_px <= 120 - box.side_px
        assert (inside_x or box.side_px > 160) and (inside_y or box.side_px > 120)
