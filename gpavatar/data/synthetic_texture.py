"""The textures of a synthetic person: nine channels per texel, see `synthetic_shading.Surface`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float

from gpavatar.data.synthetic_body import Clothes, Torso
from gpavatar.data.synthetic_noise import fractal_noise
from gpavatar.data.synthetic_skin import Complexion, SkinPoints, bump_normals, linear, paint_eyes, paint_skin, ramp
from gpavatar.face.open_head import EYE_LEFT, PARTS, OpenHead, ShapedOpenHead
from gpavatar.face.raster import Fragments, interpolate, rasterize
from gpavatar.face.uv import dilate, texel_map

CLOTH_SIZE = 384
PADDING = 4


def head_texture(
    head: OpenHead, person: ShapedOpenHead, skin: SkinPoints, look: Complexion, clothes: Clothes,
    hair_density: Callable[[np.ndarray], np.ndarray], size: int,
) -> Float[np.ndarray, "{size} {size} 9"]:  # fmt: skip
    """Paint the whole atlas of the head. `skin` holds the vertices' points and normals."""
    topology = head.topology
    texels = texel_map(topology, size)
    attributes = torch.from_numpy(np.concatenate([skin.points, skin.normals], 1)).float()
    both = texels.on(attributes, topology.faces).permute(1, 2, 0).numpy().astype(np.float64)
    points, normals = both[..., :3], both[..., 3:]
    ears = texels.on(topology.regions["ears"].float()[:, None], topology.faces)[0].numpy()
    part = np.where(texels.valid.numpy(), head.face_parts.numpy()[texels.face_ids.clamp_min(0).numpy()], -1)
    texture = np.zeros((size, size, 9), np.float32)
    height = np.zeros((size, size))

    here = part == PARTS.index("skin")
    on_skin = SkinPoints(points[here], normals[here], skin.landmarks)
    scalp = hair_density(points[here]) * (1 - ears[here])
    skin_paint = paint_skin(on_skin, look, scalp)
    albedo = skin_paint.albedo * (1 - ears[here, None] * [0.0, 0.22, 0.20] * (0.4 + 0.6 * look.redness))
    texture[here, 8] = 1.0
    cover = clothes.covers(points[here], skin.landmarks[152, 1])
    cloth, cloth_bumps = clothes.paint(points[here])
    hem = np.exp(-(((cover - 0.5) / 0.3) ** 2))
    texture[here, :3] = albedo + (cloth * (1 - 0.5 * hem)[..., None] - albedo) * cover[..., None]
    texture[here, 6] = skin_paint.specular * (1 - cover) + 0.25 * cover
    texture[here, 7] = skin_paint.roughness * (1 - cover) + 0.85 * cover
    texture[here, 8] *= 1 - cover
    height[here] = skin_paint.height * (1 - cover) + (cloth_bumps + 0.004) * cover

    for name, colour, strength, roughness in (
        ("mouth_bag", "#8c4340", 1.2, 0.35), ("tongue", "#a95a57", 1.3, 0.38),
        ("gums_upper", "#b86a66", 1.3, 0.30), ("gums_lower", "#b86a66", 1.3, 0.30),
        ("teeth_upper", "#bdb5a4", 1.3, 0.25), ("teeth_lower", "#b5ac9a", 1.3, 0.25),
    ):  # fmt: skip
        here = part == PARTS.index(name)
        mottle = fractal_noise(points[here], 0.03, 3, look.seed + 30)
        texture[here, :3] = linear(colour) * (1 + 0.12 * mottle)[..., None]
        # Deeper in the mouth less light returns.
        texture[here, :3] *= (0.30 + 0.70 * ramp(points[here, 2], 0.10, 0.45))[..., None]
        texture[here, 6:] = (strength, roughness, 0.6)
        height[here] = 0.0006 * mottle * (not name.startswith("teeth"))
    for eye, name in enumerate(("eye_left", "eye_right")):
        here = part == PARTS.index(name)
        directions = points[here] - person.joints[EYE_LEFT + eye].numpy()
        directions /= np.linalg.norm(directions, axis=-1, keepdims=True).clip(1e-6)
        eyeball = paint_eyes(directions, look)
        texture[here, :3], texture[here, 6], texture[here, 7] = eyeball.albedo, eyeball.specular, eyeball.roughness
        texture[here, 8] = 0.4
    texture[..., 3:6] = bump_normals(points, normals, height) * (part >= 0)[..., None]
    return _padded(texture, texels.valid)


def cloth_texture(
    torso: Torso, verts: Float[np.ndarray, "vert 3"], clothes: Clothes
) -> Float[np.ndarray, "height width 9"]:
    """Paint the body below the collar; `verts` are the neutral head's."""
    uv, uv_faces = torch.from_numpy(torso.uv).float(), torch.from_numpy(torso.uv_faces)
    flat = torch.cat([uv * CLOTH_SIZE, torch.ones_like(uv[:, :1])], -1)
    seen: Fragments = rasterize(flat, uv_faces, CLOTH_SIZE, CLOTH_SIZE)
    every = torch.from_numpy(np.concatenate([verts, torso.verts])).float()
    points = interpolate(seen, every, torch.from_numpy(torso.faces)).permute(1, 2, 0).numpy().astype(np.float64)
    texture = np.zeros((CLOTH_SIZE, CLOTH_SIZE, 9), np.float32)
    albedo, height = clothes.paint(points)
    texture[..., :3] = albedo
    normals = np.cross(np.gradient(points, axis=1), np.gradient(points, axis=0))
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True).clip(1e-9)
    outwards = np.sign((normals * (points - [0, -1.6, -0.15])).sum(-1, keepdims=True))
    texture[..., 3:6] = bump_normals(points, normals * outwards, height) * seen.covered.numpy()[..., None]
    texture[..., 6:] = (0.25, 0.85, 0.0)
    return _padded(texture, seen.covered)


def _padded(texture: np.ndarray, valid: torch.Tensor) -> np.ndarray:
    planes = torch.from_numpy(texture).permute(2, 0, 1)
    return np.ascontiguousarray(dilate(planes, valid, PADDING).permute(1, 2, 0).numpy())
