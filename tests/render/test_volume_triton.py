"""The fused renderer and its gradient against the readable one in float64.

Without a GPU the kernels run in Triton's interpreter, in float64 as well: they agree to 1e-12. On a GPU they run in
float32.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from triton_interpreter import DEVICE

from gpavatar.field.head_field import HeadField
from gpavatar.field.occupancy import Occupancy
from gpavatar.field.point_field import PointField, PointFieldConfig
from gpavatar.field.radiance import RadianceConfig, RadianceHead
from gpavatar.render import pass_kernels_triton as kernels
from gpavatar.render import pass_triton, volume, volume_triton
from gpavatar.render.pass_triton import Launch, code_order
from gpavatar.render.rays import Rays, cube_span
from gpavatar.render.volume import VolumeConfig
from gpavatar.types import map_tensors

ON_GPU = DEVICE.type == "cuda"
DTYPE, TOLERANCE = (torch.float32, 1e-4) if ON_GPU else (torch.float64, 1e-12)
VOLUME = VolumeConfig(num_coarse=4, num_fine=5)
POINTS = PointFieldConfig(
    point_dim=4, hidden_dim=11, out_dim=6, num_neighbours=3, octaves=2, backend="auto" if ON_GPU else "brute"
)
RADIANCE = RadianceConfig(hidden_dim=17, colour_hidden_dim=9, out_dim=5, view_octaves=1)


@dataclass(frozen=True)
class Case:
    """What is drawn; float64."""

    planes: Tensor
    radiance: RadianceHead
    points: PointField | None
    verts: Tensor
    params: Tensor
    rays: Rays
    names: tuple[str, ...]
    filled: Tensor | None

    def field(self) -> HeadField:
        points = None if self.points is None else self.points(self.verts)
        occupancy = None if self.filled is None else Occupancy(self.filled)
        return HeadField(self.planes, self.radiance, points, self.params, self.names, occupancy)

    def leaves(self) -> dict[str, Tensor]:
        """All that gradients are asked for."""
        parts = {"radiance": self.radiance} | ({} if self.points is None else {"points": self.points})
        found = {f"{part}.{name}": value for part, net in parts.items() for name, value in net.named_parameters()}
        return found | {"planes": self.planes}

    def to(self, dtype: torch.dtype) -> Case:
        """A copy with leaves of its own, where the kernels run."""
        nets = [None if net is None else deepcopy(net).to(DEVICE, dtype) for net in (self.radiance, self.points)]
        planes = self.planes.detach().to(DEVICE, dtype).requires_grad_()
        move = lambda value: value.to(DEVICE, dtype if value.is_floating_point() else value.dtype)  # noqa: E731
        rays = map_tensors(self.rays, move)
        filled = None if self.filled is None else self.filled.to(DEVICE)
        return Case(planes, *nets, move(self.verts), move(self.params), rays, self.names, filled)


def made(
    points=POINTS, radiance=RADIANCE, rays: int = 9, names=("xy", "xz", "yz"), contrast: float = 30, channels: int = 5,
    verts: int = 30, filled: float = 1,
) -> Case:  # fmt: skip
    """Two batch entries; rays of which some miss; thin places and opaque ones."""
    torch.manual_seed(1)
    cloud = torch.rand(2, verts, 3) - 0.5
    net = None if points is None else PointField(verts, points).double()
    head = RadianceHead(channels + (4 if points is None else points.out_dim), radiance).double()
    head.density.weight.data *= contrast
    head.density.bias.data += 2
    origins = torch.tensor([0.0, 0, 3]).expand(2, rays, 3)
    dirs = torch.nn.functional.normalize(torch.tensor([0.0, 0, -1]) + torch.randn(2, rays, 3) * 0.35, dim=-1)
    span = cube_span(origins, dirs)
    assert rays == 1 or 0 < span[2].double().mean() < 1
    looks = map_tensors(
        Rays(origins, dirs, *span), lambda value: value.double() if value.is_floating_point() else value
    )
    there = None if filled == 1 else torch.rand(5, 5, 5) < filled
    planes = torch.randn(2, 3, channels, 7, 7).double().requires_grad_()
    return Case(planes, head, net, cloud.double(), torch.randn(2, 4).double(), looks, names, there)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks that neither rays nor samples fill, other ones for the gradient; on a GPU those that are used."""
    if not ON_GPU:
        monkeypatch.setattr(pass_triton.LAUNCHES, "draw", Launch(rays=8, step=4, num_warps=4))
        monkeypatch.setattr(pass_triton.LAUNCHES, "gradient", Launch(rays=16, step=4, num_warps=4))
        monkeypatch.setattr(pass_triton.LAUNCHES, "copies", 2)


def drawn(renderer, case: Case, config: VolumeConfig, **options) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Outputs of a renderer, and gradients of a sum of all of them with random weights."""
    out, rng = renderer(case.field(), case.rays, config, **options), torch.Generator().manual_seed(2)
    values = {
        f"{name}.{what}": getattr(getattr(out, name), what)
        for name in ("coarse", "fine")
        for what in ("feats", "opacity", "depth", "alpha")
    }
    loss = sum(
        (value * torch.randn(value.shape, generator=rng, dtype=torch.float64).to(value)).sum()
        for value in values.values()
    )
    leaves = case.leaves()
    return values, dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def largest_difference(case: Case, config: VolumeConfig, precision: str = "exact", dtype: torch.dtype = DTYPE) -> float:
    """‖fused − reference in float64‖ / ‖reference‖, of the worst of all outputs and gradients."""
    found = drawn(volume_triton.render_volume, case.to(dtype), config, precision=precision)
    wanted = drawn(volume.render_volume, case, config)
    worst = 0.0
    for mine, theirs in zip(found, wanted, strict=True):
        for name, value in theirs.items():
            assert mine[name].shape == value.shape and mine[name].dtype == dtype, name
            assert value.norm() > 1e-6, name
            worst = max(worst, float((mine[name].cpu().double() - value).detach().norm() / value.detach().norm()))
    return worst


SWITCHES = {
    "the paper's": {},
    "released": {
        "points": replace(POINTS, code_of="direction", code_base=1.0, weight="inverse_square"),
        "radiance": replace(RADIANCE, softplus_beta=10.0, widened_sigmoid=True),
        "volume": replace(VOLUME, step_length=False, importance="released"),
    },
    "no points, no directions": {"points": None, "radiance": replace(RADIANCE, view_octaves=-1)},
    "other planes, some vertices, near ones only, half of the cube": {
        "names": ("yx", "xz", "zy"),
        "filled": 0.6,
        "points": replace(POINTS, num_points=21, max_distance=0.3),
    },
    "one ray, one sample, one neighbour": {
        "rays": 1,
        "points": replace(POINTS, num_neighbours=1),
        "volume": replace(VOLUME, num_coarse=1, num_fine=2),
    },
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_values_and_gradients_are_the_references(switch):
    """Measured in float64: 6e-15 at most."""
    changed = dict(SWITCHES[switch])
    config = changed.pop("volume", VOLUME)
    assert largest_difference(made(**changed), config) < TOLERANCE


def test_float32_and_bfloat16():
    """Measured: 4e-6 and 0.03."""
    case = made(rays=5, contrast=1)
    assert largest_difference(case, VOLUME, "exact", torch.float32) < 1e-5
    assert 1e-4 < largest_difference(case, VOLUME, "fast", torch.float32) < 0.06


@pytest.mark.gpu
@pytest.mark.skipif(not ON_GPU, reason="no CUDA device")
def test_the_papers_widths_on_the_device():
    """All sizes that are used, in both precisions."""
    case = made(PointFieldConfig(backend="brute"), RadianceConfig(), rays=200, contrast=1, channels=32, verts=500)
    config = VolumeConfig(num_coarse=32, num_fine=32)
    assert largest_difference(case, config, "exact", torch.float32) < 1e-4
    assert largest_difference(case, config, "fast", torch.float32) < 0.06


@torch.no_grad()
def test_jitter_draws_the_references_numbers():
    """The same samples for the same generator, and both passes use it."""
    case = made()
    mine = case.to(DTYPE)
    found, other = (
        volume_triton.render_volume(mine.field(), mine.rays, VOLUME, jitter=True, rng=rng_of(seed)).fine.feats
        for seed in (5, 6)
    )
    if not ON_GPU:
        wanted = volume.render_volume(case.field(), case.rays, VOLUME, jitter=True, rng=rng_of(5)).fine.feats
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    assert (found - other).abs().max() > 1e-4


def rng_of(seed: int) -> torch.Generator:
    return torch.Generator(DEVICE).manual_seed(seed)


@torch.no_grad()
def test_ending_early_loses_what_it_says():
    """Nothing is left behind a wall; the samples there count as empty."""
    case = made().to(torch.float32)
    case.radiance.density.bias.data += 60
    whole = volume_triton.render_volume(case.field(), case.rays, VOLUME, precision="exact").fine
    ended = volume_triton.render_volume(case.field(), case.rays, VOLUME, precision="fast").fine
    assert (ended.alpha == 0).sum() > (whole.alpha == 0).sum()
    assert (ended.opacity - whole.opacity).abs().max() < 2 * volume_triton.STOP


def test_geometrys_gradients_are_the_references():
    case = made()
    verts = case.verts.clone().requires_grad_()
    moved = replace(case, verts=verts)
    found = volume_triton.render_volume(moved.field(), case.rays, VOLUME)
    assert torch.autograd.grad(found.fine.feats.sum(), verts)[0].norm() > 0


@pytest.mark.skipif(ON_GPU, reason="a compiled kernel keeps the functions it was compiled with")
@pytest.mark.parametrize("name", ["one_minus_exp", "scatter_planes", "_product_gradient"])
def test_a_broken_kernel_is_found_out(name, monkeypatch):
    whole = getattr(kernels, name)

    def broken(*given, **options):
        if name == "scatter_planes":
            return whole(given[0], given[1] * 1.001, *given[2:], **options)
        found = whole(*given, **options)
        return (found[0] * 1.001, *found[1:]) if isinstance(found, tuple) else found * 1.001

    monkeypatch.setattr(kernels, name, broken)
    assert largest_difference(made(rays=3), VOLUME) > 1e-5


def test_the_kernels_order_of_the_code():
    """Octave by octave: sines, cosines, the vector."""
    assert code_order(2).tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11, 12, 13, 14]
