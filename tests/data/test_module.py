"""From shards to batches: streamed or resident, mirrored or not, resumed, shared by ranks and workers."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from multiprocessing import active_children
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from generated_set import HEAD, LOSSLESS, SIZE, make_sample, make_set
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gpavatar.config import load_config
from gpavatar.data.augment import AugmentConfig, HeadMirror, augment
from gpavatar.data.batch import Batch, FrameStack
from gpavatar.data.loader import PairLoader, Place, ResidentFrames, StreamedFrames
from gpavatar.data.module import DataConfig, SetConfig, ShardDataModule
from gpavatar.data.sampling import SamplingConfig, draw_pairs, pair_frames
from gpavatar.data.schedule import TrainSchedule, seeded
from gpavatar.data.shards import ShardSet
from gpavatar.types import InputError, map_tensors

CLIPS = [("a0", "anna", "train", 6), ("a1", "anna", "train", 3), ("b0", "ben", "train", 9), ("d0", "dora", "val", 4)]
STILL = AugmentConfig(flip=0.0, brightness=0.0, contrast=0.0, saturation=0.0, tint=0.0)


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("module") / "set"
    make_set(path, CLIPS, encoding=LOSSLESS)
    return path


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("module") / "other"
    make_set(path, [("x0", "xena", "train", 4), ("y0", "yann", "train", 4)], tier="research", encoding=LOSSLESS)
    return path


def data_config(directory: Path, **changes) -> DataConfig:
    sets = {"train": [SetConfig(str(directory))], "val": [SetConfig(str(directory))]}
    return DataConfig(**{**sets, "batch_size": 2, "examples_per_epoch": 14, "num_workers": 0, **changes})


def numbers(batch: Batch) -> list:
    """What tells batches apart."""
    return [
        batch.epoch,
        batch.step,
        batch.pairs.source.tolist(),
        batch.pairs.target.tolist(),
        float(batch.source.image.double().sum()),
    ]


def test_a_batch_is_what_it_says(directory):
    module = ShardDataModule(data_config(directory, augment=STILL))
    loader, shards = module.train_dataloader(), ShardSet.open(directory)
    assert len(loader) == 7
    for batch in loader:
        n = batch.pairs.source.shape[1]
        assert batch.source.image.shape == (2, n, 3, SIZE, SIZE) and batch.target.alpha.shape == (2, 1, SIZE, SIZE)
        assert batch.source.params.eye_pose.shape == (2, n, 2, 3) and batch.target.camera.c2w.shape == (2, 4, 4)
        for i in range(2):
            clip = loader.schedule.frames.clips[batch.pairs.clip[i]]
            rows = [*batch.pairs.source[i].tolist(), int(batch.pairs.target[i])]
            samples = [shards.sample(int(loader.schedule.frames.set_row[row])) for row in rows]
            assert {sample.clip for sample in samples} == {clip.clip}
            views = [map_tensors(batch.source, lambda t, j=j, i=i: t[i, j]) for j in range(n)]
            views += [map_tensors(batch.target, lambda t, i=i: t[i])]
            for sample, view in zip(samples, views, strict=True):
                assert torch.equal(view.image, sample.image) and torch.equal(view.alpha, sample.alpha)
                assert torch.equal(view.params.expression, sample.params.expression)
                assert torch.equal(view.camera.c2w, sample.camera.c2w)
                assert torch.equal(view.landmarks_px, sample.landmarks_px)
                red = 20 * ["a0", "a1", "b0"].index(clip.clip)
                assert view.image[0].mean().item() * 255 == pytest.approx(red, abs=3)


def test_people_kept_aside_need_not_be_of_every_set(directory, other):
    sets = [SetConfig(str(directory)), SetConfig(str(other))]
    module = ShardDataModule(data_config(directory, train=sets, val=[], keep_aside=1))
    aside = {clip.identity for clip in module.val_dataloader().schedule.frames.clips}
    assert len(aside) == 1 and {clip.identity for clip in module.clips} == {"anna", "ben", "xena", "yann"} - aside
    open_only = ShardDataModule(data_config(directory, train=sets[:1], val=[], keep_aside=1, open_only=True))
    assert {clip.tier for clip in open_only.val_dataloader().schedule.frames.clips} == {"open"}


def test_stages_come_in_order(directory):
    with pytest.raises(InputError, match=r"data\.stages \[5, 2\]: must be epochs in the order"):
        ShardDataModule(data_config(directory, stages=[5, 2])).train_dataloader()


def test_validation_takes_the_kinds_that_are_asked_for(directory):
    def clips(*kinds: str) -> int:
        module = ShardDataModule(data_config(directory, val=[SetConfig(str(directory), kinds=list(kinds))]))
        return len(module.val_dataloader().schedule.frames.clips)

    assert clips("real", "still") == clips() > 0
    with pytest.raises(InputError, match="no clip with pairs in split 'val'; tier, kinds and the people kept aside"):
        clips("still")


def test_workers_end_with_the_last_batch(directory):
    """Also for who counts the batches, as Lightning does, and never asks for one too many."""
    loader = ShardDataModule(data_config(directory, examples_per_epoch=4, num_workers=1)).train_dataloader()
    batches, before = iter(loader), set(active_children())
    last = [next(batches) for _ in range(len(loader))][-1]
    assert last.step == 1 and set(active_children()) == before


def test_resident_frames_are_the_streamed_ones(directory):
    """The same schedule gives the same batches, varied the same way, whether frames are decoded or resident."""
    streamed = ShardDataModule(data_config(directory)).train_dataloader()
    resident = ShardDataModule(data_config(directory, resident=True)).train_dataloader()
    assert isinstance(resident.source, ResidentFrames) and isinstance(streamed.source, StreamedFrames)
    for ours, theirs in zip(streamed, resident, strict=True):
        assert numbers(ours) == numbers(theirs)
        assert torch.equal(ours.target.image, theirs.target.image)
        assert torch.equal(ours.source.params.expression, theirs.source.params.expression)


def test_resident_sampling_has_the_law_of_streaming(directory, device):
    """Drawn on a device with its own generator: frequencies of (source, target) as on the CPU."""
    frames = pair_frames([ShardSet.open(directory)], [1.0], "train")
    counts = []
    for place, numbers in ((torch.device("cpu"), 3), (device, 4)):
        there, clips = frames.to(place), torch.full((8000,), 1, device=place)
        pairs = draw_pairs(there, clips, 1, SamplingConfig(), seeded(place, numbers))
        counts.append(torch.bincount((pairs.source[:, 0] - 6) * 3 + pairs.target - 6, minlength=9).cpu() / 8000)
    assert (counts[0] - counts[1]).abs().max() < 5 * (2 * 0.17 * 0.83 / 8000) ** 0.5


class NoWait(TorchDispatchMode):
    """Refuses every operation for which a GPU would have to be waited for."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "lift_fresh", "_unique2", "repeat_interleave")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket.__name__ not in self.WAITS, func
        return func(*args, **(kwargs or {}))


def test_a_resident_batch_asks_nothing_of_the_device(directory):
    """On the CPU: no value is looked at, and nothing is made from Python numbers, once the first batch is drawn."""
    sets, config = [ShardSet.open(directory)], SamplingConfig()
    frames = pair_frames(sets, [1.0], "train")
    source = ResidentFrames.decode(sets, frames, "cpu")
    generator, clips = seeded("cpu", 0), torch.tensor([0, 1, 2])

    def batch() -> None:
        pairs = draw_pairs(frames, clips, 2, config, generator)
        views, target = source.load(pairs.source).to_views(), source.load(pairs.target).to_views()
        augment(Batch(views, target, pairs, 0, 0), AugmentConfig(), HeadMirror.of(HEAD), generator)

    batch()
    with NoWait():
        batch()
    with pytest.raises(AssertionError), NoWait():
        int(clips.max())
    with pytest.raises(AssertionError), NoWait():
        clips.new_tensor([1, 2])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_resident_batch_does_not_wait_for_the_device(directory):
    config = data_config(directory, augment=AugmentConfig())
    sets = [ShardSet.open(directory)]
    frames = pair_frames(sets, [1.0], "train")
    source = ResidentFrames.decode(sets, frames, "cuda")
    schedule = TrainSchedule(frames, config.sampling, 2, 64, device="cuda")
    loader = PairLoader(schedule, source, config.augment, HeadMirror.of(HEAD), "cuda")
    loader.batch(Place(0, 0))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(1, 6):
            loader.batch(Place(0, step))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_workers_change_nothing(directory):
    alone = [numbers(batch) for batch in ShardDataModule(data_config(directory)).train_dataloader()]
    loader = ShardDataModule(data_config(directory, num_workers=2)).train_dataloader()
    together = [numbers(batch) for batch in loader]
    assert together == alone and loader.place == Place(1, 0)
    again = [numbers(batch) for batch in loader]  # the next epoch, from the same workers
    assert [line[0] for line in again] == [1] * 7 and again[0][2:] != alone[0][2:]


def test_a_set_behind_a_pipe_gives_the_same_batches(directory, tmp_path, monkeypatch):
    """Both workers ask for the shard at once; one of them copies it into the cache, whole."""
    monkeypatch.setenv("GPAVATAR_CACHE", str(tmp_path))
    command = f"pipe:echo {{}} >> {tmp_path}/asked; cat {directory}/{{}}"
    config = data_config(directory, train=[SetConfig(command)], num_workers=2)
    piped = [numbers(batch) for batch in ShardDataModule(config).train_dataloader()]
    assert piped == [numbers(batch) for batch in ShardDataModule(data_config(directory)).train_dataloader()]
    asked = (tmp_path / "asked").read_text().split()
    assert sorted(asked) == ["frames.safetensors", "shards.json", "train-00000.tar"]


def test_a_worker_passes_on_what_is_wrong_in_one_line(directory, tmp_path):
    for path in directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "train-00000.tar").write_bytes(b"\xff" * (tmp_path / "train-00000.tar").stat().st_size)
    loader = ShardDataModule(data_config(tmp_path, num_workers=1)).train_dataloader()
    with pytest.raises(InputError) as error:
        next(iter(loader))
    assert "train-00000.tar: not a tar file" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_state_goes_on_in_the_middle_of_an_epoch(directory, num_workers):
    config = data_config(directory, num_workers=num_workers)
    whole = [numbers(b) for loader in [ShardDataModule(config).train_dataloader()] for _ in range(2) for b in loader]
    first = ShardDataModule(config)
    batches = iter(first.train_dataloader())
    taken = [numbers(next(batches)) for _ in range(3)]  # workers have decoded further than that
    state = first.state_dict()
    assert state == {"epoch": 0, "examples": 6}
    second = ShardDataModule(config)
    second.load_state_dict(state)
    loader = second.train_dataloader()
    taken += [numbers(batch) for _ in range(2) for batch in loader]
    assert taken == whole and len(whole) == 14
    assert second.state_dict() == {"epoch": 2, "examples": 0}
    first.load_state_dict({"epoch": 1, "examples": 9})  # of another batch size
    assert [numbers(batch) for batch in first.train_dataloader()] == whole[11:]


class Recorder(LightningModule):
    """Writes down what it is trained and validated on."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.validated = [], []

    def training_step(self, batch: Batch, index: int) -> Tensor:
        self.seen.append(numbers(batch))
        return self.weight * batch.target.image.mean()

    def validation_step(self, batch: Batch, index: int) -> None:
        self.validated.append(numbers(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(directory: Path, tmp_path: Path, steps: int, checkpoint: str | None = None, **options) -> Recorder:
    saved = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=2, max_steps=steps, callbacks=[saved], logger=False,
        num_sanity_val_steps=1, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    recorder = Recorder()
    trainer.fit(recorder, datamodule=ShardDataModule(data_config(directory, **options)), ckpt_path=checkpoint)
    return recorder


@pytest.mark.filterwarnings("ignore")
def test_lightning_resumes_with_the_very_next_batch(directory, tmp_path):
    whole = fit(directory, tmp_path / "whole", -1)
    assert [line[:2] for line in whole.seen] == [[epoch, step] for epoch in range(2) for step in range(7)]
    first = whole.validated[:1]  # Lightning tries one batch before it trains
    assert whole.validated[1:2] == first and whole.validated[3:4] == first and len(whole.validated) == 5
    assert whole.validated[1:3] == whole.validated[3:5] and whole.validated[1] != whole.validated[2]
    for stop, workers in ((3, 0), (3, 1), (7, 0), (10, 0)):
        checkpoint = str(tmp_path / "whole" / f"step={stop}.ckpt")
        resumed = fit(directory, tmp_path / f"again-{stop}-{workers}", -1, checkpoint, num_workers=workers)
        assert resumed.seen == whole.seen[stop:]


def test_ranks_of_a_trainer_share_the_set(directory):
    """Together the two ranks see what one alone sees with the same seed, and nothing twice."""

    def batches(rank: int, world_size: int) -> tuple[list, list]:
        module = ShardDataModule(data_config(directory, examples_per_epoch=13))
        strategy = SimpleNamespace(root_device=torch.device("cpu"))
        module.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, strategy=strategy)
        loaders = module.train_dataloader(), module.val_dataloader()
        assert module.state_dict()["examples"] == 0
        return tuple([batch.pairs.clip.tolist() for batch in loader] for loader in loaders)

    alone, ranks = batches(0, 1), [batches(rank, 2) for rank in range(2)]
    for train, expected in ((0, 6), (1, 2)):
        parts = [part[train] for part in ranks]
        together = [parts[step % 2][step // 2] for step in range(sum(map(len, parts)))]
        assert together == alone[train][: len(together)] and len(together) == expected
    assert [len(part[0]) for part in ranks] == [3, 3]  # 13 examples are 6 batches of 2


def test_sets_are_mixed_by_weight_and_labelled(directory, other):
    sets = [SetConfig(str(directory), 3.0), SetConfig(str(other), 1.0)]
    module = ShardDataModule(data_config(directory, train=sets, examples_per_epoch=40))
    loader = module.train_dataloader()
    clips = [loader.schedule.frames.clips[i] for batch in loader for i in batch.pairs.clip]
    assert sum(clip.identity in ("xena", "yann") for clip in clips) == 10
    assert sum(clip.identity == "ben" for clip in clips) == 15
    assert module.tier == "research" and ShardDataModule(data_config(directory)).tier == "open"
    assert module.head.name == "open_head"
    with pytest.raises(InputError, match="of tier open"):
        ShardDataModule(data_config(directory, train=sets, open_only=True)).train_dataloader()


def test_the_config_comes_from_yaml(tmp_path, directory):
    text = f"train: [{{path: {directory}, weight: 2}}]\nsampling: {{num_sources: [0, 1]}}\naugment: {{flip: 0.0}}\n"
    (tmp_path / "data.yaml").write_text(text)
    config = load_config(DataConfig, tmp_path / "data.yaml", overrides=["batch_size=3"])
    assert config.train == [SetConfig(str(directory), 2.0)] and config.batch_size == 3
    batch = next(iter(ShardDataModule(dataclasses.replace(config, num_workers=0)).train_dataloader()))
    assert batch.source.image.shape[:2] == (3, 2)
    with pytest.raises(InputError, match="flips"):
        load_config(DataConfig, overrides=["augment.flips=1"])


def test_what_cannot_be_trained_on_is_refused(directory):
    with pytest.raises(InputError, match="no set to train on"):
        ShardDataModule(data_config(directory, train=[])).train_dataloader()
    with pytest.raises(InputError, match="less than a batch"):
        ShardDataModule(data_config(directory, batch_size=15)).train_dataloader()
    assert ShardDataModule(data_config(directory, val=[])).val_dataloader() == []


def test_frames_stack_and_unstack():
    samples = [make_sample("a0", "anna", i, i) for i in range(3)]
    stack = FrameStack.of(samples)
    assert stack.image_u8.shape == (3, 3, SIZE, SIZE) and stack[torch.tensor([[2, 0]])].camera.c2w.shape == (1, 2, 4, 4)
    assert torch.equal(stack.to_views().image[1], samples[1].image)


def test_shards_need_no_lightning_and_no_opencv():
    absent = ["cv2", "mediapipe", "numba", "av", "pytorch_lightning", "webdataset"]
    code = f"import sys\nsys.modules.update(dict.fromkeys({absent}))\n"
    code += "import gpavatar.data.loader, gpavatar.data.shards, gpavatar.data.augment"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
