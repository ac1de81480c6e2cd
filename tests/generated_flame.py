"""A file of FLAME's layout with nothing of FLAME in it: an ellipsoid with two balls, and random directions."""

from __future__ import annotations

import numpy as np

N_VERTS, SKULL, EYE = 5023, (30, 131), (16, 34)
EYES = np.array([[0.0315, 0.035, 0.026], [-0.0315, 0.035, 0.026]])  # metres; the person's left, then right


def grid_faces(rings: int, around: int, first: int) -> np.ndarray:
    ring, step = np.meshgrid(np.arange(rings - 1), np.arange(around), indexing="ij")
    a, b = ring * around + step, ring * around + (step + 1) % around
    return (first + np.stack([a, a + around, b, b, a + around, b + around], -1)).reshape(-1, 3)


def sphere(rings: int, around: int, lowest: float) -> np.ndarray:
    """Rings from the crown down to the polar angle `lowest`; counter-clockwise from outside."""
    polar, angle = np.meshgrid(
        np.linspace(0.03, lowest, rings), np.linspace(0, 2 * np.pi, around, endpoint=False), indexing="ij"
    )
    points = np.stack([np.sin(polar) * np.sin(angle), np.cos(polar), np.sin(polar) * np.cos(angle)], -1)
    return points.reshape(-1, 3)


def generate() -> dict[str, np.ndarray]:
    """A head-sized ellipsoid, open at the neck, with two eyeballs; random directions and weights. 5,023 vertices."""
    random = np.random.default_rng(3)
    skull = np.concatenate([[[0, 1, 0]], sphere(*SKULL, 2.7)]) * [0.08, 0.14, 0.1]
    balls = [np.concatenate([[[0, 1, 0]], sphere(*EYE, 3.11), [[0, -1, 0]]]) * 0.012 + centre for centre in EYES]
    template = np.concatenate([skull, *balls])
    faces = np.concatenate([grid_faces(*SKULL, 1), grid_faces(*EYE, 3932), grid_faces(*EYE, 3932 + 546)])
    low, front = template[:, 1] < -0.08, template[:, 2] > 0
    shares = np.stack([10.0 * low, np.ones(N_VERTS), low | front, 0 * low, 0 * low], -1)
    weights = random.random((N_VERTS, 5)) ** 4 * shares
    weights[3931 : 3931 + 546], weights[3931 + 546 :] = np.eye(5)[3], np.eye(5)[4]
    regressor = random.random((5, N_VERTS)) * (random.random((5, N_VERTS)) < 0.01)
    regressor[3], regressor[4] = weights[:, 3], weights[:, 4]
    return {
        "v_template": template,
        "shapedirs": random.normal(0, 0.0005, (N_VERTS, 3, 400)),
        "posedirs": random.normal(0, 0.001, (N_VERTS, 3, 36)),
        "J_regressor": regressor / regressor.sum(1, keepdims=True),
        "weights": weights / weights.sum(1, keepdims=True),
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.int64),
        "f": faces.astype(np.uint32),
    }
