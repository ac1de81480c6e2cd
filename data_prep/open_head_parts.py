"""Geometry the base mesh lacks or only sketches: closed eyeballs with a cornea, single teeth, gums.

Eyeballs have radius 1; teeth are in millimetres. +x the person's left, +y up, +z front.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Crown sizes of a permanent dentition in mm, from the midline backwards (mean values of Ash & Nelson, Wheeler's
# Dental Anatomy): width along the arch, height, depth from lip to tongue, thickness of the biting edge.
UPPER_TEETH = ((8.5, 10.5, 7.0, 1.8), (6.6, 9.2, 6.2, 1.7), (7.5, 10.0, 8.0, 2.6), (7.0, 8.5, 9.0, 5.5),
               (6.8, 8.3, 9.0, 5.5), (10.0, 7.5, 11.0, 7.5), (9.4, 7.2, 10.5, 7.5))  # fmt: skip
LOWER_TEETH = ((5.4, 8.8, 6.0, 1.7), (5.8, 9.2, 6.3, 1.7), (6.9, 10.3, 7.6, 2.4), (7.0, 8.6, 7.6, 5.0),
               (7.1, 8.2, 8.0, 5.5), (11.0, 7.6, 10.4, 7.5), (10.4, 7.2, 10.0, 7.5))  # fmt: skip
TOOTH_RING = 10  # vertices around a tooth
# Height along the crown (0 gum, 1 edge), relative width, share of the way from full depth to the edge's thickness.
TOOTH_PROFILE = ((-0.25, 0.90, 0.0), (0.05, 0.94, 0.0), (0.35, 0.99, 0.25), (0.70, 1.0, 0.65), (0.93, 0.95, 0.93),
                 (1.0, 0.80, 1.25))  # fmt: skip
CHEEK_MM = 2.0  # the rows stand this much further from the cheeks than from the lips
GUM_STATIONS = 4  # per tooth

CORNEA_DEG = 23.0  # angle of the limbus from the optical axis, seen from the eyeball's centre
CORNEA_APEX = 1.045  # distance of the cornea's apex from the centre, in eyeball radii
PUPIL_DEG = 8.5
EYE_RINGS_DEG = (4.5, PUPIL_DEG, 12.5, 16.0, 19.5, CORNEA_DEG, 25.0, 30.0, 37.0, 46.0, 56.0, 68.0, 82.0, 98.0, 116.0,
                 136.0, 158.0)  # fmt: skip
EYE_SEGMENTS = 28


@dataclass(frozen=True)
class Part:
    """A piece of mesh with its own texture island in [0, 1]²."""

    verts: np.ndarray  # (n, 3)
    faces: np.ndarray  # (m, 3), outward
    uv: np.ndarray  # (k, 2)
    uv_faces: np.ndarray  # (m, 3)


def cornea_sphere() -> tuple[float, float]:
    """(distance of its centre along the optical axis, radius) of the sphere through limbus and apex, eye radius 1."""
    sine, cosine = np.sin(np.deg2rad(CORNEA_DEG)), np.cos(np.deg2rad(CORNEA_DEG))
    rise = CORNEA_APEX - cosine
    radius = (sine**2 + rise**2) / (2 * rise)
    return CORNEA_APEX - radius, radius


def eyeball() -> Part:
    """A closed eyeball of radius 1 looking along +z, its front hemisphere opening onto a disc in the texture.

    The island maps the angle from the optical axis to the distance from (0.5, 0.5); vertex 0 is the front pole.
    """
    angles = np.deg2rad(np.array(EYE_RINGS_DEG))
    around = 2 * np.pi * np.arange(EYE_SEGMENTS) / EYE_SEGMENTS
    offset, radius = cornea_sphere()
    verts, uv = [[0, 0, CORNEA_APEX]], [[0.5, 0.5]]
    for angle in angles:
        reach = 1.0
        if angle < np.deg2rad(CORNEA_DEG):  # |reach·axis(angle) − offset| = radius
            reach = offset * np.cos(angle) + np.sqrt(radius**2 - (offset * np.sin(angle)) ** 2)
        ring = np.stack([np.sin(angle) * np.cos(around), np.sin(angle) * np.sin(around), 0 * around + np.cos(angle)], 1)
        verts.extend(ring * reach)
        # The square root spends more of the island on the iris, the part that is seen.
        share = 0.5 * np.sqrt(angle / np.pi)
        uv.extend(np.stack([0.5 + share * np.cos(around), 0.5 - share * np.sin(around)], 1))
    last = 1 + (len(angles) - 1) * EYE_SEGMENTS
    segment, following = np.arange(EYE_SEGMENTS), (np.arange(EYE_SEGMENTS) + 1) % EYE_SEGMENTS
    faces = [np.stack([0 * segment, 1 + segment, 1 + following], 1)]
    for ring in range(len(angles) - 1):
        a, b = 1 + ring * EYE_SEGMENTS, 1 + (ring + 1) * EYE_SEGMENTS
        faces.append(np.stack([a + segment, b + segment, b + following], 1))
        faces.append(np.stack([a + segment, b + following, a + following], 1))
    back = len(verts)
    faces.append(np.stack([last + segment, 0 * segment + back, last + following], 1))
    # The back pole has one texture coordinate per face: the rim of the disc has no single point for it.
    rim = 0.5 * np.stack([1 + np.cos(around + np.pi / EYE_SEGMENTS), 1 - np.sin(around + np.pi / EYE_SEGMENTS)], 1)
    uv_faces = np.concatenate(faces)
    uv_faces[-EYE_SEGMENTS:, 1] = back + segment
    return Part(np.array([*verts, [0, 0, -1]], float), np.concatenate(faces), np.concatenate([uv, rim]), uv_faces)


@dataclass(frozen=True)
class DentalArch:
    """The outer line of a row of teeth, z = front − bend·|x|^power, and the biting plane y = level + slope·z, in mm."""

    front: float
    bend: float
    power: float
    level: float
    slope: float
    lean: float  # how far the teeth lean inwards per length towards the root

    def walk(self, length: float) -> tuple[np.ndarray, np.ndarray]:
        """Point (x, z) on the arch `length` from the midline (negative: the right side) and its outward normal."""
        x = np.linspace(0, 45, 4001)
        z = self.front - self.bend * x**self.power
        travelled = np.concatenate([[0], np.cumsum(np.hypot(np.diff(x), np.diff(z)))])
        at = np.interp(abs(length), travelled, x)
        slope = -self.bend * self.power * max(at, 1e-6) ** (self.power - 1)
        normal = np.array([-slope, 1.0]) / np.hypot(slope, 1.0)
        side = -1.0 if length < 0 else 1.0
        return np.array([side * at, self.front - self.bend * at**self.power]), normal * [side, 1]


def fit_arch(helper: np.ndarray, inset: float, lift: float, lean: float, upper: bool) -> DentalArch:
    """Arch along the biting edge of one of the base mesh's two tooth strips (n, 3).

    `inset` moves it towards the tongue (the strips touch the lips), `lift` upwards.
    """
    # A strip's outer surface has three rows; its biting row is the lowest (upper teeth) or highest there.
    height = -helper[:, 1] if upper else helper[:, 1]
    tilt = np.polyfit(helper[:, 2], height, 1)[0]
    level = height - tilt * helper[:, 2]
    row = helper[level > np.quantile(level, 0.78)]
    slope, base = np.polyfit(row[:, 2], row[:, 1], 1)
    half = row[np.abs(row[:, 0]) > 5]
    front = row[:, 2].max()
    drop = np.maximum(front - half[:, 2], 0.3)
    power, log_bend = np.polyfit(np.log(np.abs(half[:, 0])), np.log(drop), 1)
    side = np.abs(row[:, 0]).max()
    bend = np.exp(log_bend) * (side / (side - inset - CHEEK_MM)) ** power
    return DentalArch(front - inset, bend, power, base + lift, slope, lean)


def teeth(arch: DentalArch, sizes_mm: tuple[tuple[float, ...], ...], upper: bool) -> tuple[Part, Part]:
    """A row of teeth and its gum. Teeth are open at the root, which the gum hides.

    The gum's margin rises between two teeth (papilla); islands are one disc per tooth, and one rectangle for the gum.
    """
    sign = 1.0 if upper else -1.0  # from the biting edge to the gum
    around = 2 * np.pi * np.arange(TOOTH_RING) / TOOTH_RING
    square = 2 / 2.8
    across, out = (np.sign(f) * np.abs(f) ** square for f in (np.cos(around), np.sin(around)))
    verts, faces, uv, stations = [], [], [], []
    for side in (1, -1):
        start = 0.0
        for index, (width, height, depth, edge) in enumerate(sizes_mm):
            middle = start + width / 2
            tooth_uv = np.array([index + (7 if side < 0 else 0), 0]) + 0.5
            base = len(verts)
            for level, (rise, wide, taper) in enumerate(TOOTH_PROFILE):
                thickness = max(depth + (edge - depth) * taper, 0.8)
                bulge = 0.35 * np.sin(np.pi * np.clip(rise, 0, 1)) + 0.25 * (1 - rise)
                for a, b in zip(across, out, strict=True):
                    along = side * (middle + a * wide * width / 2 * 0.985)
                    (x, z), normal = arch.walk(along)
                    inward = (1 - b) / 2 * thickness - bulge * (b > 0) + arch.lean * height * (1 - rise)
                    z_edge = z - normal[1] * inward
                    y = arch.level + arch.slope * z_edge + sign * height * (1 - rise)
                    verts.append([x - normal[0] * inward, y, z_edge])
                reach = 0.48 * (1 - level / len(TOOTH_PROFILE))
                uv.extend(tooth_uv + reach * np.stack([np.cos(around), np.sin(around)], 1))
            verts.append(np.mean(verts[-TOOTH_RING:], 0))
            uv.append(tooth_uv)
            ring, following = np.arange(TOOTH_RING), (np.arange(TOOTH_RING) + 1) % TOOTH_RING
            for level in range(len(TOOTH_PROFILE) - 1):
                a, b = base + level * TOOTH_RING, base + (level + 1) * TOOTH_RING
                faces.append(np.stack([a + ring, a + following, b + following], 1))
                faces.append(np.stack([a + ring, b + following, b + ring], 1))
            last = base + (len(TOOTH_PROFILE) - 1) * TOOTH_RING
            faces.append(np.stack([last + ring, last + following, 0 * ring + len(verts) - 1], 1))
            for step in range(GUM_STATIONS):
                share = step / GUM_STATIONS
                stations.append((side * (start + share * width), height, depth, np.cos(2 * np.pi * share)))
            start += width
        stations.append((side * start, sizes_mm[-1][1], sizes_mm[-1][2], 1.0))
    verts, faces = np.array(verts), _outward(np.array(verts), np.concatenate(faces), TOOTH_RING * 2 * 5 + TOOTH_RING)
    crown = Part(verts, faces, np.array(uv) / [14, 1], faces)
    return crown, _gum(arch, sorted(set(stations)), sign)


def _gum(arch: DentalArch, stations: list[tuple[float, ...]], sign: float) -> Part:
    """The gum as a strip swept along the arch: (outward, towards the root), mm from the crown's outer neck."""
    rows = []
    for along, height, depth, papilla in stations:
        (x, z), normal = arch.walk(along)
        margin = height - 0.6 - 1.1 * max(papilla, -0.5)
        profile = ((-1.2, margin + 0.1), (0.35, margin + 0.4), (0.9, height + 2.0), (0.3, height + 5.0),
                   (-depth / 2, height + 6.5), (-depth - 0.6, height + 4.0), (-depth - 0.7, height + 1.0),
                   (-depth + 1.2, height - 0.8))  # fmt: skip
        for reach, rise in profile:
            outward = reach - arch.lean * rise
            z_at = z + normal[1] * outward
            y_at = arch.level + arch.slope * z_at + sign * rise
            rows.append([x + normal[0] * outward, y_at, z_at])
    count, n = len(stations), len(profile)
    ids = np.arange(count * n).reshape(count, n)
    quads = np.stack([ids[:-1, :-1], ids[1:, :-1], ids[1:, 1:], ids[:-1, 1:]], -1).reshape(-1, 4)
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    verts = np.array(rows)
    if sign < 0:
        faces = faces[:, ::-1]
    uv = np.stack(np.meshgrid(np.linspace(0, 1, count), np.linspace(0, 1, n), indexing="ij"), -1).reshape(-1, 2)
    return Part(verts, np.ascontiguousarray(faces), uv, np.ascontiguousarray(faces))


def _outward(verts: np.ndarray, faces: np.ndarray, per_tooth: int) -> np.ndarray:
    """Turn each tooth's faces so that their normals leave its middle."""
    faces = faces.copy()
    for start in range(0, len(faces), per_tooth):
        chunk = faces[start : start + per_tooth]
        a, b, c = (verts[chunk[:, i]] for i in range(3))
        middle = verts[np.unique(chunk)].mean(0)
        if (np.cross(b - a, c - a) * ((a + b + c) / 3 - middle)).sum() < 0:
            faces[start : start + per_tooth] = chunk[:, [0, 2, 1]]
    return faces
