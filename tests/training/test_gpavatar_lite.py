"""The training of `gpavatar_lite` from sets to weights, its losses, and the configs of its ablations."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from generated_set import HEAD, make_set

from benchmarks import ablation
from gpavatar.avatars.gpavatar_lite import LiteOutput
from gpavatar.avatars.gpavatar_lite_method import GPAvatarLiteMethod
from gpavatar.camera import Camera
from gpavatar.config import load_config
from gpavatar.data.batch import Views
from gpavatar.data.loader import Place
from gpavatar.data.module import ShardDataModule
from gpavatar.training.config import TrainConfig
from gpavatar.training.gpavatar_lite import GPAvatarLiteTraining, detail_mask, lite_losses
from gpavatar.training.losses import LossConfig
from gpavatar.training.run import run_training
from gpavatar.types import HeadParams, InputError

CONFIGS = Path(__file__).parents[2] / "configs"
LOSS = LossConfig(perceptual=0.0, density=0.0, alpha=0.3, details=0.2, depth=0.2)
TINY = (
    "gpavatar_lite.size_px=32",
    "gpavatar_lite.rays_px=8",
    "gpavatar_lite.encoder.net={in_size_px: 32, out_size_px: 16, out_dim: 12, style_dim: 8, mlp_depth: 2, width: 0.02}",
    "gpavatar_lite.attention={plane_dim: 4, plane_size: 16}",
    "gpavatar_lite.point_field={point_dim: 4, hidden_dim: 8, out_dim: 4, octaves: 2}",
    "gpavatar_lite.picture={dims: [8, 8, 8], blocks: 1}",
    "loss.perceptual=0",
    "trainer={accelerator: cpu, precision: fp32, max_steps: 2, log_every: 1, val_every: 2}",
    "optim.warmup_steps=0",
    "log={wandb: false, sheet_examples: 2}",
)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("lite") / "set"
    make_set(path, [(f"c{i}", f"p{i}", "train", 3) for i in range(6)])
    return path


def config(pairs: Path, out: Path, *changes: str) -> TrainConfig:
    """configs/gpavatar_lite.yaml made small; its three sets are this one."""
    sets = [f"{{path: {pairs}, kinds: [real], weight: {w}, later: [1.0, 1.0]}}" for w in (1.0,)]
    data = f"data={{train: [{', '.join(sets)}], batch_size: 2, examples_per_epoch: 4, keep_aside: 2, val_per_clip: 1}}"
    changes = (data, *TINY, f"out={out}", *changes)
    return load_config(TrainConfig, CONFIGS / "gpavatar_lite.yaml", overrides=changes)


def target(size: int = 32) -> Views:
    params = HeadParams.neutral(HEAD.n_shape, HEAD.n_expression, (2,))
    camera = Camera.frontal(6.0, 2.6)
    camera = Camera(camera.c2w.expand(2, -1, -1), camera.intrinsics.expand(2, -1))
    rng = torch.Generator().manual_seed(0)
    landmarks = torch.rand(2, 478, 2, generator=rng) * size
    return Views(torch.rand(2, 3, size, size, generator=rng), torch.ones(2, 1, size, size), params, camera, landmarks)


def perfect(truth: Views) -> LiteOutput:
    """What cannot be improved on."""
    low = torch.nn.functional.avg_pool2d(truth.image, 4)
    ones = torch.ones_like(low[:, :1])
    return LiteOutput(low, truth.image, truth.alpha, ones, 5 * ones, 5 * ones, ones, truth.image)


def test_the_truth_costs_nothing():
    truth = target()
    terms = lite_losses(perfect(truth), truth, LOSS)
    assert float(terms.total(LOSS)) == pytest.approx(0, abs=1e-6)


def test_the_square():
    truth = target()
    out, config = perfect(truth), dataclasses.replace(LOSS, square=2.0)
    wrong = dataclasses.replace(out, image=out.image - 0.25)
    terms, plain = (lite_losses(wrong, truth, one) for one in (config, LOSS))
    assert float(terms.square) == pytest.approx(0.25**2, abs=1e-5) and float(plain.square) == 0
    assert float(terms.total(config) - plain.total(LOSS)) == pytest.approx(2 * 0.25**2, abs=1e-5)


@pytest.mark.parametrize(
    ("field", "term"), [("low", "low"), ("image", "high"), ("alpha", "alpha"), ("opacity", "alpha"), ("depth", "depth")]
)
def test_each_output_is_judged(field, term):
    truth = target()
    out = perfect(truth)
    wrong = type(out)(**{**out.__dict__, field: getattr(out, field) - 0.25})
    terms = lite_losses(wrong, truth, LOSS).named()
    assert float(terms[term]) == pytest.approx(0.25, abs=1e-5)
    others = {"details"} if field == "image" else set()
    assert all(float(value) < 1e-6 for name, value in terms.items() if name != term and name not in others)


def test_in_the_first_stage_the_rays_alone_are_judged():
    truth = target()
    out = perfect(truth)
    wrong = type(out)(**{**out.__dict__, "image": out.image * 0, "alpha": out.alpha * 0})
    assert float(lite_losses(wrong, truth, LOSS, low_only=True).total(LOSS)) == pytest.approx(0, abs=1e-6)


def test_details_are_mouth_and_eyes():
    """Around the points of mouth and eyes, nowhere for a face without points."""
    landmarks = torch.full((2, 478, 2), 5.0)
    landmarks[0, [61, 291]] = torch.tensor([[10.0, 20.0], [20.0, 20.0]])
    landmarks[1] = torch.nan
    mask = detail_mask(landmarks, 32)
    assert mask[0, 0, 20, 11:20].all() and not mask[0, 0, 28:].any() and not mask[1].any()


def test_from_sets_to_weights(pairs, tmp_path):
    """Two steps, then two more in bf16 from the state; those kept aside are validated on; the weights are the method's,
    and a training may begin with them."""
    folder = tmp_path / "run"
    assert run_training(config(pairs, folder), folder) == 0
    assert run_training(config(pairs, folder, "trainer.max_steps=4", "trainer.precision=bf16"), folder) == 0
    names = {row.split(",")[2] for row in (folder / "metrics.csv").read_text().splitlines()[1:]}
    assert {"train/low", "train/details", "val/ssim"} <= names
    assert (folder / "sheets/step_00000004.jpg").exists()
    model = GPAvatarLiteMethod("cpu", folder / "weights.safetensors")
    assert model.net.config.size_px == 32

    begun = config(pairs, tmp_path / "other", f"start={folder / 'weights.safetensors'}")
    module = GPAvatarLiteTraining(begun, ShardDataModule(begun.data).head, tmp_path)
    kept = zip(module.net.state_dict().values(), model.net.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in kept)
    other = config(pairs, tmp_path / "other", f"start={folder / 'weights.safetensors'}", "gpavatar_lite.hidden_dim=16")
    with pytest.raises(InputError, match="not the same network"):
        GPAvatarLiteTraining(other, ShardDataModule(other.data).head, tmp_path)


def test_only_some_parts_learn(pairs, tmp_path):
    told = config(pairs, tmp_path, "optim.only=['picture.']", "loss.low_epochs=0")
    data = ShardDataModule(told.data)
    module = GPAvatarLiteTraining(told, data.head, tmp_path)
    torch.nn.init.normal_(module.net.picture.last.weight)
    _, terms = module.terms(data.train_dataloader().batch(Place(0, 0)), jitter=False)
    terms.high.backward()
    learns = {name.split(".")[0] for name, parameter in module.net.named_parameters() if parameter.grad is not None}
    assert learns == {"picture"}


def test_people_kept_aside(pairs, tmp_path):
    data = ShardDataModule(config(pairs, tmp_path).data)
    trained = {clip.identity for clip in data.clips}
    aside = {clip.identity for clip in data.val_dataloader().schedule.frames.clips}
    assert len(trained) == 4 and len(aside) == 2 and not trained & aside
    with pytest.raises(InputError, match="only 6 people"):
        ShardDataModule(config(pairs, tmp_path, "data.keep_aside=6").data).train_dataloader()


def test_stages_weigh_the_sets_anew(pairs, tmp_path):
    """The first clip of the set alone at first, then the other set alone; the same draws for the same epoch."""
    make_set(tmp_path / "other", [("d0", "q0", "train", 3)])
    sets = f"[{{path: {pairs}, weight: 1.0, later: [0.0]}}, {{path: {tmp_path / 'other'}, weight: 0.0, later: [1.0]}}]"
    told = config(pairs, tmp_path, f"data.train={sets}", "data.stages=[1]", "data.keep_aside=0")
    schedule = ShardDataModule(told.data).train_dataloader().schedule

    def clips(epoch: int) -> set[str]:
        drawn = torch.cat([schedule.pairs(epoch, step).clip for step in (0, 1)])
        return {schedule.frames.clips[clip].clip for clip in drawn.tolist()}

    drawn = [clips(epoch) for epoch in (0, 1, 0)]
    assert "d0" not in drawn[0] and drawn[1] == {"d0"} and drawn[2] == drawn[0]
    with pytest.raises(InputError, match="a weight for each"):
        told = config(pairs, tmp_path, f"data.train={sets}", "data.stages=[1, 2]", "data.keep_aside=0")
        ShardDataModule(told.data).train_dataloader()


@pytest.mark.parametrize("name", ablation.NAMES)
def test_every_ablation_is_a_config(name):
    """Each differs from the whole in one thing alone."""
    whole = load_config(TrainConfig, CONFIGS / "gpavatar_lite.yaml")
    told = load_config(TrainConfig, CONFIGS / "gpavatar_lite.yaml", CONFIGS / f"ablation_{name}.yaml")
    differs = {key for key in whole.__dict__ if getattr(whole, key) != getattr(told, key)}
    assert differs == ({"data"} if name == "one_source" else set() if name == "full" else {"gpavatar_lite"})


def test_the_table_has_the_layout_of_the_papers(tmp_path):
    """Variants before the whole, one source before two; what was not measured is a dash."""
    values = {"psnr": 21.5, "ssim": 0.7, "lpips": 0.11, "l1": 0.05}
    at = {"foreground": values, "frame": {"csim": 0.7, "aed": 0.03, "apd": 1.5}}
    methods = {name: {"self": {"1": at, "2": at}} for name in ("full", "mean")}
    rows = ablation.table_rows(methods, ("full", "mean"), {"full": 100, "mean": 90})
    assert [(row.name, row.num_sources) for row in rows] == [("mean", 1), ("full", 1), ("mean", 2), ("full", 2)]
    header = {"protocol": "p", "num_clips": 3, "num_identities": 2, "size_px": 256, "commit": "c", "machine": "m"}
    ablation.write(rows, header, "# card", tmp_path)
    text = (tmp_path / "ablation.md").read_text(encoding="utf-8")
    assert "mean instead of MTA (90 steps)" in text and "| full | 2 | 21.5 |" in text and text.count("–") >= 4
    assert len(json.loads((tmp_path / "ablation.json").read_text(encoding="utf-8"))["rows"]) == 4
