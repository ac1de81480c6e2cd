"""The kernels of `pass_kernels_triton.py` as one differentiable function: sizes, memory layouts, launches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as functional
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from gpavatar.field.folded import FoldedField
from gpavatar.field.frequency import code_width
from gpavatar.field.head_field import HeadField
from gpavatar.field.point_field import PointFieldConfig
from gpavatar.render import pass_kernels_triton as kernels
from gpavatar.render.pass_kernels_triton import Drawn, Gradients, Scene, Shape, Weights
from gpavatar.render.rays import Rays
from gpavatar.triplane.lookup import AXES

WEIGHTS = tuple(one.name for one in fields(FoldedField))
MATRICES = ("code", "plane", "mixed", "hidden", "colour", "out")  # operands of products; the rest is added as it is


@dataclass(frozen=True)
class Launch:
    """How a kernel is spread over the device."""

    rays: int  # of a program
    step: int  # samples of each at a time
    num_warps: int
    num_stages: int = 2


@dataclass
class Launches:
    """One each for the pass and its gradient. No tuning while drawing: it would make the first frame wait and could
    not be captured. `benchmarks/fused_kernels.py` times all of CANDIDATES."""

    draw: Launch = Launch(rays=16, step=4, num_warps=4)
    gradient: Launch = Launch(rays=16, step=4, num_warps=8)
    copies: int = 16  # of the weights' gradients


LAUNCHES = Launches()
CANDIDATES = tuple(
    Launch(rays, step, num_warps) for rays in (8, 16, 32) for step in (2, 4, 8) for num_warps in (4, 8)
    if 32 <= rays * step <= 128
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where a pass looks; gradients do not reach it."""

    rays: Rays
    t: Float[Tensor, "batch ray sample"]
    length: Float[Tensor, "batch ray sample"]
    numbers: Int[Tensor, "batch number k"] | None  # neighbours of each sample


def draw_pass(field: HeadField, weights: FoldedField, place: Place, fast: bool, stop: float = -1.0) -> Drawn:
    """Features on black, opacity and depth per ray, thickness per sample: `_look` and `_composite` of `volume.py`.

    `fast`: products of bfloat16. A group of rays ends where none lets more light through than `stop`; that
    must be negative for gradients.
    """
    points = field.points
    task = _Task(field, place, fast, stop)
    tensors = [None if points is None else points.per_vertex, *(getattr(weights, name) for name in WEIGHTS)]
    return Drawn(*_Pass.apply(task, field.planes, *tensors))


@dataclass(frozen=True)
class _Task:
    field: HeadField
    place: Place
    fast: bool
    stop: float

    @property
    def exact(self) -> torch.dtype:
        """The type of sums and places."""
        return torch.float64 if self.field.planes.dtype == torch.float64 else torch.float32

    def shape(self, weights: dict[str, Tensor | None]) -> Shape:
        """What the kernels are compiled for."""
        field, radiance = self.field, self.field.radiance.config
        points = field.points.net.config if field.points else PointFieldConfig(hidden_dim=0, num_neighbours=0)
        exact = tl.float64 if self.exact == torch.float64 else tl.float32
        return Shape(
            rays=LAUNCHES.draw.rays,
            step=LAUNCHES.draw.step,
            channels=_wide(field.planes.shape[2]),
            height=field.planes.shape[3],
            width=field.planes.shape[4],
            columns=tuple(AXES.index(name[0]) for name in field.plane_names),
            rows=tuple(AXES.index(name[1]) for name in field.plane_names),
            neighbours=points.num_neighbours,
            point=_wide(points.hidden_dim),
            code=16 * triton.cdiv(code_width(3, points.octaves), 16),
            octaves=points.octaves,
            turns=points.code_base / (2 * math.pi),
            direction=points.code_of == "direction",
            square=points.weight == "inverse_square",
            reach=0.0 if math.isinf(points.max_distance) else points.max_distance,
            hidden=_wide(weights["hidden"].shape[0]),
            hidden2=_wide(weights["hidden"].shape[1]),
            colour=_wide(weights["colour"].shape[1]),
            out=_wide(weights["out"].shape[1]),
            beta=radiance.softplus_beta,
            widened=radiance.widened_sigmoid,
            stop=self.stop,
            copies=LAUNCHES.copies,
            kind=tl.bfloat16 if self.fast else exact,
            acc=exact,
            side=0 if field.occupancy is None else len(field.occupancy.filled),
        )


class _Pass(torch.autograd.Function):
    """`draw_pass`; gradients to planes, vertices' features and weights."""

    @staticmethod
    def forward(ctx: Any, task: _Task, planes: Tensor, per_vertex: Tensor | None, *weights: Tensor | None):
        """See `draw_pass`."""
        named = dict(zip(WEIGHTS, weights, strict=True))
        shape, exact = task.shape(named), task.exact
        kind = torch.bfloat16 if task.fast else exact
        place, points, occupancy = task.place, task.field.points, task.field.occupancy
        nothing = planes.new_empty(0)
        scene = Scene(
            *_plain(exact, place.rays.origins, place.rays.dirs, place.t, place.length, place.rays.far),
            planes=_padded(planes.permute(0, 1, 3, 4, 2), (shape.channels,), kind),
            cloud=nothing if points is None else points.cloud.to(exact).contiguous(),
            numbers=nothing if points is None else place.numbers.contiguous(),
            per_vertex=nothing if per_vertex is None else _padded(per_vertex, (shape.point,), kind),
            filled=nothing if occupancy is None else occupancy.filled.contiguous().view(torch.uint8),
        )
        order = code_order(shape.octaves, planes.device)
        if named["code"] is not None:
            named["code"] = named["code"][order]
        sizes = _sizes(shape)
        packed = {
            name: nothing if tensor is None else _padded(tensor, sizes[name], kind if name in MATRICES else exact)
            for name, tensor in named.items()
        }
        batch, rays, samples = place.t.shape
        drawn = Drawn(
            planes.new_empty(batch, rays, shape.out, dtype=exact),
            planes.new_empty(batch, rays, dtype=exact),
            planes.new_empty(batch, rays, dtype=exact),
            planes.new_zeros(batch, rays, samples, dtype=exact),
        )
        _launch(kernels.draw, LAUNCHES.draw, shape, scene, Weights(**packed), drawn)
        ctx.shape, ctx.order = shape, order
        ctx.given = [None if one is None else (one.shape, one.dtype) for one in (planes, per_vertex, *weights)]
        ctx.save_for_backward(*scene, *Weights(**packed), *drawn)
        num_out = named["out"].shape[1]
        return drawn.feats[..., :num_out], drawn.opacity, drawn.depth, drawn.thickness

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, feats: Tensor, opacity: Tensor, depth: Tensor, thickness: Tensor):
        """Of the four outputs to all inputs but the task."""
        saved = ctx.saved_tensors
        scene, saved = Scene(*saved[: len(Scene._fields)]), saved[len(Scene._fields) :]
        packed, drawn = Weights(*saved[: len(Weights._fields)]), Drawn(*saved[len(Weights._fields) :])
        launch = LAUNCHES.gradient
        shape = replace(ctx.shape, rays=launch.rays, step=launch.step, stop=-1.0)
        exact = drawn.feats.dtype
        given = Drawn(_padded(feats, (shape.out,), exact), *_plain(exact, opacity, depth, thickness))
        floor = kernels.FLOOR.value
        total = (given.feats * drawn.feats).sum(-1) + given.opacity * drawn.opacity
        total += given.depth * floor * (drawn.depth - scene.far) / (drawn.opacity + floor)

        sizes = _sizes(shape)
        into = Gradients(
            planes=torch.zeros_like(scene.planes, dtype=exact),
            per_vertex=torch.zeros_like(scene.per_vertex, dtype=exact),
            bias=torch.zeros_like(packed.bias),
            ray=torch.empty_like(packed.ray),
            **{
                name: scene.t.new_zeros(shape.copies, math.prod(sizes[name]))
                for name in WEIGHTS
                if name not in ("bias", "ray")
            },
        )
        _launch(kernels.draw_gradient, launch, shape, scene, packed, drawn, given, total, into)
        found = [into.planes.permute(0, 1, 4, 2, 3), into.per_vertex]
        for name in WEIGHTS:
            one = getattr(into, name)
            found.append(one if name in ("bias", "ray") else one.sum(0).view(sizes[name]))
        at = 2 + WEIGHTS.index("code")
        found[at] = found[at][ctx.order.argsort()]
        return None, *(
            None if given is None else one[tuple(map(slice, given[0]))].to(given[1])
            for one, given in zip(found, ctx.given, strict=True)
        )


def _launch(kernel: Any, launch: Launch, shape: Shape, scene: Scene, *tensors: Any) -> None:
    batch, rays, samples = scene.t.shape
    grid = (triton.cdiv(rays, launch.rays), batch)
    verts = scene.cloud.shape[1] if shape.neighbours else 0
    with torch.cuda.device_of(scene.t):
        kernel[grid](
            scene, *tensors, rays, samples, verts, S=shape, num_warps=launch.num_warps, num_stages=launch.num_stages
        )


def code_order(octaves: int, device: torch.device | str = "cpu") -> Int[Tensor, " code"]:
    """Where the columns of the kernels' code, octave by octave, stand in `frequency_code`, which goes axis by axis."""
    axis, band = torch.arange(3, device=device), torch.arange(2 * octaves, device=device)[:, None]
    waves = band // octaves * (3 * octaves) + axis * octaves + band % octaves
    return torch.cat([waves.flatten(), 6 * octaves + axis])


def _wide(size: int) -> int:
    """The width that the kernels have for it."""
    return max(16, triton.next_power_of_2(size))


def _sizes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Of the weights (last axes) in memory."""
    return {
        "code": (shape.code, shape.point),
        "plane": (shape.channels, shape.hidden),
        "mixed": (shape.point, shape.hidden),
        "share": (shape.hidden,),
        "bias": (shape.hidden,),
        "hidden": (shape.hidden, shape.hidden2),
        "hidden_bias": (shape.hidden2,),
        "density": (shape.hidden2,),
        "density_bias": (1,),
        "colour": (shape.hidden2, shape.colour),
        "ray": (shape.colour,),
        "out": (shape.colour, shape.out),
        "out_bias": (shape.out,),
    }


def _padded(tensor: Tensor, size: Sequence[int], dtype: torch.dtype) -> Tensor:
    """With zeros behind, up to this size of the last axes; contiguous."""
    missing = [one for axis in range(1, len(size) + 1) for one in (0, size[-axis] - tensor.shape[-axis])]
    return functional.pad(tensor.to(dtype), missing).contiguous()


def _plain(dtype: torch.dtype, *tensors: Tensor) -> list[Tensor]:
    return [tensor.to(dtype).contiguous() for tensor in tensors]
