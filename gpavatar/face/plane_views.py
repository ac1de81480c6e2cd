"""The face drawn straight onto the planes of a tri-plane: which texel of the atlas lies where (InvertAvatar 3.1).

A view looks along an axis, without perspective, at a square window of its plane. Texel (row, column) of a window of n
texels has its centre at corner + (column + ½, row + ½) · side/n along the plane's two axes, so that rows run with the
second axis, as in `gpavatar.triplane.lookup`. Views have names; a plane that is seen from two sides has two views.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from gpavatar.face.morphable import HeadTopology
from gpavatar.face.raster import Fragments, barycentrics, interpolate, rasterize

AXES = "xyz"
FACE_REGIONS = ("face", "eyes", "lips")
FAR = 100.0  # units; where the eye of a view is, far outside any head


@dataclass(frozen=True)
class View:
    """`plane` names what columns and rows run along; the eye is on the `towards` (+1 or −1) side of the third axis."""

    plane: str
    towards: int

    @property
    def axes(self) -> tuple[int, int, int]:
        """Columns, rows, and the axis that is looked along."""
        column, row = (AXES.index(name) for name in self.plane)
        return column, row, 3 - column - row


# "left" sees the person's left side, which is where +x is.
VIEWS = {"front": View("xy", 1), "left": View("yz", 1), "right": View("yz", -1)}


@dataclass(frozen=True)
class Window:
    """The cube around the face whose sides are the windows; head units."""

    centre: tuple[float, float, float] = (0.0, -0.125, 0.25)
    half: float = 0.625

    def texels(self, plane: str, plane_px: int) -> tuple[int, int, int]:
        """First column, first row and side of the window on a plane of `plane_px` texels that spans [-1, 1]."""
        first = [(self.centre[AXES.index(name)] - self.half + 1) * plane_px / 2 for name in plane]
        column, row, side = (round(value) for value in (*first, self.half * plane_px))
        assert [column, row, side] == [*first, self.half * plane_px], "the window does not lie on whole texels"
        return column, row, side


@dataclass(frozen=True)
class FaceSurface:
    """The triangles that carry the neural texture: the face with its eyes, without the inside of the mouth."""

    faces: Int[Tensor, "face 3"]
    uv: Float[Tensor, "uv_vert 2"]
    uv_faces: Int[Tensor, "face 3"]

    @staticmethod
    def of(topology: HeadTopology) -> FaceSurface:
        """Triangles of the face's regions; what is behind the lips is for a network to invent."""
        vertices = reduce(torch.logical_or, (topology.regions[name] for name in FACE_REGIONS))
        chosen = vertices[topology.faces].all(1)
        return FaceSurface(topology.faces[chosen], topology.uv, topology.uv_faces[chosen])


@dataclass(frozen=True)
class ViewMaps:
    """Views of one size, in the order in which they were named."""

    uv: Float[Tensor, "batch view 2 size size"]  # [0, 1], the texture coordinates that are seen; 0 where none are
    surface: Bool[Tensor, "batch view 1 size size"]  # where the face's surface is seen
    filled: Bool[Tensor, "batch view 1 size size"]  # the same with its holes (the open mouth) filled

    def only(self, views: list[int]) -> ViewMaps:
        """Some of the views, by their position."""
        return ViewMaps(self.uv[:, views], self.surface[:, views], self.filled[:, views])

    def drawn(self, texture: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch view channel _ _"]:
        """The texture as each view sees it, bilinear; 0 off the surface. Differentiable in the texture."""
        views = self.uv.shape[1]
        grid = (2 * self.uv - 1).flatten(0, 1).permute(0, 2, 3, 1)
        source = texture.repeat_interleave(views, 0)
        seen = functional.grid_sample(source, grid.to(source.dtype), padding_mode="border", align_corners=False)
        return seen.unflatten(0, (-1, views)) * self.surface


@dataclass(frozen=True)
class FaceViews:
    """A face as a generator with three conditioned resolutions takes it."""

    coarse: ViewMaps
    middle: ViewMaps
    fine: ViewMaps


@torch.no_grad()
def face_views(
    verts: Float[Tensor, "batch vert 3"],
    surface: FaceSurface,
    views: tuple[str, ...],
    window: Window,
    sizes: tuple[int, int, int],
) -> FaceViews:
    """Draw the views (names of `VIEWS`) at three sizes, coarse to fine. Not differentiable."""
    return FaceViews(*(view_maps(verts, surface, views, window, size) for size in sizes))


@torch.no_grad()
def view_maps(
    verts: Float[Tensor, "batch vert 3"], surface: FaceSurface, views: tuple[str, ...], window: Window, size_px: int
) -> ViewMaps:
    """The views at one size. Not differentiable."""
    uv, seen = [], []
    for name in views:
        fragments = _draw(verts, surface.faces, VIEWS[name], window, size_px)
        uv.append(interpolate(fragments, surface.uv, surface.uv_faces))
        seen.append(fragments.covered)
    covered = torch.stack(seen, 1)[:, :, None]
    return ViewMaps(torch.stack(uv, 1), covered, fill_holes(covered))


def to_window(points: Float[Tensor, "*batch point 3"], view: View, window: Window) -> Float[Tensor, "*batch point 2"]:
    """Where points fall in a view's window: (column, row), (0, 0) its first corner and (1, 1) its last."""
    column, row, _ = view.axes
    at = points[..., [column, row]] - points.new_tensor([window.centre[column], window.centre[row]])
    return (at / window.half + 1) / 2


def _draw(
    verts: Float[Tensor, "batch vert 3"], faces: Int[Tensor, "face 3"], view: View, window: Window, size_px: int
) -> Fragments:
    depth = FAR - view.towards * verts[..., view.axes[2]]
    flat = to_window(verts, view, window) * size_px
    screen = torch.cat([flat, depth[..., None]], -1)
    face_ids = rasterize(screen, faces, size_px, size_px).face_ids
    # Depth chose the triangle; without perspective the place on it does not depend on depth.
    bary, _ = barycentrics(torch.cat([flat, torch.ones_like(depth)[..., None]], -1), faces, face_ids)
    return Fragments(face_ids, bary, torch.zeros_like(bary[..., 0]))


def fill_holes(mask: Bool[Tensor, "*batch height width"]) -> Bool[Tensor, "*batch height width"]:
    """The mask and all pixels that have some of it to the left, to the right, above and below."""
    some = mask.byte()
    enclosed = mask.new_ones(())
    for axis in (-1, -2):
        enclosed = enclosed & (some.cummax(axis).values & some.flip(axis).cummax(axis).values.flip(axis)).bool()
    return mask | enclosed
