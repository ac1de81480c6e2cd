"""The texture atlas: islands without overlaps, the skin's symmetric about u = 0.5, with the face enlarged."""

from __future__ import annotations

import itertools

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import spsolve


def boundary_loop(faces: np.ndarray) -> np.ndarray:
    """Vertices of the only boundary of an oriented triangle mesh, in order."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    directed = {(int(a), int(b)) for a, b in edges}
    following = {a: b for a, b in directed if (b, a) not in directed}
    start = min(following)
    loop = [start]
    while following[loop[-1]] != start:
        loop.append(following[loop[-1]])
    assert len(loop) == len(following), "more than one boundary"
    return np.array(loop)


def cut(faces: np.ndarray, count: int, path: np.ndarray, left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut a mesh of `count` vertices along `path`, whose last vertex stays whole.

    Faces marked `left` get copies of the path's vertices. Returns the faces over the new vertices, and for each new
    vertex the old one (the first `count` are unchanged).
    """
    copies = {int(v): count + i for i, v in enumerate(path[:-1])}
    out = faces.copy()
    for vertex, copy in copies.items():
        out[(faces == vertex) & left[:, None]] = copy
    return out, np.concatenate([np.arange(count), path[:-1]])


def flatten(
    verts: np.ndarray, faces: np.ndarray, boundary: np.ndarray, border: np.ndarray, wanted: np.ndarray, rounds: int = 7
) -> np.ndarray:
    """Map a disc to the plane with its `boundary` vertices at `border` (convex), free of overlaps.

    Every inner vertex is a convex combination of its neighbours, so the map is one to one (Tutte 1963; Floater 1997).
    The weights start as mean-value coordinates and are divided, round by round, by how much the map shrinks the
    surface there (Yoshizawa, Belyaev & Seidel 2004), times `wanted` (n,), the density asked for at a vertex.
    """
    count = len(verts)
    i, j, k = faces.T
    weights = sp.coo_matrix((count, count))
    for a, b, c in ((i, j, k), (j, k, i), (k, i, j)):
        to_b, to_c = verts[b] - verts[a], verts[c] - verts[a]
        len_b, len_c = np.linalg.norm(to_b, axis=1), np.linalg.norm(to_c, axis=1)
        half = np.tan(np.arccos(np.clip((to_b * to_c).sum(1) / (len_b * len_c), -0.999, 0.9999)) / 2)
        weights = weights + sp.coo_matrix((half / len_b, (a, b)), (count, count))
        weights = weights + sp.coo_matrix((half / len_c, (a, c)), (count, count))
    weights = weights.tocsr()
    inner = np.setdiff1d(np.arange(count), boundary)
    area = np.linalg.norm(np.cross(verts[j] - verts[i], verts[k] - verts[i]), axis=1)
    incidence = sp.coo_matrix((np.ones(3 * len(faces)), (faces.T.ravel(), np.tile(np.arange(len(faces)), 3)))).tocsr()
    best, best_score = None, np.inf
    for _ in range(rounds):
        laplacian = (sp.diags(np.asarray(weights.sum(1)).ravel()) - weights).tocsr()
        flat = np.zeros((count, 2))
        flat[boundary] = border
        right = -laplacian[inner][:, boundary] @ border
        flat[inner] = spsolve(laplacian[inner][:, inner].tocsc(), right)
        e, f = flat[j] - flat[i], flat[k] - flat[i]
        flat_area = np.abs(e[:, 0] * f[:, 1] - e[:, 1] * f[:, 0])
        stretch = np.sqrt((incidence @ area) / (incidence @ flat_area)) * wanted
        score = (np.log(stretch / np.median(stretch)) ** 2).mean()
        if score < best_score:
            best, best_score = flat, score
        factor = np.clip(stretch / np.exp(np.log(stretch).mean()), 0.25, 4.0) ** 0.5
        weights = weights @ sp.diags(1 / factor)
    return best


def signed_areas(uv: np.ndarray, uv_faces: np.ndarray) -> np.ndarray:
    """Twice the signed area of each texture triangle."""
    a, b, c = (uv[uv_faces[:, n]] for n in range(3))
    return (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]


def squircle(share: np.ndarray, power: float = 5.0) -> np.ndarray:
    """Point of the rounded square |x|^p + |y|^p = 1 at angle 2π·share from straight up, clockwise; strictly convex."""
    angle = 2 * np.pi * share
    direction = np.stack([np.sin(angle), np.cos(angle)], 1)
    return direction / (np.abs(direction) ** power).sum(1, keepdims=True) ** (1 / power)


def place(uv: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """Scale an island from its own bounding box into (u0, v0, u1, v1)."""
    low, high = uv.min(0), uv.max(0)
    return (uv - low) / (high - low) * [box[2] - box[0], box[3] - box[1]] + [box[0], box[1]]


def skin_island(
    verts: np.ndarray, faces: np.ndarray, mouth: np.ndarray, collar: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Unwrap the skin as seen from the front: cut up the back of the neck and head to the crown, flattened in one.

    `mouth` and `collar` are its two boundary loops. Returns (uv, uv_faces), u to the person's left, v down; the
    mirror image of a vertex lies at 1 − u.
    """
    path = _back_path(verts, faces, collar)
    cut_faces, source = cut(faces, len(verts), path, verts[faces].mean(1)[:, 0] > 0)
    count = len(verts)
    copies = {int(v): count + i for i, v in enumerate(path[:-1])}
    start = int(np.flatnonzero(collar == path[0])[0])
    ring = np.roll(collar, -start)
    ring = ring if verts[ring[1], 0] > 0 else np.roll(ring[::-1], 1)  # round by the person's left
    left, right = [copies[int(v)] for v in path[:-1]], list(path[:-1])
    boundary = np.array([path[-1], *left[::-1], *ring[1:], *right])
    at = verts[source]
    share = _shares(at[boundary], [0, len(left), len(left) + len(ring), len(boundary)], [0, 0.31, 0.69, 1.0])
    middle = len(source)
    closed = np.concatenate([cut_faces, np.stack([mouth, np.roll(mouth, -1), np.full(len(mouth), middle)], 1)])
    at = np.concatenate([at, verts[mouth].mean(0, keepdims=True)])
    used, compact = np.unique(closed, return_inverse=True)
    new = np.full(len(at), -1)
    new[used] = np.arange(len(used))
    density = np.concatenate([wanted[source], [wanted[mouth].mean()]])
    flat = flatten(at[used], compact.reshape(-1, 3), new[boundary], squircle(share), density[used])
    return (flat * [0.5, -0.5] + 0.5), compact.reshape(-1, 3)[: len(faces)]


def bag_island(verts: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mouth bag on a rounded square, its rim (the lips) outside, upper lip at the top."""
    used, compact = np.unique(faces, return_inverse=True)
    compact, at = compact.reshape(-1, 3), verts[used]
    loop = boundary_loop(compact)
    top = np.flatnonzero(np.abs(at[loop, 0]) < 1e-6)
    loop = np.roll(loop, -top[at[loop[top], 1].argmax()])
    loop = loop if at[loop[1], 0] > 0 else np.roll(loop[::-1], 1)
    share = _shares(at[loop], [0, len(loop)], [0, 1.0])
    flat = flatten(at, compact, loop, squircle(share, 2.5), np.ones(len(at)))
    return flat * [0.5, -0.5] + 0.5, compact


def _shares(points: np.ndarray, stops: list[int], values: list[float]) -> np.ndarray:
    """Position along a closed boundary, proportional to length between the stops."""
    lengths = np.linalg.norm(np.roll(points, -1, 0) - points, axis=1)
    out = np.zeros(len(points))
    for a, b, low, high in zip(stops, stops[1:], values, values[1:], strict=False):
        travelled = np.concatenate([[0], np.cumsum(lengths[a:b])])
        out[a:b] = low + (high - low) * travelled[:-1] / travelled[-1]
    return out


def _back_path(verts: np.ndarray, faces: np.ndarray, collar: np.ndarray) -> np.ndarray:
    """Vertices of the mid-line from the collar's back up to the crown."""
    on_line = np.abs(verts[:, 0]) < 1e-6
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges = edges[on_line[edges].all(1)]
    start = collar[on_line[collar]]
    path = [int(start[verts[start, 2].argmin()])]
    while verts[path[-1], 1] < verts[:, 1].max() - 0.02:
        beside = np.setdiff1d(edges[edges[:, 0] == path[-1], 1], path)
        path.append(int(beside[verts[beside, 2].argmin()] if len(path) < 2 else beside[verts[beside, 1].argmax()]))
    return np.array(path)


def strip(quads: np.ndarray, verts: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Texture of a row of lashes, a regular grid of quads: u along the lid from the nose outwards, v 1 at the root.

    Returns (vertex ids, uv). The side nearest to the eye's `centre` is the root; the inner vertices follow as the
    mean of their neighbours.
    """
    ids, counts = np.unique(quads, return_counts=True)
    loop = boundary_loop(np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]))
    corner = np.flatnonzero(counts[np.searchsorted(ids, loop)] == 1)
    loop = np.roll(loop, -corner[0])
    corner = np.append(corner - corner[0], len(loop))
    sides = [np.append(loop, loop[0])[a : b + 1] for a, b in itertools.pairwise(corner)]
    along = sorted((s for s in sides if len(s) == max(map(len, sides))), key=lambda s: _reach(verts[s], centre))
    uv = {}
    for v, side in zip((1.0, 0.0), along, strict=True):
        outwards = side if abs(verts[side[0], 0]) < abs(verts[side[-1], 0]) else side[::-1]
        uv.update({int(i): (u, v) for i, u in zip(outwards, np.linspace(0, 1, len(side)), strict=True)})
    for side in (s for s in sides if len(s) < len(along[0])):
        ends = uv[int(side[0])], uv[int(side[-1])]
        uv.update({int(i): tuple(p) for i, p in zip(side, np.linspace(*ends, len(side)), strict=True)})
    fixed = np.array([int(i) in uv for i in ids])
    flat = np.array([uv.get(int(i), (0.0, 0.0)) for i in ids])
    edges = np.searchsorted(ids, np.stack([quads, np.roll(quads, -1, 1)], -1).reshape(-1, 2))
    adjacent = np.zeros((len(ids), len(ids)))
    adjacent[edges[:, 0], edges[:, 1]] = adjacent[edges[:, 1], edges[:, 0]] = 1
    system = np.diag(adjacent.sum(1)) - adjacent
    flat[~fixed] = np.linalg.solve(system[~fixed][:, ~fixed], -system[~fixed][:, fixed] @ flat[fixed])
    return ids, flat


def _reach(points: np.ndarray, centre: np.ndarray) -> float:
    return float(np.linalg.norm(points - centre, axis=1).mean())
