"""Glasses of the synthetic people: rims, bridge and temples as tubes, lenses that mirror a little and tint a little.

They are fitted to the neutral head once and stay with the skull. Units of head space (0.2 m).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from gpavatar.camera import Camera
from gpavatar.data.synthetic_skin import SkinPoints, linear
from gpavatar.face.raster import interpolate, rasterize, to_screen

AROUND = 10  # vertices around a tube
RIM_POINTS, LENS_RINGS = 72, 7
EYE_TO_LENS = 0.115  # from the centre of the eyeball: 12 mm of eyeball, 11 mm of air
TILT = 0.14  # how far a lens leans: z gained per y
WRAP = 0.22  # how far the front bends round the face: z lost per x²
LENS_RADIUS = 0.50  # of the curved front of a lens
CLEARANCE = 0.005  # between frame and skin
WINDOW = 140.0  # sharpness of what stands for a lamp in a lens: half as bright 6° beside
COATING = np.array([0.22, 0.32, 0.29], np.float32)  # what an anti-reflection coating leaves
# Half width, half height, exponent of the superellipse, lower half longer by, outer corner higher by.
SHAPES = {
    "round": (0.108, 0.104, 2.0, 0.0, 0.0),
    "oval": (0.125, 0.082, 2.3, 0.0, 0.0),
    "rectangle": (0.130, 0.078, 4.5, 0.0, 0.006),
    "square": (0.132, 0.100, 3.6, 0.0, 0.0),
    "panto": (0.118, 0.100, 2.7, 0.10, 0.0),
    "aviator": (0.136, 0.098, 2.8, 0.32, 0.0),
    "cat": (0.130, 0.084, 3.0, 0.0, 0.030),
}
ACETATE = ("#0d0c0b", "#14110f", "#1b1512", "#2c1b11", "#42291a", "#161d30", "#431a1c", "#26302b", "#77746f")
METAL = ("#c9a45c", "#b9b9bb", "#6e6a66", "#b98068", "#2a2a2c")


@dataclass(frozen=True)
class GlassesStyle:
    """What a pair of glasses looks like."""

    shape: str  # of SHAPES
    metal: bool  # thin wire, or thick acetate
    colour: np.ndarray  # linear RGB
    rim: float  # radius of the rims' tube
    temple: float  # half the height of a temple
    tint: np.ndarray  # share of the light that a lens lets through, RGB
    size: float  # around 1

    @staticmethod
    def random(rng: np.random.Generator) -> GlassesStyle:
        """Any glasses."""
        shape, metal = str(rng.choice([*SHAPES])), bool(rng.random() < 0.45)
        colour = linear(str(rng.choice(METAL if metal else ACETATE))) * rng.uniform(0.8, 1.2)
        tinted = rng.random() < 0.2
        tint = 1 - (rng.uniform(0.12, 0.35) if tinted else 0.03) * rng.uniform(0.6, 1.0, 3)
        rim = rng.uniform(0.0032, 0.0048) if metal else rng.uniform(0.0065, 0.011)
        temple = rng.uniform(0.006, 0.009) if metal else rng.uniform(0.012, 0.022)
        return GlassesStyle(shape, metal, colour, rim, temple, tint, rng.uniform(0.93, 1.07))


@dataclass(frozen=True)
class Glasses:
    """A frame and two lenses on a head."""

    verts: np.ndarray
    faces: np.ndarray
    texture: np.ndarray  # one colour, as `synthetic_shading.Surface` wants it
    lens_verts: np.ndarray
    lens_faces: np.ndarray
    lens_normals: np.ndarray
    tint: np.ndarray


def fit_glasses(
    style: GlassesStyle, skin: SkinPoints, eyes: Float[np.ndarray, "2 3"], ears: Bool[np.ndarray, " vert"]
) -> Glasses:
    """Put glasses on a neutral head: lenses before the eyes, the bridge on the nose, temples on the ears."""
    left, right = eyes  # the person's left eye has positive x
    pupils = (left[0] - right[0]) / 2
    centre = np.array([pupils + 0.008, (left[1] + right[1]) / 2 - 0.012, 0.0])
    outline = _outline(style) * (pupils / 0.157)
    outline[:, 0] *= min(1.0, (centre[0] - 0.034) / -outline[:, 0].min())  # room for the nose between the lenses
    rim = centre + np.concatenate([outline, np.zeros((len(outline), 1))], 1)
    rim[:, 2] = (left[2] + right[2]) / 2 + EYE_TO_LENS + _bend(rim, centre)
    inner = rim[outline[:, 0] < 0]
    bridge_y = float(np.quantile(inner[:, 1], 0.72))
    ends = inner[np.abs(inner[:, 1] - bridge_y).argmin()]
    t = np.linspace(-1, 1, 13)[:, None]
    bridge = ends * [1, 1, 1] * np.concatenate([t, np.ones_like(t), np.ones_like(t)], 1)
    bridge = bridge + (1 - t**2) * [0, 0.018, 0.012]
    # Forwards until neither rims nor bridge lie in the skin, but for the few points where a rim touches brow or cheek.
    behind = [_skin_before(skin.points, curve) - curve[:, 2] for curve in (rim, rim * [-1, 1, 1])]
    gap = max(np.quantile(np.concatenate(behind), 0.93), (_skin_before(skin.points, bridge) - bridge[:, 2])[3:-3].max())
    forward = float(np.clip(gap + CLEARANCE + style.rim, 0.0, 0.1))
    rim, bridge = rim + [0, 0, forward], bridge + [0, 0, forward]

    wire, bar = (style.rim, style.rim), (style.rim * (0.8 if style.metal else 0.7), style.temple)
    parts = [_tube(bridge, wire, False)]
    lenses = []
    for side in (1.0, -1.0):
        mirrored = rim * [side, 1, 1]
        parts += [_tube(mirrored, wire, True), _tube(_temple(rim, skin, ears, side, bar[0]), bar, False)]
        lenses.append(_lens(mirrored))
    verts, faces = _joined(parts)
    lens_verts, lens_faces = _joined([(v, f) for v, f, _ in lenses])
    # A metal mirrors in its colour's place: much, and little of it is diffuse.
    albedo = style.colour * (0.35 if style.metal else 1.0)
    texel = np.concatenate([albedo, np.zeros(3), [14.0, 0.30, 0.0] if style.metal else [1.5, 0.28, 0.0]])
    texture = np.tile(texel.astype(np.float32), (2, 2, 1))
    normals = np.concatenate([n for _, _, n in lenses])
    return Glasses(verts, faces, texture, lens_verts, lens_faces, normals, style.tint.astype(np.float32))


def draw_lenses(
    glasses: Glasses,
    camera: Camera,
    light: Float[np.ndarray, "7 3"],
    picture: Float[np.ndarray, "height width 3"],
    depth: Float[np.ndarray, "height width"],
) -> None:
    """Lay the lenses over `picture` (linear RGB) where nothing of `depth` stands before them.

    I = T (1 − F) I_behind + C F L(r): tint T, Schlick's F for both faces of the glass, coating C, and the room L in the
    mirrored direction: sky and ground as hemispheres, the two lamps as bright windows.
    """
    height, width = depth.shape
    verts, faces = torch.from_numpy(glasses.lens_verts).float(), torch.from_numpy(glasses.lens_faces)
    seen = rasterize(to_screen(verts, camera, width, height), faces, height, width)
    shown = seen.covered.numpy() & (seen.depth.numpy() < depth)
    if not shown.any():
        return
    values = torch.cat([verts, torch.from_numpy(glasses.lens_normals).float()], 1)
    at = interpolate(seen, values, faces).permute(1, 2, 0).numpy()[shown]
    view = camera.c2w[:3, 3].numpy() - at[:, :3]
    view /= np.linalg.norm(view, axis=1, keepdims=True)
    normal = at[:, 3:] / np.linalg.norm(at[:, 3:], axis=1, keepdims=True)
    cosine = (normal * view).sum(1, keepdims=True)
    normal, cosine = normal * np.sign(cosine), np.abs(cosine)  # a lens is seen from behind as well
    mirrored = 2 * cosine * normal - view
    up = (0.5 + 0.5 * mirrored @ light[6])[:, None]
    room = light[5] + (light[4] - light[5]) * up * up * (3 - 2 * up)
    for lamp in (0, 1):
        towards = (mirrored @ light[2 * lamp])[:, None]
        room = room + 30 * light[2 * lamp + 1] * np.exp(WINDOW * (towards - 1))
    one_face = 0.04 + 0.96 * (1 - cosine) ** 5
    reflected = 2 * one_face / (1 + one_face)
    picture[shown] = picture[shown] * glasses.tint * (1 - reflected) + COATING * reflected * room


def _outline(style: GlassesStyle) -> Float[np.ndarray, "point 2"]:
    """Of the person's left lens around its centre; x points outwards."""
    half_width, half_height, exponent, longer, corner = SHAPES[style.shape]
    turn = np.linspace(0, 2 * np.pi, RIM_POINTS, endpoint=False)
    cosine, sine = np.cos(turn), np.sin(turn)
    x = half_width * np.sign(cosine) * np.abs(cosine) ** (2 / exponent)
    y = half_height * np.sign(sine) * np.abs(sine) ** (2 / exponent)
    y = np.where(y < 0, y * (1 + longer), y)
    y = y + corner * np.clip(x / half_width, 0, 1) ** 2 * np.clip(y / half_height, 0, 1)
    x = x - 0.12 * half_width * (longer > 0.2) * np.clip(-y / half_height, 0, 1) * (x < 0) * x / half_width
    return np.stack([x, y], 1) * style.size


def _bend(points: np.ndarray, centre: np.ndarray) -> np.ndarray:
    return TILT * (points[:, 1] - centre[1]) - WRAP * points[:, 0] ** 2


def _skin_before(points: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """Largest z of the face near each point of a curve, seen from the front."""
    face = points[points[:, 2] > 0.1]
    near = ((face[None, :, :2] - curve[:, None, :2]) ** 2).sum(-1) < 0.014**2
    return np.where(near, face[None, :, 2], -np.inf).max(1)


def _temple(rim: np.ndarray, skin: SkinPoints, ears: np.ndarray, side: float, half: float) -> np.ndarray:
    """Path of a temple: out of the upper outer corner, back along the head, down behind the ear."""
    hinge = rim[(rim[:, 0] + 0.8 * rim[:, 1]).argmax()]
    mine = skin.points[ears & (skin.points[:, 0] * side > 0)] * [side, 1, 1]
    top = mine[mine[:, 1] > np.quantile(mine[:, 1], 0.8)]
    ear = np.array([top[:, 0].min() + half + 0.004, top[:, 1].max() - 0.02, top[:, 2].mean()])
    corner = hinge + [0.022, 0, -0.022]
    t = np.linspace(0, 1, 20)[:, None]
    path = corner + (ear - corner) * t
    rest = skin.points[~ears] * [side, 1, 1]
    near = (np.abs(rest[None, :, 1:] - path[:, None, 1:]) < 0.035).all(-1)
    beside = np.where(near, rest[None, :, 0], -np.inf).max(1) + half + 0.006
    path[:, 0] = np.maximum(path[:, 0], beside)
    path[1:-1, 0] = np.maximum(path[1:-1, 0], (path[:-2, 0] + path[2:, 0]) / 2)
    turn = np.linspace(0.15, 1, 8)[:, None]
    hook = path[-1] + turn * [0, 0, -0.09] + turn**2 * [-0.01, -0.13, 0.02]
    return np.concatenate([hinge[None], path, hook]) * [side, 1, 1]


def _tube(path: np.ndarray, half: tuple[float, float], closed: bool) -> tuple[np.ndarray, np.ndarray]:
    """A tube of elliptic section around a path: `half` across and, as far as the path allows, along y (or z)."""
    ahead, behind = np.roll(path, -1, 0), np.roll(path, 1, 0)
    if not closed:
        ahead[-1], behind[0] = path[-1], path[0]
    tangent = ahead - behind
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    upright = [0.0, 0.0, 1.0] if closed or abs(tangent[0, 0]) > 0.7 else [0.0, 1.0, 0.0]
    second = upright - (tangent @ upright)[:, None] * tangent
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    first = np.cross(second, tangent)
    turn = 2 * np.pi * np.arange(AROUND) / AROUND
    ring = half[0] * np.cos(turn)[:, None] * first[:, None] + half[1] * np.sin(turn)[:, None] * second[:, None]
    count = len(path)
    ids = np.arange(count * AROUND).reshape(count, AROUND)
    after = np.roll(ids, -1, 0) if closed else ids[1:]
    ids = ids if closed else ids[:-1]
    a, b, c, d = ids, np.roll(ids, -1, 1), np.roll(after, -1, 1), after
    faces = np.concatenate([np.stack(t, -1).reshape(-1, 3) for t in ((a, b, c), (a, c, d))])
    return (path[:, None] + ring).reshape(-1, 3), faces


def _lens(rim: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices, faces and normals of a lens that fills a rim, its front curved as a sphere."""
    middle = rim.mean(0)
    share = np.linspace(0, 1, LENS_RINGS)[:, None, None]
    verts = middle + (rim - middle) * share
    away = (verts - middle)[..., :2]
    verts[..., 2] += ((rim - middle)[..., :2] ** 2).sum(-1) * (1 - share[..., 0] ** 2) / (2 * LENS_RADIUS)
    slope = np.array([-2 * WRAP * middle[0], TILT]) - away / LENS_RADIUS
    normals = np.concatenate([-slope, np.ones((*slope.shape[:-1], 1))], -1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    ids = np.arange(verts[..., 0].size).reshape(verts.shape[:2])
    a, b, c, d = ids[:-1], np.roll(ids[:-1], -1, 1), np.roll(ids[1:], -1, 1), ids[1:]
    faces = np.concatenate([np.stack(t, -1).reshape(-1, 3) for t in ((a, b, c), (a, c, d))])
    return verts.reshape(-1, 3), faces, normals.reshape(-1, 3)


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, Int[np.ndarray, "face 3"]]:
    starts = np.cumsum([0] + [len(verts) for verts, _ in parts[:-1]])
    faces = [own + start for (_, own), start in zip(parts, starts, strict=True)]
    return np.concatenate([verts for verts, _ in parts]), np.concatenate(faces)
