"""How long does it take to find the nearest vertices of a head, by each backend?

python benchmarks/knn.py            # writes benchmarks/results/knn.{json,md}

One core; processor seconds to build an index for a cloud and to answer queries spread over the cube, K = 8, and how
long the candidate lists of the voxels are. Every answer is compared with the voxels': they must be the same numbers.
"""

from __future__ import annotations

import platform
import time
from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path

import torch
import tyro

from gpavatar.face.open_head import OpenHead
from gpavatar.field.knn import nearest_index
from gpavatar.field.knn_voxel import VoxelIndex
from gpavatar.version import code_version

RESULTS = Path(__file__).parent / "results"
K, MANY, FEW = 8, 2**17, 2**13  # queries; few of the exhaustive backends, scaled up


@dataclass(frozen=True)
class Timing:
    """Processor seconds of one backend on one cloud."""

    cloud: str
    backend: str
    build_s: float
    query_s: float  # for MANY queries


def clouds() -> dict[str, torch.Tensor]:
    """The open head, and every other of its vertices."""
    verts = OpenHead.load().mean[None]
    return {f"open head, {verts.shape[1]} points": verts, f"half of it, {verts[:, ::2].shape[1]} points": verts[:, ::2]}


def measure(name: str, cloud: torch.Tensor) -> list[Timing]:
    """All backends on one cloud."""
    points = torch.rand(1, MANY, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rows, wanted = [], None
    for backend in ("torch", "scipy", "faiss", "brute"):
        asked = points if backend in ("torch", "scipy") else points[:, :FEW]
        nearest_index(cloud[:, :500], K, backend).query(asked[:, :100])  # imports and first calls
        start = time.process_time()
        index = nearest_index(cloud, K, backend)
        built = time.process_time()
        found = index.query(asked)
        done = time.process_time()
        wanted = found if wanted is None else wanted
        assert torch.equal(found, wanted[:, : asked.shape[1]]), backend
        rows.append(Timing(name, backend, built - start, (done - built) * MANY / asked.shape[1]))
    return rows


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    rows, lists = [], []
    for name, cloud in clouds().items():
        rows += measure(name, cloud)
        count = VoxelIndex(cloud, K)._lists.count[:-1].float()
        lists.append(f"{name}: {count.mean():.0f} candidates per voxel in the mean, {count.max():.0f} at most")
    machine = f"1 core, {platform.machine()}, torch {torch.__version__}, commit {code_version()}"
    table = "".join(f"| {row.cloud} | {row.backend} | {row.build_s:.2f} | {row.query_s:.2f} |\n" for row in rows)
    text = (
        f"# Nearest vertices\n\nProcessor seconds for {MANY} queries, K = {K}. {machine}. {'; '.join(lists)}.\n\n"
        f"| cloud | backend | build | query |\n| --- | --- | ---: | ---: |\n{table}"
    )
    (RESULTS / "knn.md").write_text(text, encoding="utf-8")
    (RESULTS / "knn.json").write_text(
        dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=2) + "\n"
    )
    print(text)


if __name__ == "__main__":
    tyro.cli(main)
