"""Backgrounds, the visible label and the comparison layout."""

from __future__ import annotations

import time

import awkward_files as awkward
import numpy as np
import pytest
import torch

from gpavatar.media.compose import add_label, background_image, composite, parse_background, side_by_side
from gpavatar.media.image import write_image
from gpavatar.types import InputError


@pytest.mark.parametrize(
    ("text", "colour"),
    [("black", (0, 0, 0)), ("white", (1, 1, 1)), ("#ff8000", (1, 128 / 255, 0)), ("#FF8000", (1, 128 / 255, 0))],
)
def test_colours(text, colour):
    image = background_image(parse_background(text), 6, 4)
    assert image.shape == (3, 4, 6)
    assert torch.allclose(image, torch.tensor(colour, dtype=torch.float32).view(3, 1, 1))


def test_source_has_no_image_of_its_own():
    assert background_image(parse_background("source"), 6, 4) is None


def test_image_fills_the_frame_and_keeps_its_proportion(tmp_path):
    write_image(tmp_path / "wide.png", awkward.marked_frame(400, 100))
    image = background_image(parse_background(str(tmp_path / "wide.png")), 64, 64)
    assert image.shape == (3, 64, 64)
    assert awkward.corners(np.uint8(image.permute(1, 2, 0).numpy() * 255)) == ["red", "green", "blue", "grey"]


@pytest.mark.parametrize("text", ["no such.png", "#ff80", "#gggggg", "blue", ""])
def test_what_is_no_background(text):
    with pytest.raises(InputError, match="use source, black, white, #rrggbb or an image file"):
        parse_background(text)


def test_composite_is_over():
    person, behind = torch.full((3, 2, 2), 0.8), torch.full((3, 2, 2), 0.2)
    alpha = torch.tensor([[[0.0, 1.0], [0.5, 0.25]]])
    assert torch.allclose(composite(person, alpha, behind)[0], torch.tensor([[0.2, 0.8], [0.5, 0.35]]))


@pytest.mark.parametrize("size", [256, 512])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_label_is_legible_on_any_ground_and_small(size, level):
    frame = np.full((size, size, 3), level, np.uint8)
    labelled = add_label(frame)
    assert (frame == level).all(), "the frame itself is not drawn on"
    rows, columns = np.nonzero((labelled != frame).any(-1))
    plate = labelled[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert rows.min() > size * 0.85 and columns.min() > size * 0.5
    assert rows.max() < size and plate.shape[0] * plate.shape[1] < 0.03 * size * size
    assert np.quantile(plate, 0.97) - np.quantile(plate, 0.3) > 90, "letters stand out from the plate"


def test_label_on_a_tiny_frame_is_cut():
    assert add_label(np.zeros((9, 20, 3), np.uint8)).shape == (9, 20, 3)


def test_label_costs_next_to_nothing():
    frame = np.zeros((512, 512, 3), np.uint8)
    add_label(frame)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        add_label(frame)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.3e-3


def test_side_by_side_has_equal_heights():
    source, driving = np.full((100, 100, 3), 10, np.uint8), np.full((90, 160, 3), 20, np.uint8)
    result = np.full((128, 128, 3), 30, np.uint8)
    row = side_by_side(source, driving, result, captions=False)
    assert row.shape == (128, 128 + 228 + 128, 3)
    assert [int(row[64, x, 0]) for x in (64, 240, 420)] == [10, 20, 30]
    captioned = side_by_side(source, driving, result)
    assert captioned.shape == row.shape and (captioned[:30] != row[:30]).any()
    assert np.array_equal(captioned[40:], row[40:])
    assert (result == 30).all(), "the panels themselves are not drawn on"
