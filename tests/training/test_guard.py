"""A loss that is not finite is noticed, and its batch can be looked at."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from generated_set import make_set
from safetensors import safe_open

from gpavatar.data.batch import Batch
from gpavatar.data.module import DataConfig, SetConfig, ShardDataModule
from gpavatar.training.guard import LossGuard, TrainingError


@pytest.fixture(scope="module")
def batch(tmp_path_factory) -> Batch:
    path = tmp_path_factory.mktemp("guard") / "set"
    make_set(path, [("a0", "anna", "train", 3)])
    data = ShardDataModule(DataConfig(train=[SetConfig(str(path))], batch_size=2, num_workers=0))
    return next(iter(data.train_dataloader()))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_loss_that_is_not_finite_stops_and_leaves_its_batch(tmp_path: Path, batch: Batch, value: float):
    guard = LossGuard(tmp_path, rank=3)
    guard.watch(torch.tensor(1.0), batch, 6)
    with pytest.raises(TrainingError, match=r"^the loss is not finite at step 7 \(rank 3\); its batch is in .* Run"):
        guard.watch(torch.tensor(value), batch, 7)
        guard.check_all()
    (path,) = tmp_path.iterdir()
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"step": "7", "data_epoch": "0", "data_step": "0"}
        assert torch.equal(file.get_tensor("source.image"), batch.source.image)
        assert torch.equal(file.get_tensor("target.params.jaw_pose"), batch.target.params.jaw_pose)
        assert torch.equal(file.get_tensor("pairs.target"), batch.pairs.target)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_device_is_not_waited_for(tmp_path: Path, batch: Batch):
    guard, loss = LossGuard(tmp_path), torch.tensor(1.0, device="cuda")
    guard.watch(loss, batch, 0)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(4):
            guard.watch(loss, batch, step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    guard.check_all()
    with pytest.raises(TrainingError):
        guard.watch(loss / 0, batch, 9)
        guard.check_all()
