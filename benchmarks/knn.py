"""How long does it take to find the nearest vertices of a head, by each backend?

python benchmarks/knn.py                  # one core: writes benchmarks/results/knn.{json,md}
python benchmarks/knn.py --device cuda    # a GPU: knn_cuda.{json,md}

Seconds to build an index for a cloud and to answer queries spread over the cube, K = 8 (of processor time on a CPU, by
the clock on a GPU), and how long the candidate lists of the voxels are. Every answer is compared with the voxels': they
must be the same numbers.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path
from typing import Literal, TypeVar

import torch
import tyro

from gpavatar.face.open_head import OpenHead
from gpavatar.field.knn import nearest_index
from gpavatar.field.knn_voxel import VoxelIndex
from gpavatar.version import code_version

RESULTS = Path(__file__).parent / "results"
K, MANY, FEW = 8, 2**17, 2**13  # queries; few of the exhaustive backends, scaled up
BACKENDS = {"cpu": ("torch", "numba", "scipy", "faiss", "brute"), "cuda": ("torch", "triton", "brute")}
EXHAUSTIVE = ("faiss", "brute")
T = TypeVar("T")


@dataclass(frozen=True)
class Timing:
    """Seconds of one backend on one cloud."""

    cloud: str
    backend: str
    build_s: float
    query_s: float  # for MANY queries


def clouds() -> dict[str, torch.Tensor]:
    """The open head, and every other of its vertices."""
    verts = OpenHead.load().mean[None]
    return {f"open head, {verts.shape[1]} points": verts, f"half of it, {verts[:, ::2].shape[1]} points": verts[:, ::2]}


def timed(work: Callable[[], T], device: str) -> tuple[float, T]:
    """Seconds and result; on a GPU the mean of ten after a first call."""
    if device == "cpu":
        start = time.process_time()
        result = work()
        return time.process_time() - start, result
    work()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(10):
        result = work()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / 10, result


def measure(name: str, cloud: torch.Tensor) -> list[Timing]:
    """All backends on one cloud."""
    device = cloud.device.type
    points = torch.rand(1, MANY, 3, generator=torch.Generator().manual_seed(0)).to(device) * 2 - 1
    rows, wanted = [], None
    for backend in BACKENDS[device]:
        asked = points[:, :FEW] if backend in EXHAUSTIVE else points
        nearest_index(cloud[:, :500], K, backend).query(asked[:, :100])  # imports and first calls
        build_s, index = timed(lambda backend=backend: nearest_index(cloud, K, backend), device)
        query_s, found = timed(lambda index=index, asked=asked: index.query(asked), device)
        wanted = found if wanted is None else wanted
        assert torch.equal(found, wanted[:, : asked.shape[1]]), backend
        rows.append(Timing(name, backend, build_s, query_s * MANY / asked.shape[1]))
    return rows


def main(device: Literal["cpu", "cuda"] = "cpu") -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    rows, lists = [], []
    for name, cloud in clouds().items():
        cloud = cloud.to(device)
        rows += measure(name, cloud)
        count = VoxelIndex(cloud, K)._lists.count[:-1].float()
        lists.append(f"{name}: {count.mean():.0f} candidates per voxel in the mean, {count.max():.0f} at most")
    where = f"1 core, {platform.machine()}" if device == "cpu" else torch.cuda.get_device_name()
    machine = f"{where}, torch {torch.__version__}, commit {code_version()}"
    table = "".join(f"| {row.cloud} | {row.backend} | {row.build_s:.4g} | {row.query_s:.4g} |\n" for row in rows)
    file = "knn" if device == "cpu" else "knn_cuda"
    text = (
        f"# Nearest vertices\n\nSeconds for {MANY} queries, K = {K}. {machine}. {'; '.join(lists)}.\n\n"
        f"| cloud | backend | build | query |\n| --- | --- | ---: | ---: |\n{table}"
    )
    (RESULTS / f"{file}.md").write_text(text, encoding="utf-8")
    (RESULTS / f"{file}.json").write_text(
        dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=2) + "\n"
    )
    print(text)


if __name__ == "__main__":
    tyro.cli(main)
