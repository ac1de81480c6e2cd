"""How far are the people that a prior draws by chance from real ones?

python benchmarks/prior_fid.py outputs/train/invertavatar_prior/weights.safetensors sets/ffhq-512 --count 50000

Writes benchmarks/results/prior_fid.{json,md}: FID (`gpavatar.evaluation.distribution`) between as many drawn as real
pictures, at each truncation. Everybody is on black; poses, expressions and cameras are those of the real ones, and the
seed decides who is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from json import dumps
from pathlib import Path

import torch
import tyro
from jaxtyping import Float
from rich.progress import track
from torch import Tensor

from gpavatar.avatars.animatable_prior import AnimatablePrior, PriorConfig
from gpavatar.avatars.checkpoint import read_weights
from gpavatar.avatars.heads import driven_head
from gpavatar.config import run_program
from gpavatar.data.batch import Batch
from gpavatar.data.module import DataConfig, SetConfig, ShardDataModule
from gpavatar.evaluation.distribution import fid
from gpavatar.face.open_head import OpenHead
from gpavatar.face.plane_views import FaceSurface
from gpavatar.pretrained.inception import Inception
from gpavatar.types import InputError
from gpavatar.version import code_version

RESULTS = Path(__file__).parent / "results"
BATCH = 8


@dataclass(frozen=True)
class Row:
    """One truncation."""

    truncation: float
    fid: float


def load(weights: Path, device: str) -> tuple[AnimatablePrior, OpenHead]:
    """A prior that knows people by chance, and its head. InputError for another file."""
    read = read_weights(weights, PriorConfig)
    prior = read.fill(lambda: AnimatablePrior(read.config)).eval().requires_grad_(False).to(device)
    if not prior.mapping.mean.any():
        raise InputError(f"{weights}: was learned as an auto-encoder, which draws nobody by chance; give another")
    if read.config.head != "open_head" or read.info.head_sha256 != driven_head("open_head", torch.device("cpu")).sha256:
        raise InputError(f"{weights}: knows another head than the sets here; give one that was trained with open_head")
    return prior, OpenHead.load().to(device)


def batches(path: Path, count: int, seed: int) -> Iterator[Batch]:
    """Frames of a set in random order."""
    sets = [SetConfig(str(path))]
    data = ShardDataModule(DataConfig(train=sets, batch_size=BATCH, num_workers=0, examples_per_epoch=count, seed=seed))
    return islice(data.train_dataloader(), count // BATCH)


@torch.no_grad()
def features(
    prior: AnimatablePrior,
    head: OpenHead,
    inception: Inception,
    path: Path,
    truncations: list[float],
    count: int,
    seed: int,
) -> tuple[Float[Tensor, "picture 2048"], list[Float[Tensor, "picture 2048"]]]:
    """Of the real pictures, and of the drawn ones at each truncation."""
    device, surface = next(prior.parameters()).device, FaceSurface.of(head.topology)
    rng = torch.Generator().manual_seed(seed)
    real: list[Tensor] = []
    drawn: list[list[Tensor]] = [[] for _ in truncations]
    for batch in track(batches(path, count, seed), "drawing", total=count // BATCH):
        target = batch.to(device).target
        real.append(inception(target.image * target.alpha).cpu())
        views, state = prior.views(head.verts(target.params), surface), rng.get_state()
        for found, truncation in zip(drawn, truncations, strict=True):
            styles = prior.sample_styles(target.camera, rng.set_state(state), truncation)
            found.append(inception(prior(styles, views, target.camera).image.clamp(0, 1)).cpu())
    return torch.cat(real), [torch.cat(each) for each in drawn]


def main(
    weights: tyro.conf.Positional[Path],
    data: tyro.conf.Positional[Path],
    count: int = 10_000,
    truncations: tuple[float, ...] = (1.0, 0.7),
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    seed: int = 0,
) -> None:
    """Measure and write."""
    prior, head = load(weights, device)
    real, drawn = features(prior, head, Inception().to(device), data, list(truncations), count, seed)
    rows = [Row(truncation, fid(real, each)) for truncation, each in zip(truncations, drawn, strict=True)]
    about = f"{weights.name} against {data.name}, {len(real)} pictures each on black, commit {code_version()}"
    table = "".join(f"| {row.truncation:g} | {row.fid:.2f} |\n" for row in rows)
    text = f"# FID of the animatable prior\n\n{about}.\n\n| truncation | FID |\n| ---: | ---: |\n{table}"
    (RESULTS / "prior_fid.md").write_text(text, encoding="utf-8")
    (RESULTS / "prior_fid.json").write_text(
        dumps({"about": about, "rows": [asdict(row) for row in rows]}, indent=2) + "\n"
    )
    print(text)


if __name__ == "__main__":
    raise SystemExit(run_program(main))
