"""From a driven head back to the photos: where in each photo is what a camera sees now?

A point x of the driven head's space is carried to photo s by two motions, blended by how far x follows the head (f):

    v_s(x) = f · w2c_s (x + a Σ_i ŵ_i (p_i^s − p_i)) + (1 − f) · (w2c x − b_s),        b_s = ¾ (w2c n − w2c_s n_s)

p_i, p_i^s: the nearest head vertices now and in the photo, ŵ_i inverse-distance weights, a = exp(−(d / REACH)²) what of
their motion reaches x, n the neck joint. So a face moves with its mesh, hair turns with the skull, and shoulders shift
with the neck but do not turn (as in `avatars/portrait_layers.py`, there forwards). A head that moved nowhere is carried
onto itself exactly.

Of several photos those count most in which the head stands as it does now, as `alike` says of each:

    w_s = ε + exp(−κ (d_s − min d)),        d_s² = θ_s² + (|Δn_s| / NECK_MOVE)²

θ_s is the turn of the head between photo and frame, radians, Δn_s the shift of the neck joint across the view. Photos
that disagree, as they do about shoulders and loose hair, are chosen between rather than averaged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as functional
from jaxtyping import Float, Int
from torch import Tensor, nn

from gpavatar.avatars.portrait_layers import smoothstep
from gpavatar.avatars.textured_mesh import MOUTH_COLOURS, SCLERA, SKIN_LUMA
from gpavatar.camera import Camera, rotation_angle_deg
from gpavatar.face.open_head import PARTS, SHOULDERS, OpenHead
from gpavatar.face.raster import interpolate, rasterize, to_screen, vertex_normals
from gpavatar.face.refine import BAG_REACH, RIDGE, WIDTHS
from gpavatar.types import HeadParams, map_tensors

REACH = 0.15  # units: how far the motion of skin is felt
BODY_SHARE = 0.75  # of the neck joint's shift that the shoulders take (measured on people of the training set)
SHARPNESS = 6  # of visibility when photos are blended (`face/texture.py`)
HIDDEN = 1e-4  # weight that is left to a photo which does not see a point; it decides where none does
ALIKE = 30.0  # κ, per radian (this and the next measured on people of the training set)
NECK_MOVE = 0.25  # units of the neck's shift that make a photo as unlike as a turn of one radian
LEAST = 1e-3  # ε: a photo that alone shows a spot is believed however unlike it is
OCCLUDED = (0.10, 0.20)  # units behind what a photo shows at which a point beside the mesh begins and ends to be hidden
THICKNESS = (0.2, 0.45)  # units from what a photo shows of head and hair within which it is believed to be there
BUST = 0.98  # head weight below which skin belongs to neck and shoulders
FULLER = 0.008  # units by which teeth are thicker
IRIS, PUPIL = 0.87, 0.975  # cosines with the axis of an eyeball beyond which it has these colours
ENAMEL = (0.98, 0.87, 0.79)  # of teeth no photo shows: lit less than skin; the networks take the warmth away again
IRIS_COLOUR = (0.30, 0.20, 0.14)
HEAD_FADE = (0.5, 0.95)  # head weights between which the mesh's own outline begins to count


@dataclass(frozen=True)
class HeadPose:
    """A head in a frame, the shoulders as they hang on the head when the neck is straight."""

    verts: Float[Tensor, "*batch vert 3"]  # head space
    neck: Float[Tensor, "*batch 3"]  # the joint
    camera: Camera


@dataclass(frozen=True)
class SourceViews:
    """Photos, prepared. What is constant while a person is driven."""

    pose: HeadPose  # axes batch, source
    vert_seen: Float[Tensor, "batch source vert"]  # [0, 1], cosine of the view where the photo shows the vertex
    picture: Float[Tensor, "batch source 4 height width"]  # [0, 1], RGB (grown beyond the person's outline) and alpha
    behind: Float[Tensor, "batch source 4 small small"]  # the same of the body, as if there were no head before it
    relief: Float[Tensor, "batch source 1 small small"]  # depth along the axis of what the photo shows
    light: Float[Tensor, "batch source 1"]  # mean brightness of the skin


@dataclass(frozen=True)
class DrivenMesh:
    """The driven head, and where it is in every photo."""

    camera: Camera
    neck: Float[Tensor, "batch 3"]
    verts: Float[Tensor, "batch vert 3"]  # the shoulders as they stand in the picture
    table: Float[Tensor, "batch vert column"]  # of each vertex: f, then per photo p^s − p (3) and visibility
    alike: Float[Tensor, "batch source"]  # [LEAST, 1 + LEAST], how much each photo counts by the pose of its head

    @property
    def num_sources(self) -> int:
        """Photos."""
        return self.alike.shape[1]


@dataclass(frozen=True)
class Carried:
    """Points in the photos."""

    at: Float[Tensor, "batch source sample 2"]  # (0, 0) upper left, (1, 1) lower right
    depth: Float[Tensor, "batch source sample"]
    seen: Float[Tensor, "batch source sample"]  # [0, 1], visibility by the mesh ...
    near: Float[Tensor, "batch sample"]  # ... which counts as far as the point is near it: a
    follow: Float[Tensor, "batch sample"]  # f


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


class LiteHead(nn.Module):
    """The head with what the warp needs of it. No parameters; nothing of it is saved with a model."""

    def __init__(self, head: OpenHead):
        super().__init__()
        self.head, self.name, self.sha256, topology = head, head.name, head.sha256, head.topology

        def keep(name: str, value: Tensor) -> None:
            self.register_buffer(name, value, persistent=False)

        lashes = head.face_parts == PARTS.index("lashes")
        keep("drawn", head.faces[~lashes])  # the photo's own lashes are on the lids
        inner = torch.zeros(len(head.mean), dtype=torch.bool)
        for part in ("mouth_bag", "tongue", "teeth_upper", "teeth_lower", "gums_upper", "gums_lower", "lashes"):
            inner[head.faces[head.face_parts == PARTS.index(part)].flatten()] = True
        skin_faces = head.face_parts == PARTS.index("skin")
        skin = head.faces[skin_faces].unique()
        inner[skin] = False
        below = (head.head_weight[head.faces] < BUST).any(-1) & skin_faces
        keep("bust", head.faces[below])  # triangles of neck and shoulders
        keep("skull", (head.head_weight > 0.95).nonzero()[:, 0])
        keep("cloud", (~inner).nonzero()[:, 0])  # vertices that space is tied to: skin and eyes
        keep("skin", skin)

        teeth = (head.face_parts == PARTS.index("teeth_upper")) | (head.face_parts == PARTS.index("teeth_lower"))
        # Rounded teeth leave holes that no photo shows; the photo's own gaps are on fuller ones.
        keep("fuller", FULLER * vertex_normals(head.mean, head.faces[teeth]))
        at = torch.zeros(len(head.mean), 2)
        at[head.faces[skin_faces].flatten()] = topology.uv[topology.uv_faces[skin_faces].flatten()]
        distance = torch.cdist(at[skin], topology.mediapipe.on(topology.uv, topology.uv_faces))
        trust = topology.mediapipe_weights * skin_faces[topology.mediapipe.face_ids]
        keep("kernels", torch.stack([torch.exp(-((distance / width) ** 2)) * trust for width in WIDTHS]))
        bag = head.faces[head.face_parts == PARTS.index("mouth_bag")].unique()
        lining = bag[~torch.isin(bag, skin)]
        distance, nearest = torch.cdist(head.mean[lining], head.mean[skin]).min(-1)
        keep("lining", lining)
        keep("lining_skin", skin[nearest])
        keep("lining_share", torch.exp(-((distance / BAG_REACH) ** 2))[:, None])
        for name in ("eye_left", "eye_right"):
            keep(name, head.faces[head.face_parts == PARTS.index(name)].unique())
        for name, value in zip(("hidden_colour", "hidden_share"), hidden_colours(head), strict=True):
            keep(name, value)

    def pose(self, params: HeadParams, camera: Camera, offsets: Tensor | None = None) -> HeadPose:
        """Where the vertices are; `offsets` as `landmark_offsets` gives them."""
        params = replace(params, neck_pose=torch.zeros_like(params.neck_pose))
        person = self.head.with_shape(params.shape)
        moved = person.with_expression(params.expression).posed(params.jaw_pose, params.neck_pose, params.eye_pose)
        verts = moved + self.fuller
        return HeadPose(verts if offsets is None else verts + offsets, person.joints[..., SHOULDERS, :], camera)

    def landmark_offsets(
        self, pose: HeadPose, landmarks: Float[Tensor, "batch 478 2"]
    ) -> Float[Tensor, "batch vert 3"]:
        """`gpavatar.face.refine.landmark_offsets` of a batch; `landmarks` in picture sides, NaN where unknown."""
        head, camera = self.head, pose.camera
        known = landmarks.isfinite().all(-1, keepdim=True)
        wanted = torch.where(known, landmarks, 0.5)
        offsets = torch.zeros_like(pose.verts)
        for kernel in self.kernels:
            points = head.topology.mediapipe.on(pose.verts + offsets, head.faces)
            missing = (wanted - camera.project(points)) / camera.intrinsics[:, None, :2]
            missing = missing * camera.to_view(points)[..., 2:] * known
            shift = kernel @ torch.cat([missing @ camera.c2w[:, :3, :2].transpose(1, 2), known.to(missing)], -1)
            offsets[:, self.skin] += shift[..., :3] / (shift[..., 3:] + RIDGE)
        for side, ball in enumerate((self.eye_left, self.eye_right)):
            offsets[:, ball] = offsets[:, head.lids[side]].mean(1, keepdim=True)
        offsets[:, self.lining] = offsets[:, self.lining_skin] * self.lining_share
        return offsets

    def views(
        self,
        image: Float[Tensor, "batch source 3 height width"],
        alpha: Float[Tensor, "batch source 1 height width"],
        pose: HeadPose,
    ) -> SourceViews:
        """Prepare photos (any colours behind the person)."""
        batch = image.shape[:2]
        image, alpha, flat = image.flatten(0, 1), alpha.flatten(0, 1), map_tensors(pose, lambda t: t.flatten(0, 1))
        picture = spread(image, alpha)
        depth, covered = self._depth(flat, self.drawn, image.shape[-1] // 2)
        seen = self._vert_seen(flat, depth, covered)
        at = flat.camera.project(flat.verts) * 2 - 1
        brightness = functional.grid_sample(picture[:, :3], at[:, None], align_corners=False).mean(1)[:, 0]
        weight = torch.zeros_like(seen).index_copy(1, self.skin, seen[:, self.skin])
        light = ((weight * brightness).sum(1) / weight.sum(1).clamp_min(1e-6)).clamp_min(0.02)
        behind = self._behind(picture, flat, depth)
        found = seen, picture, behind, relief(depth, covered, flat), light[:, None]
        return SourceViews(pose, *(tensor.unflatten(0, batch) for tensor in found))

    def driven(self, pose: HeadPose, views: SourceViews) -> DrivenMesh:
        """The head of a frame beside its photos."""
        source, follow = views.pose, self.head.head_weight[:, None]
        shift = pose.camera.to_view(pose.neck[:, None]) - _neck_view(source).mean(1)
        shift = BODY_SHARE * shift * (1 - follow)
        with_body = source.camera.to_view(source.verts).mean(1) * (1 - follow)
        view = follow * pose.camera.to_view(pose.verts) + with_body + shift
        verts = view @ pose.camera.c2w[:, :3, :3].transpose(1, 2) + pose.camera.c2w[:, None, :3, 3]
        motion = source.verts - pose.verts[:, None]
        columns = torch.cat([motion, views.vert_seen[..., None]], -1).transpose(1, 2).flatten(2)
        follow = follow.expand(len(verts), -1, -1)
        return DrivenMesh(pose.camera, pose.neck, verts, torch.cat([follow, columns], -1), alike(pose, source))

    def _depth(self, pose: HeadPose, faces: Int[Tensor, "face 3"], size_px: int) -> tuple[Tensor, Tensor]:
        screen = to_screen(pose.verts, pose.camera, size_px, size_px)
        fragments = rasterize(screen, faces, size_px, size_px)
        return fragments.depth[:, None], fragments.covered[:, None]

    def _behind(
        self,
        picture: Float[Tensor, "batch 4 height width"],
        pose: HeadPose,
        depth: Float[Tensor, "batch 1 small small"],
    ) -> Float[Tensor, "batch 4 small small"]:
        """Colours of the body carried on behind the head; of its outline there what the mesh's neck covers."""
        picture, size = functional.avg_pool2d(picture, 2), depth.shape[-1]
        bust_depth, bust = self._depth(pose, self.bust, size)
        head = (depth > 0) & ~(bust & (bust_depth <= depth + 1e-4))
        head = functional.max_pool2d(head.float(), 5, 1, 2)
        chin = pose.camera.project(pose.verts[:, self.skull])[..., 1].amax(1)[:, None, None, None]
        rows = ((torch.arange(size, device=head.device) + 0.5) / size)[None, None, :, None]
        own = (1 - head) * smoothstep(rows - chin, -0.06, 0.0)
        colour = grown(picture[:, :3], own * smoothstep(picture[:, 3:], 0.8, 0.98))
        covered = functional.avg_pool2d(bust.float(), 3, 1, 1)
        return torch.cat([colour, torch.maximum(own * picture[:, 3:], covered * (1 - own))], 1)

    def _vert_seen(self, pose: HeadPose, depth: Tensor, covered: Tensor) -> Float[Tensor, "batch vert"]:
        """Cosine between normal and view, where the z-buffer has nothing nearer and the vertex is in the picture."""
        normals = vertex_normals(pose.verts, self.head.faces)
        direction = functional.normalize(pose.camera.c2w[:, None, :3, 3] - pose.verts, dim=-1)
        cosine = (normals * direction).sum(-1).clamp(0, 1)
        z = pose.camera.to_view(pose.verts)[..., 2]
        at = pose.camera.project(pose.verts)
        front = torch.where(covered, depth, torch.inf).nan_to_num(posinf=1e3)
        front = functional.grid_sample(front, at[:, None] * 2 - 1, mode="nearest", align_corners=False)[:, 0, 0]
        slope = ((1 - cosine**2).clamp_min(0).sqrt() / cosine.clamp_min(0.05)).clamp_max(6.0)
        pixel = z / (pose.camera.intrinsics[:, None, 0] * depth.shape[-1])
        return cosine * (z <= front + pixel * (1 + slope)) * in_frame(at)


def alike(pose: HeadPose, source: HeadPose) -> Float[Tensor, "batch source"]:
    """w_s of the equation at the head of this file: how much each photo counts by the pose of its head."""
    rotation = source.camera.w2c[..., :3, :3]
    turn = rotation_angle_deg(rotation, pose.camera.w2c[:, None, :3, :3].expand_as(rotation)).deg2rad()
    move = (pose.camera.to_view(pose.neck[:, None])[:, None] - _neck_view(source))[:, :, 0, :2].norm(dim=-1)
    unlike = (turn**2 + (move / NECK_MOVE) ** 2).sqrt()
    return LEAST + torch.exp(-ALIKE * (unlike - unlike.amin(1, keepdim=True)))


def carry(
    mesh: DrivenMesh,
    views: SourceViews,
    points: Float[Tensor, "batch sample 3"],
    numbers: Int[Tensor, "batch sample k"],
    weights: Float[Tensor, "batch sample k"],
    table: Float[Tensor, "batch cloud column"],
) -> Carried:
    """The equation at the head of this file. `numbers`: the nearest vertices of the cloud, whose rows `table` has;
    `weights`: 1/d of each."""
    source = views.pose
    first = torch.arange(len(points), device=points.device)[:, None, None] * table.shape[1]
    rows = functional.embedding(numbers + first, table.flatten(0, 1))
    share = weights / weights.sum(-1, keepdim=True)
    mean = (share[..., None, :] @ rows)[..., 0, :]
    follow, columns = mean[..., 0], mean[..., 1:].unflatten(-1, (mesh.num_sources, 4)).transpose(1, 2)
    near = torch.exp(-((1 / weights[..., 0] / REACH) ** 2))
    moved = points[:, None] + near[:, None, :, None] * columns[..., :3]
    with_head = source.camera.to_view(moved)
    shift = BODY_SHARE * (mesh.camera.to_view(mesh.neck[:, None])[:, None] - _neck_view(source))
    with_body = mesh.camera.to_view(points)[:, None] - shift
    view = with_body + follow[:, None, :, None] * (with_head - with_body)
    intrinsics = source.camera.intrinsics[:, :, None]
    at = view[..., :2] / view[..., 2:].clamp_min(0.1) * intrinsics[..., :2] + intrinsics[..., 2:]
    return Carried(at, view[..., 2], columns[..., 3], near, follow)


def relief(
    depth: Float[Tensor, "batch 1 height width"], covered: Tensor, pose: HeadPose
) -> Float[Tensor, "batch 1 height width"]:
    """Depth of a person: the mesh, beside the head its outline's depth carried on, below it the plane of the neck."""
    size = depth.shape[-1]
    inside = -functional.max_pool2d(-covered.float(), 3, stride=1, padding=1)
    outline = covered * (1 - inside)
    plane = pose.camera.to_view(pose.neck[:, None])[:, 0, 2][:, None, None, None]
    beyond = torch.where(outline.flatten(1).any(1)[:, None, None, None], grown(depth, outline), plane)
    rows = ((torch.arange(size, device=depth.device) + 0.5) / size)[None, None, :, None]
    neck_row = pose.camera.project(pose.neck[:, None])[:, 0, 1][:, None, None, None]
    below = smoothstep(rows - neck_row, -0.1, 0.05)
    return torch.where(covered, depth, torch.lerp(beyond, plane.expand_as(beyond), below))


def grown(
    values: Float[Tensor, "batch channel size size"], weight: Float[Tensor, "batch 1 size size"]
) -> Float[Tensor, "batch channel size size"]:
    """Values of weight 1 as they are, elsewhere a smooth continuation, between the values around; `push_pull` of
    `media/inpaint.py` for a batch, and for sides that are powers of two. All weights 0 gives 0."""
    if values.shape[-1] == 1:
        return values * (weight > 0)
    sums = functional.avg_pool2d(torch.cat([values * weight, weight], 1), 2)
    share = sums[:, -1:]
    coarse = grown(sums[:, :-1] / share.clamp_min(1e-8), (4 * share).clamp(0, 1).ceil())
    return values * weight + functional.interpolate(coarse, scale_factor=2.0, mode="bilinear") * (1 - weight)


def spread(
    image: Float[Tensor, "batch 3 size size"], alpha: Float[Tensor, "batch 1 size size"]
) -> Float[Tensor, "batch 4 size size"]:
    """Colours of the person, grown beyond its outline, and alpha."""
    return torch.cat([grown(image, smoothstep(alpha, 0.8, 0.98)), alpha], 1)


def in_frame(at: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
    """1 within the picture, falling to 0 over 2 % of its side beyond."""
    beyond = (at - 0.5).abs().amax(-1) - 0.5
    return 1 - smoothstep(beyond, 0.0, 0.02)


def hidden_colours(mesh: OpenHead) -> tuple[Float[Tensor, "vert 3"], Float[Tensor, "vert 1"]]:
    """Colours of what a photo may not show of a head though a frame does, at a brightness of skin of 1, and where."""
    colours, share = torch.zeros(len(mesh.mean), 3), torch.zeros(len(mesh.mean), 1)
    for name, plain in {**MOUTH_COLOURS, "eye_left": SCLERA, "eye_right": SCLERA}.items():
        own = mesh.faces[mesh.face_parts == PARTS.index(name)].unique()
        depth = mesh.mean[own, 2]
        shade = 1.0 if name.startswith("eye") else 0.2 + 0.8 * smoothstep(depth, depth.min(), depth.max())[:, None]
        colours[own] = torch.tensor(plain) / SKIN_LUMA * shade
        if name.startswith("teeth"):
            colours[own] *= torch.tensor(ENAMEL)
        share[own] = 0.5 if name.startswith("eye") else 1.0
        if name.startswith("eye"):
            away = functional.normalize(mesh.mean[own] - mesh.mean[own].mean(0), dim=-1)[:, 2]
            colours[own[away > IRIS]], colours[own[away > PUPIL]] = torch.tensor(IRIS_COLOUR), 0.05
    return colours, share


def on_mesh(head: LiteHead, mesh: DrivenMesh, views: SourceViews, size_px: int) -> OnMesh:
    """Where the driven mesh is in every photo, at full size."""
    source = views.pose
    own = torch.cat([views.vert_seen[..., None], source.camera.project(source.verts)], -1)
    both = torch.stack([own, own[:, :, head.head.mirror]], 3)  # batch source vert side column
    both[..., 1:] -= mesh.camera.project(mesh.verts)[:, None, :, None]
    per_photo = both.permute(0, 2, 1, 3, 4).flatten(2)
    fade = smoothstep(head.head.head_weight, *HEAD_FADE)[:, None]
    fixed = torch.cat([fade, head.hidden_share], 1).expand(len(per_photo), -1, -1)
    hidden = head.hidden_colour * views.light.mean(1)[:, None]
    columns = torch.cat([fixed, hidden, per_photo], -1)
    drawn, depth = mesh_picture(head, mesh, columns, size_px)
    fade, share, hidden, per_photo = drawn.split([1, 1, 3, per_photo.shape[-1]], 1)
    own, mirrored = per_photo.unflatten(1, (-1, 2, 3)).unbind(2)
    return OnMesh(depth, fade, share, hidden, own, mirrored)


def mesh_picture(
    head: LiteHead, mesh: DrivenMesh, columns: Float[Tensor, "batch vert column"], size_px: int
) -> tuple[Float[Tensor, "batch column size size"], Float[Tensor, "batch 1 size size"]]:
    """Values of the driven vertices in each pixel (0 where there is none), and the mesh's depth (0 likewise)."""
    fragments = rasterize(to_screen(mesh.verts, mesh.camera, size_px, size_px), head.drawn, size_px, size_px)
    return interpolate(fragments, columns, head.drawn), fragments.depth[:, None]


def _neck_view(pose: HeadPose) -> Float[Tensor, "batch source 1 3"]:
    return pose.camera.to_view(pose.neck[..., None, :])
