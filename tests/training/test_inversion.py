"""The stages of InvertAvatar's encoders at toy size: what learns, what stands still, one stage after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from gpavatar.avatars.animatable_prior import AnimatablePrior
from gpavatar.avatars.checkpoint import WeightsInfo, config_yaml, read_weights, save_weights
from gpavatar.avatars.invertavatar import InvertAvatar, InvertAvatarConfig
from gpavatar.avatars.invertavatar_method import InvertAvatarMethod
from gpavatar.config import load_config
from gpavatar.data.module import ShardDataModule
from gpavatar.synthesis.latent_discriminator import StylePool
from gpavatar.training.config import TrainConfig
from gpavatar.training.inversion import InversionTraining, Lesson, Understood
from gpavatar.training.inversion_config import StartConfig
from gpavatar.training.inversion_losses import InversionTerms, style_delta
from gpavatar.training.inversion_start import begin_with
from gpavatar.training.invertavatar_images import RecurrentTraining
from gpavatar.training.run import MODULES, run_training
from gpavatar.types import InputError, map_tensors

CONFIG = Path(__file__).parents[2] / "configs/invertavatar_debug.yaml"
GATHERINGS = {"latent": "recurrent", "oneshot": "mean", "recurrent": "recurrent"}
TRAINED = {"latent": ("latent.",), "oneshot": ("texture.", "plane."), "recurrent": ("texture.", "plane.")}


@pytest.fixture(scope="module")
def config(settings) -> Callable[..., TrainConfig]:
    """configs/invertavatar_debug.yaml, a stage of it, with changes."""

    def told(stage: str, out: Path, *changes: str) -> TrainConfig:
        stages = [
            f"method=invertavatar_{stage}",
            f"invertavatar.inversion.gathering={GATHERINGS[stage]}",
            "inversion_training.perceptual=0",
            "inversion_training.frames=6",
            "inversion_training.in_graph=2",
            "optim.lr=0.002",
        ]
        return load_config(TrainConfig, CONFIG, overrides=[*stages, *settings(out), *changes])

    return told


def judged(config: TrainConfig) -> list[str]:
    """A discriminator of a size that takes no time, from the start."""
    small = "{size_px: 32, channel_base: 256, max_channels: 8, group_size: 2, with_pose: false, with_landmarks: false}"
    return [
        "inversion_training.adversarial_from=0",
        f"inversion_training.judge.discriminator={small}",
        "inversion_training.judge.r1_every=2",
    ]


@pytest.fixture(scope="module")
def lessons(config, tmp_path_factory) -> Callable[..., tuple[InversionTraining, Lesson]]:
    """A stage whose last layers say something, and a lesson of real or synthetic people."""

    def made(stage: str, *changes: str, synthetic: bool = False) -> tuple[InversionTraining, Lesson]:
        told = config(stage, tmp_path_factory.mktemp("run"), *changes)
        torch.manual_seed(0)
        data = ShardDataModule(told.data)
        module = MODULES[told.method](told, data.head, Path(told.out))
        for parameter in module.net.parameters():
            if parameter.ndim > 1 and not parameter.detach().any():
                nn.init.normal_(parameter, std=0.1)
        batch = next(iter(data.train_dataloader()))
        lesson = module.lesson(batch)
        return module, module.synthetic(lesson, batch) if synthetic else lesson

    return made


def loss_of(module: InversionTraining, lesson: Lesson) -> tuple[InversionTerms, Understood]:
    found = module.understood(lesson, cycled=True)
    outs = [module.drawing(found.person, one, jitter=False) for one in lesson.drawn]
    return module.compared(lesson, found, outs), found


@pytest.mark.parametrize(("stage", "synthetic"), [(stage, stage == "oneshot") for stage in TRAINED])
def test_gradients_reach_what_is_trained_and_nothing_else(lessons, stage, synthetic):
    module, lesson = lessons(stage, "inversion_training.delta=0.01", synthetic=synthetic)
    terms, _ = loss_of(module, lesson)
    terms.total(module.settings).backward()
    reached = {name for name, p in module.net.named_parameters() if p.grad is not None and p.grad.any()}
    meant = {name for name, _ in module.net.named_parameters() if name.startswith(TRAINED[stage])}
    meant -= {f"latent.heads.{n}.down.{part}" for n in (0, 1) for part in ("weight", "bias")}  # maps of 2 and 4 px
    if stage == "recurrent":
        meant = {name for name in meant if ".trunk." not in name}
        assert {name for name in meant if ".fusions." in name}
    untouched = {name for name, p in module.net.named_parameters() if p.grad is None}
    assert reached == meant
    assert untouched == {name for name, _ in module.net.named_parameters()} - meant


def test_an_auto_encoded_prior_learns_along(lessons):
    """With the encoders: generators, decoder, super-resolution and E_latent, the opacity held to the matte; by
    themselves, with the coarse avatar. What nobody asks, the mapping and the SR's noise, stands still."""
    for share, encoders in ((0, True), (1, False)):
        changes = f"inversion_training.coarse_share={share}", "inversion_training.opacity=1"
        module, lesson = lessons("oneshot", "inversion_training.prior_learns=true", *changes)
        terms, found = loss_of(module, lesson)
        assert float(terms.opacity.detach()) > 0
        terms.total(module.settings).backward()
        reached = {name for name, p in module.net.named_parameters() if p.grad is not None and p.grad.any()}
        silent = ("prior.mapping.", *(f"latent.heads.{n}.down." for n in (0, 1)))
        meant = {name for name, _ in module.net.named_parameters() if not name.startswith(silent)}
        noise = {name for name in meant if "super_resolution" in name and "noise_strength" in name}
        meant = {name for name in meant - noise if encoders or not name.startswith(("texture.", "plane."))}
        assert reached == meant
        assert found.styles.grad_fn is not None
        rates = {id(p): group.get("lr") for group in module.groups() for p in group["params"]}
        assert rates[id(module.net.latent.trunk.stem[0].weight)] == module.config.prior_training.latent_lr
        assert all(id(p) in rates for p in module.net.parameters() if p.requires_grad)


def test_the_fixed_window_learns_in_the_same_stage(lessons):
    """ConvFusion: its convolutions over four frames are reached too."""
    module, lesson = lessons("recurrent", "invertavatar.inversion.gathering=window")
    terms, _ = loss_of(module, lesson)
    terms.total(module.settings).backward()
    reached = {name for name, p in module.net.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {name for name, p in module.net.named_parameters() if p.requires_grad}
    assert any(".fusions.3." in name for name in reached)


def test_the_terms_of_synthetic_people_vanish_when_they_are_understood(lessons):
    """Texture, planes and rendered features are those of the truth; real people have only their pictures."""
    module, lesson = lessons("oneshot", synthetic=True)
    found = Understood(lesson.truth, lesson.truth.styles)
    terms = module.compared(lesson, found, [module.drawing(lesson.truth, one, jitter=False) for one in lesson.drawn])
    assert float(terms.raw) == float(terms.texture) == float(terms.planes) == 0
    other = replace(
        lesson.truth, static=lesson.truth.static + 0.5, texture=lesson.truth.texture.plus(lesson.truth.texture)
    )
    terms = module.compared(lesson, Understood(other, other.styles), list(lesson.truth_drawn))
    assert float(terms.planes) == pytest.approx(0.5) and float(terms.texture) > 0 and float(terms.raw) == 0
    module, real = lessons("oneshot")
    terms, _ = loss_of(module, real)
    assert float(terms.texture) == float(terms.planes) == 0 < float(terms.raw.detach())


def test_synthetic_people_stand_as_the_real_ones_do(lessons):
    """Poses of the set, styles by chance; or, for a prior without chance, between two people of the batch."""
    module, real = lessons("oneshot")
    _, made = lessons("oneshot", synthetic=True)
    assert torch.equal(made.drawn[0].verts, real.drawn[0].verts)
    assert not torch.equal(made.truth.styles[0], made.truth.styles[1])
    _, mixed = lessons("oneshot", "inversion_training.synthetic=mixed", synthetic=True)
    first, second = module.net.styles(real.sources[0]).detach()
    share = (mixed.truth.styles[0] - first) / (second - first)
    known = (second - first).abs() > 1e-2
    assert 0 <= float(share[known].mean()) <= 1 and float(share[known].std()) < 0.05


def test_a_sequence_goes_over_the_sources_again_and_only_its_end_is_in_the_graph(lessons):
    module, lesson = lessons("recurrent", "data.sampling.num_sources=[0,1]", "inversion_training.frames=9")
    assert isinstance(module, RecurrentTraining)
    lengths = set()
    for seed in range(40):
        torch.manual_seed(seed)
        order = module.sequence(2)
        assert order == [at % 2 for at in range(len(order))]
        lengths.add(len(order))
    assert lengths == set(range(2, 10))
    coarse = module.coarse(lesson)
    evidence = [module.net.evidence(coarse, frame, module.mesh) for frame in lesson.sources]
    shown = [replace(one, plane=map_tensors(one.plane, lambda t: t.clone().requires_grad_())) for one in evidence * 2]
    memory = module._after(module.net.begin(shown[0]), shown)
    memory.plane.half.sum().backward()
    heard = [one.plane.half.grad is not None and bool(one.plane.half.grad.any()) for one in shown]
    assert heard == [False, False, True, True]
    stepped = module.net.begin(shown[0])
    for one in shown:
        stepped = module.net.step(stepped, one)
    torch.testing.assert_close(stepped.plane.half, memory.plane.half)


@pytest.mark.parametrize("stage", ["latent", "recurrent"])
def test_resumed_is_uninterrupted(config, state, tmp_path, one_thread, stage):
    """To the bit: with a judge, its pool of styles, synthetic people, sequences, noise and jitter."""
    changes = [
        *judged(config),
        "data.val=[]",
        "log.sheet_examples=0",
        "inversion_training.pool=3",
        "optim.ema_decay=0.9",
    ]
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    for folder, steps in ((stopped, 1), (stopped, 2), (whole, 2)):
        assert run_training(config(stage, folder, *changes, f"trainer.max_steps={steps}"), folder) == 0
    ours, theirs = (state(folder / "checkpoints/step_00000002.ckpt") for folder in (stopped, whole))
    assert ours.keys() == theirs.keys() and any(".judge." in name for name in ours)
    for name, value in theirs.items():
        same = torch.equal(ours[name], value) if isinstance(value, torch.Tensor) else ours[name] == value
        assert same, name


def test_every_stage_learns_from_where_the_one_before_ended_and_moves_nothing_else(config, tmp_path):
    """Prior -> E_latent -> E_tex and E_tri -> recurrent, each on the same two people over and over, without chance;
    each leaves an avatar maker."""
    changes = ("trainer.max_steps=6", "inversion_training.synthetic_share=0", "trainer.jitter=false", "optim.lr=0.003",
               "data.augment={flip: 0, brightness: 0, contrast: 0, saturation: 0, tint: 0}",
               "data.examples_per_epoch=2",
               "log.sheet_examples=0", "data.val=[]", "inversion_training.drawn=1", "checkpoint.every_steps=0",
               "optim.ema_decay=0", "inversion_training.frames=1")  # fmt: skip
    told = config("latent", tmp_path)
    torch.manual_seed(3)
    prior = AnimatablePrior(told.invertavatar.prior)
    head = ShardDataModule(told.data).head
    info = WeightsInfo("invertavatar_prior", head.name, head.sha256, config_yaml(told.invertavatar.prior))
    save_weights(prior.state_dict(), tmp_path / "prior.safetensors", info)
    start, left = f"inversion_training.start.prior={tmp_path}/prior.safetensors", {}
    for stage in TRAINED:
        folder = tmp_path / stage
        assert run_training(config(stage, folder, start, *changes), folder) == 0
        rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()[1:]]
        losses = [float(value) for _, _, name, value in rows if name == "train/loss"]
        assert len(losses) == 6 and sum(losses[-2:]) < 0.97 * sum(losses[:2]), stage
        left[stage] = read_weights(folder / "weights.safetensors", InvertAvatarConfig).tensors
        start = f"inversion_training.start.weights={folder}/weights.safetensors"
    for stage, before in (("oneshot", "latent"), ("recurrent", "oneshot")):
        common = left[before].keys() & left[stage].keys()
        moved = {name for name in common if not torch.equal(left[stage][name], left[before][name])}
        allowed = {name for name in common if name.startswith(TRAINED[stage])}
        allowed -= {name for name in common if stage == "recurrent" and ".trunk." in name}
        assert moved and moved <= allowed
    assert all(torch.equal(left["recurrent"][f"prior.{name}"], value) for name, value in prior.state_dict().items())
    assert InvertAvatarMethod("cpu", folder / "weights.safetensors").gathering == "recurrent"


def test_bf16_draws_nearly_what_fp32_draws(lessons):
    module, lesson = lessons("recurrent")

    def image() -> torch.Tensor:
        with torch.no_grad():
            return module.drawing(module.understood(lesson, cycled=False).person, lesson.drawn[0], jitter=False).image

    exact = image()
    module.use_bf16()
    torch.testing.assert_close(image(), exact, atol=0.03, rtol=0)
    assert not torch.equal(image(), exact)


def test_settings_that_do_not_go_together_are_named(config, tmp_path):
    with pytest.raises(InputError, match="gathering=mean with refined=true, not recurrent"):
        run_training(config("oneshot", tmp_path, "invertavatar.inversion.gathering=recurrent"), tmp_path)
    with pytest.raises(InputError, match="pictures of at least 32 px"):
        changes = (
            "inversion_training.perceptual=1",
            "invertavatar.prior.super_resolution={in_size_px: 8, channels: [8]}",
        )
        run_training(config("latent", tmp_path, *changes), tmp_path)
    told = config("latent", tmp_path)
    head = ShardDataModule(told.data).head
    info = WeightsInfo("gpavatar", head.name, head.sha256, config_yaml(told.invertavatar.prior))
    save_weights(AnimatablePrior(told.invertavatar.prior).state_dict(), tmp_path / "other.safetensors", info)
    start = f"inversion_training.start.prior={tmp_path}/other.safetensors"
    with pytest.raises(InputError, match="holds weights of gpavatar, not of invertavatar_prior"):
        run_training(config("latent", tmp_path, start), tmp_path)
    info = replace(info, method="invertavatar_prior")
    save_weights(AnimatablePrior(told.invertavatar.prior).state_dict(), tmp_path / "other.safetensors", info)
    with pytest.raises(InputError, match="other sizes than the config"):
        run_training(config("latent", tmp_path, start, "invertavatar.prior.decoder_dim=9"), tmp_path)


def test_a_network_begins_with_what_the_files_hold(tmp_path):
    """The prior and E_latent of an auto-encoder, each a file; of an earlier stage all but its way to gather frames."""
    config = load_config(TrainConfig, CONFIG).invertavatar
    one_shot = replace(config, inversion=replace(config.inversion, gathering="mean"))

    def made(method: str, parts: object, net: nn.Module) -> str:
        path = tmp_path / f"{method}.safetensors"
        save_weights(net.state_dict(), path, WeightsInfo(method, "open_head", "any", config_yaml(parts)))
        return str(path)

    torch.manual_seed(1)
    other = InvertAvatar(one_shot)
    prior = made("invertavatar_prior", config.prior, other.prior)
    latent = made("invertavatar_latent", config.inversion.latent, other.latent)
    earlier = made("invertavatar", one_shot, other)
    torch.manual_seed(2)
    net, untouched = InvertAvatar(config), InvertAvatar(config)
    untouched.load_state_dict(net.state_dict())
    begin_with(net, StartConfig(prior=prior, latent=latent))
    for name, value in net.state_dict().items():
        source = other if name.startswith(("prior.", "latent.")) else untouched
        assert torch.equal(value, source.state_dict()[name]), name
    begin_with(net, StartConfig(weights=earlier))
    for name, value in net.state_dict().items():
        source = untouched if ".fusions." in name else other
        assert torch.equal(value, source.state_dict()[name]), name
    coarse = InvertAvatar(replace(config, inversion=replace(config.inversion, refined=False)))
    with pytest.raises(InputError, match="and the config differ in plane"):
        begin_with(coarse, StartConfig(weights=earlier))


def test_style_delta_is_the_layers_distance_from_the_first():
    styles = torch.zeros(2, 3, 4)
    assert float(style_delta(styles)) == pytest.approx(0, abs=1e-5)
    styles[0, 2, 0] = 3.0
    assert float(style_delta(styles)) == pytest.approx(1.5, abs=1e-5)
    assert float(style_delta(styles + 7)) == pytest.approx(1.5, abs=1e-5)


def test_a_pool_keeps_what_it_was_given_and_gives_it_back_later():
    torch.manual_seed(0)
    pool, seen = StylePool(1, 3), []
    for number in range(30):
        seen += pool.exchange(torch.tensor([[float(number)]]))[:, 0].tolist()
    assert seen[:3] == [0, 1, 2] and int(pool.filled) == 3
    assert len(set(seen)) < 30 and seen != sorted(seen)
    again = StylePool(1, 3)
    again.load_state_dict(pool.state_dict())
    assert torch.equal(again.styles, pool.styles) and int(again.filled) == 3
    together = StylePool(1, 3)
    first = torch.arange(5.0)[:, None]
    assert torch.equal(together.exchange(first)[:3], first[:3])  # what fills it is given back
    assert set(together.exchange(first + 10).flatten().tolist()) <= {0, 1, 2, 3, 4, 10, 11, 12, 13, 14}
