"""The prior's training at toy size, as an auto-encoder and against a discriminator."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gpavatar.avatars.animatable_prior import AnimatablePrior, PriorConfig
from gpavatar.avatars.checkpoint import read_weights
from gpavatar.config import load_config
from gpavatar.data.batch import Batch
from gpavatar.data.module import ShardDataModule
from gpavatar.synthesis.residual_trunk import TrunkConfig
from gpavatar.training.config import TrainConfig
from gpavatar.training.invertavatar_prior import PriorTraining
from gpavatar.training.prior_schedule import PriorSchedule
from gpavatar.training.run import run_training
from gpavatar.types import InputError, map_tensors

DEBUG = Path(__file__).parents[2] / "configs/invertavatar_debug.yaml"
KINDS = ["adversarial", "reconstruction"]
CHANGES = ("prior_training.adversarial_from=2", "trainer.val_every=4", "optim.warmup_steps=3")


@pytest.fixture(scope="session")
def asked(settings) -> Callable[..., TrainConfig]:
    """configs/invertavatar_debug.yaml with changes."""
    return lambda out, *changes: load_config(TrainConfig, DEBUG, overrides=settings(out, *changes))


def numbers(folder: Path) -> dict[tuple[str, int], float]:
    lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()[1:]]
    return {(name, int(step)): float(value) for step, _, name, value in lines}


@pytest.fixture(scope="module")
def finished(asked, tmp_path_factory) -> dict[str, Path]:
    """A run of each kind; the auto-encoder meets its discriminator in its third step."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, folder in folders.items():
        assert run_training(asked(folder, *CHANGES, "trainer.max_steps=4", f"prior={kind}"), folder) == 0
    return folders


def test_the_networks_become_files_of_their_own(finished):
    for kind, folder in finished.items():
        read = read_weights(folder / "weights.safetensors", PriorConfig)
        assert (read.info.method, read.config.conditioned_px) == ("invertavatar_prior", (8, 16, 32))
        prior = read.fill(lambda config=read.config: AnimatablePrior(config))
        assert bool(prior.mapping.mean.any()) == (kind == "adversarial")
        latent = folder / "weights_invertavatar_latent.safetensors"
        assert latent.exists() == (kind == "reconstruction")
    assert read_weights(latent, TrunkConfig).info.method == "invertavatar_latent"
    state = torch.load(folder / "checkpoints/step_00000004.ckpt", weights_only=True)
    average = state["ema"]["prior.static_generator.first.conv.weight"]
    assert torch.equal(load_file(folder / "weights.safetensors")["static_generator.first.conv.weight"], average)


def test_everything_is_logged_and_drawn(finished):
    found = {kind: numbers(folder) for kind, folder in finished.items()}
    common = {"train/loss", "train/discriminator", "train/fooling", "train/real", "train/fake", "val/real", "val/fake"}
    for kind, folder in finished.items():
        assert common | {"train/roughness", "train/r1"} <= {name for name, _ in found[kind]}
        r1 = [found[kind].get(("train/r1", step)) for step in (1, 2, 3, 4)]  # of every second step, and then kept
        assert r1[2] == r1[3] and (r1[0] == r1[1] != r1[2] if kind == "adversarial" else r1[:2] == [None, None])
        assert sorted(path.name for path in (folder / "sheets").iterdir())[-1] == "step_00000004.jpg"
    assert ("train/fooling", 2) not in found["reconstruction"] and ("val/ssim", 4) in found["reconstruction"]
    assert found["reconstruction"]["train/loss", 2] == pytest.approx(
        found["reconstruction"]["train/l1", 2] + found["reconstruction"]["train/opacity", 2], rel=1e-4
    )


def test_both_rates_follow_the_schedule(finished):
    """A warmup of three steps: the fourth has the full rate, the third three quarters of it."""
    for folder in finished.values():
        for step, share in ((3, 0.75), (4, 1.0)):
            state = torch.load(folder / f"checkpoints/step_{step:08d}.ckpt", weights_only=True)
            assert len(state["optimizer_states"]) == 2
            for group in (group for one in state["optimizer_states"] for group in one["param_groups"]):
                assert group["lr"] == pytest.approx(share * group["initial_lr"])


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_and_resumed_is_uninterrupted(finished, kind, asked, state, tmp_path, one_thread):
    """With noise, jitter, variation, R1, both optimizers and the discriminator's coming in between."""
    for steps in (3, 4):
        changes = (f"prior={kind}", f"trainer.max_steps={steps}", "log.sheet_examples=0")
        run_training(asked(tmp_path, *CHANGES, *changes), tmp_path)
    ours, theirs = (state(folder / "checkpoints/step_00000004.ckpt") for folder in (tmp_path, finished[kind]))
    assert ours.keys() == theirs.keys() and any(name.startswith(".optimizer_states.1") for name in ours)
    for name, value in theirs.items():
        same = torch.equal(ours[name], value) if isinstance(value, torch.Tensor) else ours[name] == value
        assert same, name


@pytest.fixture
def stepped(asked, tmp_path) -> Callable[..., tuple[PriorTraining, Batch]]:
    """A module after some steps by hand, with all its gradients still there."""

    def made(kind: str, *changes: str) -> tuple[PriorTraining, Batch]:
        config = asked(tmp_path, f"prior={kind}", *changes)
        data = ShardDataModule(config.data)
        torch.manual_seed(0)
        module = PriorTraining(config, data.head, tmp_path)
        return module, next(iter(data.train_dataloader()))

    return made


class OneStep:
    """What the module asks of a trainer."""

    world_size, global_step = 1, 0


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_all_that_is_to_learn_and_nothing_else(kind, stepped):
    large = "invertavatar.inversion.picture_px=128"  # with less no encoder's head has anything to halve
    module, batch = stepped(kind, "prior_training.adversarial_from=0", large)
    module._trainer = OneStep()
    zero_heads = [head.out.weight for head in module.net.latent.heads] if kind == "reconstruction" else []
    for weight in zero_heads:
        torch.nn.init.normal_(weight, std=0.1)  # they begin at zero, which hides what is before them
    drawn = module.draw_people(batch, jitter=True)
    (
        module._reconstruction(drawn.out, batch).total(module.settings) + module.judge.fooling(module.fake(drawn), 0.0)
    ).backward()
    learning = {name: p for name, p in module.net.named_parameters() if p.requires_grad}
    assert [name for name, p in learning.items() if p.grad is None or not p.grad.any()] == []
    frozen = {name for name, p in module.net.named_parameters() if not p.requires_grad}
    mapping = {name for name, _ in module.net.named_parameters() if ".mapping." in name}
    still = {name for name in frozen if name.endswith("noise_strength") and ".super_resolution." in name}
    assert frozen == still | (mapping if kind == "reconstruction" else set()) and mapping and still
    asked_for = {id(p) for group in module.configure_optimizers()[0].param_groups for p in group["params"]}
    assert asked_for == {id(p) for p in learning.values()}


def test_a_step_of_the_judge_leaves_the_generators_alone(stepped):
    module, batch = stepped("adversarial")
    module._trainer = OneStep()
    drawn = module.draw_people(batch, jitter=False)
    fake = module.fake(drawn)
    detached = map_tensors(fake, torch.Tensor.detach)
    verdict = module.judge.compare(module.real(batch, fake), detached, 0.0, penalised=True)
    verdict.loss.backward()
    assert all(p.grad is None for p in module.net.parameters())
    assert [name for name, p in module.judge.named_parameters() if p.grad is None or not p.grad.any()] == []
    plain = module.judge.compare(module.real(batch, fake), detached, 0.0, penalised=False)
    assert plain.r1 is None and plain.loss < verdict.loss


def test_an_auto_encoder_learns_its_people(asked, tmp_path, one_thread):
    rates = ("prior_training.generator_lr=0.02", "prior_training.latent_lr=0.005")
    changes = ("prior=reconstruction", "trainer.max_steps=24", "data.val=[]", "log.sheet_examples=0", *rates)
    assert run_training(asked(tmp_path, *changes), tmp_path) == 0
    found = [value for (name, _), value in sorted(numbers(tmp_path).items(), key=lambda item: item[0][1])
             if name == "train/l1"]  # fmt: skip
    first, last = sum(found[:8]) / 8, sum(found[-8:]) / 8  # a pass over the data each
    assert last < 0.85 * first  # measured 0.75


def test_a_discriminator_learns_and_a_generator_follows(stepped):
    """Judge alone: real and drawn come apart. Generators alone, against it: the drawn ones win ground."""
    module, batch = stepped("adversarial", "prior_training.variation.mode=none")
    module._trainer = OneStep()
    generators, judges = module.configure_optimizers()
    fooling = []
    for optimizer, learn in ((judges, True), (generators, False)):
        for _ in range(8):
            torch.manual_seed(1)
            drawn = module.draw_people(batch, jitter=False)
            optimizer.zero_grad()
            if learn:
                fake = map_tensors(module.fake(drawn), torch.Tensor.detach)
                module.judge.compare(module.real(batch, fake), fake, 0.0, penalised=False).loss.backward()
            loss = module.judge.fooling(module.fake(drawn), 0.0)
            if not learn:
                loss.backward()
            optimizer.step()
            fooling.append(float(loss.detach()))
    assert fooling[7] > fooling[0] + 0.05 and fooling[-1] < fooling[8] - 0.05, fooling


def test_bf16_is_close(stepped):
    module, batch = stepped("reconstruction")
    module._trainer = OneStep()
    module.eval()
    with torch.no_grad():
        before = module.terms(batch, jitter=False)[0]
        module.use_bf16()
        seen = []
        module.prior.static_generator.first.conv.register_forward_hook(
            lambda part, given, made: seen.append(made.dtype)
        )
        after = module.terms(batch, jitter=False)[0]
    assert seen == [torch.bfloat16] and after.dtype == torch.float32
    assert 0 < (after - before).abs().max() < 0.02


def test_the_schedule_follows_pictures_seen(asked, tmp_path):
    schedule = PriorSchedule(asked(tmp_path))  # raw 4 -> 8 px over pictures 4 to 12; blur 2 px until picture 16
    assert [schedule.raw_px(images) for images in (0, 4, 6, 8, 12, 99)] == [4, 4, 5, 6, 8, 8]
    assert [schedule.blur_px(images) for images in (0, 8, 16, 99)] == [2.0, 1.0, 0.0, 0.0]
    kinds = itertools.product(KINDS, (-1, 5))
    found = {(kind, start): PriorSchedule(asked(tmp_path, f"prior={kind}", f"prior_training.adversarial_from={start}"))
             for kind, start in kinds}  # fmt: skip
    assert [found[kind, -1].adversarial_ever for kind in KINDS] == [True, False]
    assert [found["reconstruction", 5].adversarial_at(step) for step in (0, 4, 5)] == [False, False, True]
    assert found["adversarial", 5].adversarial_at(0)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("trainer.accumulate=2", "steps of this method cannot be gathered"),
        ("prior_training.discriminator.size_px=64", "pictures have 32 px"),
        ("invertavatar.prior.head=flame", "the sets were fitted with open_head"),
    ],
)
def test_settings_that_do_not_go_together_are_one_line(asked, tmp_path, setting, said):
    with pytest.raises(InputError, match=said):
        run_training(asked(tmp_path, setting), tmp_path)
