"""The face drawn onto planes: where it lands, from which side, and with which holes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional

from gpavatar.face.open_head import OpenHead
from gpavatar.face.plane_views import VIEWS, FaceSurface, ViewMaps, Window, face_views, fill_holes, to_window, view_maps
from gpavatar.face.uv import texel_map
from gpavatar.types import ARKIT_NAMES, HeadParams

WINDOW = Window()
NAMES = tuple(VIEWS)
SIZE = 64


@pytest.fixture(scope="module")
def head() -> OpenHead:
    return OpenHead.load()


@pytest.fixture(scope="module")
def surface(head) -> FaceSurface:
    return FaceSurface.of(head.topology)


def posed(head: OpenHead, **weights: float) -> torch.Tensor:
    params = HeadParams.neutral(head.n_shape, head.n_expression, (1,))
    for name, weight in weights.items():
        params.expression[:, ARKIT_NAMES.index(name)] = weight
    return head.verts(params)


@pytest.mark.parametrize("name", NAMES)
def test_drawing_and_looking_up_are_inverse(head, surface, name):
    """Window texel -> place in the atlas -> point on the head -> where it falls in the window: the texel's centre."""
    verts = posed(head, jawOpen=0.5, mouthSmileLeft=0.8)
    maps = view_maps(verts, surface, (name,), WINDOW, SIZE)
    on_atlas = texel_map(head.topology, 1024)
    places = on_atlas.on(verts[0], head.topology.faces)
    known = on_atlas.valid[None].float()
    grid = (2 * maps.uv[0] - 1).permute(0, 2, 3, 1)
    points, share = functional.grid_sample(torch.cat([places, known])[None], grid, align_corners=False)[0].split([3, 1])
    inside = maps.surface[0, 0, 0] & (share[0] > 0.999)  # all four texels around belong to an island
    assert inside.sum() > 0.95 * maps.surface.sum() > 0.02 * SIZE**2
    found = to_window(points.permute(1, 2, 0), VIEWS[name], WINDOW) * SIZE
    centres = torch.stack(torch.meshgrid(*[torch.arange(SIZE) + 0.5] * 2, indexing="xy"), -1)
    apart = (found - centres)[inside].norm(dim=-1)
    assert apart.max() < 0.07 and apart.median() < 1e-4  # measured 0.032 (across triangles), 4e-6


def test_front_sees_the_front_and_each_side_its_own(head, surface):
    """The middle of the face's right half (−x) is seen by "front" and "right", not by "left"; rows run upwards."""
    maps = view_maps(posed(head), surface, NAMES, WINDOW, SIZE)
    halves = [maps.uv[0, n, 0][maps.surface[0, n, 0]] for n in range(3)]
    middle = 0.5  # of the atlas, which is symmetric
    eyes = [(half < 0.2) | (half > 0.8) for half in halves]  # their islands stand apart
    assert (halves[0] < middle).any() and (halves[0] > middle).any()
    sides = [bool((half[~eye] > middle).float().mean() > 0.9) for half, eye in zip(halves[1:], eyes[1:], strict=True)]
    assert sides == [True, False]
    face = head.mean[head.topology.regions["face"]]
    low, high = ((edge - torch.tensor(WINDOW.centre)) / WINDOW.half for edge in (face.amin(0), face.amax(0)))
    for view, axes in enumerate(((0, 1), (1, 2), (1, 2))):  # columns and rows run with these
        for across, axis in enumerate(axes):
            seen = maps.surface[0, view, 0].any(across).nonzero()[:, 0] + 0.5
            reach = torch.stack([low[axis], high[axis]]) * SIZE / 2 + SIZE / 2
            torch.testing.assert_close(torch.stack([seen.min(), seen.max()]), reach, atol=1.0, rtol=0.0)


def test_the_open_mouth_is_a_hole_that_is_filled(head, surface):
    shut, opened = (view_maps(posed(head, jawOpen=weight), surface, ("front",), WINDOW, SIZE) for weight in (0, 0.9))

    def hole(maps: ViewMaps) -> torch.Tensor:
        return (maps.filled & ~maps.surface)[0, 0, 0]

    assert hole(shut).sum() < 12 < 40 < hole(opened).sum()
    lips = to_window(head.mean[head.topology.regions["lips"]], VIEWS["front"], WINDOW) * SIZE
    rows, columns = hole(opened).nonzero().unbind(1)
    assert columns.min() > lips[:, 0].min() - 1 and columns.max() < lips[:, 0].max() + 1
    assert rows.max() < lips[:, 1].max() + 1  # and the jaw went down from there


def test_holes_are_what_is_enclosed_on_all_four_sides():
    mask = torch.zeros(7, 7, dtype=torch.bool)
    mask[1:6, 1:6] = True
    ring, bay = mask.clone(), mask.clone()
    ring[2:5, 2:4] = False
    bay[2:5, 4:] = False  # open to the right
    assert torch.equal(fill_holes(ring), mask) and torch.equal(fill_holes(bay), bay)
    assert torch.equal(fill_holes(torch.stack([ring, bay])), torch.stack([mask, bay]))


def test_a_window_lies_on_whole_texels():
    assert WINDOW.texels("xy", 256) == (48, 32, 160)
    assert Window((0.0, -0.125, 0.25), 0.5).texels("yz", 16) == (3, 6, 8)
    with pytest.raises(AssertionError, match="whole texels"):
        WINDOW.texels("xy", 8)


def test_a_texture_is_seen_where_the_surface_is(head, surface, generator):
    views = face_views(posed(head), surface, NAMES, WINDOW, (8, 16, 32))
    texture = torch.rand(1, 3, 32, 32, generator=generator, requires_grad=True)
    seen = views.fine.drawn(texture)
    assert seen.shape == (1, 3, 3, 32, 32) and not seen[~views.fine.surface.expand_as(seen)].any()
    (gradient,) = torch.autograd.grad(seen.sum(), texture)
    assert float(gradient.sum()) == pytest.approx(3 * float(views.fine.surface.sum()), rel=1e-4)  # weights sum to 1
    flat = views.coarse.drawn(torch.full((1, 2, 16, 16), 0.7))
    torch.testing.assert_close(flat, 0.7 * views.coarse.surface.expand_as(flat).float())
    front = views.fine.only([0])
    assert torch.equal(front.drawn(texture), seen[:, :1])


def test_the_inside_of_the_mouth_is_not_drawn(head, surface):
    inner = head.topology.regions["mouth_interior"]
    assert not inner[surface.faces].all(1).any()
    assert head.topology.regions["eyes"][surface.faces].all(1).any()
