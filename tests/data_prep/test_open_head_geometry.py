"""Geometry from which the open head is built; the derivation itself needs the 48 MB wheel and minutes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from data_prep import open_head_atlas as atlas
from data_prep import open_head_parts as parts
from data_prep.open_head_landmarks import geometric_median, snap
from data_prep.open_head_people import affine, ball, clear_eyeball, edge_loop, rigid


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def directed_edges(faces: np.ndarray) -> Counter:
    return Counter((int(a), int(b)) for face in faces for a, b in zip(face, np.roll(face, -1), strict=True))


def dome(size: int = 15) -> tuple[np.ndarray, np.ndarray]:
    """A square grid bent over a hill with a steep nose."""
    x, y = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size), indexing="ij")
    z = 1.5 * np.exp(-(x**2 + y**2)) + 0.8 * np.exp(-((x / 0.2) ** 2 + (y / 0.2) ** 2))
    ids = np.arange(size * size).reshape(size, size)
    a, b, c, d = (i.ravel() for i in (ids[:-1, :-1], ids[1:, :-1], ids[1:, 1:], ids[:-1, 1:]))
    return np.stack([x, y, z], -1).reshape(-1, 3), np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])


def test_eyeball_is_closed_and_faces_outwards():
    eye = parts.eyeball()
    edges = directed_edges(eye.faces)
    assert max(edges.values()) == 1
    assert all((b, a) in edges for a, b in edges)
    a, b, c = (eye.verts[eye.faces[:, i]] for i in range(3))
    assert ((np.cross(b - a, c - a) * (a + b + c)).sum(1) > 0).all()


def test_cornea_bulges_and_meets_the_ball_at_the_limbus():
    reach = np.linalg.norm(parts.eyeball().verts, axis=1)
    assert reach.max() == pytest.approx(parts.CORNEA_APEX)
    offset, radius = parts.cornea_sphere()
    angle = np.deg2rad(parts.CORNEA_DEG)
    assert np.hypot(np.sin(angle), np.cos(angle) - offset) == pytest.approx(radius)
    assert offset + radius == pytest.approx(parts.CORNEA_APEX)
    assert (reach[np.abs(reach - 1) > 1e-9] > 1).all()


@pytest.mark.parametrize("upper", [True, False])
def test_teeth_mirror_and_stand_side_by_side(upper):
    arch = parts.DentalArch(70.0, 0.02, 2.2, 0.0, 0.0, 0.1)
    sizes = parts.UPPER_TEETH if upper else parts.LOWER_TEETH
    crowns, gum = parts.teeth(arch, sizes, upper)
    for part in (crowns, gum):
        half = part.verts[part.verts[:, 0] > 1e-6]
        other = part.verts[part.verts[:, 0] < -1e-6] * [-1, 1, 1]
        assert len(half) == len(other)
        assert all(np.abs(other - vertex).sum(1).min() < 1e-9 for vertex in half[::11])
    assert np.isfinite(crowns.verts).all()
    per_tooth = len(crowns.verts) // 14
    centres = crowns.verts.reshape(14, per_tooth, 3).mean(1)
    gaps = np.linalg.norm(np.diff(centres[:7], axis=0), axis=1)
    widths = np.array([size[0] for size in sizes])
    assert gaps == pytest.approx((widths[1:] + widths[:-1]) / 2, rel=0.45)  # inner side of a curve: closer


def test_flattening_turns_no_triangle_over_and_keeps_the_border():
    verts, faces = dome()
    loop = atlas.boundary_loop(faces)
    border = atlas.squircle(-np.arange(len(loop)) / len(loop))
    flat = atlas.flatten(verts, faces, loop, border, np.ones(len(verts)))
    signed = atlas.signed_areas(flat, faces)
    assert (signed.min() > 0) or (signed.max() < 0)
    np.testing.assert_allclose(flat[loop], border)


def test_density_asked_for_enlarges_a_place():
    verts, faces = dome()
    loop = atlas.boundary_loop(faces)
    border = atlas.squircle(-np.arange(len(loop)) / len(loop))
    middle = np.linalg.norm(verts[:, :2], axis=1) < 0.4
    own = middle[faces].all(1)
    areas = [
        np.abs(atlas.signed_areas(atlas.flatten(verts, faces, loop, border, wanted), faces))[own].sum()
        for wanted in (np.ones(len(verts)), np.where(middle, 2.0, 1.0))
    ]
    assert areas[1] > 1.3 * areas[0]


def test_edge_loop_goes_round_a_torus():
    around, across = 12, 5
    ids = np.arange(around * across).reshape(around, across)
    quads = np.stack([ids, np.roll(ids, -1, 0), np.roll(np.roll(ids, -1, 0), -1, 1), np.roll(ids, -1, 1)], -1)
    assert edge_loop(quads.reshape(-1, 4), 2, 7).tolist() == ids[:, 2].tolist()


def test_ball_rigid_and_affine_recover_what_made_their_points(rng):
    direction = rng.normal(size=(40, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    eye = ball(np.array([1.0, 2, 3]) + 0.7 * direction)
    assert [*eye.centre, eye.radius] == pytest.approx([1, 2, 3, 0.7])
    points, turn = rng.normal(size=(20, 3)), np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    rotation, shift = rigid(points, points @ turn.T + [1, 0, 2])
    np.testing.assert_allclose(rotation, turn, atol=1e-12)
    np.testing.assert_allclose(shift, [1, 0, 2], atol=1e-12)
    matrix = rng.normal(size=(3, 4))
    np.testing.assert_allclose(affine(points, points @ matrix[:, :3].T + matrix[:, 3]), matrix, atol=1e-12)


def test_clearing_moves_what_is_inside_and_nothing_else(rng):
    eye = ball(np.array([0.3, 0.1, 0.2]) + 0.5 * np.concatenate([np.eye(3), -np.eye(3)]))
    points = eye.centre + rng.normal(size=(300, 3)) * 0.4
    cleared = clear_eyeball(points, eye)
    offset, cornea = parts.cornea_sphere()
    assert (np.linalg.norm(cleared - eye.centre, axis=1) > 0.5 * 1.01).all()
    assert (np.linalg.norm(cleared - eye.ahead(offset), axis=1) > 0.5 * cornea * 1.01).all()
    far = np.linalg.norm(points - eye.centre, axis=1) > 0.5 * 1.1
    np.testing.assert_allclose(cleared[far], points[far], atol=1e-15)


def test_snap_finds_the_nearest_place_of_a_surface(rng):
    verts, faces = dome()
    points = rng.uniform(-0.8, 0.8, (30, 3)) + [0, 0, 1]
    face, bary = snap(points, verts, faces)
    found = np.linalg.norm((verts[faces[face]] * bary[..., None]).sum(1) - points, axis=1)
    samples = rng.dirichlet((1, 1, 1), (len(faces), 60))
    cloud = np.einsum("fsi,fij->fsj", samples, verts[faces]).reshape(-1, 3)
    nearest = np.linalg.norm(points[:, None] - cloud, axis=-1).min(1)
    assert (found <= nearest + 1e-9).all()
    assert (nearest - found < 0.05).all()
    np.testing.assert_allclose(bary.sum(1), 1)


def test_geometric_median_ignores_a_minority(rng):
    points = np.concatenate([rng.normal(size=(60, 3)) * 0.01, np.full((20, 3), 5.0)])
    assert np.linalg.norm(geometric_median(points)) < 0.02
