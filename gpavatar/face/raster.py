"""Mesh -> pixels: which triangle is seen in each pixel, and where on it.

A pixel is covered when its centre (x + 0.5, y + 0.5) lies inside a triangle; a centre exactly on an edge belongs to
the triangle whose top or left edge it is, so that two triangles that share an edge neither both take the centre nor
both leave it. Of the triangles that cover a centre the nearest is seen; at equal depth the one with the lower id.
Triangles with a vertex nearer than `NEAR` (or behind the camera, or not finite) are dropped whole. Both sides of a
triangle are drawn.

The backends give the same face ids: "numba" (CPU), "torch" (any device; the readable twin), and, where installed,
"pytorch3d" and "nvdiffrast", whose own edge rules may choose the other triangle for a centre that lies on an edge.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from gpavatar.camera import Camera
from gpavatar.types import InputError

NEAR = 0.01  # units of head space: 2 mm
CPU_BACKENDS = ("numba", "torch", "pytorch3d")  # the first installed one is taken
GPU_BACKENDS = ("nvdiffrast", "pytorch3d", "torch")
BACKENDS = ("numba", "torch", "pytorch3d", "nvdiffrast")
PAIRS_AT_ONCE = 1 << 22  # bounds the memory of the torch backend to some 300 MB


@dataclass(frozen=True)
class Fragments:
    """What is seen in each pixel; where nothing is, `face_ids` is −1 and the rest is 0.

    `bary` is perspective-correct: the seen surface point is Σ_i bary_i · verts[faces[face_ids]_i] in 3-D.
    """

    face_ids: Int[Tensor, "*batch height width"]
    bary: Float[Tensor, "*batch height width 3"]
    depth: Float[Tensor, "*batch height width"]  # along the camera's z axis, units of head space

    @property
    def covered(self) -> Bool[Tensor, "*batch height width"]:
        """Pixels in which a triangle is seen."""
        return self.face_ids >= 0


def to_screen(
    verts: Float[Tensor, "*batch vert 3"], camera: Camera, width_px: int, height_px: int
) -> Float[Tensor, "*batch vert 3"]:
    """Head space -> (x_px, y_px, z): pixel coordinates as in `Camera.project_px` and the camera's depth."""
    view = camera.to_view(verts)
    focal, centre = camera.intrinsics[..., None, :2], camera.intrinsics[..., None, 2:]
    uv = view[..., :2] / view[..., 2:] * focal + centre
    return torch.cat([uv * uv.new_tensor([width_px, height_px]), view[..., 2:]], -1)


def rasterize(
    verts_screen: Float[Tensor, "*batch vert 3"],
    faces: Int[Tensor, "face 3"],
    height_px: int,
    width_px: int,
    backend: str = "auto",
) -> Fragments:
    """Rasterise a mesh whose vertices `to_screen` made (x_px, y_px, z); see the rules at the top of this file.

    Not differentiable; `with_gradient` makes the barycentrics and the depth of the result follow the vertices.
    "auto": numba on the CPU where installed, else torch; on a GPU nvdiffrast, then PyTorch3D, then torch.
    Raises InputError where the named backend cannot be had.
    """
    name = choose_backend(verts_screen.device, backend)
    verts, faces = verts_screen.detach().float(), faces.to(verts_screen.device)
    if name == "numba":
        from gpavatar.face import raster_numba  # numba is optional, and takes a second to import

        return Fragments(*raster_numba.rasterize(verts, faces, height_px, width_px, NEAR))
    flat = verts.reshape(-1, *verts.shape[-2:])
    face_ids = _FACE_IDS[name](flat, faces, height_px, width_px)
    bary, depth = (value.float() for value in barycentrics(flat.double(), faces, face_ids))
    batch = verts.shape[:-2]
    return Fragments(*(value.reshape(*batch, *value.shape[1:]) for value in (face_ids, bary, depth)))


def choose_backend(device: torch.device, backend: str = "auto") -> str:
    """Name of the backend that `rasterize` takes for tensors on `device`; InputError where it cannot be had."""
    if backend not in ("auto", *BACKENDS):
        raise InputError(f"unknown rasteriser '{backend}': choose one of {', '.join(('auto', *BACKENDS))}")
    usable = [name for name in (CPU_BACKENDS if device.type == "cpu" else GPU_BACKENDS) if _installed(name)]
    if backend == "auto":
        return usable[0]
    if backend not in usable:
        raise InputError(f"the rasteriser '{backend}' is not installed, or not for device '{device}': choose 'auto'")
    return backend


def _installed(name: str) -> bool:
    return name == "torch" or importlib.util.find_spec(name) is not None


def with_gradient(
    fragments: Fragments, verts_screen: Float[Tensor, "*batch vert 3"], faces: Int[Tensor, "face 3"]
) -> Fragments:
    """The same fragments with `bary` and `depth` as differentiable functions of the vertices (face ids are fixed)."""
    flat_ids = fragments.face_ids.reshape(-1, *fragments.face_ids.shape[-2:])
    bary, depth = barycentrics(verts_screen.reshape(-1, *verts_screen.shape[-2:]), faces, flat_ids)
    return Fragments(fragments.face_ids, bary.reshape(fragments.bary.shape), depth.reshape(fragments.depth.shape))


def barycentrics(
    verts_screen: Float[Tensor, "batch vert 3"],
    faces: Int[Tensor, "face 3"],
    face_ids: Int[Tensor, "batch height width"],
) -> tuple[Float[Tensor, "batch height width 3"], Float[Tensor, "batch height width"]]:
    """Perspective-correct barycentrics and depth at the pixel centres, given the seen triangles.

    With s_i the screen-space area opposite to vertex i: bary_i = (s_i / z_i) / Σ_j (s_j / z_j),
    depth = Σ_j s_j / Σ_j (s_j / z_j). Differentiable in the vertices.
    """
    height, width = face_ids.shape[-2:]
    index = torch.arange(len(face_ids), device=face_ids.device)[:, None, None, None]
    corners = verts_screen[index, faces[face_ids.clamp_min(0)]]
    x = torch.arange(width, device=face_ids.device)[None, None, :, None] + 0.5 - corners[..., 0]
    y = torch.arange(height, device=face_ids.device)[None, :, None, None] + 0.5 - corners[..., 1]
    areas = x.roll(-1, -1) * y.roll(-2, -1) - x.roll(-2, -1) * y.roll(-1, -1)
    scaled = areas / corners[..., 2]
    total = scaled.sum(-1)
    covered = (face_ids >= 0) & (total != 0)
    total = torch.where(covered, total, torch.ones_like(total))
    bary = torch.where(covered[..., None], scaled / total[..., None], torch.zeros_like(scaled))
    return bary, torch.where(covered, areas.sum(-1) / total, torch.zeros_like(total))


def interpolate(
    fragments: Fragments,
    attributes: Float[Tensor, "*#batch vert channel"],
    faces: Int[Tensor, "face 3"],
    backend: str = "auto",
) -> Float[Tensor, "*batch channel height width"]:
    """Vertex attributes at the fragments, Σ_i bary_i · attributes[faces_i]; 0 where nothing is seen.

    `faces` may index another set of vertices of the same triangles (`uv_faces`). Differentiable in the attributes and
    in `fragments.bary`; where no gradient is asked for, "auto" takes the numba kernel on the CPU.
    """
    if fast_path(backend, attributes, fragments.bary):
        from gpavatar.face import raster_numba

        return raster_numba.interpolate(fragments.face_ids, fragments.bary, attributes, faces)
    corner_ids = faces[fragments.face_ids.clamp_min(0)]
    if attributes.ndim == 2:
        corners = attributes[corner_ids]
    else:
        batch = torch.arange(len(corner_ids), device=corner_ids.device) * (len(attributes) > 1)
        corners = attributes[batch[:, None, None, None], corner_ids]
    return rearrange((corners * fragments.bary[..., None]).sum(-2), "... h w c -> ... c h w")


def fast_path(backend: str, *inputs: Tensor) -> bool:
    """Whether numba serves: chosen, float32 values, and no gradient is asked for (then its twin in torch does)."""
    needs_gradient = torch.is_grad_enabled() and any(value.requires_grad for value in inputs)
    needs_torch = needs_gradient or any(value.dtype != torch.float32 for value in inputs)
    return choose_backend(inputs[0].device, "torch" if needs_torch else backend) == "numba"


def vertex_normals(
    verts: Float[Tensor, "*batch vert 3"], faces: Int[Tensor, "face 3"]
) -> Float[Tensor, "*batch vert 3"]:
    """Unit vertex normals: the area-weighted mean of the normals of the faces around (counter-clockwise outwards)."""
    a, b, c = (verts[..., faces[:, i], :] for i in range(3))
    face_normals = torch.linalg.cross(b - a, c - a)
    corner_normals = face_normals[..., None, :].expand(*face_normals.shape[:-1], 3, 3).flatten(-3, -2)
    summed = torch.zeros_like(verts).index_add(-2, faces.reshape(-1), corner_normals)
    return functional.normalize(summed, dim=-1, eps=1e-20)


def _torch_face_ids(
    verts: Float[Tensor, "batch vert 3"], faces: Int[Tensor, "face 3"], height_px: int, width_px: int
) -> Int[Tensor, "batch height width"]:
    """The z-buffer in words of tensors: all pairs (triangle, pixel of its bounding box), then two reductions.

    Bit for bit the arithmetic of `raster_numba`: float64, each edge from its upper to its lower end whichever
    triangle asks, so that the two triangles beside an edge see the same number with opposite signs.
    """
    corners = verts.double()[:, faces].flatten(0, 1)  # (batch face) corner 3
    x, y, z = corners.unbind(-1)
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    drawn = (z > NEAR).all(-1) & (area.abs() > 0) & area.isfinite() & z.isfinite().all(-1)
    x, y, z, area, source = x[drawn], y[drawn], z[drawn], area[drawn], drawn.nonzero()[:, 0]
    x0, x1 = (x.amin(-1) - 0.5).ceil().clamp(0, width_px), (x.amax(-1) - 0.5).floor().clamp(-1, width_px - 1)
    y0, y1 = (y.amin(-1) - 0.5).ceil().clamp(0, height_px), (y.amax(-1) - 0.5).floor().clamp(-1, height_px - 1)
    columns, rows = (x1 - x0 + 1).long().clamp_min(0), (y1 - y0 + 1).long().clamp_min(0)

    nearest = torch.zeros(len(verts) * height_px * width_px, dtype=torch.float64, device=verts.device)  # 1 / z
    chosen = torch.full_like(nearest, len(faces), dtype=torch.long)
    cumulative = (columns * rows).cumsum(0)
    start = 0
    while start < len(x):
        done = int(cumulative[start - 1]) if start else 0
        stop = max(start + 1, int(torch.searchsorted(cumulative, done + PAIRS_AT_ONCE)))
        counts = (columns * rows)[start:stop]
        triangle = torch.repeat_interleave(torch.arange(start, stop, device=verts.device), counts)
        first_pair = cumulative - columns * rows - done
        inside_box = torch.arange(len(triangle), device=verts.device) - first_pair[triangle]
        column = x0.long()[triangle] + inside_box % columns[triangle]
        row = y0.long()[triangle] + inside_box // columns[triangle]
        start = stop

        inverse_depth = torch.zeros(len(triangle), dtype=torch.float64, device=verts.device)
        covered = torch.ones_like(triangle, dtype=torch.bool)
        for i in range(3):
            j, k = (i + 1) % 3, (i + 2) % 3
            edge, from_left_or_top = _edge(x[:, j], y[:, j], x[:, k], y[:, k], area, triangle, column + 0.5, row + 0.5)
            covered &= (edge > 0) | ((edge == 0) & from_left_or_top)
            inverse_depth = inverse_depth + edge * (1 / (z[:, i] * area.abs()))[triangle]
        triangle, inverse_depth = triangle[covered], inverse_depth[covered]
        pixel = (source[triangle] // len(faces) * height_px + row[covered]) * width_px + column[covered]
        face = source[triangle] % len(faces)

        before = nearest
        nearest = before.scatter_reduce(0, pixel, inverse_depth, "amax")
        chosen = torch.where(nearest > before, len(faces), chosen)  # beaten by a nearer one, named next
        seen = inverse_depth == nearest[pixel]
        chosen = chosen.scatter_reduce(0, pixel[seen], face[seen], "amin")
    return torch.where(chosen < len(faces), chosen, -1).reshape(len(verts), height_px, width_px)


def _edge(ax, ay, bx, by, area, triangle, px, py):
    """Edge function of the edge a -> b at (px, py), positive inside, and whether the edge is a top or left one."""
    swap = (ay > by) | ((ay == by) & (ax > bx))
    ux, uy = torch.where(swap, bx, ax), torch.where(swap, by, ay)
    dx, dy = torch.where(swap, ax, bx) - ux, torch.where(swap, ay, by) - uy
    positive = swap == (area < 0)
    sign = torch.where(positive, 1.0, -1.0).double()
    value = sign[triangle] * (dx[triangle] * (py - uy[triangle]) - dy[triangle] * (px - ux[triangle]))
    # From the upper to the lower end the inside of a left edge, and of a top edge from left to right:
    top_or_left = torch.where(dy == 0, positive, ~positive)
    return value, top_or_left[triangle]


def _pytorch3d_face_ids(
    verts: Float[Tensor, "batch vert 3"], faces: Int[Tensor, "face 3"], height_px: int, width_px: int
) -> Int[Tensor, "batch height width"]:
    """PyTorch3D's axes are +x left, +y up, with the shorter side of the image spanning [−1, 1]."""
    from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
    from pytorch3d.structures import Meshes

    def one(frame: Tensor, drawn: Tensor) -> Tensor:
        xy = (frame.new_tensor([width_px, height_px]) - 2 * frame[:, :2]) / min(width_px, height_px)
        mesh = Meshes(torch.cat([xy, frame[:, 2:]], -1)[None], faces[drawn][None])
        return rasterize_meshes(mesh, (height_px, width_px), blur_radius=0.0, faces_per_pixel=1)[0][0, ..., 0]

    return _each_frame(one, verts, faces)


def _nvdiffrast_face_ids(
    verts: Float[Tensor, "batch vert 3"], faces: Int[Tensor, "face 3"], height_px: int, width_px: int
) -> Int[Tensor, "batch height width"]:
    """nvdiffrast takes clip coordinates and gives id + 1; its rows are ours when y is not turned."""
    import nvdiffrast.torch as nvdiffrast

    context = nvdiffrast.RasterizeCudaContext(verts.device)

    def one(frame: Tensor, drawn: Tensor) -> Tensor:
        z, far = frame[:, 2:], 2 * float(frame[:, 2].max())
        xy = (2 * frame[:, :2] / frame.new_tensor([width_px, height_px]) - 1) * z
        clip = torch.cat([xy, (far + NEAR) / (far - NEAR) * z - 2 * far * NEAR / (far - NEAR), z], -1)
        found = nvdiffrast.rasterize(context, clip[None], faces[drawn].int(), (height_px, width_px))[0]
        return found[0, ..., 3].long() - 1

    return _each_frame(one, verts, faces)


def _each_frame(one: Callable[[Tensor, Tensor], Tensor], verts: Tensor, faces: Tensor) -> Tensor:
    """Face ids of frames by a rasteriser that takes one frame and the ids of the triangles in front of the camera."""
    ids = []
    for frame in verts:
        drawn = (frame[faces, 2] > NEAR).all(-1).nonzero()[:, 0]
        found = one(frame, drawn)
        ids.append(torch.where(found >= 0, drawn[found.clamp_min(0)], -1))
    return torch.stack(ids)


_FACE_IDS = {"torch": _torch_face_ids, "pytorch3d": _pytorch3d_face_ids, "nvdiffrast": _nvdiffrast_face_ids}
