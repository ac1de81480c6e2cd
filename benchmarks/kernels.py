"""What do the fused kernels need of a GPU, and which of their launches is the fastest?

python benchmarks/kernels.py                  # no GPU needed: compiles for sm_90, writes results/kernels.{json,md}
python benchmarks/kernels.py --device cuda    # times every launch, writes results/kernels_cuda.{json,md}

Compiled: registers of a thread, bytes that spill out of them, shared memory of a program, by NVIDIA's assembler. Timed:
a pass over 128 x 128 rays of 64 samples at the paper's widths and its gradient, against the same by torch (autocast to
bfloat16 beside the fast kernels), with the largest relative difference between the two. The defaults to set from it are
in `gpavatar/render/pass_triton.py`.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from json import dumps
from pathlib import Path
from typing import Any, Literal

import torch
import triton
import tyro
from rich.progress import track
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from gpavatar.camera import Camera
from gpavatar.face.open_head import OpenHead
from gpavatar.field import knn_triton
from gpavatar.field.folded import FoldedField, folded
from gpavatar.field.head_field import HeadField
from gpavatar.field.point_field import PointField, PointFieldConfig
from gpavatar.field.radiance import RadianceConfig, RadianceHead
from gpavatar.render import pass_kernels_triton as kernels
from gpavatar.render import pass_triton
from gpavatar.render.pass_triton import CANDIDATES, LAUNCHES, Place
from gpavatar.render.rays import camera_rays
from gpavatar.render.sampling import even_edges, midpoints
from gpavatar.render.volume import VolumeConfig, render_volume
from gpavatar.types import map_tensors
from gpavatar.version import code_version

RESULTS = Path(__file__).parent / "results"
TARGET = GPUTarget("cuda", 90, 32)
WIDTHS = {"paper": (64, 32, 128, 64), "tiny": (16, 16, 16, 16)}  # point, channels, hidden, colour
SAMPLES = 64


@dataclass(frozen=True)
class Need:
    """Of one compiled kernel."""

    kernel: str
    registers: int  # of a thread
    spilled_bytes: int
    shared_bytes: int  # of a program


@dataclass(frozen=True)
class Timing:
    """Of one launch."""

    kernel: str
    launch: str
    ms: float
    ratio: float  # to torch
    rel_error: float


def field(size: str, device: str = "cpu", rays_px: int = 128) -> tuple[HeadField, FoldedField, Place]:
    """A field with random weights around the open head, and a pass over it."""
    torch.manual_seed(0)
    point, channels, hidden, colour = WIDTHS[size]
    verts = OpenHead.load().mean[None].to(device)
    config = PointFieldConfig(hidden_dim=point, out_dim=channels, backend="auto" if device == "cuda" else "brute")
    net = PointField(verts.shape[1], config).to(device)
    radiance = RadianceHead(2 * channels, RadianceConfig(hidden, colour, out_dim=channels)).to(device)
    planes = torch.randn(1, 3, channels, 256, 256, device=device)
    looked = HeadField(planes, radiance, net(verts), torch.zeros(1, 1, device=device))
    camera = Camera.frontal(8.0, 4.0)[None]
    rays = camera_rays(map_tensors(camera, lambda one: one.to(device)), rays_px)
    edges = even_edges(rays.near, rays.far, SAMPLES)
    t = midpoints(edges)
    numbers = looked.points.index.query(rays.at(t).flatten(1, 2).clamp(-1, 1)).int() if device == "cuda" else None
    return looked, folded(looked, rays.dirs), Place(rays, t, edges.diff(dim=-1), numbers)


def compiled(kernel: Any, signature: dict[str, Any], constants: dict[str, Any], launch: dict[str, Any]) -> Need:
    """By Triton and NVIDIA's assembler, for pointers and sizes that are multiples of 16, as those of a frame are."""
    attributes: dict[tuple[int, ...], list] = {}

    def walk(kind: Any, path: tuple[int, ...]) -> None:
        if isinstance(kind, tuple):
            for at, one in enumerate(kind):
                walk(one, (*path, at))
        elif kind != "constexpr":
            attributes[path] = [["tt.divisibility", 16]]

    for at, name in enumerate(kernel.arg_names):
        if name != "num_verts":
            walk(signature[name], (at,))
    source = ASTSource(kernel, {name: signature[name] for name in kernel.arg_names}, constants, attributes)
    made = triton.compile(source, target=TARGET, options=launch)
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(made.asm["ptx"])
        file.flush()
        assembler = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
        said = subprocess.run(
            [assembler, "-v", "--gpu-name=sm_90a", file.name, "-o", os.devnull],
            capture_output=True,
            text=True,
            check=True,
        ).stderr
    registers, spilled = re.search(r"Used (\d+) registers", said), re.search(r"(\d+) bytes spill stores", said)
    return Need(kernel.__name__, int(registers[1]), int(spilled[1]), made.metadata.shared)


def needs(size: str, precisions: Sequence[str] = ("fast", "exact")) -> list[Need]:
    """Of all kernels, for these widths."""
    looked, weights, place = field(size, rays_px=4)
    named = {one.name: getattr(weights, one.name) for one in fields(weights)}
    found = []
    for label in precisions:
        fast, kind = label == "fast", "*bf16" if label == "fast" else "*fp32"
        shape, real = pass_triton._Task(looked, place, fast, -1.0).shape(named), "*fp32"
        drawn = kernels.Drawn(*[real] * 4)
        scene = kernels.Scene(*[real] * 5, planes=kind, cloud=real, numbers="*i32", per_vertex=kind, filled="*u8")
        packed = {name: kind if name in pass_triton.MATRICES else real for name in kernels.Weights._fields}
        signature: dict[str, Any] = {
            "scene": scene, "weights": kernels.Weights(**packed), "drawn": drawn, "num_rays": "i32", "given": drawn,
            "num_samples": "i32", "num_verts": "i32", "total": real, "S": "constexpr",
            "into": kernels.Gradients(*[real] * len(kernels.Gradients._fields)),
        }  # fmt: skip
        for kernel, launch in ((kernels.draw, LAUNCHES.draw), (kernels.draw_gradient, LAUNCHES.gradient)):
            constants = {"S": replace(shape, rays=launch.rays, step=launch.step)}
            options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
            need = compiled(kernel, signature, constants, options)
            found.append(replace(need, kernel=f"{need.kernel}, {label}"))
    return found + [nearest_need(kernel) for kernel in (knn_triton._build, knn_triton._query)]


def nearest_need(kernel: Any) -> Need:
    """Of a kernel for nearest neighbours."""
    coarse, fine = knn_triton.TIERS
    constants = {
        "FIRST": False, "K": 8, "SIDE": fine.side, "CAPACITY": fine.capacity, "PARENT_SIDE": coarse.side,
        "PARENT_CAPACITY": coarse.capacity, "COARSE_SIDE": coarse.side, "COARSE_CAPACITY": coarse.capacity,
        "FINE_SIDE": fine.side, "FINE_CAPACITY": fine.capacity, "BLOCK": 64 if kernel is knn_triton._query else 256,
    }  # fmt: skip
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    kinds = {"cloud": "*fp32", "points": "*fp32", "num": "i32", "num_verts": "i32"}
    signature = {name: "constexpr" if name in constants else kinds.get(name, "*i32") for name in kernel.arg_names}
    warps = 2 if kernel is knn_triton._query else 4
    return compiled(kernel, signature, constants, {"num_warps": warps, "enable_fp_fusion": False})


def timings() -> list[Timing]:
    """Every launch of both kernels in both precisions."""
    looked, weights, place = field("paper", "cuda")
    looked.planes.requires_grad_()
    found = []
    for label, fast in (("fast", True), ("exact", False)):
        with torch.autocast("cuda", torch.bfloat16, enabled=fast):
            by_torch = torch_pass(looked, place)
            wanted, torch_ms = by_torch(), milliseconds(by_torch)
            torch_back_ms = milliseconds(lambda run=by_torch: run(gradient=True))
        for launch in track(CANDIDATES, f"{label} launches"):
            name = f"{launch.rays} rays x {launch.step}, {launch.num_warps} warps"
            for kernel, gradient, reference in (("draw", False, torch_ms), ("gradient", True, torch_back_ms)):
                setattr(LAUNCHES, kernel, launch)
                run = fused_pass(looked, weights, place, fast)
                try:
                    error = float((run() - wanted).norm() / wanted.norm())
                    ms = milliseconds(lambda run=run, gradient=gradient: run(gradient=gradient))
                except triton.runtime.errors.OutOfResources:
                    continue
                found.append(Timing(f"{kernel}, {label}", name, ms, reference / ms, error))
    return found


def torch_pass(looked: HeadField, place: Place) -> Callable[..., torch.Tensor]:
    """The same samples by the readable renderer."""
    config = VolumeConfig(size_px=128, num_coarse=SAMPLES // 2, num_fine=SAMPLES // 2)

    def run(gradient: bool = False) -> torch.Tensor:
        with torch.set_grad_enabled(gradient):
            seen = render_volume(looked, place.rays, replace(config, num_coarse=SAMPLES, num_fine=1)).coarse.feats
        return torch.autograd.grad(seen.sum(), looked.planes)[0] if gradient else seen

    return run


def fused_pass(looked: HeadField, weights: FoldedField, place: Place, fast: bool) -> Callable[..., torch.Tensor]:
    """By the kernels."""

    def run(gradient: bool = False) -> torch.Tensor:
        with torch.set_grad_enabled(gradient):
            seen = pass_triton.draw_pass(looked, weights, place, fast).feats
        return torch.autograd.grad(seen.sum(), looked.planes, retain_graph=True)[0] if gradient else seen

    return run


def milliseconds(work: Callable[[], object], repeats: int = 10) -> float:
    """By the device's clock, the mean after a first call."""
    work()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(repeats):
        work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / repeats


def benchmark(
    device: Literal["none", "cuda"] = "none",
    size: Literal["paper", "tiny"] = "paper",
    json: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Compile, or time on a GPU, and write the table; `json` prints the JSON instead. "tiny" widths write nothing."""
    rows = timings() if device == "cuda" else needs(size)
    where = torch.cuda.get_device_name() if device == "cuda" else f"compiled for sm_90 on {platform.machine()}"
    report = {
        "machine": where, "versions": {"torch": torch.__version__, "triton": triton.__version__},
        "commit": code_version(), "rows": [asdict(row) for row in rows],
    }  # fmt: skip
    names = [one.name for one in fields(rows[0])]
    lines = [f"| {' | '.join(names)} |", f"| --- |{' ---: |' * (len(names) - 1)}"]
    lines += [f"| {' | '.join(_cell(getattr(row, name)) for name in names)} |" for row in rows]
    title = f"Fused kernels at the paper's widths: {where}; triton {triton.__version__}; commit {report['commit']}."
    if size == "paper":
        file = "kernels_cuda" if device == "cuda" else "kernels"
        (RESULTS / f"{file}.json").write_text(dumps(report, indent=2) + "\n", encoding="utf-8")
        (RESULTS / f"{file}.md").write_text("\n".join([title, "", *lines, ""]), encoding="utf-8")
    print(dumps(report, indent=2) if json else "\n".join(lines))


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    tyro.cli(benchmark)
