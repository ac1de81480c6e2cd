"""Which frames are sources, which are scored, who drives whom."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from generated_set import HEAD, SIZE, make_sample, make_set

from gpavatar.camera import Camera, axis_angle_to_matrix
from gpavatar.config import load_config
from gpavatar.data.shards import ClipInfo, ShardSet, ShardWriter
from gpavatar.evaluation.protocols import (
    CROSS,
    SELF,
    ClipPlan,
    ProtocolConfig,
    absent_videos,
    differs,
    evenly,
    plan_clips,
)
from gpavatar.types import InputError

CONFIGS = Path(__file__).parents[2] / "configs"
VAL, VFHQ, HDTF = "eval_val.yaml", "eval_vfhq.yaml", "eval_hdtf.yaml"
FEW_SHOT = "eval_vfhq_few_shot.yaml"


def protocol(name: str, *changes: str) -> ProtocolConfig:
    return load_config(ProtocolConfig, CONFIGS / name, overrides=changes)


def frames(shards, rows) -> list[int]:
    return shards.table.frame_index[list(rows)].tolist()


def take(plan: ClipPlan, task: str):
    return next(one for one in plan.takes if one.task == task)


@pytest.fixture(scope="module")
def vfhq_style(tmp_path_factory):
    """Four clips of 31 frames of three people, the last two of one person."""
    clips = [(f"clip_{n}", f"person_{min(n, 2)}", "train", 31) for n in range(4)]
    return make_set(tmp_path_factory.mktemp("vfhq") / "set", clips)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("eval_*.yaml")), ids=lambda path: path.stem)
def test_every_protocol_is_read_and_says_its_crop(path):
    config = load_config(ProtocolConfig, path)
    assert config.crop and config.about and config.made_by
    assert all(len(places) == n for n, places in config.sources.items())
    assert set(config.baselines) >= {"source_copy", "textured_mesh"}
    assert not config.published or config.differences


def test_gpavatars_sources_are_where_its_code_puts_them(vfhq_style):
    plan = plan_clips(vfhq_style, protocol(VFHQ))[0]
    assert [frames(vfhq_style, rows) for rows in plan.sources] == [[0], [0, 30], [0, 15, 30], [0, 9, 18, 30]]
    assert len(protocol(VFHQ).sources) == 4 and (protocol(VFHQ).clips, protocol(VFHQ).frames) == (30, 60)
    assert (len(set(protocol(HDTF).videos)), protocol(HDTF).frames) == (19, 100)


def test_a_source_at_any_number_is_scored_at_none(vfhq_style):
    for measured in ("[]", "[1]"):
        plan = plan_clips(vfhq_style, protocol(VFHQ, f"measured={measured}"))[0]
        assert frames(vfhq_style, take(plan, SELF).rows) == [n for n in range(31) if n not in (0, 9, 15, 18, 30)]


def test_places_are_shares_of_time_or_of_the_frames_that_there_are(vfhq_style, tmp_path):
    """Two fifths of the way from frame 0 to frame 21, of six frames."""
    samples = [make_sample("a", "p", index) for index in (0, 1, 2, 3, 20, 21)]
    with ShardWriter(tmp_path / "set", HEAD, SIZE) as writer:
        writer.add(ClipInfo("a", "p", "val", "real", "open", "CC0-1.0"), samples)
    shards = ShardSet.open(tmp_path / "set")
    for along, second in (("time", 3), ("frames", 2)):
        changes = ("split=val", f"along={along}", "tasks=[self]")
        config = dataclasses.replace(protocol(VFHQ, *changes), sources={1: [0.0], 2: [0.0, 0.4]}, frames=0)
        assert frames(shards, plan_clips(shards, config)[0].sources[1]) == [0, second]


def test_other_cameras_pictures_may_be_sources_but_are_no_targets(tmp_path):
    """The growth protocol on twelve instants by five cameras: side views of those instants alone that are sources."""
    samples = [make_sample("a", "p", at % 50, frame_index=at, instant=at // 5, view=at % 5) for at in range(60)]
    with ShardWriter(tmp_path / "set", HEAD, SIZE) as writer:
        writer.add(ClipInfo("a", "p", "val", "synthetic", "open", "CC0-1.0"), samples)
    shards = ShardSet.open(tmp_path / "set")
    plan = plan_clips(shards, protocol("eval_growth_synthetic.yaml"))[0]
    views, instants = ([getattr(shards.table, name)[list(rows)].tolist() for rows in plan.sources] for name in
                       ("view", "instant"))  # fmt: skip
    assert [len(set(rows)) for rows in plan.sources] == [1, 2, 4, 8, 16]
    assert all(set(fewer) < set(more) for fewer, more in zip(plan.sources, plan.sources[1:], strict=False))
    assert [sum(view > 0 for view in each) for each in views] == [0, 0, 0, 4, 12]
    assert set(instants[-1]) == {0, 4, 7, 11}
    targets = list(take(plan, SELF).rows)
    assert len(targets) == 4 and not shards.table.view[targets].any()
    assert not set(shards.table.instant[targets].tolist()) & set(instants[-1])


def test_frames_of_a_long_clip_are_evenly_spaced(vfhq_style):
    plan = plan_clips(vfhq_style, protocol(VFHQ, "frames=11"))[0]
    assert frames(vfhq_style, plan.sources[1]) == [0, 30]
    assert set(frames(vfhq_style, take(plan, SELF).rows)) <= set(range(0, 31, 3))


def test_invertavatars_split_scores_the_end_and_takes_sources_from_the_start(vfhq_style):
    plan = plan_clips(vfhq_style, protocol(FEW_SHOT, "frames=30", "sources_within=20", "targets_last=10"))[0]
    assert all(max(frames(vfhq_style, rows)) <= 20 for rows in plan.sources)
    assert len(plan.sources[-1]) == 8 and min(frames(vfhq_style, take(plan, SELF).rows)) > 20
    assert len(take(plan, SELF).rows) == 10
    config = protocol(FEW_SHOT)
    assert (config.frames, config.sources_within, config.targets_last, config.clips) == (300, 200, 100, 100)


def test_cross_pairs_are_of_different_people_and_always_the_same(vfhq_style):
    plans, again = (plan_clips(vfhq_style, protocol(VFHQ)) for _ in range(2))
    assert plans == again
    identity = {plan.clip: plan.identity for plan in plans}
    for plan in plans:
        cross = take(plan, CROSS)
        assert identity[cross.driving] != plan.identity
        driver = next(other for other in plans if other.clip == cross.driving)
        assert cross.rows == take(driver, SELF).rows and cross.reference == driver.sources[0][0]


def test_who_stands_half_the_list_away_but_is_the_same_person_does_not_drive(tmp_path):
    shards = make_set(tmp_path / "set", [(f"clip_{n}", f"person_{n % 2}", "train", 8) for n in range(4)])
    plans = plan_clips(shards, protocol(VFHQ, "driver=half"))
    assert [take(plan, CROSS).driving for plan in plans] == ["clip_3", "clip_0", "clip_1", "clip_2"]
    plans = plan_clips(shards, protocol(VFHQ))  # as GPAvatar's code pairs them
    assert [take(plan, CROSS).driving for plan in plans] == ["clip_1", "clip_2", "clip_3", "clip_0"]


def test_of_each_video_the_first_clip_counts_and_lost_videos_are_named(vfhq_style, tmp_path):
    videos = [f"WRA_{name}_000" for name in ("B", "A", "Gone")]
    names = [f"{video}_{stretch}_0" for video in videos[:2] for stretch in (0, 1)]
    shards = make_set(tmp_path / "set", [(name, name[:5], "train", 8) for name in (*names, "WRA_A_0000_0_0")])
    plans = plan_clips(shards, protocol(HDTF, f"videos=[{','.join(videos)}]"))
    assert [plan.clip for plan in plans] == ["WRA_A_000_0_0", "WRA_B_000_0_0"]
    assert absent_videos([plan.clip for plan in plans], videos) == ("WRA_Gone_000",)
    with pytest.raises(InputError, match="or videos="):
        plan_clips(vfhq_style, protocol(HDTF))


def test_frames_like_the_source_are_not_scored(vfhq_style):
    plan = plan_clips(vfhq_style, protocol(VAL, "split=train", "min_shift=1e9", "targets=0"))[0]
    turned_deg = [0.05 * n * 180 / torch.pi for n in frames(vfhq_style, take(plan, SELF).rows)]
    assert 8.0 <= min(turned_deg) < 9.0  # frame 3; frame 2 is turned by 5.7 degrees
    few = plan_clips(vfhq_style, protocol(VAL, "split=train", "min_shift=1e9"))[0]
    assert len(take(few, SELF).rows) == 12 and set(take(few, SELF).rows) <= set(take(plan, SELF).rows)


def test_what_differs_from_the_source():
    source = make_sample("clip", "person", 0)
    eyes_px = (source.landmarks_px[33] - source.landmarks_px[263]).norm()

    def moved(turn_deg: float, shift: float):
        turn = torch.eye(4)
        turn[:3, :3] = axis_angle_to_matrix(torch.tensor([0.0, turn_deg * torch.pi / 180, 0.0]))
        camera = Camera(turn @ source.camera.c2w, source.camera.intrinsics)
        landmarks_px = source.landmarks_px + torch.tensor([0.0, shift]) * eyes_px
        return dataclasses.replace(source, camera=camera, landmarks_px=landmarks_px)

    lost = dataclasses.replace(moved(20, 0), landmarks_px=torch.full((478, 2), torch.nan))
    samples = [moved(7.9, 0.049), moved(8.1, 0), moved(0, 0.051), lost]
    assert differs(source, samples, 8.0, 0.05).tolist() == [False, True, True, False]


def test_evenly_keeps_both_ends():
    assert evenly(list(range(10)), 4) == [0, 3, 6, 9]
    assert evenly([5, 6], 4) == [5, 6] and evenly([5, 6], 0) == [5, 6]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["tasks=[selfie]"], "selfie; there are"),
        (["sources={2: [0.0]}"], "give each N as many places"),
        (["sources={2: [0.5, 1.0]}"], "the first place differs"),
        (["measured=[7]"], "7 sources have no places"),
        (["tasks=[novel_view]"], "seen from several sides"),
        (["split=other"], "no clips in the split"),
        (["frames=2"], "too few frames for 3 sources"),
    ],
)
def test_a_protocol_that_cannot_be_served_is_named(vfhq_style, changes, said):
    with pytest.raises(InputError, match=said):
        plan_clips(vfhq_style, protocol(VFHQ, *changes))
