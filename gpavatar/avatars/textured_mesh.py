"""The avatar that needs no training: the fitted head, textured from the photos, between layers cut out of the photo.

encode:  fit made exact at the landmarks -> texture from all photos -> eyes, teeth and mouth coloured -> layers.
render:  background, body, head mesh, hair, each rasterised once and laid over what is behind it.

It is the baseline that a learned method must beat, and supplies them with source pixels aligned to the head.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as functional
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gpavatar.avatars.base import Reference
from gpavatar.avatars.portrait_layers import FittedMesh, Layer, PortraitLayers, blur, dilate, smoothstep, split_portrait
from gpavatar.avatars.state_file import load_state, save_state
from gpavatar.camera import Camera
from gpavatar.face.open_head import JAW, PARTS, SHOULDERS, OpenHead
from gpavatar.face.raster import interpolate, rasterize, to_screen, vertex_normals
from gpavatar.face.refine import flattened, landmark_offsets, triangle_areas
from gpavatar.face.texture import HeadTexture, SkinMap, complete_eye, complete_skin
from gpavatar.face.uv import UnprojectedTexture, sample, texel_map, unproject
from gpavatar.face.uv import dilate as dilate_texture
from gpavatar.media.alpha import foreground
from gpavatar.types import HeadParams, InputError, RenderOutput, SourceFrame, map_tensors

TEXTURE_SIZE = 1024
VERSION = "1"
LASH_TEXELS = 4  # of 1024: the width of the rim of the lids that carries the lashes
JAW_SHADOW = (0.3, 0.42)  # units below the eyes between which the shadow of the jaw begins
REFERENCE_ADVANTAGE = 1.3  # times the cosine: the photo whose light and layers the rest is seen with decides more
SKIN_LUMA = 0.5  # mean colour of the skin at which the colours below hold
SCLERA = (0.72, 0.68, 0.66)
MOUTH_COLOURS = {
    "mouth_bag": (0.28, 0.09, 0.08),
    "tongue": (0.58, 0.29, 0.28),
    "gums_upper": (0.52, 0.26, 0.25),
    "gums_lower": (0.52, 0.26, 0.25),
    "teeth_upper": (0.92, 0.88, 0.81),
    "teeth_lower": (0.88, 0.84, 0.77),
}


@dataclass(frozen=True)
class TexturedMeshState:
    """A person, ready to be drawn."""

    reference: Reference
    offsets: Float[Tensor, "vert 3"]  # head space, what the head model lacks to meet this person's landmarks
    seen: HeadTexture  # what the photos showed
    texture: Float[Tensor, "3 height width"]  # [0, 1], completed
    layers: PortraitLayers


class TexturedMesh:
    """The method `textured_mesh`; implements `gpavatar.avatars.base.Avatar`."""

    name = "textured_mesh"

    def __init__(self, device: torch.device | str = "cpu", head: OpenHead | None = None):
        self.device = torch.device(device)
        self.head = (head or OpenHead.load()).to(self.device)
        self._texels = texel_map(self.head.topology, TEXTURE_SIZE)
        self._texel_parts = torch.where(self._texels.valid, self.head.face_parts[self._texels.face_ids], -1)
        self._skin = self._skin_map()
        self._blinks = [self.head.expression_names.index(name) for name in ("eyeBlinkLeft", "eyeBlinkRight")]
        self._drawn = ~self._part("lashes")  # the photo's own lashes are on the lids

    def encode(self, frames: Sequence[SourceFrame]) -> TexturedMeshState:
        """Fit, texture and layers from the photos; the first is the reference view and gives the layers."""
        first = frames[0]
        verts = self.head.verts(first.params)
        offsets = self._missing(first, verts)
        offsets = self._hide_ears(first, verts + offsets) - verts
        look = self._look(first, offsets)
        look = dataclasses.replace(look, weight=look.weight * REFERENCE_ADVANTAGE)
        seen = HeadTexture.empty(TEXTURE_SIZE).add(look)
        for frame in frames[1:]:
            seen = seen.add(self._look(frame, offsets))
        texture = self._complete(seen)
        colour = foreground(first.image, first.alpha)
        layers = split_portrait(first, colour, self._fitted(first, offsets, texture))
        reference = Reference(first.params, first.camera, first.image)
        return TexturedMeshState(reference, offsets, seen, texture, layers)

    def update(self, state: TexturedMeshState, frame: SourceFrame) -> TexturedMeshState:
        """One more photo for the texture; fit and layers stay with the reference view."""
        seen = state.seen.add(self._look(frame, state.offsets))
        return dataclasses.replace(state, seen=seen, texture=self._complete(seen))

    def render(
        self,
        state: TexturedMeshState,
        params: HeadParams,
        camera: Camera,
        size_px: int,
        background: Float[Tensor, "3 height width"] | None = None,
    ) -> RenderOutput:
        """Background, body, head mesh and hair, each over what is behind it: I = α C + (1 − α) I_behind."""
        reference, layers = state.reference, state.layers
        at_source = self._verts(reference.params, reference.params.shape, state.offsets)
        verts = self._verts(params, reference.params.shape, state.offsets)
        neck = self._neck(reference.params.shape)

        def draw(layer: Layer) -> tuple[Tensor, Tensor]:
            view = layer.view(reference.camera, camera, neck, verts - at_source)
            return _draw(layer, _screen(view, camera, size_px), size_px)

        image = layers.background if background is None else background
        if image.shape[-2:] != (size_px, size_px):
            image = functional.interpolate(image[None], (size_px, size_px), mode="bilinear", antialias=True)[0]
        alpha = torch.zeros_like(image[:1])
        back_hair, _ = draw(layers.back_hair)
        body, _ = draw(layers.body)
        mesh, mesh_depth = self._draw_mesh(state.texture, to_screen(verts, camera, size_px, size_px), size_px)
        hair, hair_depth = draw(layers.hair)
        in_front = functional.avg_pool2d(smoothstep(mesh_depth - hair_depth, -0.04, 0.04), 3, stride=1, padding=1)
        hair[3:] *= torch.where(mesh_depth > 0, 1 - mesh[3:] * (1 - in_front), 1.0)
        for layer in (back_hair, body, mesh, hair):
            image = torch.lerp(image, layer[:3], layer[3:])
            alpha = alpha + (1 - alpha) * layer[3:]
        return RenderOutput(image.clamp(0, 1), alpha.clamp(0, 1))

    def depth(
        self, state: TexturedMeshState, params: HeadParams, camera: Camera, size_px: int
    ) -> Float[Tensor, "1 height width"]:
        """Of the head mesh along the optical axis, units of head space; 0 where it is not seen."""
        verts = self._verts(params, state.reference.params.shape, state.offsets)
        screen = to_screen(verts, camera, size_px, size_px)
        return rasterize(screen, self.head.topology.faces[self._drawn], size_px, size_px).depth[None]

    def save(self, state: TexturedMeshState, path: str | Path) -> None:
        """Write one safetensors file; InputError where it cannot be written."""
        save_state(state, path, self._identity())

    def load(self, path: str | Path) -> TexturedMeshState:
        """Read what `save` wrote; InputError where it is not of this method, version and head."""
        state = load_state(TexturedMeshState, path, self._identity())
        for layer in (state.layers.back_hair, state.layers.body, state.layers.hair):
            # The rasteriser's kernels do not check: an index from a stranger's file must not read foreign memory.
            if not (_within(layer.faces, len(layer.verts)) and _within(layer.anchor, len(self.head.mean))):
                raise InputError(f"{path}: an index points at no vertex; make the avatar again")
        params = state.reference.params
        found = (len(state.offsets), params.shape.shape[-1], params.expression.shape[-1])
        if found != (len(self.head.mean), self.head.n_shape, self.head.n_expression):
            raise InputError(
                f"{path}: its parameters are not those of the head {self.head.name}; make the avatar again"
            )
        return map_tensors(state, lambda t: t.to(self.device, torch.float32 if t.is_floating_point() else t.dtype))

    @property
    def sha256(self) -> str:
        """Of all that the pictures depend on beside the photos: head file and version."""
        return hashlib.sha256(repr(sorted(self._identity().items())).encode()).hexdigest()

    def _identity(self) -> dict[str, str]:
        return {"method": self.name, "version": VERSION, "head": self.head.name, "head_sha256": self.head.sha256}

    def _verts(self, params: HeadParams, shape: Tensor, offsets: Tensor) -> Float[Tensor, "vert 3"]:
        return self.head.verts(dataclasses.replace(params, shape=shape)) + offsets

    def _missing(self, frame: SourceFrame, verts: Float[Tensor, "vert 3"]) -> Float[Tensor, "vert 3"]:
        return landmark_offsets(self.head, verts, frame.camera, frame.landmarks_px / frame.image.shape[-1])

    def _neck(self, shape: Tensor) -> Float[Tensor, "3"]:
        return self.head.with_shape(shape).joints[SHOULDERS]

    def _part(self, *names: str) -> Bool[Tensor, " face"]:
        return torch.isin(self.head.face_parts, torch.tensor([PARTS.index(name) for name in names]))

    def _draw_mesh(
        self, texture: Float[Tensor, "3 th tw"], screen: Float[Tensor, "vert 3"], size_px: int
    ) -> tuple[Float[Tensor, "4 h w"], Float[Tensor, "1 h w"]]:
        """The head mesh at twice the size, averaged, its neck faded into the body layer; and its depth (0: nothing)."""
        topology = self.head.topology
        faces, uv_faces = topology.faces[self._drawn], topology.uv_faces[self._drawn]
        fragments = rasterize(screen * screen.new_tensor([2, 2, 1]), faces, 2 * size_px, 2 * size_px)
        colour = sample(texture, fragments, topology.uv, uv_faces)
        fade = interpolate(fragments, smoothstep(self.head.head_weight, 0.5, 0.95)[:, None], faces)
        covered = fragments.covered[None].float()
        drawn = torch.cat([colour, fade, fragments.depth[None], covered])
        # The mean of 2 × 2 pixels; bilinear interpolation finds it three times faster than average pooling.
        sums = functional.interpolate(drawn[None], (size_px, size_px), mode="bilinear")[0]
        share = sums[5:].clamp_min(1e-6)
        return torch.cat([sums[:3] / share, sums[3:4]]), sums[4:5] / share

    def _fitted(
        self, frame: SourceFrame, offsets: Float[Tensor, "vert 3"], texture: Float[Tensor, "3 th tw"]
    ) -> FittedMesh:
        """The mesh in the first photo's pixels."""
        size, topology, camera = frame.image.shape[-1], self.head.topology, frame.camera
        verts = self._verts(frame.params, frame.params.shape, offsets)
        screen = to_screen(verts, camera, size, size)
        faces = topology.faces[self._drawn]
        fragments = rasterize(screen, faces, size, size)
        reach = self.head.expression.norm(dim=-1).amax(0) + self.head.joint_weights[:, JAW]
        marks = (self.head.head_weight, smoothstep(reach, 0.02, 0.06), topology.regions["ears"].float())
        weight, mobile, ears = interpolate(fragments, torch.stack(marks, -1), faces)[:, None]

        below = (self.head.head_weight[topology.faces] < 0.98).any(-1) & self._part("skin")
        bust = rasterize(screen, topology.faces[below], size, size)
        bust_colour = sample(texture, bust, topology.uv, topology.uv_faces[below])
        neck = self._neck(frame.params.shape)[None]
        neck_at = camera.project(neck)[0]
        rows = camera.project(verts)[:, 1]
        return FittedMesh(
            verts,
            skull=(fragments.covered & (weight > 0.5)).float(),
            bust=torch.cat([bust_colour, blur(bust.covered[None].float(), 2)]),
            ears=(ears > 0.5).float(),
            mobile=mobile,
            depth=torch.where(fragments.covered, fragments.depth, bust.depth)[None],
            centre_x=float(neck_at[0]),
            ears_y=float(rows[topology.regions["ears"]].mean()),
            chin_y=float(rows[self.head.head_weight > 0.95].max()),
            collar_y=float(neck_at[1]),
            neck_depth=float(camera.to_view(neck)[0, 2]),
        )

    def _hide_ears(self, frame: SourceFrame, verts: Float[Tensor, "vert 3"]) -> Float[Tensor, "vert 3"]:
        """Ears that the photo's hair covers drawn flat, so that they do not poke through it in another view."""
        ears, size = self.head.topology.regions["ears"], frame.image.shape[-1]
        x, y = frame.camera.project_px(verts, size, size).long().clamp(0, size - 1).unbind(-1)
        for side in (verts[:, 0] > 0, verts[:, 0] < 0):
            ear = ears & side
            if frame.hair[0, y[ear], x[ear]].mean() > 0.6:
                verts = flattened(verts, self.head.topology.faces, ear)
        return verts

    def _look(self, frame: SourceFrame, offsets: Float[Tensor, "vert 3"]) -> UnprojectedTexture:
        """What one photo shows of the head: RGB, hair, skin. Nothing that the outline's background shines through.

        Skin that lies in folds (the lids of an open eye, pursed lips) shows many texels in few pixels: its weight falls
        with the area of its triangle in the photo over the area that it has when the eyes are closed. The rim of the
        lids, whose lashes make the look of an eye, is as narrow as it looks: it counts in full.
        """
        verts = self._verts(frame.params, frame.params.shape, offsets)
        verts = verts + self._missing(frame, verts)
        skin = frame.face + frame.body
        picture = torch.cat([foreground(frame.image, frame.alpha), frame.hair, skin, dilate(frame.alpha, -4)])
        seen = unproject(picture, frame.camera, verts, self.head.topology, self._texels)
        closed = torch.zeros_like(frame.params.expression)
        closed[self._blinks] = 1.0
        spread = self._verts(dataclasses.replace(frame.params, expression=closed), frame.params.shape, offsets)
        shown = triangle_areas(frame.camera.project(verts), self.head.topology.faces)
        whole = triangle_areas(spread, self.head.topology.faces)
        whole = whole * frame.camera.intrinsics[:2].prod() / frame.camera.to_view(verts)[:, 2].mean() ** 2
        unfolded = smoothstep(shown / whole.clamp_min(1e-9), 0.15, 0.4)[self._texels.face_ids]
        weight = seen.weight * smoothstep(seen.colour[5:], 0.7, 1.0) * unfolded
        shown = seen.weight * self._skin.lashes
        return UnprojectedTexture(seen.colour[:5], torch.maximum(weight, smoothstep(shown, 0.05, 0.2)))

    def _skin_map(self) -> SkinMap:
        topology, regions = self.head.topology, self.head.topology.regions
        downward = -vertex_normals(self.head.mean, topology.faces)[:, 1].clamp_max(0)
        under_jaw = downward * smoothstep(-self.head.mean[:, 1], *JAW_SHADOW)
        marks = torch.stack([regions["scalp"].float(), regions["eyelids"].float(), under_jaw], -1)
        scalp, lids, under_jaw = self._texels.on(marks, topology.faces)
        skin = self._texel_parts == PARTS.index("skin")
        lids = (lids > 0.5) & skin
        lashes = dilate(lids[None].float(), round(LASH_TEXELS * TEXTURE_SIZE / 1024)) * (skin & ~lids)
        return SkinMap(skin, scalp > 0.5, lids, lashes, under_jaw[None])

    def _complete(self, seen: HeadTexture) -> Float[Tensor, "3 height width"]:
        """The whole texture: skin from the photos, eyes round the iris, the mouth's inside in plain colours.

        Teeth keep what the photos show of them as far as it is bright and pale enough to be no lip. The inside of the
        mouth is as light as the skin, and darker the further back.
        """
        texels, head, part = self._texels, self.head, self._texel_parts
        colour = complete_skin(seen, self._skin)
        light = colour[:, self._skin.skin].mean() / SKIN_LUMA

        depth = texels.on(head.mean, head.topology.faces)[2]
        for name, plain in MOUTH_COLOURS.items():
            own = part == PARTS.index(name)
            shade = 0.2 + 0.8 * smoothstep(depth[own], depth[own].min(), depth[own].max())
            colour[:, own] = torch.tensor(plain)[:, None] * light * shade
        tooth = torch.isin(part, torch.tensor([PARTS.index("teeth_upper"), PARTS.index("teeth_lower")]))
        low, high = seen.colour.amin(0), seen.colour.amax(0)
        enamel = smoothstep(low, 0.5 * light, 0.75 * light) * smoothstep(low / high.clamp_min(1e-3), 0.65, 0.8)
        colour = torch.lerp(colour, seen.colour, seen.seen * tooth * enamel)

        for eye in ("eye_left", "eye_right"):
            own = part == PARTS.index(eye)
            at = texels.on(head.mean, head.topology.faces)
            centre = at[:, own].mean(1)
            direction = functional.normalize(at - centre[:, None, None], dim=0)
            angle = torch.where(own, direction[2].clamp(-1, 1).arccos(), torch.nan)
            colour = torch.where(own, torch.tensor(SCLERA)[:, None, None] * light, colour)
            colour = complete_eye(colour.lerp(seen.colour, seen.seen * own), seen.seen * own, angle)
        return dilate_texture(colour.clamp(0, 1), texels.valid, 4)


def _within(index: Int[Tensor, "..."], count: int) -> bool:
    return bool(((index >= 0) & (index < count)).all())


def _screen(view: Float[Tensor, "vert 3"], camera: Camera, size_px: int) -> Float[Tensor, "vert 3"]:
    """View coordinates -> (x_px, y_px, z)."""
    uv = view[:, :2] / view[:, 2:] * camera.intrinsics[:2] + camera.intrinsics[2:]
    return torch.cat([uv * size_px, view[:, 2:]], -1)


def _draw(
    layer: Layer, screen: Float[Tensor, "vert 3"], size_px: int
) -> tuple[Float[Tensor, "4 h w"], Float[Tensor, "1 h w"]]:
    """A layer's colour and alpha, and its depth (0 where it is not). A bald head has layers without a triangle."""
    if not len(layer.faces):
        return screen.new_zeros(4, size_px, size_px), screen.new_zeros(1, size_px, size_px)
    fragments = rasterize(screen, layer.faces, size_px, size_px)
    return sample(layer.texture, fragments, layer.uv, layer.faces), fragments.depth[None]
