"""The animatable 3-D prior of InvertAvatar (section 3.1): a style, a posed face and a camera -> a picture of a person.

w = mapping(z, pose)                       one style for all three generators
F_tex = G_tex(w), F_tri = G_static(w)      the person: features on the atlas, and three planes that stand still
planes = blend(G_face(w, F_tex drawn by the posed mesh), F_tri)
image = super-resolution(volume rendering(planes, camera), w)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gpavatar.avatars.face_generator import FaceGenerator, NeuralTexture
from gpavatar.camera import Camera
from gpavatar.face.plane_views import FaceSurface, FaceViews, Window, face_views
from gpavatar.field.plane_decoder import PlaneDecoder
from gpavatar.field.radiance import FieldSamples
from gpavatar.render.rays import camera_rays
from gpavatar.render.volume import VolumeConfig, render_volume
from gpavatar.synthesis.mapping import Mapping, MappingConfig, pose_code
from gpavatar.synthesis.style_generator import FeatureTransform, StyleGenerator, StyleGeneratorConfig
from gpavatar.synthesis.super_resolution import SuperResolution, SuperResolutionConfig
from gpavatar.triplane.face_planes import with_face
from gpavatar.triplane.lookup import sample_planes


@dataclass(frozen=True)
class PriorConfig:
    """The parts of the prior; sizes stand above each part."""

    head: str = "open_head"
    """Whose mesh carries the texture."""
    mapping: MappingConfig = field(default_factory=MappingConfig)
    backbone: StyleGeneratorConfig = field(default_factory=StyleGeneratorConfig)
    """Of each of the three generators; the size is that of texture, face window and planes."""
    plane_dim: int = 32
    conditioned_px: tuple[int, int, int] = (32, 64, 128)
    """Resolutions at which the drawn texture enters G_face, all below that of the backbone."""
    views: tuple[str, ...] = ("front", "left", "right")
    """From where the texture is drawn into planes; released: the front alone."""
    window_centre: tuple[float, float, float] = (0.0, -0.125, 0.25)
    window_half: float = 0.625
    """The part of the planes that the face can reach, head units."""
    decoder_dim: int = 64
    feat_dim: int = 32
    """Channels that are rendered; the first three are RGB."""
    volume: VolumeConfig = field(default_factory=lambda: VolumeConfig(size_px=128, num_coarse=48, num_fine=48))
    super_resolution: SuperResolutionConfig = field(default_factory=SuperResolutionConfig)

    @property
    def window(self) -> Window:
        """Of all views."""
        return Window(self.window_centre, self.window_half)


@dataclass(frozen=True)
class Canonical:
    """A person in the prior's spaces, whatever face they make: what inversion is after."""

    styles: Float[Tensor, "batch layer style"]  # W+
    texture: NeuralTexture  # F_tex
    static: Float[Tensor, "batch 3 channel size size"]  # F_tri: planes xy, xz, yz


@dataclass(frozen=True)
class PriorOutput:
    """A batch of frames, on black."""

    feats: Float[Tensor, "batch channel small small"]  # rendered; all in [0, 1]
    image: Float[Tensor, "batch 3 size size"]  # [0, 1], but for what overshoots
    opacity: Float[Tensor, "batch 1 small small"]  # [0, 1]
    depth: Float[Tensor, "batch 1 small small"]  # head units along the ray

    @property
    def raw(self) -> Float[Tensor, "batch 3 small small"]:
        """The rendered picture before super-resolution, I_raw; [0, 1]."""
        return self.feats[:, :3]


class AnimatablePrior(nn.Module):
    """See the head of this file. The networks know the mesh only as it is drawn: `FaceViews`."""

    def __init__(self, config: PriorConfig):
        super().__init__()
        self.config = config
        backbone, style_dim = config.backbone, config.backbone.style_dim
        self.mapping = Mapping(config.mapping, style_dim)
        coarse_px, _, fine_px = config.conditioned_px
        self.texture_generator = StyleGenerator(backbone, config.plane_dim, last_px=fine_px, image_px=coarse_px)
        self.static_generator = StyleGenerator(backbone, 3 * config.plane_dim)
        self.face_generator = FaceGenerator(backbone, config.plane_dim, config.conditioned_px, config.views)
        self.decoder = PlaneDecoder(config.plane_dim, config.feat_dim, config.decoder_dim)
        self.super_resolution = SuperResolution(config.super_resolution, config.feat_dim, style_dim)

    @property
    def num_styles(self) -> int:
        """Layers of W+."""
        return self.config.backbone.num_styles

    @property
    def texture_shapes(self) -> tuple[tuple[int, int], ...]:
        """(channels, side) of the parts of F_tex, in the order of its fields: what E_tex's offsets must be."""
        sizes = self.config.conditioned_px
        return ((self.config.plane_dim, sizes[0]), *((self.config.backbone.channels(size), size) for size in sizes))

    @property
    def static_shapes(self) -> tuple[tuple[int, int], ...]:
        """(channels, side) of G_static's features, coarse to fine; a transform has half of the channels."""
        return tuple((self.config.backbone.channels(size), size) for size in self.config.backbone.sizes)

    def styles(
        self, code: Float[Tensor, "batch code"], seen_from: Camera, truncation: float = 1.0
    ) -> Float[Tensor, "batch layer style"]:
        """z -> W+, all layers alike; `seen_from` is the pose that the generator may know."""
        style = self.mapping(code, pose_code(seen_from), truncation)
        return style[:, None].expand(-1, self.num_styles, -1)

    def sample_styles(
        self, seen_from: Camera, rng: torch.Generator, truncation: float = 1.0
    ) -> Float[Tensor, "batch layer style"]:
        """As many people as there are cameras, by chance: the same ones for the same state of `rng`."""
        shape = len(seen_from.c2w), self.config.mapping.code_dim
        code = torch.randn(shape, generator=rng, device=rng.device).to(seen_from.c2w)
        return self.styles(code, seen_from, truncation)

    def mean_styles(self, batch: int) -> Float[Tensor, "batch layer style"]:
        """The mean face; E_latent's output is added to it."""
        return self.mapping.mean.expand(batch, self.num_styles, -1)

    def texture(self, styles: Float[Tensor, "batch layer style"]) -> NeuralTexture:
        """F_tex = G_tex(w): features on the atlas."""
        return NeuralTexture.of(self.texture_generator(styles), self.config.conditioned_px)

    def static(
        self, styles: Float[Tensor, "batch layer style"], transforms: Sequence[FeatureTransform] = ()
    ) -> Float[Tensor, "batch 3 channel size size"]:
        """F_tri = G_static(w), spatially modulated where there are transforms: planes xy, xz, yz."""
        return self.static_generator(styles, transforms=transforms)[-1].image.unflatten(1, (3, -1))

    def canonical(
        self,
        styles: Float[Tensor, "batch layer style"],
        offsets: NeuralTexture | None = None,
        transforms: Sequence[FeatureTransform] = (),
    ) -> Canonical:
        """The person of these styles, refined by E_tex's offsets and E_tri's transforms (section 3.2)."""
        texture = self.texture(styles)
        return Canonical(styles, texture.plus(offsets) if offsets else texture, self.static(styles, transforms))

    def views(self, verts: Float[Tensor, "batch vert 3"], surface: FaceSurface) -> FaceViews:
        """The posed mesh as the face generator takes it; no gradient."""
        return face_views(verts, surface, self.config.views, self.config.window, self.config.conditioned_px)

    def planes(self, person: Canonical, views: FaceViews) -> Float[Tensor, "batch 3 channel size size"]:
        """The person with the drawn face: G_face's planes, alpha-blended over the static ones."""
        planes = person.static
        for face in self.face_generator(person.styles, person.texture, views):
            planes = with_face(planes, face, *self.config.window.texels(face.plane, planes.shape[-1]))
        return planes

    def render(
        self,
        planes: Float[Tensor, "batch 3 channel size size"],
        style: Float[Tensor, "batch style"],
        camera: Camera,
        *,
        size_px: int = 0,
        jitter: bool = False,
        rng: torch.Generator | None = None,
    ) -> PriorOutput:
        """Volume rendering at `size_px` (0: the config's) and super-resolution with the last layer's style."""
        volume = self.config.volume
        size_px = size_px or volume.size_px
        rays = camera_rays(camera, size_px, volume.pixel_grid)
        seen = render_volume(PlaneField(self.decoder, planes), rays, volume, jitter=jitter, rng=rng).fine
        flat = torch.cat([seen.feats, seen.opacity[..., None], seen.depth[..., None]], -1)
        picture = flat.transpose(1, 2).unflatten(2, (size_px, size_px))
        feats, opacity, depth = picture.split([self.config.feat_dim, 1, 1], 1)
        return PriorOutput(feats, self.super_resolution(feats, style), opacity, depth)

    def animate(
        self,
        person: Canonical,
        views: FaceViews,
        camera: Camera,
        *,
        size_px: int = 0,
        jitter: bool = False,
        rng: torch.Generator | None = None,
    ) -> PriorOutput:
        """R(G_face(F_tex), F_tri): the person with this face, seen from this camera."""
        options = {"size_px": size_px, "jitter": jitter, "rng": rng}
        return self.render(self.planes(person, views), person.styles[:, -1], camera, **options)

    def forward(
        self, styles: Float[Tensor, "batch layer style"], views: FaceViews, camera: Camera, **options
    ) -> PriorOutput:
        """The whole way from styles; options as in `animate`."""
        return self.animate(self.canonical(styles), views, camera, **options)


@dataclass(frozen=True)
class PlaneField:
    """Planes as a field of density and features (`gpavatar.render.volume.Field`); nothing is outside [-1, 1]³."""

    decoder: PlaneDecoder
    planes: Float[Tensor, "batch 3 channel size size"]

    def over_pass(self, points: Float[Tensor, "batch sample 3"]) -> PlaneField:
        """A function of the point alone."""
        return self

    def __call__(self, points: Float[Tensor, "batch sample 3"], dirs: Float[Tensor, "batch sample 3"]) -> FieldSamples:
        """See `Field`."""
        found = self.decoder(sample_planes(self.planes, points))
        return FieldSamples(found.sigma * (points.abs() <= 1).all(-1), found.feats)
