"""A synthetic person: shape and looks, and what is computed from them once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gpavatar.data import synthetic_hair
from gpavatar.data.synthetic_body import Background, Clothes, Torso, build_torso, random_light
from gpavatar.data.synthetic_fuzz import Fuzz, front_map, grow_beard, grow_brows
from gpavatar.data.synthetic_glasses import Glasses, GlassesStyle, fit_glasses
from gpavatar.data.synthetic_hair import STYLES, Hair, HairStyle
from gpavatar.data.synthetic_shading import Light, shadow_frame
from gpavatar.data.synthetic_skin import IRIS_TONES, Complexion, SkinPoints, linear
from gpavatar.data.synthetic_strands import hair_transmittance, hair_volume, strand_transmittance
from gpavatar.data.synthetic_texture import cloth_texture, head_texture
from gpavatar.face.open_head import EYE_LEFT, PARTS, OpenHead
from gpavatar.face.raster import rasterize, vertex_normals
from gpavatar.types import HeadParams

HAIR_TONES = ("#15100d", "#1e140d", "#2b1b11", "#432a18", "#5e3d22", "#7d5a33", "#a07c4a", "#6b3016", "#8c8680")
_WEIGHTS = np.array([1, 2, 1.2, 1.5, 1.2, 1.5, 1.3, 1.2, 0.8, 0.5])
STYLE_WEIGHTS = dict(
    zip([*STYLES, "bald"], (_WEIGHTS / _WEIGHTS.sum()).tolist(), strict=True)
)  # how often each is drawn
SKY_DIRECTIONS, SKY_MAP_SIZE, SKY_REACH = 48, 192, 1.3
EXTINCTION = 0.45  # of a strand, relative to its width: hair scatters light forwards
MOUTH_PARTS = torch.tensor(
    [PARTS.index(name) for name in PARTS if name.startswith(("mouth", "tongue", "gums", "teeth"))]
)
MOUTH_LIGHT = 0.15  # share of the sky that comes through cheeks and lips into the mouth
JAW_OPEN_AT = 0.8  # of the pose that says how much light an open mouth lets in


@dataclass(frozen=True)
class Looks:
    """Everything about a person but the shape of the head."""

    complexion: Complexion
    style: HairStyle | None
    brows: float  # thickness, [0, 1]
    beard_length: float  # units of head space; 0 for none
    recede: float  # how far the hairline stands back, [0, 1]
    clothes: Clothes
    light: Light
    background: Background
    exposure: float
    glasses: GlassesStyle | None = None

    @staticmethod
    def random(rng: np.random.Generator, style: str | None = None) -> Looks:
        """Any looks; `style` is a key of `STYLES`, "bald", or None for any."""
        tone = rng.uniform(0.02, 1.0)
        dark = rng.random() < 1.1 - 1.2 * tone
        bearded = rng.random() < 0.33
        drawn = str(rng.choice([*STYLE_WEIGHTS], p=[*STYLE_WEIGHTS.values()]))
        style = style or drawn
        colour = linear(HAIR_TONES[int(rng.integers(0, 3 if dark else len(HAIR_TONES)))]) * rng.uniform(0.8, 1.3)
        complexion = Complexion(
            tone=tone,
            redness=rng.random(),
            freckles=rng.random() ** 2 * (0.2 + 0.8 * tone),
            beard=rng.uniform(0.25, 0.9) if bearded else 0.0,
            shine=rng.random(),
            lips=rng.random() ** 2 * (0.3 if bearded else 0.9),
            iris=int(rng.integers(0, 3 if dark else len(IRIS_TONES))),
            hair_colour=colour,
            seed=int(rng.integers(1 << 20)),
        )
        cut = STYLES.get(style)
        if cut is not None:
            cut = replace(cut, length=cut.length * rng.uniform(0.8, 1.2), part=cut.part * rng.choice([-1, 1]),
                          bangs=bool(rng.random() < 0.3))  # fmt: skip
        return Looks(
            complexion,
            cut,
            brows=rng.random(),
            beard_length=rng.uniform(0.01, 0.04) if bearded and rng.random() < 0.6 else 0.0,
            recede=rng.random() ** 3 * (0.2 if style in ("bob", "long", "wavy") else 1.0),
            clothes=Clothes.random(rng),
            light=random_light(rng),
            background=Background.random(rng),
            exposure=rng.uniform(0.85, 1.1) * (1.15 - 0.4 * tone),
        )


@lru_cache(maxsize=1)
def default_head() -> OpenHead:
    """The packaged open head, loaded once."""
    return OpenHead.load()


@dataclass(frozen=True)
class SyntheticPerson:
    """One person, ready to be drawn from any camera with any expression by `synthetic.render`."""

    head: OpenHead
    shape: Float[Tensor, " n_shape"]
    looks: Looks
    torso: Torso
    head_texture: np.ndarray
    cloth_texture: np.ndarray
    hair: Hair | None
    volume: np.ndarray | None  # of the hair
    hair_sky: np.ndarray | None  # (strand, k) share of the sky that reaches a strand
    brows: Fuzz
    beard: Fuzz | None
    glasses: Glasses | None
    openness: np.ndarray  # (2, vert) share of the sky that a vertex sees, with closed and with open mouth

    @staticmethod
    def random(
        seed: int, head: OpenHead | None = None, style: str | None = None, texture_size: int = 1024,
        spread: float = 0.7, glasses: float = 0.0,
    ) -> SyntheticPerson:  # fmt: skip
        """Any person, always the same for a seed; shape parameters are drawn with `spread` standard deviations.

        `glasses` is the probability that the person wears some, drawn from a stream of its own: who else the person is
        does not depend on it.
        """
        rng = np.random.default_rng([seed, 51])
        head = head or default_head()
        shape = torch.from_numpy(rng.normal(0, spread, head.n_shape).clip(-2.5, 2.5)).float()
        looks = Looks.random(rng, style)
        rng = np.random.default_rng([seed, 53])
        if rng.random() < glasses:
            looks = replace(looks, glasses=GlassesStyle.random(rng))
        return SyntheticPerson.build(head, shape, looks, texture_size)

    @staticmethod
    @torch.no_grad()
    def build(head: OpenHead, shape: Float[Tensor, " n_shape"], looks: Looks, texture_size: int) -> SyntheticPerson:
        """Compute what does not change from frame to frame."""
        rng = np.random.default_rng(looks.complexion.seed)
        person = head.with_shape(shape)
        verts, faces = person.verts, head.faces
        normals = vertex_normals(verts, faces)
        marks = head.topology.mediapipe.on(verts, faces)
        skin = SkinPoints(*(value.double().numpy() for value in (verts, normals, marks)))
        front = front_map(verts, faces)

        points, point_normals = _scatter(head, skin, rng)
        ears = head.topology.regions["ears"].numpy()
        covering = looks.style is not None and looks.style.length > 0.6  # long hair covers the ears
        scalp = synthetic_hair.survey(skin.points, skin.landmarks, ears, points[0][covering | (points[1] < 0.5)])

        def density(where: np.ndarray) -> np.ndarray:
            return synthetic_hair.hair_density(scalp, where, looks.complexion.seed, looks.recede)

        hair, volume, hair_sky = None, None, None
        if looks.style is not None:
            share = density(points[0]) * (1 - points[1]).clip(0)  # rounding makes an ear a little more than 1
            hair = synthetic_hair.grow(looks.style, scalp, points[0], point_normals, share, rng)
            volume = hair_volume(hair.points, float(hair.width.mean()) * EXTINCTION)
            hair_sky = strand_transmittance(volume, hair.points, np.array([0.0, 1.0, 0.0]))
        torso = build_torso(skin.points, head.collar.numpy())
        open_mouth = torch.zeros(head.n_expression)
        open_mouth[head.expression_names.index("jawOpen")] = JAW_OPEN_AT
        poses = (replace(HeadParams.neutral(head.n_shape, head.n_expression), shape=shape, expression=e)
                 for e in (0 * open_mouth, open_mouth))  # fmt: skip
        glasses = None
        if looks.glasses is not None:
            glasses = fit_glasses(looks.glasses, skin, person.joints[EYE_LEFT : EYE_LEFT + 2].double().numpy(), ears)
        tint = 0.25 if looks.style is None else 1.0  # of the scalp in the colour of what grows there
        return SyntheticPerson(
            head, shape, looks, torso,
            head_texture(
                head, person, skin, looks.complexion, looks.clothes, lambda p: tint * density(p), texture_size
            ),
            cloth_texture(torso, skin.points, looks.clothes),
            hair, volume, hair_sky,
            grow_brows(skin, normals, faces, front, looks.brows, rng),
            grow_beard(skin, normals, faces, front, looks.beard_length, rng) if looks.beard_length else None,
            glasses,
            np.stack([_sky_share(head, head.verts(pose), torso, volume) for pose in poses]),
        )  # fmt: skip

    def params(self) -> HeadParams:
        """This person with a neutral face."""
        return replace(HeadParams.neutral(self.head.n_shape, self.head.n_expression), shape=self.shape)


def _scatter(
    head: OpenHead, skin: SkinPoints, rng: np.random.Generator, count: int = 150000
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Points spread evenly over the skin with the share of "ear" there, and their normals."""
    faces = head.faces[head.face_parts == PARTS.index("skin")].numpy()
    corners = skin.points[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    chosen = rng.choice(len(faces), count, p=area / area.sum())
    root = np.sqrt(rng.random(count))
    second = rng.random(count)
    bary = np.stack([1 - root, root * (1 - second), root * second], -1)
    points = np.einsum("ni,nik->nk", bary, corners[chosen])
    normals = np.einsum("ni,nik->nk", bary, skin.normals[faces[chosen]])
    ears = np.einsum("ni,ni->n", bary, head.topology.regions["ears"].numpy()[faces[chosen]])
    return (points, ears), normals / np.linalg.norm(normals, axis=1, keepdims=True)


def _sky_share(head: OpenHead, verts: Tensor, torso: Torso, volume: np.ndarray | None) -> np.ndarray:
    """Per vertex of head and torso the cosine-weighted share of directions in which neither skin nor hair stands."""
    every = torch.cat([verts, torch.from_numpy(torso.verts).float()])
    solid = head.faces[head.face_parts != PARTS.index("lashes")]
    faces = torch.cat([solid, torch.from_numpy(torso.faces)])
    normals, points = vertex_normals(every, faces).numpy(), every.numpy()
    # Directions spread evenly over the sphere (golden spiral), the lowest left out: the body stands there.
    index = np.arange(SKY_DIRECTIONS)
    height = 1 - 1.7 * (index + 0.5) / SKY_DIRECTIONS
    turn = 2.399963 * index
    flat = np.sqrt(1 - height**2)
    seen, total = np.full(len(points), 1e-6), np.full(len(points), 1e-6)
    for direction in np.stack([flat * np.cos(turn), height, flat * np.sin(turn)], -1):
        rows = shadow_frame(direction)
        place = points @ rows.T
        scale = SKY_MAP_SIZE / (2 * SKY_REACH)
        screen = np.concatenate([place[:, :2] * scale + SKY_MAP_SIZE / 2, 4 - place[:, 2:]], 1)
        depth = rasterize(torch.from_numpy(screen).float(), faces, SKY_MAP_SIZE, SKY_MAP_SIZE).depth.numpy()
        column, row = np.clip(screen[:, :2].astype(int), 0, SKY_MAP_SIZE - 1).T
        cosine = (normals @ direction).clip(0)
        slope = np.sqrt((1 - cosine**2).clip(0)) / cosine.clip(0.15)
        nearest = depth[row, column]
        free = (nearest == 0) | (nearest > screen[:, 2] - 0.006 - 1.2 * slope / scale)
        hair = hair_transmittance(volume, points, direction) if volume is not None else 1.0
        seen += cosine * free * hair
        total += cosine
    share = (seen / total).astype(np.float32)
    mouth = head.faces[(head.face_parts[:, None] == MOUTH_PARTS).any(-1)].unique().numpy()
    share[mouth] = share[mouth].clip(MOUTH_LIGHT)
    return share
