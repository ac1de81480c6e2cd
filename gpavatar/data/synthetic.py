"""Synthetic people with exact ground truth, drawn on the CPU from the open head.

    person = SyntheticPerson.random(seed=7)
    frame = render(person, params, camera, size_px=512)          # image, alpha, hair, depth, verts
    for frame in synthetic_clip(seed=7, num_frames=30): ...      # frames that know their HeadParams and Camera

Light and clothes belong to the body, the background to the picture. The skull stands still in head space as everywhere
(`gpavatar.camera`); `neck_pose` turns the shoulders, and with them the light, the other way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gpavatar.camera import Camera, axis_angle_to_matrix
from gpavatar.data.synthetic_fuzz import lashes
from gpavatar.data.synthetic_glasses import draw_lenses
from gpavatar.data.synthetic_motion import random_camera, random_motion
from gpavatar.data.synthetic_person import JAW_OPEN_AT, SyntheticPerson
from gpavatar.data.synthetic_shading import ShadowMap, Surface, shade, shadow_frame
from gpavatar.data.synthetic_strands import (
    blend_strands,
    cover_strands,
    hair_transmittance,
    project_strands,
    shade_strands,
    strand_transmittance,
    visible_strands,
)
from gpavatar.face.open_head import EYE_LEFT, PARTS, SHOULDERS
from gpavatar.face.raster import Fragments, rasterize, to_screen, vertex_normals
from gpavatar.types import HeadParams

__all__ = ["SyntheticFrame", "SyntheticPerson", "render", "synthetic_clip"]

SHADOW_SIZE, SHADOW_REACH = 448, 1.25
LASH_LENGTH, LASH_WIDTH = 0.028, 0.0013
GLASSES_SKY = 0.75  # share of the sky that a frame sees
LIFT = 0.004  # hairs on the skin start this far above it, so that the z-buffer shows them


@dataclass(frozen=True)
class SyntheticFrame:
    """A picture of a synthetic person and what is true of it."""

    image: Float[Tensor, "3 height width"]  # [0, 1]
    alpha: Float[Tensor, "1 height width"]  # [0, 1], the person against the background
    hair: Float[Tensor, "1 height width"]  # [0, 1], hair of the head
    depth: Float[Tensor, "1 height width"]  # of skin, clothes and hair, units of head space; 0 where there is none
    verts: Float[Tensor, "vert 3"]  # of the open head
    params: HeadParams
    camera: Camera


@torch.no_grad()
def render(
    person: SyntheticPerson, params: HeadParams, camera: Camera, size_px: int, supersample: int = 2
) -> SyntheticFrame:
    """Draw one square frame; textures and hair are the person's, whatever `params.shape`."""
    return _Drawing(person, params, camera, size_px, supersample).finish()


class _Drawing:
    """One frame on its way; every step draws into `picture` (linear RGB) and `depth`."""

    def __init__(self, person: SyntheticPerson, params: HeadParams, camera: Camera, size_px: int, supersample: int):
        size = size_px * supersample
        self.person, self.params, self.camera, self.supersample, self.size = person, params, camera, supersample, size
        self.verts = person.head.verts(params)
        centre = person.head.with_shape(params.shape).joints[SHOULDERS]
        turn = axis_angle_to_matrix(-params.neck_pose)  # world (the body's) -> head space
        self.light = person.looks.light.packed(turn.numpy())
        self.eye = camera.c2w[:3, 3].numpy().astype(np.float32)
        torso = (torch.from_numpy(person.torso.verts).float() - centre) @ turn.T + centre
        self.solid = person.head.faces[person.head.face_parts != PARTS.index("lashes")]
        verts, faces = [self.verts, torso], [self.solid, torch.from_numpy(person.torso.faces)]
        if person.glasses is not None:
            faces.append(torch.from_numpy(person.glasses.faces) + len(self.verts) + len(torso))
            verts.append(torch.from_numpy(person.glasses.verts).float())
        self.every, self.faces = torch.cat(verts), torch.cat(faces)
        self.picture = person.looks.background.draw(size_px).repeat(supersample, 0).repeat(supersample, 1)
        self.shadow = self._shadow()

        fragments = rasterize(to_screen(self.every, camera, size, size), self.faces, size, size)
        self.depth = np.where(fragments.covered.numpy(), fragments.depth.numpy(), np.float32(np.inf))
        self._surfaces(fragments)
        self._fuzz()
        skin_depth = self.depth.copy()
        if person.hair is not None:
            self._hair()
        self.hair = self.depth < skin_depth
        if person.glasses is not None:
            draw_lenses(person.glasses, camera, self.light, self.picture, self.depth)

    def _shadow(self) -> ShadowMap:
        rows = shadow_frame(self.light[0].astype(np.float64))
        scale = SHADOW_SIZE / (2 * SHADOW_REACH)
        place = self.every.numpy() @ rows.T
        screen = np.concatenate([place[:, :2] * scale + SHADOW_SIZE / 2, 4 - place[:, 2:]], 1)
        seen = rasterize(torch.from_numpy(screen).float(), self.faces, SHADOW_SIZE, SHADOW_SIZE)
        depth = np.where(seen.covered.numpy(), seen.depth.numpy(), np.float32(np.inf))
        return ShadowMap(depth, rows.astype(np.float32), scale)

    def _surfaces(self, fragments: Fragments) -> None:
        """Shade skin, clothes and the frame of glasses."""
        person, verts = self.person, self.every.numpy()
        jaw = float(self.params.expression[person.head.expression_names.index("jawOpen")]) / JAW_OPEN_AT
        sky = person.openness[0] + (person.openness[1] - person.openness[0]) * np.clip(jaw, 0, 1)
        sky = np.concatenate([sky, np.full(len(verts) - len(sky), GLASSES_SKY, np.float32)])
        key = np.ones_like(sky)
        if person.volume is not None:
            key = hair_transmittance(person.volume, verts, self.light[0])
        openness = np.stack([sky, key], 1)
        normals = vertex_normals(self.every, self.faces).numpy()
        head, torso = person.head, person.torso
        uv_faces = head.uv_faces[head.face_parts != PARTS.index("lashes")].numpy()
        skin = Surface(verts, self.solid.numpy(), head.uv.numpy(), uv_faces, normals, openness, person.head_texture)
        uv = torso.uv.astype(np.float32)
        cloth = Surface(verts, torso.faces, uv, torso.uv_faces, normals, openness, person.cloth_texture)
        surfaces = [(skin, 0), (cloth, len(self.solid))]
        if person.glasses is not None:
            first = len(self.solid) + len(torso.faces)
            faces, middle = self.faces[first:].numpy(), np.full((1, 2), 0.5, np.float32)
            frame = Surface(verts, faces, middle, np.zeros_like(faces), normals, openness, person.glasses.texture)
            surfaces.append((frame, first))
        for surface, first in surfaces:
            ids, bary = fragments.face_ids.numpy(), fragments.bary.numpy()
            shade(surface, first, ids, bary, self.light, self.shadow, self.eye, self.picture)

    def _fuzz(self) -> None:
        """Brows, beard and lashes."""
        person = self.person
        for fuzz in (person.brows, person.beard):
            if fuzz is not None:
                self._strands(fuzz.strands(self.verts, person.head.faces), fuzz.width, 0.5)
        marks = person.head.topology.mediapipe.on(self.verts, person.head.faces).numpy()
        centres = person.head.with_shape(self.params.shape).joints[EYE_LEFT:].numpy()
        drawn = lashes(marks, centres, LASH_LENGTH, person.looks.complexion.seed)
        self._strands(drawn, np.full(len(drawn), LASH_WIDTH), 0.15)

    def _hair(self) -> None:
        """Hair of the head, shaded by its own volume."""
        person, hair = self.person, self.person.hair
        screen = project_strands(hair.points, self.camera, self.size)
        near = visible_strands(screen, self.depth)
        screen = screen[near]
        cover = cover_strands(screen, self._width_px(hair.width[near], screen), near, self.depth)
        strands = cover.strands()
        ids = near[strands]
        points = hair.points[ids]
        lit = strand_transmittance(person.volume, points, self.light[0], ids)
        sky = 0.25 + 0.75 * person.hair_sky[ids]
        cover.paint(strands, self._shaded(points, hair.shade[ids], lit, sky, 0.9, ids), self.picture)

    def _strands(self, points: np.ndarray, width: np.ndarray, brightness: float) -> None:
        """Hairs on the skin, half transparent, lit as evenly as skin is."""
        points, ids = np.ascontiguousarray(points, np.float32), np.arange(len(points))
        screen = project_strands(points, self.camera, self.size)
        screen[..., 2] -= LIFT
        even = np.full(points.shape[:2], 0.7, np.float32)
        shaded = self._shaded(points, np.full(len(points), brightness, np.float32), even, even, 0.1, ids)
        blend_strands(screen, shaded, self._width_px(width, screen), 0.5, ids, self.picture, self.depth)

    def _shaded(
        self, points: np.ndarray, shade: np.ndarray, lit: np.ndarray, sky: np.ndarray, gloss: float, ids: np.ndarray
    ) -> np.ndarray:
        colours = (shade[:, None] * self.person.looks.complexion.hair_colour).astype(np.float32)
        return shade_strands(points, colours, lit, sky.astype(np.float32), self.light, self.eye, gloss, ids)

    def _width_px(self, width: np.ndarray, screen: np.ndarray) -> np.ndarray:
        focal = float(self.camera.intrinsics[0]) * self.size
        return (width * focal / screen[:, 0, 2].clip(0.1)).astype(np.float32)

    def finish(self) -> SyntheticFrame:
        """Tone curve, then the mean over each pixel's samples."""
        supersample = self.supersample
        exposed = self.picture * np.float32(self.person.looks.exposure)
        # A shoulder above 0.6 keeps highlights from clipping hard; below it the curve is that of sRGB.
        rolled = np.where(exposed > 0.6, 0.6 + 0.4 * (1 - np.exp(-(exposed - 0.6) / 0.4)), exposed)
        srgb = np.where(rolled <= 0.0031308, 12.92 * rolled, 1.055 * rolled.clip(1e-6) ** (1 / 2.4) - 0.055)
        covered = np.isfinite(self.depth)
        alpha, hair = (_shrink(mask[..., None].astype(np.float32), supersample) for mask in (covered, self.hair))
        depth = _shrink(np.where(covered, self.depth, 0)[..., None].astype(np.float32), supersample)
        depth = torch.where(alpha > 0.5, depth / alpha.clamp_min(0.5), torch.zeros_like(depth))
        image = _shrink(srgb.astype(np.float32), supersample).clamp(0, 1)
        return SyntheticFrame(image, alpha, hair, depth, self.verts, self.params, self.camera)


def _shrink(values: np.ndarray, supersample: int) -> Float[Tensor, "channel height width"]:
    """Mean of supersample² samples; sums of slices, which numpy adds ten times faster than it takes means of axes."""
    steps = range(supersample)
    mean = sum(values[i::supersample, j::supersample] for i in steps for j in steps) / supersample**2
    return torch.from_numpy(np.ascontiguousarray(mean.transpose(2, 0, 1)))


def synthetic_clip(
    seed: int,
    num_frames: int = 30,
    size_px: int = 512,
    yaw_deg: float = 30.0,
    person: SyntheticPerson | None = None,
    supersample: int = 2,
) -> Iterator[SyntheticFrame]:
    """A talking, moving head before a still camera: the frames with the parameters and cameras that made them.

    The head turns by up to `yaw_deg` to both sides on still shoulders while it nods, tilts, blinks, smiles, frowns and
    speaks; everything is smooth and differs from seed to seed. `person` None draws one from the seed.
    """
    person = person or SyntheticPerson.random(seed)
    rng = np.random.default_rng([seed, 52])
    camera = random_camera(rng, person)
    for params, seen_from in random_motion(rng, person, camera, num_frames, yaw_deg):
        yield render(person, params, seen_from, size_px, supersample)
