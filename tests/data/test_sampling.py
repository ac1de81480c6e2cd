"""The law by which clips, sources and targets are drawn, and who draws what."""

from __future__ import annotations

import dataclasses
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from generated_set import HEAD, SIZE, make_sample, make_set

from gpavatar.data.sampling import (
    PairFrames,
    SamplingConfig,
    draw_num_sources,
    draw_pairs,
    epoch_clips,
    pair_frames,
    target_probabilities,
)
from gpavatar.data.schedule import FixedSchedule, TrainSchedule, seeded
from gpavatar.data.shards import ClipInfo, ShardSet, ShardWriter
from gpavatar.types import InputError

CLIPS = [
    ("a0", "anna", "train", 6), ("a1", "anna", "train", 3), ("a2", "anna", "train", 4), ("b0", "ben", "train", 5),
    ("c0", "carl", "train", 1), ("d0", "dora", "val", 4),
]  # fmt: skip
SAMPLING = SamplingConfig()


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> ShardSet:
    return make_set(tmp_path_factory.mktemp("sampling") / "set", CLIPS)


@pytest.fixture(scope="module")
def frames(shards) -> PairFrames:
    return pair_frames([shards], [1.0], "train")


def with_roles(directory, roles: dict[str, str]) -> PairFrames:
    """Clips of one identity whose frames have these roles: s, t or a."""
    names = {"s": "source", "t": "target", "a": "any"}
    with ShardWriter(directory, HEAD, SIZE) as writer:
        for clip, letters in roles.items():
            samples = [make_sample(clip, "anna", i, role=names[letter]) for i, letter in enumerate(letters)]
            writer.add(ClipInfo(clip, "anna", "train", "still", "open", "CC0-1.0"), samples)
    return pair_frames([ShardSet.open(directory)], [1.0], "train")


def test_clips_without_pairs_are_left_out(frames, shards):
    assert [clip.clip for clip in frames.clips] == ["a0", "a1", "a2", "b0"]
    assert frames.num_choices.tolist() == [5, 2, 3, 4]
    for row, (number, place) in enumerate(zip(frames.set_index, frames.set_row, strict=True)):
        sample = shards.sample(int(place))
        assert number == 0 and torch.equal(frames.rotation[row].view(3, 3), sample.camera.w2c[:3, :3])
        motion = torch.cat([sample.params.expression, sample.params.jaw_pose])
        assert (frames.motion[row] - motion).abs().max() < 4e-3  # half precision of values up to 4


def test_every_identity_and_every_set_counts_as_it_weighs(tmp_path, shards):
    other = make_set(tmp_path, [("x0", "xena", "train", 3), ("y0", "yann", "train", 2)])
    frames = pair_frames([shards, other], [3.0, 1.0], "train")
    assert float(frames.weight.sum()) == pytest.approx(1)
    for num_draws in (7, 40):
        for seed in range(20):
            clips = epoch_clips(frames, num_draws, np.random.default_rng(seed))
            identities = Counter(frames.clips[i].identity for i in clips)
            expected = {"anna": 3 / 8, "ben": 3 / 8, "xena": 1 / 8, "yann": 1 / 8}
            assert sum(identities.values()) == num_draws
            for name, share in expected.items():
                assert abs(identities[name] - num_draws * share) < 1
            assert abs(identities["anna"] + identities["ben"] - num_draws * 3 / 4) < 1
    counts = Counter(epoch_clips(frames, 24, np.random.default_rng(0)).tolist())
    assert [counts[i] for i in range(3)] == [3, 3, 3]  # anna's clips, a third of her each


def test_the_order_of_an_epoch_is_shuffled(frames):
    orders = torch.stack([epoch_clips(frames, 64, np.random.default_rng(seed)) for seed in range(50)])
    repeats = (orders[:, 1:] == orders[:, :-1]).float().mean()
    weight = frames.weight.float()
    assert abs(repeats - (weight**2).sum()) < 0.05  # as often as in an independent draw; sorted, it would be 0.95
    assert len({tuple(order.tolist()) for order in orders}) == 50


@pytest.mark.parametrize("num_sources", [1, 2, 4])
def test_pairs_follow_the_law(frames, num_sources):
    """Sources are uniform, and the target given the sources follows the slow twin."""
    draws = 90_000
    frames = dataclasses.replace(frames, motion=0.03 * frames.motion)  # so that angle and expression both matter
    clips = torch.zeros(draws, dtype=torch.int64)
    pairs = draw_pairs(frames, clips, num_sources, SAMPLING, seeded("cpu", num_sources))
    assert pairs.source.shape == (draws, num_sources)
    chosen = pairs.source.sort(1).values
    combos = list(combinations(range(6), num_sources))
    which = (chosen[:, None] == torch.tensor(combos)).all(2)
    assert which.any(1).all()  # all different
    for combo, column in zip(combos, which.T, strict=True):
        count = int(column.sum())
        assert abs(count - draws / len(combos)) < 5 * (draws / len(combos)) ** 0.5
        expected = target_probabilities(frames, 0, list(combo), SAMPLING)
        found = torch.bincount(pairs.target[column], minlength=6) / count
        deviation = (expected * (1 - expected) / count).sqrt()
        assert ((found - expected).abs() <= 5 * deviation).all()


def test_far_targets_are_preferred(frames):
    """Frame i looks 0.05 i rad to the side; the odds grow with the angle, and with the change of the expression."""
    still = dataclasses.replace(frames, motion=torch.zeros_like(frames.motion))
    odds = target_probabilities(still, 0, [0], SAMPLING)
    angle_deg = torch.arange(6) * 0.05 * 180 / torch.pi
    expected = torch.where(angle_deg > 0, 0.1 + (angle_deg / 15) ** 2, 0)
    assert torch.allclose(odds, expected / expected.sum(), atol=1e-4)
    both = target_probabilities(still, 0, [0, 5], SAMPLING)  # the nearest source counts
    assert torch.allclose(both, both.flip(0), atol=1e-4) and both[2] > both[1] > 0
    alike = target_probabilities(still, 0, [0], SamplingConfig(power=0.0))
    assert torch.allclose(alike, torch.tensor([0, 0.2, 0.2, 0.2, 0.2, 0.2]))
    motion = torch.zeros_like(frames.motion)
    motion[3, 7] = 5.0
    moved = dataclasses.replace(frames, motion=motion, rotation=frames.rotation[:1].expand(len(frames), -1))
    odds = target_probabilities(moved, 0, [0], SAMPLING)
    assert torch.allclose(odds, torch.tensor([0, 0.1, 0.1, 100.1, 0.1, 0.1]) / 100.5)


def test_roles_are_kept(tmp_path):
    frames = with_roles(tmp_path, {"c0": "sst", "c1": "tttt", "c2": "aas", "c3": "ssss", "c4": "at", "c5": "as"})
    assert [clip.clip for clip in frames.clips] == ["c0", "c2", "c4", "c5"]
    assert frames.num_choices.tolist() == [2, 2, 1, 1]
    for clip, sources, targets in ((0, {0, 1}, {2}), (1, {3, 4, 5}, {3, 4}), (2, {6}, {7}), (3, {8, 9}, {8})):
        pairs = draw_pairs(frames, torch.full((400,), clip), 2, SAMPLING, seeded("cpu", 0))
        assert set(pairs.target.tolist()) == targets
        assert not (pairs.source == pairs.target[:, None]).any()
        if clip < 3:
            assert set(pairs.source.flatten().tolist()) == sources


def test_a_short_clip_gives_sources_twice(frames):
    pairs = draw_pairs(frames, torch.tensor([1] * 100), 4, SAMPLING, seeded("cpu", 0))
    assert all(len(set(row)) == 2 for row in pairs.source.tolist())
    assert not (pairs.source == pairs.target[:, None]).any()


def test_padding_plays_no_part(frames):
    """A clip drawn beside a longer one has the same law as alone."""
    alone = draw_pairs(frames, torch.full((4000,), 1), 1, SAMPLING, seeded("cpu", 1))
    beside = draw_pairs(frames, torch.tensor([1, 0]).repeat(4000), 1, SAMPLING, seeded("cpu", 2))
    rows = torch.arange(6, 9)
    for ours, theirs in ((alone.source[:, 0], beside.source[::2, 0]), (alone.target, beside.target[::2])):
        a, b = ((x[:, None] == rows).float().mean(0) for x in (ours, theirs))
        assert float(a.sum()) == float(b.sum()) == 1 and (a - b).abs().max() < 0.05


def test_the_number_of_sources_has_its_odds():
    config = SamplingConfig(num_sources=[1.0, 0.0, 3.0])
    counts = Counter(draw_num_sources(config, seeded("cpu", i)) for i in range(2000))
    assert counts.keys() == {1, 3} and abs(counts[3] / 2000 - 0.75) < 0.05
    for bad in ([], [0.0], [1.0, -1.0], [float("nan")]):
        with pytest.raises(InputError, match="odds of 1, 2"):
            draw_num_sources(SamplingConfig(num_sources=bad), seeded("cpu", 0))


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("num_draws", [24, 25, 29])
def test_ranks_share_an_epoch_without_overlap(frames, world_size, num_draws):
    """Their batches together are those that one rank alone would take, but for an incomplete rest."""
    clips = epoch_clips(frames, num_draws, np.random.default_rng([5, 2]))
    taken, sources = {}, set()
    for rank in range(world_size):
        schedule = TrainSchedule(frames, SAMPLING, 2, num_draws, seed=5, rank=rank, world_size=world_size)
        assert schedule.num_steps == num_draws // (2 * world_size)
        for step in range(schedule.num_steps):
            pairs = schedule.pairs(2, step)
            assert taken.setdefault(step * world_size + rank, pairs.clip.tolist()) is not None
            sources.add((step, pairs.source.shape[1]))
    assert [taken[b] for b in range(len(taken))] == [clips[2 * b : 2 * b + 2].tolist() for b in range(len(taken))]
    assert len(taken) == num_draws // (2 * world_size) * world_size
    assert len(sources) == num_draws // (2 * world_size)  # one number of sources per step, whatever the rank


def test_a_batch_is_a_function_of_its_place(frames):
    def batch(seed=0, epoch=0, step=0, rank=0):
        pairs = TrainSchedule(frames, SAMPLING, 4, 64, seed, rank, 2).pairs(epoch, step)
        return [pairs.clip.tolist(), pairs.source.tolist(), pairs.target.tolist()]

    schedule = TrainSchedule(frames, SAMPLING, 4, 64, 0, 0, 2)
    for epoch, step in ((1, 3), (0, 0)):  # whatever was asked before
        schedule.pairs(epoch, step)
    assert schedule.pairs(0, 0).source.tolist() == batch()[1]
    others = [batch(seed=1), batch(epoch=1), batch(step=1), batch(rank=1)]
    assert all(other != batch() for other in others)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_validation_is_shared_without_loss(frames, world_size):
    taken = []
    for rank in range(world_size):
        schedule = FixedSchedule(frames, SAMPLING, 3, 4, 2, rank, world_size)
        for step in range(schedule.num_steps):
            pairs = schedule.pairs(0, step)
            assert torch.equal(pairs.target, schedule.pairs(9, step).target)
            taken += list(zip(pairs.clip.tolist(), pairs.target.tolist(), strict=True))
    alone = FixedSchedule(frames, SAMPLING, 3, 4, 2)
    pairs = [alone.pairs(0, step) for step in range(alone.num_steps)]
    assert Counter(clip for clip, _ in taken) == {0: 4, 1: 4, 2: 4, 3: 4}
    expected = [pair for p in pairs for pair in zip(p.clip.tolist(), p.target.tolist(), strict=True)]
    assert sorted(taken) == sorted(expected)


def test_sets_that_cannot_be_mixed_are_refused(tmp_path, shards):
    small = make_set(tmp_path / "small", [("x0", "xena", "train", 3)], size=16)
    research = make_set(tmp_path / "research", [("x0", "xena", "train", 3)], tier="research")
    for sets, weights, said in (
        ([shards, small], [1.0, 1.0], "one head and one size"),
        ([shards], [0.0], "must be positive"),
        ([shards], [1.0, 1.0], "one for each of the 1 sets"),
        ([], [], "no set"),
    ):
        with pytest.raises(InputError, match=said):
            pair_frames(sets, weights, "train")
    with pytest.raises(InputError, match="no clip with pairs in split 'test'; the set has the splits train, val"):
        pair_frames([shards], [1.0], "test")
    with pytest.raises(InputError, match="of tier open"):
        pair_frames([research], [1.0], "train", open_only=True)
