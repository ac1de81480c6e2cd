"""Laws of the rasteriser, and its fast backends against the readable one."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torch

from gpavatar.camera import Camera
from gpavatar.face import raster
from gpavatar.types import InputError

BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"no {name}"))
    for name in ("numba", "torch")
]
EXTERNAL = [name for name in ("pytorch3d", "nvdiffrast") if importlib.util.find_spec(name) is not None]


def random_mesh(seed: int, num_verts: int = 60, num_faces: int = 90) -> tuple[torch.Tensor, torch.Tensor]:
    """Triangles across a 40 × 32 picture and its borders; half of the corners lie on pixel centres and edges."""
    generator = torch.Generator().manual_seed(seed)
    size, origin = torch.tensor([52.0, 44.0, 2.0]), torch.tensor([-6.0, -6.0, 0.5])
    verts = torch.rand(num_verts, 3, generator=generator) * size + origin
    verts[::2] = (verts[::2] * 2).round() / 2
    return verts, torch.randint(0, num_verts, (num_faces, 3), generator=generator)


def grid(cells: int, step_px: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A square of triangles whose corners all lie on pixel centres."""
    axis = 0.5 + step_px * torch.arange(cells + 1)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    first = (torch.arange(cells)[:, None] * (cells + 1) + torch.arange(cells)).reshape(-1)
    upper = torch.stack([first, first + 1, first + cells + 1], -1)
    lower = torch.stack([first + 1, first + cells + 2, first + cells + 1], -1)
    return torch.stack([x, y, torch.ones_like(x)], -1).reshape(-1, 3), torch.cat([upper, lower])


@pytest.mark.parametrize("seed", range(8))
def test_numba_equals_torch(seed, monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setattr(raster, "PAIRS_AT_ONCE", 3000)  # several chunks
    verts, faces = random_mesh(seed)
    verts[7, 2], verts[8, 0], faces[5] = -1.0, torch.nan, faces[4].flip(0)
    fast, slow = (raster.rasterize(verts, faces, 32, 40, backend) for backend in ("numba", "torch"))
    assert fast.covered.float().mean() > 0.5
    assert torch.equal(fast.face_ids, slow.face_ids)
    torch.testing.assert_close(fast.depth, slow.depth, atol=0, rtol=2e-7)
    torch.testing.assert_close(fast.bary, slow.bary, atol=2e-7, rtol=0)


@pytest.mark.parametrize("backend", EXTERNAL)
def test_external_backends_agree(backend):
    device = torch.device("cuda" if backend == "nvdiffrast" else "cpu")
    verts, faces = random_mesh(0)
    verts = verts + 0.123  # no corner on a centre: the edge rules differ
    ours = raster.rasterize(verts, faces, 32, 40, "torch").face_ids
    assert torch.equal(raster.rasterize(verts.to(device), faces, 32, 40, backend).face_ids.cpu(), ours)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("turned", [False, True])
def test_shared_edges_are_covered_exactly_once(backend, turned):
    verts, faces = grid(6, 4.0)
    faces = faces.flip(1) if turned else faces
    alone = [raster.rasterize(verts, face[None], 30, 30, backend).covered for face in faces]
    count = torch.stack(alone).sum(0)
    assert torch.equal(count, torch.nn.functional.pad(torch.ones(24, 24, dtype=torch.long), (0, 6, 0, 6)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_nearer_wins_then_lower_id(backend):
    verts, faces = grid(1, 8.0)
    verts = torch.cat([verts, verts * torch.tensor([1.0, 1.0, 0.5]), verts * torch.tensor([1.0, 1.0, 2.0])])
    near_second = torch.cat([faces, faces + 4, faces + 8])
    assert set(raster.rasterize(verts, near_second, 8, 8, backend).face_ids.unique().tolist()) == {2, 3}
    twice = torch.cat([faces, faces])
    assert set(raster.rasterize(verts, twice, 8, 8, backend).face_ids.unique().tolist()) == {0, 1}


@pytest.mark.parametrize("backend", BACKENDS)
def test_triangles_at_or_behind_the_camera_are_dropped(backend):
    verts, faces = grid(1, 8.0)
    for z in (-1.0, 0.0, raster.NEAR / 2, torch.nan, torch.inf):
        broken = verts.clone()
        broken[0, 2] = z
        assert set(raster.rasterize(broken, faces, 8, 8, backend).face_ids.unique().tolist()) == {-1, 1}


@pytest.mark.parametrize("backend", BACKENDS)
def test_fragments_lie_on_the_surface(backend):
    """Unprojecting bary, depth and pixel centre all give the same 3-D point."""
    camera = Camera.frontal(4.0, 2.0)
    verts = torch.tensor([[-0.8, -0.7, 0.9], [0.9, -0.6, -0.8], [0.0, 0.8, 0.1]])
    faces = torch.tensor([[0, 1, 2]])
    seen = raster.rasterize(raster.to_screen(verts, camera, 50, 40), faces, 40, 50, backend)
    points = raster.interpolate(seen, verts, faces)[:, seen.covered].T
    row, column = seen.covered.nonzero().unbind(-1)
    centres = torch.stack([column, row], -1) + 0.5
    torch.testing.assert_close(camera.project_px(points, 50, 40), centres, atol=3e-5, rtol=0)  # measured 1.1e-5
    torch.testing.assert_close(camera.to_view(points)[:, 2], seen.depth[seen.covered], atol=2e-6, rtol=0)
    torch.testing.assert_close(seen.bary.sum(-1), seen.covered.float())


@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_is_frame_by_frame(backend):
    (one, faces), (two, _) = random_mesh(1), random_mesh(2)
    both = raster.rasterize(torch.stack([one, two]), faces, 32, 40, backend)
    for index, verts in enumerate((one, two)):
        alone = raster.rasterize(verts, faces, 32, 40, backend)
        assert torch.equal(both.face_ids[index], alone.face_ids)
        assert torch.equal(both.bary[index], alone.bary)
    colours = torch.rand(2, 60, 5)
    pictures = raster.interpolate(both, colours, faces, backend)
    assert pictures.shape == (2, 5, 32, 40)
    for index, verts in enumerate((one, two)):
        alone = raster.rasterize(verts, faces, 32, 40, backend)
        torch.testing.assert_close(pictures[index], raster.interpolate(alone, colours[index], faces, "torch"))
        torch.testing.assert_close(
            raster.interpolate(both, colours[0], faces, backend)[index],
            raster.interpolate(alone, colours[0], faces, "torch"),
        )


def test_bands_do_not_change_the_result(monkeypatch):
    pytest.importorskip("numba")
    verts, faces = random_mesh(3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    one = raster.rasterize(verts, faces, 64, 40, "numba")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    three = raster.rasterize(verts, faces, 64, 40, "numba")
    assert torch.equal(one.face_ids, three.face_ids) and torch.equal(one.bary, three.bary)


def test_gradients_follow_the_vertices():
    verts, faces = random_mesh(4, 12, 8)
    verts = verts.double().requires_grad_()
    seen = raster.rasterize(verts, faces, 32, 40)
    moving = raster.with_gradient(seen, verts, faces)
    torch.testing.assert_close(moving.bary.float(), seen.bary, atol=1e-5, rtol=0)
    torch.testing.assert_close(moving.depth.float(), seen.depth)

    def picture(verts, attributes):
        return raster.interpolate(raster.with_gradient(seen, verts, faces), attributes, faces)

    attributes = torch.rand(12, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(picture, (verts, attributes), fast_mode=True)


def test_normals_of_a_cone_and_their_gradient():
    turn = torch.arange(12) / 12 * 2 * torch.pi
    ring = torch.stack([turn.cos(), turn.sin(), torch.zeros(12)], -1)
    verts = torch.cat([ring, torch.tensor([[0.0, 0.0, 1.0]])]).double().requires_grad_()
    faces = torch.stack([torch.arange(12), (torch.arange(12) + 1) % 12, torch.full((12,), 12)], -1)
    normals = raster.vertex_normals(verts, faces)
    torch.testing.assert_close(normals[12].detach(), torch.tensor([0.0, 0.0, 1.0]).double())
    assert (normals[:12] * verts[:12]).sum(-1).min() > 0.5  # outwards
    torch.testing.assert_close(normals.norm(dim=-1), torch.ones(13).double())
    assert torch.autograd.gradcheck(lambda v: raster.vertex_normals(v, faces), (verts,), fast_mode=True)
    both = raster.vertex_normals(torch.stack([verts, -verts]), faces)
    torch.testing.assert_close(both[0], normals)


def test_unknown_backend_is_one_line():
    verts, faces = grid(1, 4.0)
    with pytest.raises(InputError, match="choose one of auto, numba"):
        raster.rasterize(verts, faces, 8, 8, "opengl")
    with pytest.raises(InputError, match="not for device 'cpu'"):
        raster.rasterize(verts, faces, 8, 8, "nvdiffrast")


def test_works_without_numba():
    """The import needs no numba, and without it "auto" is torch."""
    program = (
        "import sys, torch; sys.modules['numba'] = None; import gpavatar.face.uv\n"
        "from gpavatar.face import raster\n"
        "raster.importlib.util.find_spec = lambda name: None\n"
        "seen = raster.rasterize(torch.tensor([[1., 1, 1], [7, 1, 1], [1, 7, 1]]), torch.tensor([[0, 1, 2]]), 8, 8)\n"
        "print(int(seen.covered.sum()), raster.choose_backend(torch.device('cpu')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["15", "torch"]
