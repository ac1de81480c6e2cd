"""bf16 and compiled networks against the plain ones; geometry is not rounded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import jaxtyping
import pytest
import torch
import torch.nn.functional as functional

from gpavatar.avatars.gpavatar import GPAvatarOutput
from gpavatar.data.batch import Batch
from gpavatar.data.module import ShardDataModule
from gpavatar.field.knn_trees import ScipyIndex
from gpavatar.render.volume import render_volume
from gpavatar.training.gpavatar import GPAvatarTraining
from gpavatar.training.precision import Bf16Field, run_compiled, use_channels_last


@pytest.fixture
def training(debug, tmp_path: Path) -> tuple[GPAvatarTraining, Batch]:
    config = debug(tmp_path)
    data = ShardDataModule(config.data)
    torch.manual_seed(0)
    module = GPAvatarTraining(config, data.head, tmp_path)
    module.net.eval()
    return module, next(iter(data.train_dataloader()))


@torch.no_grad()
def drawn(module: GPAvatarTraining, batch: Batch) -> GPAvatarOutput:
    return module(batch)


def test_networks_are_bf16_and_all_else_is_not(training, monkeypatch):
    module, batch = training
    before, seen = drawn(module, batch), {}
    module.use_bf16()
    for name, part in (("conv", module.net.encoder.net.bottom), ("linear", module.net.radiance.density)):
        part.register_forward_hook(lambda part, given, result, name=name: seen.update({name: result.dtype}))
    align = module.net.align
    module.net.align = lambda *given: seen.update(align=align(*given).dtype) or align(*given)
    query = ScipyIndex.query
    monkeypatch.setattr(ScipyIndex, "query", lambda index, at: seen.update(points=at.dtype) or query(index, at))
    product = functional.linear
    monkeypatch.setattr(
        functional, "linear", lambda *given: seen.update(field=product(*given).dtype) or product(*given)
    )
    after = drawn(module, batch)
    assert seen == {"conv": torch.bfloat16, "linear": torch.bfloat16, "align": torch.float32,
                    "points": torch.float32, "field": torch.bfloat16}  # fmt: skip
    assert {tensor.dtype for tensor in (after.image, after.fine, after.depth)} == {torch.float32}
    assert all(parameter.dtype == torch.float32 for parameter in module.net.parameters())
    assert 0 < (after.image - before.image).abs().max() < 0.008  # measured 0.004
    assert (after.depth - before.depth).abs().max() < 0.002  # measured 0.0008 of a path of 2


@pytest.mark.parametrize(("changes", "precision", "wrapped"), [
    ([], "exact", False), (["trainer.precision=bf16"], "fast", False), (["trainer.fused=false"], "reference", False),
    (["trainer.precision=bf16", "trainer.fused=false"], "reference", True),
    (["trainer.precision=bf16", "gpavatar.point_field.normalised_over=pass"], "fast", True),
])  # fmt: skip
def test_fused_kernels_are_asked_for_where_the_device_has_them(
    debug, tmp_path, training, monkeypatch, changes, precision, wrapped
):
    """What torch computes is wrapped to compute in bf16, what kernels compute is not."""
    batch = training[1]
    monkeypatch.setattr("gpavatar.training.gpavatar.choose_twin", lambda *given, gradient: "triton")
    config = debug(tmp_path, *changes)
    module = GPAvatarTraining(config, ShardDataModule(config.data).head, tmp_path)
    monkeypatch.setattr(module, "_trainer", SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu"))))
    seen = {}
    module.setup("fit")
    monkeypatch.setattr(
        "gpavatar.avatars.gpavatar.render_volume",
        lambda field, *given, precision, **options: (
            seen.update(field=field, precision=precision) or render_volume(field, *given, **options)
        ),
    )
    drawn(module, batch)
    assert seen["precision"] == precision
    assert isinstance(seen["field"], Bf16Field) == wrapped


def test_channels_last_changes_no_number(training):
    module, batch = training
    before = drawn(module, batch)
    use_channels_last(module.images)
    weight = module.net.encoder.net.bottom.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert (drawn(module, batch).image - before.image).abs().max() < 1e-6


@pytest.fixture
def unchecked():
    """Without the shape checks of the tests, which cannot be traced."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_compiled_networks_are_the_same(training, unchecked):
    """Traced whole, with bf16 inside, forwards and backwards; names of parameters stay."""
    module, batch = training
    module.use_bf16()
    before, names = drawn(module, batch), list(module.state_dict())
    run_compiled([module.net.radiance], backend="eager")  # the 2-D networks take ten seconds
    assert torch.equal(drawn(module, batch).image, before.image)
    _, terms = module.terms(batch, jitter=True)
    terms.total(module.config.loss).backward()
    assert names == list(module.state_dict())
    assert module.net.radiance.density.weight.grad.abs().max() > 0
