"""What a photo shows beyond the head model: hair, neck, shoulders and background, as layers that move on their own.

A layer is a relief: a grid of triangles laid over the photo, each vertex pushed to a depth that continues the fitted
head, textured with the photo and its matte. Every vertex says how far it follows the head (1) or stays with the body
(0); its position in the new view is the blend of the two rigid motions (linear blend skinning in view space):

    v' = f · w2c' (p + a·Δ) + (1 − f) · (w2c p + b),     b = w2c' n − w2c n

p: position in head space at the source pose, Δ: expression motion of the head vertex that the point is tied to, a: how
tightly, n: the neck joint, b: the body's translation. Shoulders therefore shift with the neck but do not turn.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gpavatar.camera import Camera
from gpavatar.media.inpaint import inpaint, push_pull
from gpavatar.types import SourceFrame

GRID_PX = 8  # spacing of a relief's vertices, in pixels of a 512 px photo
MARGIN = 8  # cells by which a relief reaches over the photo's border, so that a moving body uncovers no edge
HAIR_THICKNESS = 0.05  # units: hair lies this much in front of the skin that it covers


@dataclass(frozen=True)
class Layer:
    """A textured relief of a part of the photo."""

    verts: Float[Tensor, "vert 3"]  # head space, at the pose of the photo
    faces: Int[Tensor, "face 3"]
    uv: Float[Tensor, "vert 2"]  # (0, 0) the upper left corner of the photo, (1, 1) the lower right; clamped beyond
    texture: Float[Tensor, "4 height width"]  # [0, 1], RGB not premultiplied, and alpha
    follow: Float[Tensor, " vert"]  # 1: moves with the head, 0: stays with the body
    anchor: Int[Tensor, " vert"]  # the head vertex whose expression motion the point shares
    anchor_weight: Float[Tensor, " vert"]  # [0, 1], how much of it

    def view(
        self, source: Camera, camera: Camera, neck: Float[Tensor, "3"], motion: Float[Tensor, "head_vert 3"]
    ) -> Float[Tensor, "vert 3"]:
        """Vertices in the coordinates of `camera`; `motion` is how the expression moved each head vertex."""
        with_head = camera.to_view(self.verts + self.anchor_weight[:, None] * motion[self.anchor])
        shift = camera.to_view(neck[None]) - source.to_view(neck[None])
        with_body = source.to_view(self.verts) + shift
        follow = self.follow[:, None]
        return follow * with_head + (1 - follow) * with_body


@dataclass(frozen=True)
class FittedMesh:
    """The fitted head in the photo's pixels: what the layers are measured against."""

    verts: Float[Tensor, "vert 3"]  # head space, source expression and pose
    skull: Float[Tensor, "1 height width"]  # 1 where the head above the neck is seen
    bust: Float[Tensor, "4 height width"]  # RGB and alpha of the neck and shoulders, as if there were no head
    ears: Float[Tensor, "1 height width"]  # 1 where an ear is seen
    mobile: Float[Tensor, "1 height width"]  # [0, 1], 1 where expressions move the skin: the mesh owns those pixels
    depth: Float[Tensor, "1 height width"]  # view depth; meaningless where neither skull nor neck
    centre_x: float  # column of the neck joint, in photo widths
    ears_y: float  # row of the middle of the ears, in photo heights
    chin_y: float  # row of the chin, in photo heights
    collar_y: float  # row of the neck joint, in photo heights
    neck_depth: float  # view depth of the neck joint


@dataclass(frozen=True)
class PortraitLayers:
    """A photo taken apart, back to front; the head mesh goes between body and hair."""

    background: Float[Tensor, "3 height width"]  # [0, 1], filled in behind the person
    back_hair: Layer  # what hair on both sides implies behind head and neck
    body: Layer  # neck and shoulders, filled in behind head and hair
    hair: Layer  # hair, headwear and the rim of skin outside the mesh


def split_portrait(frame: SourceFrame, colour: Float[Tensor, "3 height width"], mesh: FittedMesh) -> PortraitLayers:
    """Take a photo apart. `colour` is the person's own colour, free of background in soft edges."""
    alpha, size = frame.alpha, frame.image.shape[-1]
    unit = size / 512
    at = (torch.arange(size, device=alpha.device) + 0.5) / size
    rows = at[None, :, None]

    def px(radius: int | float) -> int:
        return max(1, round(radius * unit))

    hair = frame.hair * (1 - mesh.mobile)
    # The network takes a bald crown for any skin: what is beside the skull and above the ears belongs to the head.
    near = blur(dilate(mesh.skull, px(20)), px(4)) * (1 - smoothstep(rows, mesh.ears_y, mesh.ears_y + 0.05))
    face = frame.face + near * (alpha - frame.hair - frame.face).clamp_min(0)
    crown = dilate(mesh.skull, px(12)) * (1 - smoothstep(rows, mesh.ears_y - 0.03, mesh.ears_y))
    edge = blur(torch.maximum(crown, dilate(mesh.ears, px(12))), px(3)) * (1 - blur(mesh.skull, 1))
    rim = face * smoothstep(alpha, 0.8, 1.0) * edge
    hair_alpha = torch.maximum(hair, rim)

    implied = _between(frame.hair > 0.5) * (alpha > 0.5)
    hair_colour = push_pull(colour, dilate((frame.hair > 0.9).float(), -px(2)))
    back_alpha = blur(torch.maximum(implied, frame.hair), px(1)) * alpha

    below = alpha * smoothstep(1 - (frame.hair + face) / alpha.clamp_min(1e-3), 0.3, 0.7)
    hidden = torch.maximum(frame.hair + face, blur(mesh.skull, 1))
    filled = push_pull(colour, (below > 0.9).float())
    filled = torch.lerp(filled, mesh.bust[:3], mesh.bust[3:] * smoothstep(mesh.collar_y - rows, -0.05, 0.05))
    body_colour = torch.lerp(colour, filled, dilate(hidden, px(2)))
    guess = smoothstep(push_pull(alpha, (hidden < 0.1).float()), 0.3, 0.5) * smoothstep(
        rows, mesh.chin_y, mesh.collar_y
    )
    body_alpha = torch.maximum(below, hidden * alpha * torch.maximum(guess, mesh.bust[3:]))

    background = inpaint(frame.image, dilate((alpha > 0.03).float(), px(8)))
    return PortraitLayers(
        background,
        back_hair=_hair_layer(frame.camera, torch.cat([0.75 * hair_colour, back_alpha]), mesh, HAIR_THICKNESS),
        body=_body_layer(frame.camera, torch.cat([body_colour, body_alpha]), mesh),
        hair=_hair_layer(frame.camera, torch.cat([colour, hair_alpha]), mesh, -HAIR_THICKNESS),
    )


def _between(mask: Bool[Tensor, "1 height width"]) -> Float[Tensor, "1 height width"]:
    """1 where the mask is set somewhere to the left and somewhere to the right in the same row."""
    left = mask.float().cummax(-1).values
    right = mask.float().flip(-1).cummax(-1).values.flip(-1)
    return left * right


def _hair_layer(camera: Camera, texture: Float[Tensor, "4 height width"], mesh: FittedMesh, behind: float) -> Layer:
    """On the skull `behind` units from its surface; beyond the outline at the outline's depth.

    So the layer behind the head goes on without a gap, when the head turns, into the hair that is seen. The outline is
    taken thin: a little way inside it the skull is already much nearer, and what is hung there would swing out.
    """
    outline = mesh.skull * (1 - dilate(mesh.skull, -max(1, round(texture.shape[-1] * 0.004))))
    beyond = push_pull(mesh.depth, outline)
    depth = blur(torch.where(mesh.skull > 0, mesh.depth + behind, beyond), 2)
    uv, faces = relief_grid(texture[3:])
    verts = lift(uv, depth, camera)
    follow = 1 - smoothstep(uv[:, 1], mesh.chin_y, mesh.collar_y + 0.2)
    return Layer(verts, faces, uv, texture, follow, *tie(verts, mesh.verts))


def _body_layer(camera: Camera, texture: Float[Tensor, "4 height width"], mesh: FittedMesh) -> Layer:
    """Neck and shoulders on the bust of the mesh, everything else in the upright plane through the neck joint."""
    size = texture.shape[-1]
    bust = (mesh.bust[3:] > 0.5) * (1 - mesh.skull)
    plane = torch.full_like(mesh.depth, mesh.neck_depth)
    depth = blur(torch.where(bust > 0, mesh.depth, plane), max(1, round(size * 0.02)))
    uv, faces = relief_grid(texture[3:])
    verts = lift(uv, depth, camera)
    beside = smoothstep((uv[:, 0] - mesh.centre_x).abs(), 0.12, 0.25)
    follow = (1 - smoothstep(uv[:, 1], mesh.chin_y, mesh.collar_y + 0.03)) * (1 - beside)
    anchor, weight = tie(verts, mesh.verts)
    return Layer(verts, faces, mirrored(uv), texture, follow, anchor, torch.zeros_like(weight))


def relief_grid(alpha: Float[Tensor, "1 height width"]) -> tuple[Float[Tensor, "vert 2"], Int[Tensor, "face 3"]]:
    """UV and triangles of a grid over the photo and `MARGIN` cells around, without the cells that alpha leaves empty.

    UVs beyond the photo lie outside [0, 1].
    """
    cells = round(512 / GRID_PX)
    steps = torch.arange(-MARGIN, cells + MARGIN + 1, device=alpha.device) / cells
    uv = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1)
    width = len(steps)
    corner = torch.arange(width * width, device=alpha.device).reshape(width, width)
    a, b, c, d = corner[:-1, :-1], corner[:-1, 1:], corner[1:, :-1], corner[1:, 1:]
    full = functional.adaptive_max_pool2d((dilate(alpha, 2) > 0.01).float()[None], cells)
    used = functional.pad(full, [MARGIN] * 4, mode="replicate")[0, 0] > 0
    quads = torch.stack([a, c, b, b, c, d], -1)[used].reshape(-1, 3)
    kept, faces = quads.unique(return_inverse=True)
    return uv.reshape(-1, 2)[kept], faces


def mirrored(uv: Float[Tensor, "vert 2"]) -> Float[Tensor, "vert 2"]:
    """UVs beyond the photo brought back into it: cloth that goes on mirrored is looked past, smeared cloth is not."""
    return 1 - (1 - uv.abs()).abs()


def lift(
    uv: Float[Tensor, "vert 2"], depth: Float[Tensor, "1 height width"], camera: Camera
) -> Float[Tensor, "vert 3"]:
    """Photo coordinates and view depth -> head space: p = c2w [(uv − c) / f · z, z]."""
    z = functional.grid_sample(depth[None], 2 * uv[None, None] - 1, padding_mode="border", align_corners=False)
    z = z.reshape(-1, 1)
    view = torch.cat([(uv - camera.intrinsics[2:]) / camera.intrinsics[:2] * z, z], -1)
    return view @ camera.c2w[:3, :3].T + camera.c2w[:3, 3]


def tie(
    verts: Float[Tensor, "vert 3"], head_verts: Float[Tensor, "head_vert 3"], reach: float = 0.15
) -> tuple[Int[Tensor, " vert"], Float[Tensor, " vert"]]:
    """The nearest head vertex of each point, and how much of its motion reaches the point: exp(−(d / reach)²)."""
    distance, nearest = torch.cdist(verts, head_verts).min(-1)
    return nearest, torch.exp(-((distance / reach) ** 2))


def blur(image: Float[Tensor, "channel height width"], radius_px: int) -> Float[Tensor, "channel height width"]:
    """Three box filters, close to a Gaussian of standard deviation ~ radius; edges replicated."""
    size = 2 * radius_px + 1
    out = image[None]
    for _ in range(3):
        out = functional.avg_pool2d(functional.pad(out, [radius_px] * 4, mode="replicate"), size, stride=1)
    return out[0]


def dilate(mask: Float[Tensor, "1 height width"], radius_px: int) -> Float[Tensor, "1 height width"]:
    """Largest value within a square of the given radius (erode with a negative one)."""
    if radius_px < 0:
        return -dilate(-mask, -radius_px)
    return functional.max_pool2d(mask[None], 2 * radius_px + 1, stride=1, padding=radius_px)[0]


def smoothstep(x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """0 below `low`, 1 above `high`, with zero slope at both ends: t²(3 − 2t)."""
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)
