"""Nobody is missed where nobody is looked for."""

from __future__ import annotations

import torch

from gpavatar.field.occupancy import Occupancy, find_occupancy


def ball(centre: tuple[float, float, float], radius: float):
    return lambda points: (((points - torch.tensor(centre)).norm(dim=-1)) < radius).float()


def test_every_place_with_density_is_in(generator):
    balls = [ball((0.3, 0.0, 0.1), 0.3), ball((0.3, -0.2, 0.1), 0.3)]
    found = find_occupancy(balls, torch.device("cpu"))
    points = torch.rand(20000, 3, generator=generator) * 2 - 1
    dense = torch.maximum(*(one(points) for one in balls)) > 0
    assert dense.any() and found.at(points)[dense].all()
    assert 0.02 < found.filled.float().mean() < 0.15
    between = ball((0.3, -0.1, 0.1), 0.3)(points) > 0  # an expression half-way
    assert found.at(points)[between].all()


def test_outside_the_cube_is_nothing_and_its_faces_are_inside():
    full = Occupancy(torch.ones(4, 4, 4, dtype=torch.bool))
    at = torch.tensor([[1.0, -1, 1], [1.01, 0, 0], [0, -5, 0], [torch.nan, 0, 0]])
    assert full.at(at).tolist() == [True, False, False, False]
    assert not find_occupancy([ball((0, 0, 0), 0.0)], torch.device("cpu")).filled.any()


def test_places_lie_in_their_voxels():
    filled = torch.zeros(4, 4, 4, dtype=torch.bool)
    filled[0, 1, 3] = True
    occupancy = Occupancy(filled)
    assert occupancy.places().shape == (8, 3) and occupancy.at(occupancy.places()).all()
    assert occupancy.places().mean(0).tolist() == [-0.75, -0.25, 0.75]
