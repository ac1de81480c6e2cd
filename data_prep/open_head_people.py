"""People: which part of the base mesh is the head, and how random mixes of the targets make an identity basis."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from data_prep import open_head_parts as parts
from data_prep.open_head_source import Wheel

BODY, TONGUE = slice(0, 13380), slice(13380, 13606)
LASHES = tuple(f"helper-{side}-eyelashes-{row}" for side in "lr" for row in (1, 2))
# Parts that follow the identity by a similarity (eyes) or an affine map (teeth, gums) of their own.
RIGID = ("eye_left", "eye_right", "teeth_upper", "teeth_lower", "gums_upper", "gums_lower")
COLLAR_EDGE = (1526, 1525)  # an edge of the widest loop round the neck that closes
N_SAMPLES, N_IDENTITY = 3000, 120
# Standard deviation of the sliders by the first word of their name, in slider lengths (1 is an extreme person).
SPREAD = {"head": 0.10, "forehead": 0.12, "neck": 0.12, "asym": 0.08, "nose": 0.22, "mouth": 0.2, "ear": 0.2}
UNIT_DM = 2.0  # 1 unit of head space = 0.2 m
LID_GAP = 1.012  # least distance of the lids from the eyeball's centre, in radii of eyeball or cornea


# Edge loops round the mouth, by their vertex in the middle of the upper lip, and how far each follows when the lips are
# brought together; the loops from 520 on face the other lip or lie behind it.
OUTER_LIPS = {455: 0.1, 466: 0.2, 467: 0.4, 509: 0.65, 468: 0.85, 474: 1.0}
INNER_LIPS = {520: 1.0, 537: 1.0, 554: 0.7, 571: 0.4, 588: 0.15}
LIP_GAP_DM = {474: 0.0, 520: -0.012}  # wanted between the lips at these loops: they touch, and overlap behind
TONGUE_DROP_DM = 0.035  # the base mesh keeps it at the palate
UPPER_LIP, LOWER_LIP = slice(0, 13), slice(19, 11, -1)  # along half a loop; both end in the corner, vertex 12


@dataclass(frozen=True)
class Crop:
    """Which vertices of the base mesh the head keeps, and the quads over their new numbers."""

    ids: np.ndarray  # (n,) base ids: skin (mouth bag included), tongue, lashes
    skin: np.ndarray  # (m, 4) quads
    bag: np.ndarray
    tongue: np.ndarray
    lashes: np.ndarray
    lash_rows: tuple[np.ndarray, ...]  # the same, in the order of LASHES
    mirror: np.ndarray  # (n,)
    collar: np.ndarray  # (k,) boundary vertices


def edge_loop(quads: np.ndarray, first: int, second: int) -> np.ndarray:
    """Follow an edge loop of a quad mesh, always leaving a four-valent vertex by the opposite edge, until it closes."""
    around: dict[int, list[np.ndarray]] = {}
    for quad in quads:
        for vertex in quad:
            around.setdefault(int(vertex), []).append(quad)
    loop = [first, second]
    while loop[-1] != first:
        before, here = loop[-2:]
        beside = {int(v) for quad in around[here] if before in quad for v in quad}
        neighbours = {
            int(quad[(np.flatnonzero(quad == here)[0] + turn) % 4]) for quad in around[here] for turn in (1, -1)
        }
        (following,) = neighbours - beside
        loop.append(following)
    return np.array(loop[:-1])


def _try_loop(quads: np.ndarray, first: int, second: int) -> np.ndarray:
    """`edge_loop`, empty where it runs into a vertex that is not four-valent."""
    try:
        return edge_loop(quads, first, second)
    except ValueError:
        return np.array([], int)


def crop(wheel: Wheel) -> Crop:
    """Keep what lies above an edge loop that runs round the shoulders, just outside the collar bones."""
    mesh = wheel.mesh
    quads, base = mesh.groups["body"], mesh.verts
    loop = edge_loop(quads, *COLLAR_EDGE)
    keep = base[quads][:, :, 1].min(1) > 7.0
    reached = np.zeros(len(base), bool)
    while True:
        reached[quads[keep]] = True
        reached[loop] = False
        grown = reached[quads].any(1)
        if grown.sum() == keep.sum():
            break
        keep = grown
    skin = quads[keep]
    tongue = mesh.groups["helper-tongue"]
    lashes = np.concatenate([mesh.groups[name] for name in LASHES])
    ids = np.concatenate([np.unique(skin), np.unique(tongue), np.unique(lashes)])
    new = np.full(len(base), -1)
    new[ids] = np.arange(len(ids))
    inside = wheel.mask("inside-mouth")
    bag = (np.maximum(inside, inside[wheel.mirror])[skin] > 0.5).all(1)
    lash_rows = tuple(new[mesh.groups[name]] for name in LASHES)
    return Crop(
        ids, new[skin[~bag]], new[skin[bag]], new[tongue], new[lashes], lash_rows, new[wheel.mirror[ids]], new[loop]
    )


def diagonals(quads: np.ndarray, verts: np.ndarray) -> np.ndarray:
    """(2·quad, 3) which corners of its quad each triangle takes: quads are split along the shorter diagonal."""
    first = np.linalg.norm(verts[quads[:, 0]] - verts[quads[:, 2]], axis=1)
    second = np.linalg.norm(verts[quads[:, 1]] - verts[quads[:, 3]], axis=1)
    split = np.where((first <= second + 1e-9)[:, None, None], [[0, 1, 2], [0, 2, 3]], [[0, 1, 3], [1, 2, 3]])
    return split.reshape(-1, 3)


def triangles(quads: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """The triangles that `corners` (from `diagonals`) cut the quads into; works for vertices and texture alike."""
    return np.take_along_axis(np.repeat(quads, 2, 0), corners, 1)


@dataclass(frozen=True)
class Ball:
    """An eyeball."""

    centre: np.ndarray  # (3,)
    radius: float

    def ahead(self, radii: float) -> np.ndarray:
        """The point so many radii in front of the centre."""
        return self.centre + np.array([0, 0, radii * self.radius])


def ball(points: np.ndarray) -> Ball:
    """Least-squares sphere: |p|² = 2 p·c + (r² − |c|²)."""
    solution = np.linalg.lstsq(np.c_[2 * points, np.ones(len(points))], (points**2).sum(1), rcond=None)[0]
    return Ball(solution[:3], float(np.sqrt(solution[3] + solution[:3] @ solution[:3])))


def clear_eyeball(verts: np.ndarray, eye: Ball, gap: float = LID_GAP) -> np.ndarray:
    """Push vertices out of the eyeball and its cornea, away from their centres."""
    offset, cornea = parts.cornea_sphere()
    for centre, radius in (
        (eye.centre, eye.radius),
        (eye.ahead(offset), cornea * eye.radius),
    ):
        away = verts - centre
        distance = np.linalg.norm(away, axis=1, keepdims=True)
        verts = centre + away * np.maximum(gap * radius / distance, 1)
    return verts


def affine(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(3, 4) least-squares affine map taking `source` points to `target` points."""
    return np.linalg.lstsq(np.c_[source, np.ones(len(source))], target, rcond=None)[0].T


def rigid(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation and translation, target ≈ R source + t (Kabsch)."""
    middle_s, middle_t = source.mean(0), target.mean(0)
    u, _, vt = np.linalg.svd((source - middle_s).T @ (target - middle_t))
    rotation = (u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt).T
    return rotation, middle_t - rotation @ middle_s


class People:
    """Random people: mixes of the macro targets (who) and of the detail sliders (what sort of nose)."""

    def __init__(self, wheel: Wheel, rows: np.ndarray):
        self.base = wheel.mesh.verts[rows]
        self.macro = {}
        for ethnicity, gender, age in itertools.product(
            ("african", "asian", "caucasian"), ("female", "male"), ("young", "old")
        ):
            name = f"{ethnicity}-{gender}-{age}"
            self.macro[name] = wheel.macro(name)[rows]
        for gender, age, muscle, weight in itertools.product(
            ("female", "male"), ("young", "old"), ("min", "average", "max"), ("min", "average", "max")
        ):
            name = f"universal-{gender}-{age}-{muscle}muscle-{weight}weight"
            self.macro[name] = wheel.macro(name)[rows]
        self.sliders = [(name, low[rows], high[rows]) for name, low, high in wheel.sliders()]

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """(row, 3) vertices of one person."""
        ethnicity = dict(zip(("african", "asian", "caucasian"), rng.dirichlet((0.7, 0.7, 0.7)), strict=True))
        male, old = rng.beta(0.6, 0.6), rng.beta(1.0, 2.2)
        gender, age = {"female": 1 - male, "male": male}, {"young": 1 - old, "old": old}
        muscle, weight = (_three_way(np.clip(rng.normal(0.5, 0.17), 0.05, 0.95)) for _ in range(2))
        verts = self.base.copy()
        for name, delta in self.macro.items():
            words = name.split("-")
            if words[0] == "universal":
                amount = gender[words[1]] * age[words[2]] * muscle[words[3][:-6]] * weight[words[4][:-6]]
            else:
                amount = ethnicity[words[0]] * gender[words[1]] * age[words[2]]
            verts += amount * delta
        shared: dict[str, float] = {}
        for name, low, high in self.sliders:
            stem = name[2:] if name[:2] in ("l-", "r-") else name
            value = shared.setdefault(stem, rng.normal(0, SPREAD.get(stem.split("-")[0], 0.2)))
            value = np.clip(value + rng.normal(0, 0.05) * (stem != name), -1, 1)
            verts += value * high if value > 0 else -value * low
        return verts


def _three_way(value: float) -> dict[str, float]:
    """Shares of the min, average and max targets at a setting in [0, 1]."""
    low, high = max(0.5 - value, 0) * 2, max(value - 0.5, 0) * 2
    return {"min": low, "average": 1 - low - high, "max": high}


class Reader:
    """Reads the rows of the base mesh that matter: the cropped vertices, then helper geometry."""

    def __init__(self, wheel: Wheel, kept: Crop):
        groups, base = wheel.mesh.groups, wheel.mesh.verts
        self.kept = kept
        names = ("helper-l-eye", "helper-r-eye", "helper-upper-teeth", "helper-lower-teeth", "joint-neck", "joint-head")
        helpers = [np.unique(groups[name]) for name in names]
        self.rows = np.concatenate([kept.ids, *helpers])
        ends = np.cumsum([len(kept.ids), *map(len, helpers)])
        self.n = len(kept.ids)
        self.helper = dict(zip(names, (slice(a, b) for a, b in itertools.pairwise(ends)), strict=True))
        is_skin, at = kept.ids < BODY.stop, base[kept.ids]
        eye_level = base[helpers[0]][:, 1].mean()
        self.cranium = np.flatnonzero(is_skin & (at[:, 1] > eye_level + 0.15) & (wheel.mask("ears")[kept.ids] < 0.2))
        self.outer_lips, self.inner_lips = (self._lip_loops(wheel, loops) for loops in (OUTER_LIPS, INNER_LIPS))
        self.sides = [np.flatnonzero(is_skin & (np.sign(at[:, 0]) == side)) for side in (1, -1)]
        where = {int(row): index for index, row in enumerate(self.rows)}
        self.mirror = np.array([where[int(other)] for other in wheel.mirror[self.rows]])

    def _lip_loops(self, wheel: Wheel, starts: dict[int, float]) -> np.ndarray:
        """(loop, left | right half, 20) rows from the middle of the upper lip round the corner to the lower lip's."""
        new = np.full(len(wheel.mesh.verts), -1)
        new[self.rows] = np.arange(len(self.rows))
        quads, out = wheel.mesh.groups["body"], []
        for start in starts:
            beside = {int(v) for quad in quads[(quads == start).any(1)] for v in quad if wheel.mesh.verts[v, 0] > 0.001}
            rings = (ring for ring in (_try_loop(quads, start, v) for v in sorted(beside)) if len(ring) == 38)
            ring = new[next(rings)]
            out.append([ring[:20], np.r_[ring[0], ring[:18:-1]]])
        return np.array(out)

    def seal_lips(self, rows: np.ndarray, lower_share: float = 0.5) -> np.ndarray:
        """Bring the lips together: the targets leave a slit through which the teeth shine.

        The gap is a function of the way from the middle (0) to the corner (1); each loop follows by its share of it.
        """
        moved = rows.copy()
        for rings, follow in ((self.outer_lips, OUTER_LIPS), (self.inner_lips, INNER_LIPS)):
            key = next(start for start in follow if start in LIP_GAP_DM)
            for side in (0, 1):
                at = rows[rings[list(follow).index(key), side]]
                way = self._way(at)
                upper, lower = (np.c_[way, at[:, 1]][part] for part in (UPPER_LIP, LOWER_LIP))
                grid = np.linspace(0, 1, 41)
                gap = np.interp(grid, *upper.T) - np.interp(grid, *lower.T)
                excess = gap - LIP_GAP_DM[key] * np.minimum(4 * (1 - grid), 1)
                for ring, share in zip(rings[:, side], follow.values(), strict=True):
                    for part, direction in ((UPPER_LIP, lower_share - 1), (LOWER_LIP, lower_share)):
                        ids = ring[part][1 if side else 0 : -1]  # the middle once, the corner never
                        shift = np.interp(self._way(rows[ring])[part][1 if side else 0 : -1], grid, excess)
                        moved[ids, 1] += direction * share * shift
        return moved

    @staticmethod
    def _way(points: np.ndarray) -> np.ndarray:
        """How far along the mouth, by |x − x of the middle|: 0 in the middle, 1 in the corner."""
        across = np.abs(points[:, 0] - points[0, 0])
        return across / across[12]

    def smooth(self, values: np.ndarray) -> np.ndarray:
        """One step of averaging (n,) values of the cropped vertices with their neighbours along the quads' edges."""
        quads = np.concatenate([self.kept.skin, self.kept.bag, self.kept.tongue, self.kept.lashes])
        total, count = values.copy(), np.ones(len(values))
        for turn in (1, -1):
            np.add.at(total, quads, values[np.roll(quads, turn, 1)])
            np.add.at(count, quads, 1)
        return total / count

    def flip(self, rows: np.ndarray) -> np.ndarray:
        """The mirror image of a person."""
        return rows[self.mirror] * [-1, 1, 1]

    def eyes(self, rows: np.ndarray) -> tuple[Ball, Ball]:
        """Left and right eyeball."""
        return ball(rows[self.helper["helper-l-eye"]]), ball(rows[self.helper["helper-r-eye"]])

    def mend(self, rows: np.ndarray) -> np.ndarray:
        """What a mix of targets leaves to do: lids off the eyeballs, lips together, the tongue down on its floor."""
        rows = self.seal_lips(self.clear_lids(rows))
        rows[np.unique(self.kept.tongue), 1] -= TONGUE_DROP_DM
        return rows

    def clear_lids(self, rows: np.ndarray) -> np.ndarray:
        """Push the lids out of the eyeballs: a mix of sliders does not keep them apart."""
        rows = rows.copy()
        for eye, side in zip(self.eyes(rows), self.sides, strict=True):
            near = side[np.linalg.norm(rows[side] - eye.centre, axis=1) < 1.3 * eye.radius]
            rows[near] = clear_eyeball(rows[near], eye)
        return rows

    def follow(self, mean: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(rigid part, 3, 4): how each part moves from the mean person to this one, minus the identity map."""
        maps = []
        for was, now in zip(self.eyes(mean), self.eyes(rows), strict=True):
            scale = now.radius / was.radius
            maps.append(np.c_[np.eye(3) * scale, now.centre - scale * was.centre])
        for row in ("upper", "lower"):
            teeth = self.helper[f"helper-{row}-teeth"]
            maps.append(affine(mean[teeth], rows[teeth]))
        left, right, upper, lower = maps
        return np.stack([left, right, upper, lower, upper, lower]) - np.eye(3, 4)


@dataclass(frozen=True)
class Identity:
    """The average person and how people differ from it, one standard deviation each; unit: head space."""

    mean: np.ndarray  # (row, 3)
    basis: np.ndarray  # (component, n, 3), of the cropped vertices
    rigid: np.ndarray  # (component, rigid part, 3, 4)
    joints: np.ndarray  # (component, 2, 3), neck and head joint cubes
    share: np.ndarray  # (component,) share of the variance


def identity(reader: Reader, people: People, vertex_weight: np.ndarray) -> Identity:
    """PCA of random people and their mirror images, rigidly aligned on the cranium.

    With the mirror images the mean is symmetric and every component is symmetric or antisymmetric.
    """
    rng = np.random.default_rng(20)
    raw = [reader.mend(people.sample(rng)) for _ in range(N_SAMPLES // 2)]
    raw = [person for one in raw for person in (one, reader.flip(one))]
    mean = raw[0]
    for _ in range(3):
        aligned = [_align(person, mean, reader.cranium) for person in raw]
        mean = np.mean(aligned, 0)
        mean = (mean + reader.flip(mean)) / 2
    left, right = reader.eyes(mean)
    skull = mean[reader.cranium]
    origin = np.array([0, left.centre[1], (skull[:, 2].max() + skull[:, 2].min()) / 2])
    mean = (mean - origin) / UNIT_DM
    people_at = (np.array(aligned) - origin) / UNIT_DM
    offsets = people_at - mean
    weighted = (offsets[:, : reader.n] * np.sqrt(vertex_weight)[:, None]).reshape(len(offsets), -1)
    values, scores = np.linalg.eigh(weighted @ weighted.T)
    values, scores = values[::-1][:N_IDENTITY], scores[:, ::-1][:, :N_IDENTITY]
    scores = scores * np.sqrt(len(offsets))  # unit variance
    rigid_offsets = np.stack([reader.follow(mean, person) for person in people_at])
    carried = [scores.T @ x.reshape(len(x), -1) / len(x) for x in (offsets, rigid_offsets)]
    sign = np.sign(carried[0][np.arange(N_IDENTITY), np.abs(carried[0]).argmax(1)])[:, None]
    rows, maps = ((x * sign) for x in carried)
    rows = rows.reshape(N_IDENTITY, -1, 3)
    joints = np.stack([rows[:, reader.helper[n]].mean(1) for n in ("joint-neck", "joint-head")], 1)
    share = values / (weighted**2).sum()
    return Identity(mean, rows[:, : reader.n], maps.reshape(N_IDENTITY, len(RIGID), 3, 4), joints, share)


def _align(person: np.ndarray, mean: np.ndarray, cranium: np.ndarray) -> np.ndarray:
    rotation, shift = rigid(person[cranium], mean[cranium])
    return person @ rotation.T + shift
