"""configs/debug.yaml from the sets to the weights, and everything a run leaves."""

from __future__ import annotations

import ast
import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from optional_assets import needs
from PIL import Image
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from gpavatar.avatars.checkpoint import read_weights
from gpavatar.avatars.gpavatar import GPAvatar, GPAvatarConfig
from gpavatar.avatars.gpavatar_method import GPAvatarMethod
from gpavatar.config import run_program
from gpavatar.data.module import ShardDataModule
from gpavatar.train import train
from gpavatar.training.config import seconds_of
from gpavatar.training.gpavatar import GPAvatarTraining, training_head
from gpavatar.training.guard import TrainingError
from gpavatar.training.run import run_training
from gpavatar.types import InputError


def numbers(folder: Path) -> dict[tuple[str, int], float]:
    """metrics.csv by (name, step)."""
    with (folder / "metrics.csv").open(newline="") as stream:
        return {(row["name"], int(row["step"])): float(row["value"]) for row in csv.DictReader(stream)}


@pytest.fixture(scope="module")
def finished(debug, tmp_path_factory) -> Path:
    """Two steps, validated and drawn."""
    folder = tmp_path_factory.mktemp("run") / "debug"
    assert run_training(debug(folder), folder) == 0
    return folder


def test_a_run_leaves_what_the_guide_says(finished):
    files = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    sheets, states = ({f"{where}_0000000{step}{end}" for step in steps} for where, steps, end in (
        ("sheets/step", (0, 2), ".jpg"), ("checkpoints/step", (1, 2), ".ckpt")))  # fmt: skip
    weights = {f"weights.{end}" for end in ("safetensors", "md")}
    weights |= {f"best.{end}" for end in ("safetensors", "md", "json")}
    assert files == {"config.yaml", "commit.txt", "changes.diff", "metrics.csv"} | sheets | states | weights
    with Image.open(finished / "sheets/step_00000002.jpg") as sheet:
        assert sheet.size == (7 * 32, 2 * 32)
    assert (finished / "commit.txt").read_text().startswith("gpavatar ")


def test_every_number_is_logged(finished):
    found = numbers(finished)
    assert {step for _, step in found} == {1, 2}
    assert {name for name, _ in found} >= {
        "train/loss", "train/l1", "train/density", "train/face_box", "train/grad_norm", "speed/samples_per_s",
        "speed/loader_wait", "speed/memory_gb", "val/loss", "val/l1", "val/psnr", "val/psnr_person", "val/ssim",
    }  # fmt: skip
    total = found["train/l1", 1] + found["train/face_box", 1] + 1e-5 * found["train/density", 1]
    assert found["train/loss", 1] == pytest.approx(total, rel=1e-5)
    assert 0 <= found["speed/loader_wait", 2] < 1 and found["speed/memory_gb", 2] > 0.1


def test_the_weights_are_the_averages_and_drive_an_avatar(finished):
    read = read_weights(finished / "weights.safetensors", GPAvatarConfig)
    assert (read.info.method, read.info.head, read.config.volume.size_px) == ("gpavatar", "open_head", 8)
    state = torch.load(finished / "checkpoints/step_00000002.ckpt", weights_only=True)
    averages = {name: value for name, value in state["ema"].items() if name != "steps"}
    assert averages.keys() == dict(GPAvatar(read.config, 9, 61).named_parameters()).keys()
    assert all(torch.equal(read.tensors[name], value) for name, value in averages.items())
    assert any(not torch.equal(state["state_dict"][f"net.{name}"], value) for name, value in averages.items())
    assert GPAvatarMethod(weights=finished / "weights.safetensors").net.config == read.config
    best = load_file(finished / "best.safetensors")  # of the only validation, after the second step
    assert all(torch.equal(best[name], value) for name, value in read.tensors.items())


def test_the_card_says_what_the_weights_are_made_of(finished):
    card = (finished / "weights.md").read_text()
    assert "| clips | 8 of 8 people: 8 real; tier 8 open |" in card and "tier open alone" in card
    assert "| steps | 2, 2 pairs each per device |" in card and "Research only" not in card


def test_a_state_gives_its_weights_again(finished, debug, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "again")
    (folder / "weights.safetensors").unlink()
    assert run_training(debug(folder), folder) == 0
    ours, theirs = (load_file(each / "weights.safetensors") for each in (folder, finished))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_a_folder_with_another_network_is_refused(finished, debug):
    changed = debug(finished, "gpavatar.volume.num_fine=4")
    with pytest.raises(InputError, match=r"its run has gpavatar.volume.num_fine=8, not 4; give another out="):
        run_training(changed, finished)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("trainer.max_step=3", "'max_steps'"),
        ("gpavatar.volume.size=3", "gpavatar.volume.size"),
        ("trainer.precision=fp8", "trainer.precision"),
        ("trainer.max_time=5", "must be minutes and seconds such as 27:30"),
        ("trainer.accelerator=abacus", "trainer.accelerator"),
        ("gpavatar.head=flame", "the sets were fitted with open_head, not flame; set gpavatar.head=open_head"),
        ("data.train=[]", "no set to train on"),
    ],
)
def test_a_wrong_setting_is_one_line(settings, tmp_path, capfd, setting, said):
    arguments = [str(Path(__file__).parents[2] / "configs/debug.yaml"), *settings(tmp_path / "run", setting)]
    assert run_program(train, arguments, "train") == 2
    error = capfd.readouterr().err.strip().splitlines()
    assert len(error) == 1 and error[0].startswith("error: ") and said in error[0], error


@pytest.mark.download
@needs("lpips_alex")
def test_the_perceptual_term_takes_part(debug, tmp_path):
    volume = "gpavatar.volume={size_px: 32, num_coarse: 2, num_fine: 2}"
    small = debug(tmp_path, "loss.perceptual=0.05")
    with pytest.raises(InputError, match=r"^loss.perceptual needs gpavatar.volume.size_px of at least 32"):
        run_training(small, tmp_path)
    changes = (volume, "loss.perceptual=0.05", "loss.face_box=0", "log.sheet_examples=0")
    run_training(debug(tmp_path, *changes), tmp_path)
    found = numbers(tmp_path)
    assert found["train/loss", 1] > found["train/l1", 1] + 0.05 * found["train/perceptual", 1] > found["train/l1", 1]
    assert 0 < found["val/lpips", 2] < 2
    state = torch.load(tmp_path / "checkpoints/step_00000002.ckpt", weights_only=True)
    assert all(name.startswith("net.") for name in state["state_dict"])  # the judge is not kept


def test_make_hands_on_what_stands_on_its_command_line():
    told = ["data.train=[{path: sets/a b, weight: 2}, {path: sets/c*}]", "trainer.max_steps=3"]
    command = ["make", "--no-print-directory", "-n", "train", "CONFIG=configs/debug.yaml", *told]
    root = Path(__file__).parents[2]
    lines = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.splitlines()
    line = lines[-1].replace(".venv/bin/python", sys.executable + " -c 'import sys; print(sys.argv[1:])'")
    script = "set -f +B\n" + line.replace("-m gpavatar.train", "")
    done = subprocess.run(["bash", "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert sorted(ast.literal_eval(done.stdout)) == sorted(["configs/debug.yaml", *told])


def test_times_are_read():
    assert [seconds_of(text) for text in ("27:30", "1:00:05", "2:00:00:00", "")] == [1650, 3605, 172800, float("inf")]


def test_another_version_of_the_head_is_refused(debug, tmp_path):
    head = ShardDataModule(debug(tmp_path).data).head
    with pytest.raises(InputError, match="fitted with another open_head"):
        training_head("open_head", head.__class__(head.name, "0" * 64, head.n_shape, head.n_expression))


def test_the_time_is_up(debug, tmp_path, capsys):
    changes = ("trainer.max_steps=100000", "trainer.max_time=0:01", "checkpoint.every_steps=0", "data.val=[]")
    assert run_training(debug(tmp_path, *changes), tmp_path) == 0
    (state,) = (tmp_path / "checkpoints").iterdir()
    assert (tmp_path / "weights.safetensors").exists() and max(s for _, s in numbers(tmp_path)) == int(state.stem[5:])
    printed = capsys.readouterr()
    assert "step 1 of 100000: loss " in printed.err and " pairs/s\n" in printed.err
    assert len(printed.out.splitlines()) == 2


def test_steps_of_several_batches_are_logged_once_they_are_taken(debug, tmp_path, capsys):
    changes = ("trainer.accumulate=2", "trainer.log_every=2", "trainer.max_steps=4", "data.val=[]")
    assert run_training(debug(tmp_path, *changes, "log.sheet_examples=0"), tmp_path) == 0
    assert [step for name, step in numbers(tmp_path) if name == "speed/samples_per_s"] == [2, 4]
    said = [line.partition(":")[0] for line in capsys.readouterr().err.splitlines() if "pairs/s" in line]
    assert said == ["step 2 of 4", "step 4 of 4"]


def test_sigterm_finishes_the_step(debug, tmp_path, monkeypatch):
    terms, calls = GPAvatarTraining.terms, []

    def counted(*args, **options):
        calls.append(0)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return terms(*args, **options)

    monkeypatch.setattr(GPAvatarTraining, "terms", counted)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    changes = ("trainer.max_steps=50", "checkpoint.every_steps=0", "log.sheet_examples=0")
    assert run_training(debug(tmp_path, *changes), tmp_path) == 130
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000002.ckpt"]
    assert (tmp_path / "weights.safetensors").exists() and len(calls) == 2  # not validated any more
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_a_loss_that_is_not_finite_ends_the_run(debug, tmp_path):
    changes = ("optim.lr=1e30", "optim.slow=[]", "trainer.max_steps=20", "data.val=[]", "log.sheet_examples=0")
    with pytest.raises(TrainingError, match=r"the loss is not finite at step (\d+)"):
        run_training(debug(tmp_path, *changes), tmp_path)
    (batch,) = tmp_path.glob("not_finite_step_*_rank_0.safetensors")
    assert load_file(batch)["target.image"].shape == (2, 3, 32, 32)
    assert not (tmp_path / "weights.safetensors").exists()


class NoWait(TorchDispatchMode):
    """Refuses every operation for which a GPU would have to be waited for."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "repeat_interleave")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket.__name__ not in self.WAITS, func
        return func(*args, **(kwargs or {}))


def test_a_step_asks_nothing_of_the_device(debug, tmp_path):
    """But for the neighbours' search, which the ablation without points has not, and the optimizer, which on CUDA is
    fused."""
    config = debug(tmp_path, "gpavatar.expression=parameters", "optim.ema_decay=0.9")
    data = ShardDataModule(config.data)
    module, batch = GPAvatarTraining(config, data.head, tmp_path), next(iter(data.train_dataloader()))
    module.guard.check_all = lambda: None
    module.guard.watch = lambda *args: None  # the CPU's way; tests/training/test_guard.py has the GPU's
    with NoWait():
        loss = module.training_step(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.net.parameters(), 1.0)
        module.ema.update()
    with pytest.raises(AssertionError), NoWait():
        float(loss)
