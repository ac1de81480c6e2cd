"""`gpavatar_lite`: GPAvatar with source pixels. Photos -> views and canonical planes; a head drives; rays; a picture.

    σ, c, …  =  R( planes(x), PEF(x), Σ_s β_s photo_s(x) )        at 24 samples of each of 64 × 64 rays
    I        =  mended( Σ_s β_s photo_s(p + d_s) )                 at 256 × 256, d_s rendered along the rays

A hundred people cannot teach a network what faces look like, so appearance comes from the photos: every sample is
carried back into each (`gpavatar_lite_warp`), and the network says how much each counts, β_s, and what is missing. All
that is learned starts at zero: the untrained network draws the photos on the tracked geometry.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as functional
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gpavatar.avatars.gpavatar_lite_picture import Gathered, PictureConfig, PictureNet, corrected, gather
from gpavatar.avatars.gpavatar_lite_warp import (
    HEAD_FADE,
    HIDDEN,
    MAPS_PX,
    OCCLUDED,
    SHARPNESS,
    DrivenMesh,
    HeadPose,
    LiteHead,
    SourceViews,
    carry,
    in_frame,
    mesh_picture,
    relief,
)
from gpavatar.avatars.portrait_layers import smoothstep
from gpavatar.field.point_field import BoundPointField, PointField, PointFieldConfig
from gpavatar.render.composite import accumulate, ray_weights
from gpavatar.render.rays import Rays, camera_rays
from gpavatar.render.sampling import even_edges, intervals_around, jittered, midpoints
from gpavatar.synthesis.style_unet import StyleUNetConfig
from gpavatar.triplane.attention import AttentionConfig, PlaneAttention
from gpavatar.triplane.encoder import CanonicalEncoder, EncoderConfig, align
from gpavatar.triplane.lookup import sample_planes

SHELL = (-0.06, 0.12)  # units before and behind the relief in which most samples of a ray lie
SKIN = (0.02, 0.03)  # units: where behind the relief the person is densest, and how thick
DENSITY = 120.0  # per unit, there
BELIEVED = (0.05, 0.3)  # cosines of the best view of a spot between which a photo begins to be believed
FAINT = 0.02  # weight of the relief in what a ray says of places, so that an empty ray says something
CHUNK = 2**13  # samples at once without gradients; see `render/volume.py`


@dataclass(frozen=True)
class GPAvatarLiteConfig:
    """Sizes and the switches of the ablations."""

    head: str = "open_head"
    size_px: int = 256
    rays_px: int = 64
    shell_samples: int = 14
    cube_samples: int = 10
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
    maps: Float[Tensor, "batch source channel small small"]  # RGB and alpha, those behind, relief, shallow features
    planes: Float[Tensor, "batch 3 channel plane plane"]  # fused
    present: Bool[Tensor, "batch source"]


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
class LiteFrame:
    """Everything that samples of one frame (per batch entry) need."""

    person: Person
    mesh: DrivenMesh
    points: BoundPointField
    table: Float[Tensor, "batch cloud column"]


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
        present: Bool[Tensor, "batch source"] | None = None,
    ) -> Person:
        """Photos, mattes and the heads in them -> what a person is driven from. Once per person."""
        batch, sources = image.shape[:2]
        with torch.no_grad():
            views = self.head.views(image, alpha, pose)
        flat, camera = (image * alpha).flatten(0, 1), pose.camera
        upright = align(flat, type(camera)(camera.c2w.flatten(0, 1), camera.intrinsics.flatten(0, 1)), flat.shape[-1])
        planes = self.encoder(upright).unflatten(0, (batch, sources))
        shallow = self.shallow(torch.cat([flat, alpha.flatten(0, 1)], 1)).unflatten(0, (batch, sources))
        small = functional.interpolate(views.picture.flatten(0, 1), (MAPS_PX, MAPS_PX), mode="area")
        maps = torch.cat([small.unflatten(0, (batch, sources)), views.behind, views.relief, shallow], 2)
        present = image.new_ones(batch, sources, dtype=torch.bool) if present is None else present
        return Person(views, maps, self.attention(planes, present), present)

    def forward(
        self, person: Person, pose: HeadPose, *, jitter: bool = False, rng: torch.Generator | None = None
    ) -> LiteOutput:
        """A frame of each person: the head as it is posed, from its camera."""
        config, size = self.config, self.config.rays_px
        with torch.no_grad():
            mesh = self.head.driven(pose, person.views)
            on_mesh = self._on_mesh(mesh, person.views)
        around = on_mesh.relief(pose, size)
        rays = camera_rays(pose.camera, size)
        forward = (rays.dirs @ pose.camera.c2w[:, :3, 2:3])[..., 0]  # depth per length of ray
        t, edges = self._samples(rays, around.depth.flatten(1) / forward, jitter, rng)
        behind = t * forward[..., None] - around.depth.flatten(1)[..., None]
        cover = around.cover.flatten(1)[..., None].expand_as(t)
        found = self._look(self.frame(person, mesh), rays.at(t).flatten(1, 2), behind.flatten(1), cover.flatten(1))
        weights = ray_weights(found.sigma.reshape(t.shape) * edges.diff(dim=-1))
        # A ray that meets nothing says what it would see on the relief.
        faint = torch.exp(-((behind / SKIN[1]) ** 2)) * FAINT + 1e-9
        opacity, values = weights.sum(-1), found.values.unflatten(1, t.shape[1:])
        seen = accumulate(weights, values)
        num = 3 + config.feat_dim
        told = accumulate(weights + faint, values[..., num:]) / (weights + faint).sum(-1, keepdim=True)
        depth = ((weights + faint) * t).sum(-1) / (weights + faint).sum(-1) * forward
        low, told, opacity, depth = (_picture(x, size) for x in (seen, told, opacity[..., None], depth[..., None]))
        base = self._gathered(person, on_mesh, low[:, :3], told, opacity)
        feats = torch.cat([low[:, :num], opacity, told[:, :2], depth - around.depth], 1)
        image, alpha = corrected(base, self.picture(base.colour, base.alpha, feats))
        return LiteOutput(
            low[:, :3], image, alpha, opacity, depth, around.depth, around.cover, base.colour * base.alpha
        )

    def frame(self, person: Person, mesh: DrivenMesh) -> LiteFrame:
        """What samples of this frame are asked of."""
        cloud, samples = self.head.cloud, self.config.shell_samples + self.config.cube_samples
        points = self.point_field(mesh.verts[:, cloud], self.config.rays_px**2 * samples)
        return LiteFrame(person, mesh, points, mesh.table[:, cloud])

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
        """`at_samples` in pieces where that saves memory and time."""
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

        beside = 1 - smoothstep(carried.depth - front[..., 0], *OCCLUDED)
        covered = ((1 - beside) * (1 - carried.follow[:, None]))[..., None]  # body behind the head
        rgb, alpha = torch.lerp(shown, behind_head, covered).split([3, 1], -1)
        visible = torch.lerp(beside, carried.seen, carried.near[:, None]) * in_frame(carried.at)
        visible = visible * person.present[..., None]
        tells = [visible[..., None], (carried.depth - front[..., 0]).clamp(-1, 1)[..., None]]
        tells += [carried.near[:, None, :, None].expand_as(alpha), rgb, alpha, shallow]
        prefer = self.choice(torch.cat(tells, -1))[..., 0].clamp(-4, 4)
        share = (visible**SHARPNESS + HIDDEN**2 * person.present[..., None]) * prefer.exp()
        share = share / share.sum(1, keepdim=True)
        seen = visible.amax(1)
        mixed = (share[..., None] * torch.cat([rgb, alpha, shallow, covered], -1)).sum(1)
        rgb, matte, shallow, covered = mixed.split([3, 1, config.shallow_dim, 1], -1)
        matte = matte[..., 0] + (1 - seen) * (cover - matte[..., 0]).clamp_min(0)

        if not config.pixels:
            rgb, shallow = torch.zeros_like(rgb), torch.zeros_like(shallow)
        canonical = sample_planes(person.planes, points.clamp(-1, 1))
        expression = frame.points.of(near)
        if config.expression == "none":
            expression = torch.zeros_like(expression)
        place = torch.stack([(behind * 10).tanh(), matte, seen, carried.near, carried.follow], -1)
        raw = self.radiance(torch.cat([canonical, expression, rgb, shallow, place], -1))
        dense, fog, change, feats = raw.split([1, 1, 3, config.feat_dim], -1)
        shape = torch.exp(-(((behind - SKIN[0]) / SKIN[1]) ** 2)) * DENSITY
        sigma = matte * (shape * dense[..., 0].clamp(-4, 4).exp() + functional.softplus(fog[..., 0] - 4))
        away = (carried.at - frame.mesh.camera.project(points)[:, None]) * share[..., None]
        per_photo = torch.cat([share[..., None], away], -1).transpose(1, 2).flatten(2)
        return LiteSamples(sigma, torch.cat([rgb + change, feats, seen[..., None], covered, per_photo], -1))

    def _on_mesh(self, mesh: DrivenMesh, views: SourceViews) -> OnMesh:
        """Where the driven mesh is in every photo, at full size."""
        source, size = views.pose, self.config.size_px
        own = torch.cat([views.vert_seen[..., None], source.camera.project(source.verts)], -1)
        both = torch.stack([own, own[:, :, self.head.head.mirror]], 3)  # batch source vert side column
        both[..., 1:] -= mesh.camera.project(mesh.verts)[:, None, :, None]
        per_photo = both.permute(0, 2, 1, 3, 4).flatten(2)
        fade = smoothstep(self.head.head.head_weight, *HEAD_FADE)[:, None]
        fixed = torch.cat([fade, self.head.hidden_share], 1).expand(len(per_photo), -1, -1)
        hidden = self.head.hidden_colour * views.light.mean(1)[:, None]
        columns = torch.cat([fixed, hidden, per_photo], -1)
        drawn, depth = mesh_picture(self.head, mesh, columns, size)
        fade, share, hidden, per_photo = drawn.split([1, 1, 3, per_photo.shape[-1]], 1)
        own, mirrored = per_photo.unflatten(1, (-1, 2, 3)).unbind(2)
        return OnMesh(depth, fade, share, hidden, own, mirrored)

    def _gathered(self, person: Person, on_mesh: OnMesh, low: Tensor, told: Tensor, opacity: Tensor) -> Gathered:
        """The photos put into place: beside the head as the rays say, on it as the mesh says.

        What no photo shows of one side of the face comes from the other; what none can show has plain colours.
        """
        size, pictures = self.config.size_px, person.views.picture
        large = functional.interpolate(torch.cat([low, opacity, told], 1), (size, size), mode="bilinear")
        low, opacity, seen, covered, per_photo = large.split([3, 1, 1, 1, large.shape[1] - 6], 1)
        if not self.config.pixels:
            return Gathered(low / opacity.clamp_min(1e-2), opacity)
        per_photo, fade = per_photo.unflatten(1, (-1, 3)), on_mesh.fade[:, None]
        share = per_photo[:, :, :1].clamp_min(1e-6)
        present = person.present[:, :, None, None, None]
        visible, mirrored = (one[:, :, :1] * present for one in (on_mesh.own, on_mesh.mirrored))
        here = smoothstep(visible.amax(1, keepdim=True), *BELIEVED)
        own = share * torch.lerp(torch.ones_like(visible), visible**SHARPNESS + HIDDEN, fade)
        other = share * mirrored**SHARPNESS * (1 - here) * fade
        shares = torch.cat([own, other], 1)
        shares = shares / shares.sum(1, keepdim=True)
        shift = torch.lerp(per_photo[:, :, 1:] / share, on_mesh.own[:, :, 1:], fade)
        shifts = torch.cat([shift, on_mesh.mirrored[:, :, 1:]], 1)
        found = gather(torch.cat([pictures, pictures], 1), shifts, shares)
        known = torch.maximum(visible, mirrored).amax(1)
        seen = torch.lerp(seen, smoothstep(known, *BELIEVED), on_mesh.fade)

        behind = gather(person.views.behind, shift, own / own.sum(1, keepdim=True))
        covered = covered * (1 - on_mesh.fade)
        colour, alpha = (torch.lerp(a, b, covered) for a, b in zip(found, behind, strict=True))
        # Teeth and lids are smaller than pixels; the photo's own pixels are smooth already.
        plain = torch.cat([on_mesh.hidden, torch.ones_like(seen)], 1) * on_mesh.hidden_share * (1 - seen)
        hidden, share = functional.avg_pool2d(plain, 3, 1, 1).split([3, 1], 1)
        beside = alpha * (2 * opacity).clamp(0, 1)
        return Gathered(
            colour * (1 - share) + hidden,
            torch.lerp(beside, alpha + (1 - seen) * (1 - alpha), on_mesh.fade),
        )


@dataclass(frozen=True)
class OnMesh:
    """The driven mesh in the pixels of the picture; 0 where it is not."""

    depth: Float[Tensor, "batch 1 size size"]
    fade: Float[Tensor, "batch 1 size size"]  # [0, 1], 1 on the head, 0 on the neck, which it has in the wrong place
    hidden_share: Float[Tensor, "batch 1 size size"]
    hidden: Float[Tensor, "batch 3 size size"]
    own: Float[Tensor, "batch source 3 size size"]  # visibility, displacement
    mirrored: Float[Tensor, "batch source 3 size size"]  # the same of the other side of the face

    def relief(self, pose: HeadPose, size_px: int) -> Relief:
        """What rays are sampled around."""
        scale = self.depth.shape[-1] // size_px
        covered = (self.depth > 0).to(self.depth)
        depth, share, cover = functional.avg_pool2d(torch.cat([self.depth, covered, self.fade], 1), scale).split(1, 1)
        return Relief(relief(depth / share.clamp_min(1e-6), share > 0.5, pose), cover)


@dataclass(frozen=True)
class Relief:
    """The driven mesh as the rays see it."""

    depth: Float[Tensor, "batch 1 small small"]
    cover: Float[Tensor, "batch 1 small small"]


def _picture(values: Float[Tensor, "batch ray channel"], size_px: int) -> Float[Tensor, "batch channel size size"]:
    return values.transpose(1, 2).unflatten(2, (size_px, size_px))
