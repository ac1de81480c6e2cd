"""The last pixel of a fit: vertex offsets that put the mesh's landmarks where the detector saw them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gpavatar.camera import Camera
from gpavatar.face.open_head import PARTS, OpenHead

WIDTHS = (0.06, 0.03, 0.015)  # of the kernels, in atlas sides: the face is about half a side wide
RIDGE = 0.3  # a vertex reached by less landmark weight than this moves only in part
BAG_REACH = 0.04  # units: the mouth's lining follows the lips this far in


def landmark_offsets(
    head: OpenHead,
    verts: Float[Tensor, "vert 3"],
    camera: Camera,
    landmarks: Float[Tensor, "478 2"],
) -> Float[Tensor, "vert 3"]:
    """Offsets o, parallel to the image plane, that carry the mesh's landmarks towards `landmarks` (of image size 1).

    What is missing at landmark i, r_i = R [Δ_i z_i / f, 0], is spread over the skin by Gaussian weights k_i(x):

        o(x) = Σ_i w_i k_i(x) r_i / (Σ_i w_i k_i(x) + RIDGE),     again with what is then left, at narrower widths.

    Distances are measured in the atlas, where the lips and the lids are apart even when they touch in space. An
    eyeball moves as a whole, with its lids; the lining of the mouth with the lips; teeth and tongue stay.
    """
    topology = head.topology
    skin_faces = head.face_parts == PARTS.index("skin")
    at = torch.zeros_like(verts[:, :2])
    at[topology.faces[skin_faces].flatten()] = topology.uv[topology.uv_faces[skin_faces].flatten()]
    skin = topology.faces[skin_faces].unique()
    points_at = topology.mediapipe.on(topology.uv, topology.uv_faces)
    on_skin = skin_faces[topology.mediapipe.face_ids] & landmarks.isfinite().all(-1)
    trust = topology.mediapipe_weights * on_skin
    wanted = torch.where(on_skin[:, None], landmarks, 0.5)

    distance = torch.cdist(at[skin], points_at)
    offsets = torch.zeros_like(verts)
    for width in WIDTHS:
        points = topology.mediapipe.on(verts + offsets, topology.faces)
        missing = (wanted - camera.project(points)) / camera.intrinsics[:2] * camera.to_view(points)[:, 2:]
        shift = missing @ camera.c2w[:3, :2].T
        kernel = torch.exp(-((distance / width) ** 2)) * trust
        offsets[skin] += kernel @ shift / (kernel.sum(-1, keepdim=True) + RIDGE)

    for side, eye in enumerate(("eye_left", "eye_right")):
        ball = topology.faces[head.face_parts == PARTS.index(eye)].unique()
        offsets[ball] = offsets[head.lids[side]].mean(0)
    bag = topology.faces[head.face_parts == PARTS.index("mouth_bag")].unique()
    inner = bag[~torch.isin(bag, skin)]
    distance, nearest = torch.cdist(verts[inner], verts[skin]).min(-1)
    offsets[inner] = offsets[skin][nearest] * torch.exp(-((distance / BAG_REACH) ** 2))[:, None]
    return offsets


def flattened(
    verts: Float[Tensor, "vert 3"], faces: Int[Tensor, "face 3"], where: Bool[Tensor, " vert"]
) -> Float[Tensor, "vert 3"]:
    """The mesh with the marked vertices drawn tight over the rest: each the mean of its neighbours (L x = 0)."""
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges = torch.cat([edges, edges.flip(-1)]).unique(dim=0)
    edges = edges[where[edges[:, 0]]]
    own = where.nonzero()[:, 0]
    number = torch.full((len(verts),), -1, device=verts.device)
    number[own] = torch.arange(len(own), device=verts.device)
    row, inner = number[edges[:, 0]], where[edges[:, 1]]
    laplacian = torch.zeros(len(own), len(own), device=verts.device)
    laplacian.index_put_((row, row), torch.ones_like(row, dtype=verts.dtype), accumulate=True)
    laplacian[row[inner], number[edges[inner, 1]]] -= 1
    known = torch.zeros(len(own), 3, device=verts.device).index_add_(0, row[~inner], verts[edges[~inner, 1]])
    out = verts.clone()
    out[own] = torch.linalg.solve(laplacian, known)
    return out


def triangle_areas(points: Float[Tensor, "vert axis"], faces: Int[Tensor, "face 3"]) -> Float[Tensor, " face"]:
    """Areas of the triangles, of points in the plane (in the squared unit of the points) or in space."""
    a, b, c = points[faces].unbind(1)
    u, v = b - a, c - a
    gram = (u * u).sum(-1) * (v * v).sum(-1) - (u * v).sum(-1) ** 2
    return gram.clamp_min(0).sqrt() / 2
