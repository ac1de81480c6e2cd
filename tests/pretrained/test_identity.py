"""Identity embeddings: alignment exactly, and people told apart."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from optional_assets import needs

from gpavatar.media.frames import open_frames
from gpavatar.media.image import read_image, resize_u8
from gpavatar.pretrained.detector import FaceDetector
from gpavatar.pretrained.identity import NETWORKS, TEMPLATE_PX, Identity, aligned_face, five_points_px, similarity


@pytest.fixture(
    scope="module",
    params=[pytest.param("sface", marks=pytest.mark.download), pytest.param("arcface", marks=needs("arcface_mobile"))],
)
def identity(request) -> Identity:
    return Identity(request.param)


@pytest.fixture(scope="module")
def faces(photo, clip) -> tuple[list[np.ndarray], torch.Tensor]:
    """A woman, the same picture smaller and turned, and two frames of a man; with their five points."""
    woman = read_image(photo)
    turned = cv2.warpAffine(woman, cv2.getRotationMatrix2D((222, 110), 12, 0.7), (512, 512))
    man = [frame.image_u8 for frame in open_frames(clip)]
    pictures = [woman, turned, man[0], man[9]]
    found = [FaceDetector().detect(picture)[0].landmarks_px for picture in pictures]
    return pictures, five_points_px(torch.stack(found))


def test_similarity_is_found_exactly_and_in_least_squares(generator):
    source = torch.rand(5, 2, generator=generator).double().numpy()
    turn = 1.7 * np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    target = source @ turn.T + [3, -2]
    assert np.allclose(similarity(source, target), np.column_stack([turn, [3, -2]]))

    target = target + torch.randn(5, 2, generator=generator).numpy() * 0.1
    best = similarity(source, target)

    def error(matrix: np.ndarray) -> float:
        return float(((source @ matrix[:, :2].T + matrix[:, 2] - target) ** 2).sum())

    for change in (0.01, -0.01):
        assert error(best) < error(best * [[1 + change, 1 + change, 1]])
        assert error(best) < error(best + [[0, 0, change], [0, 0, 0]])
        assert error(best) < error(best + change * np.array([[0, -1, 0], [1, 0, 0]]))


def test_the_points_come_to_lie_on_the_template():
    """A bright dot at each of the points; our pixel centres lie at halves."""
    points = torch.tensor([[60.5, 80.5], [120.5, 84.5], [90.5, 110.5], [66.5, 140.5], [114.5, 142.5]])
    picture = np.zeros((200, 200, 3), np.uint8)
    y, x = np.mgrid[:200, :200] + 0.5
    for px, py in points.tolist():
        dot = 255 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / 8)
        picture = np.maximum(picture, dot[..., None].astype(np.uint8))
    face = aligned_face(picture, points)
    matrix = similarity(points.double().numpy(), TEMPLATE_PX)
    for where in points.double().numpy() @ matrix[:, :2].T + matrix[:, 2]:
        column, row = np.floor(where).astype(int)
        patch = face[row - 4 : row + 5, column - 4 : column + 5, 0].astype(float)
        v, u = np.mgrid[row - 4 : row + 5, column - 4 : column + 5] + 0.5
        centre = np.array([(u * patch).sum(), (v * patch).sum()]) / patch.sum()
        assert np.abs(centre - where).max() < 0.06  # measured 0.03


def test_people_are_told_apart(identity, faces):
    pictures, points = faces
    embedding = identity.embed(pictures, points)
    assert torch.allclose(embedding.norm(dim=-1), torch.ones(4), atol=1e-5)
    likeness = embedding @ embedding.T
    assert likeness[0, 1] > 0.8 and likeness[2, 3] > 0.8
    assert likeness[:2, 2:].max() < 0.3


def test_a_picture_of_half_the_size_is_the_same_person(identity, faces):
    (woman, *_), points = faces
    half = resize_u8(woman, 256, 256)
    one, other = identity.embed([woman, half], torch.stack([points[0], points[0] / 2]))
    assert float(one @ other) > 0.9


def test_without_points_there_is_no_embedding(identity, faces):
    pictures, points = faces
    embedding = identity.embed(pictures[:2], torch.stack([torch.full((5, 2), torch.nan), points[1]]))
    assert embedding[0].isnan().all() and embedding[1].isfinite().all()
    assert embedding.shape[1] == identity.network.num_features


def test_every_network_names_itself_and_an_asset():
    assert len({network.label for network in NETWORKS.values()}) == len(NETWORKS) == 2
