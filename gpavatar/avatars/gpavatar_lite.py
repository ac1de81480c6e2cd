"""`gpavatar_lite`: GPAvatar with source pixels. Photos -> views and canonical planes; a head drives; rays; a picture.

    σ, c, …  =  R( planes(x), PEF(x), Σ_s β_s photo_s(x) )        at 16 samples of each of 64 × 64 rays
    I        =  mended( Σ_s β_s photo_s(p + d_s) )                 at 256 × 256, d_s rendered along the rays

A hundred people cannot teach a network what faces look like, so appearance comes from the photos: every sample is
carried back into each (`gpavatar_lite_warp`), and the network says how much each counts, β_s, and what is missing. All
that is learned starts at zero: the untrained network draws the photos on the tracked geometry.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor, nn

from gpavatar.avatars.backdrop import resized
from gpavatar.avatars.gpavatar_lite_picture import (
    Gathered,
    PictureConfig,
    PictureNet,
    Placing,
    corrected,
    enlarged,
    placing,
    put_in_place,
)
from gpavatar.avatars.gpavatar_lite_warp import (
    HIDDEN,
    OCCLUDED,
    SHARPNESS,
    THICKNESS,
    DrivenMesh,
    HeadPose,
    LiteHead,
    Relief,
    SourceViews,
    carry,
    in_frame,
    on_mesh,
    spread,
)
from gpavatar.avatars.portrait_layers import smoothstep
from gpavatar.field.point_field import BoundPointField, Neighbours, PointField, PointFieldConfig
from gpavatar.field.twin import Precision, choose_twin
from gpavatar.render.composite import accumulate, ray_weights
from gpavatar.render.rays import Rays, camera_rays
from gpavatar.render.sampling import even_edges, intervals_around, jittered, midpoints
from gpavatar.synthesis.style_unet import StyleUNetConfig
from gpavatar.triplane.attention import AttentionConfig, PlaneAttention
from gpavatar.triplane.encoder import CanonicalEncoder, EncoderConfig, align
from gpavatar.triplane.lookup import sample_planes
from gpavatar.types import InputError, map_tensors

SHELL = (-0.06, 0.12)  # units before and behind the relief in which most samples of a ray lie
SKIN = (0.02, 0.03)  # units: where behind the relief the person is densest, and how thick
DENSITY = 120.0  # per unit, there
FAINT = 0.02  # weight of the relief in what a ray says of places, so that an empty ray says something
CHUNK = 2**13  # samples at once without gradients; see `render/volume.py`


@dataclass(frozen=True)
class GPAvatarLiteConfig:
    """Sizes and the switches of the ablations."""

    head: str = "open_head"
    size_px: int = 256
    rays_px: int = 64
    shell_samples: int = 10
    cube_samples: int = 6
    encoder: EncoderConfig = field(
        default_factory=lambda: EncoderConfig(
            StyleUNetConfig(in_size_px=256, out_size_px=128, out_dim=48, style_dim=128, mlp_depth=2, width=0.25)
        )
    )
    attention: AttentionConfig = field(default_factory=lambda: AttentionConfig(plane_dim=16, plane_size=128))
    """weighting=mean: ablation "mean instead of MTA"."""
    point_field: PointFieldConfig = field(
        default_factory=lambda: PointFieldConfig(point_dim=16, hidden_dim=32, out_dim=16, num_neighbours=4, octaves=4)
    )
    expression: Literal["points", "none"] = "points"
    """"none": ablation "w/o PEF"; the warp stays."""
    pixels: bool = True
    """False: ablation "without pixel-aligned sources": colour comes from planes and expression field alone."""
    shallow_dim: int = 8
    hidden_dim: int = 64
    feat_dim: int = 12
    picture: PictureConfig = field(default_factory=PictureConfig)


@dataclass(frozen=True)
class Person:
    """What is made of the photos once."""

    views: SourceViews
    maps: Float[Tensor, "batch source map small small"]  # RGB and alpha, those behind, relief, shallow features
    planes: Float[Tensor, "batch 3 channel plane plane"]  # fused
    fine: Float[Tensor, "batch source 4 large large"] | None = None  # the photos as they were given, where larger


@dataclass(frozen=True)
class LiteOutput:
    """A batch of frames, the person on black."""

    low: Float[Tensor, "batch 3 small small"]  # as the rays have it
    image: Float[Tensor, "batch 3 size size"]
    alpha: Float[Tensor, "batch 1 size size"]  # [0, 1]
    opacity: Float[Tensor, "batch 1 small small"]  # [0, 1], of the rays
    depth: Float[Tensor, "batch 1 small small"]  # along the axis, units; of what is met, else of the relief
    relief: Float[Tensor, "batch 1 small small"]  # the mesh's depth, carried on beside it
    cover: Float[Tensor, "batch 1 small small"]  # [0, 1], how far the mesh covers the pixel
    base: Float[Tensor, "batch 3 size size"]  # the warped photos before the networks mend them


@dataclass(frozen=True)
class Seen:
    """A batch of frames before the networks mend them."""

    placing: Placing
    base: Gathered
    feats: Float[Tensor, "batch feat small small"]  # RGB first
    opacity: Float[Tensor, "batch 1 small small"]
    depth: Float[Tensor, "batch 1 small small"]
    around: Relief


@dataclass(frozen=True)
class LiteFrame:
    """Everything that samples of one frame (per batch entry) need."""

    person: Person
    mesh: DrivenMesh
    points: BoundPointField
    table: Float[Tensor, "batch cloud column"]
    precision: Precision = "reference"


@dataclass(frozen=True)
class LiteSamples:
    """What is found at samples."""

    sigma: Float[Tensor, "batch sample"]  # >= 0, per unit
    values: Float[Tensor, "batch sample channel"]  # RGB 3, feats, seen, covered, per photo β and β · displacement (2)


class GPAvatarLite(nn.Module):
    """The networks and the geometry between them. `head` has no parameters."""

    def __init__(self, config: GPAvatarLiteConfig, head: LiteHead):
        super().__init__()
        self.config, self.head = config, head
        self.encoder = CanonicalEncoder(config.encoder)
        self.attention = PlaneAttention(config.attention)
        self.shallow = nn.Sequential(
            nn.Conv2d(4, 16, 3, stride=2, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(16, config.shallow_dim, 3, padding=1)
        )
        self.point_field = PointField(len(head.cloud), config.point_field)
        self.choice = nn.Sequential(nn.Linear(config.shallow_dim + 7, 16), nn.ReLU(), nn.Linear(16, 1))
        in_dim = config.encoder.net.out_dim // 3 + config.point_field.out_dim + config.shallow_dim + 3 + 5
        self.radiance = nn.Sequential(
            nn.Linear(in_dim, config.hidden_dim),
            nn.ReLU(),
            nn.Linear(config.hidden_dim, config.hidden_dim),
            nn.ReLU(),
            nn.Linear(config.hidden_dim, 2 + 3 + config.feat_dim),
        )
        self.picture = PictureNet(3 + config.feat_dim + 4, config.picture)
        for layer in (self.choice[-1], self.radiance[-1]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def encode(
        self,
        image: Float[Tensor, "batch source 3 height width"],
        alpha: Float[Tensor, "batch source 1 height width"],
        pose: HeadPose,
    ) -> Person:
        """Photos, mattes and the heads in them -> what a person is driven from. Once per person.

        Photos that are larger than the network are kept for `forward`'s `size_px`. InputError where their side is no
        power of two.
        """
        batch, sources = image.shape[:2]
        if image.shape[-1] & (image.shape[-1] - 1):
            raise InputError(f"photos of {image.shape[-1]} px: give sides that are powers of two, such as 256 or 512")
        large, fine = image.shape[-1] > self.config.size_px, None
        if large:
            fine = spread(image.flatten(0, 1), alpha.flatten(0, 1)).unflatten(0, (batch, sources))
            image, alpha = (resized(x, self.config.size_px) for x in (image, alpha))
        with torch.no_grad():
            views = self.head.views(image, alpha, pose)
        flat, camera = (image * alpha).flatten(0, 1), pose.camera
        upright = align(flat, type(camera)(camera.c2w.flatten(0, 1), camera.intrinsics.flatten(0, 1)), flat.shape[-1])
        planes = self.encoder(upright).unflatten(0, (batch, sources))
        shallow = self.shallow(torch.cat([flat, alpha.flatten(0, 1)], 1)).unflatten(0, (batch, sources))
        small = functional.avg_pool2d(views.picture.flatten(0, 1), 2)
        maps = torch.cat([small.unflatten(0, (batch, sources)), views.behind, views.relief, shallow], 2)
        return Person(views, maps, self.attention(planes), fine)

    def forward(
        self,
        person: Person,
        pose: HeadPose,
        *,
        jitter: bool = False,
        rng: torch.Generator | None = None,
        precision: Precision = "reference",
        size_px: int = 0,
    ) -> LiteOutput:
        """A frame of each person: the head as it is posed, from its camera.

        Beyond the network's own size, `size_px` is met by photos that are larger than it: their pixels go where those
        of the small ones went, and what the networks change is enlarged. So the result is of one of the two sizes.
        """
        learns = torch.is_grad_enabled() and any(
            p.requires_grad for name, p in self.named_parameters() if not name.startswith("picture.")
        )
        with torch.set_grad_enabled(learns):
            seen = self.look(person, pose, jitter=jitter, rng=rng, precision=precision)
        base, low = seen.base, seen.feats[:, :3]
        corrections = self.picture(seen.feats, base, precision)
        if person.fine is not None and size_px > self.config.size_px:
            large = person.fine.shape[-1]
            base = put_in_place(seen.placing.at(large), person.fine, person.views.behind)
            corrections = enlarged(corrections, large)
        image, alpha = corrected(base, corrections)
        return LiteOutput(
            low, image, alpha, seen.opacity, seen.depth, seen.around.depth, seen.around.cover, base.colour * base.alpha
        )

    def look(
        self,
        person: Person,
        pose: HeadPose,
        *,
        jitter: bool = False,
        rng: torch.Generator | None = None,
        precision: Precision = "reference",
    ) -> Seen:
        """What the rays find, and the photos put into place by it."""
        config, size = self.config, self.config.rays_px
        with torch.no_grad():
            mesh = self.head.driven(pose, person.views)
            at_mesh = on_mesh(self.head, mesh, person.views, config.size_px)
            around = at_mesh.relief(pose, size)
        rays = camera_rays(pose.camera, size)
        forward = (rays.dirs @ pose.camera.c2w[:, :3, 2:3])[..., 0]  # depth per length of ray
        t, edges = self._samples(rays, around.depth.flatten(1) / forward, jitter, rng)
        behind = t * forward[..., None] - around.depth.flatten(1)[..., None]
        cover = around.cover.flatten(1)[..., None].expand_as(t)
        frame = self.frame(person, mesh, precision)
        found = self._look(frame, rays.at(t).flatten(1, 2), behind.flatten(1), cover.flatten(1))
        weights = ray_weights(found.sigma.reshape(t.shape) * edges.diff(dim=-1))
        # A ray that meets nothing says what it would see on the relief.
        faint = torch.exp(-((behind / SKIN[1]) ** 2)) * FAINT + 1e-9
        opacity, values = weights.sum(-1), found.values.unflatten(1, t.shape[1:])
        seen = accumulate(weights, values)
        num = 3 + config.feat_dim
        told = accumulate(weights + faint, values[..., num:]) / (weights + faint).sum(-1, keepdim=True)
        depth = ((weights + faint) * t).sum(-1) / (weights + faint).sum(-1) * forward
        low, told, opacity, depth = (_picture(x, size) for x in (seen, told, opacity[..., None], depth[..., None]))
        places = placing(at_mesh, told, opacity)
        base = put_in_place(places, person.views.picture, person.views.behind)
        if not config.pixels:
            colour, alpha = (enlarged(x, config.size_px) for x in (low[:, :3] / opacity.clamp_min(1e-2), opacity))
            base = Gathered(colour, alpha, base.hints)
        feats = torch.cat([low[:, :num], opacity, told[:, :2], depth - around.depth], 1)
        return Seen(places, base, feats, opacity, depth, around)

    def frame(self, person: Person, mesh: DrivenMesh, precision: Precision = "reference") -> LiteFrame:
        """What samples of this frame are asked of."""
        cloud, samples = self.head.cloud, self.config.shell_samples + self.config.cube_samples
        points = self.point_field(mesh.verts[:, cloud], self.config.rays_px**2 * samples)
        return LiteFrame(person, mesh, points, mesh.table[:, cloud], precision)

    def _samples(
        self, rays: Rays, middle: Float[Tensor, "batch ray"], jitter: bool, rng: torch.Generator | None
    ) -> tuple[Float[Tensor, "batch ray sample"], Float[Tensor, "batch ray edge"]]:
        """Most around the relief, the rest evenly through the cube."""
        config = self.config
        first, last = middle + SHELL[0], middle + SHELL[1]  # a person may reach beyond the cube
        near = torch.where(rays.hit, torch.minimum(rays.near, first), first)
        far = torch.where(rays.hit, torch.maximum(rays.far, last), last)
        spread = even_edges(first, last, config.shell_samples), even_edges(near, far, config.cube_samples)
        t = torch.cat([jittered(edges, rng) if jitter else midpoints(edges) for edges in spread], -1).sort(-1).values
        return t, intervals_around(t, near, far)

    def _look(
        self,
        frame: LiteFrame,
        points: Float[Tensor, "batch sample 3"],
        behind: Float[Tensor, "batch sample"],
        cover: Float[Tensor, "batch sample"],
    ) -> LiteSamples:
        """`at_samples` in pieces where that saves memory and time, or its fused twin."""
        points_of = self.config.point_field
        fusable = points_of.weight == "inverse" and math.isinf(points_of.max_distance)
        if fusable and choose_twin(frame.precision, points.device, torch.is_grad_enabled()) == "numba":
            from gpavatar.avatars import gpavatar_lite_numba

            return LiteSamples(*gpavatar_lite_numba.at_samples(self, frame, points, behind, cover))
        if torch.is_grad_enabled() or points.shape[1] <= CHUNK or points.device.type != "cpu":
            return self.at_samples(frame, points, behind, cover)
        pieces = zip(points.split(CHUNK, 1), behind.split(CHUNK, 1), cover.split(CHUNK, 1), strict=True)
        found = [self.at_samples(frame, *piece) for piece in pieces]
        return LiteSamples(torch.cat([one.sigma for one in found], 1), torch.cat([one.values for one in found], 1))

    def at_samples(
        self,
        frame: LiteFrame,
        points: Float[Tensor, "batch sample 3"],
        behind: Float[Tensor, "batch sample"],
        cover: Float[Tensor, "batch sample"],
    ) -> LiteSamples:
        """Density, colour and place in the photos at each sample; `behind`: depth beyond the relief of its ray,
        `cover`: how far the mesh covers its ray. Where no photo and no mesh has anything, σ is 0."""
        config, person = self.config, frame.person
        near = frame.points.near(points)
        carried = carry(frame.mesh, person.views, points, near.numbers, near.weights, frame.table)
        batch, sources = person.maps.shape[:2]
        at = carried.at.flatten(0, 1)[:, None] * 2 - 1
        found = functional.grid_sample(person.maps.flatten(0, 1), at, padding_mode="border", align_corners=False)
        found = found[:, :, 0].unflatten(0, (batch, sources)).transpose(2, 3)  # batch source sample channel
        shown, behind_head, front, shallow = found.split([4, 4, 1, config.shallow_dim], -1)

        past = carried.depth - front[..., 0]  # the photo's own relief
        beside = 1 - smoothstep(past, *OCCLUDED)
        covered = ((1 - beside) * (1 - carried.follow[:, None]))[..., None]  # body behind the head
        rgb, alpha = torch.lerp(shown, behind_head, covered).split([3, 1], -1)
        # Far before or behind what the photo shows of the head it says nothing; the mesh has the rest.
        alpha = alpha * (1 - smoothstep(past.abs() * carried.follow[:, None], *THICKNESS))[..., None]
        visible = torch.lerp(beside, carried.seen, carried.near[:, None]) * in_frame(carried.at)
        tells = [visible[..., None], past.clamp(-1, 1)[..., None]]
        tells += [carried.near[:, None, :, None].expand_as(alpha), rgb, alpha, shallow]
        prefer = self.choice(torch.cat(tells, -1))[..., 0].clamp(-4, 4)
        share = (visible**SHARPNESS + HIDDEN**2) * prefer.exp() * frame.mesh.alike[..., None]
        share = share / share.sum(1, keepdim=True)
        seen = visible.amax(1)
        mixed = (share[..., None] * torch.cat([rgb, alpha, shallow, covered], -1)).sum(1)
        rgb, matte, shallow, covered = mixed.split([3, 1, config.shallow_dim, 1], -1)
        matte = matte[..., 0] + (1 - seen) * (cover - matte[..., 0]).clamp_min(0)

        place = torch.stack([(behind * 10).tanh(), matte, seen, carried.near, carried.follow], -1)
        rgb, shallow = rgb * config.pixels, shallow * config.pixels
        raw = self._raw(frame, points, near, torch.cat([rgb, shallow, place], -1), matte)
        dense, fog, change, feats = raw.split([1, 1, 3, config.feat_dim], -1)
        shape = torch.exp(-(((behind - SKIN[0]) / SKIN[1]) ** 2)) * DENSITY
        sigma = matte * (shape * dense[..., 0].clamp(-4, 4).exp() + functional.softplus(fog[..., 0] - 4))
        away = (carried.at - frame.mesh.camera.project(points)[:, None]) * share[..., None]
        per_photo = torch.cat([share[..., None], away], -1).transpose(1, 2).flatten(2)
        return LiteSamples(sigma, torch.cat([rgb + change, feats, seen[..., None], covered, per_photo], -1))

    def _raw(self, frame: LiteFrame, points: Tensor, near: Neighbours, known: Tensor, matte: Tensor) -> Tensor:
        """What the networks say of samples. On a CPU those without a matte, about half, are left out: σ is 0 there."""
        if points.device.type != "cpu":
            return self.networks(frame.person.planes, frame.points, points, near, known)
        told = known.new_zeros(*matte.shape, self.radiance[-1].out_features)
        for entry, kept in enumerate(matte > 0):
            some = kept.nonzero()[:, 0]
            one = map_tensors(near, lambda tensor, at=(slice(entry, entry + 1), some): tensor[at])
            planes, at = frame.person.planes[entry : entry + 1], points[None, entry, some]
            found = self.networks(planes, frame.points, at, one, known[None, entry, some])
            told[entry] = told[entry].index_copy(0, some, found[0])
        return told

    def networks(
        self,
        planes: Float[Tensor, "batch 3 channel plane plane"],
        field: BoundPointField,
        points: Float[Tensor, "batch sample 3"],
        near: Neighbours,
        known: Float[Tensor, "batch sample known"],
    ) -> Float[Tensor, "batch sample raw"]:
        """Planes, expression field and what the photos show -> raw density (2), change of colour (3), features."""
        canonical = sample_planes(planes, points.clamp(-1, 1))
        expression = field.of(near)
        if self.config.expression == "none":
            expression = torch.zeros_like(expression)
        return self.radiance(torch.cat([canonical, expression, known], -1))


def _picture(values: Float[Tensor, "batch ray channel"], size_px: int) -> Float[Tensor, "batch channel size size"]:
    return values.transpose(1, 2).unflatten(2, (size_px, size_px))
