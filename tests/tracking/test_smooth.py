"""Gaps and smoothing, on motion that is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from gpavatar.camera import axis_angle_to_matrix, rotation_angle_deg
from gpavatar.pretrained.detector import FaceDetection
from gpavatar.tracking.fit import FramePose
from gpavatar.tracking.select import Sighting
from gpavatar.tracking.smooth import (
    WINDOW_S,
    CausalSmoother,
    MotionSample,
    SmoothConfig,
    _matrix,
    _quaternion,
    fill_gaps,
    smoothed,
)
from gpavatar.types import FaceStatus

FPS = 25.0
FACE = FaceDetection(torch.zeros(478, 2), torch.zeros(478), torch.zeros(52), torch.eye(4))
TRACKED, INTERPOLATED, MISSING = FaceStatus.TRACKED, FaceStatus.INTERPOLATED, FaceStatus.MISSING


def rotation(*axis_angle: float) -> np.ndarray:
    return axis_angle_to_matrix(torch.tensor(axis_angle, dtype=torch.float64)).numpy()


def sample(time_s: float, state: FramePose | None, after_cut: bool = False) -> MotionSample:
    sighting = Sighting(round(time_s * FPS), time_s, 512, 512, None if state is None else FACE, after_cut)
    return MotionSample(sighting, MISSING if state is None else TRACKED, state)


def state(turn: float = 0.0, x: float = 0.0, weight: float = 0.2, z: float = 5.0) -> FramePose:
    return FramePose(rotation(0.1, turn, 0.0), np.array([x, 0.1, z]), np.full(3, weight))


def clip(states: list[FramePose | None], fps: float = FPS) -> list[MotionSample]:
    return [sample(index / fps, one, after_cut=index == 0) for index, one in enumerate(states)]


def causally(samples: list[MotionSample], config: SmoothConfig) -> list[MotionSample]:
    smoother = CausalSmoother(config)
    return [smoother.push(one) for one in samples]


def non_causally(samples: list[MotionSample], config: SmoothConfig) -> list[MotionSample]:
    return list(smoothed(samples, config))


both = pytest.mark.parametrize("smooth", [causally, non_causally])


def places(samples: list[MotionSample]) -> np.ndarray:
    return np.stack([one.state.translation for one in samples])


def turns_deg(samples: list[MotionSample], to: list[FramePose]) -> np.ndarray:
    pairs = zip(samples, to, strict=True)
    return np.array(
        [float(rotation_angle_deg(torch.from_numpy(a.state.rotation), torch.from_numpy(b.rotation))) for a, b in pairs]
    )


@both
def test_stillness_stays(smooth) -> None:
    out = smooth(clip([state()] * 20), SmoothConfig())
    assert turns_deg(out, [state()] * 20).max() < 1e-4
    assert np.abs(places(out) - state().translation).max() < 1e-9
    assert np.abs(out[9].state.expression - 0.2).max() < 1e-9


def test_steady_motion_is_not_late_when_the_future_is_known() -> None:
    states = [state(turn=0.01 * i, x=0.02 * i, weight=0.01 * i) for i in range(40)]
    out = non_causally(clip(states), SmoothConfig())
    assert turns_deg(out, states).max() < 0.01
    assert np.abs(places(out)[:, 0] - [one.translation[0] for one in states]).max() < 1e-6


@both
def test_noise_of_a_still_head_shrinks(smooth) -> None:
    random = np.random.default_rng(0)
    states = [
        state(*random.standard_normal(2) * [0.003, 0.003], z=5 + 0.02 * random.standard_normal()) for _ in range(60)
    ]
    before, after = clip(states), smooth(clip(states), SmoothConfig())

    def jitter(samples: list[MotionSample]) -> np.ndarray:
        return np.abs(np.diff(places(samples), 2, axis=0)).mean(0)

    still = [state()] * 60
    assert (jitter(after)[[0, 2]] < 0.5 * jitter(before)[[0, 2]]).all()
    assert turns_deg(after, still)[10:].mean() < 0.7 * turns_deg(before, still)[10:].mean()


@both
def test_a_blink_keeps_its_height(smooth) -> None:
    lid = np.concatenate([np.zeros(20), [0.3, 0.8, 1.0, 0.8, 0.3], np.zeros(20)])
    out = smooth(clip([state(weight=float(value)) for value in lid]), SmoothConfig())
    got = np.array([one.state.expression[0] for one in out])
    assert got.max() > 0.75 and got[:15].max() < 0.02
    assert abs(int(got.argmax()) - int(lid.argmax())) <= 1


def test_the_frame_rate_does_not_matter() -> None:
    """A smooth motion seen at 25 and at 50 frames a second, and at uneven times, comes out the same."""

    def motion(time_s: float) -> FramePose:
        return state(turn=0.3 * np.sin(4 * time_s), x=0.2 * np.sin(3 * time_s))

    fine = np.arange(100) / 50
    uneven = np.delete(fine, np.arange(3, 97, 3))
    dense = {
        round(one.sighting.time_s, 4): one
        for one in smoothed([sample(t, motion(t), bool(t == 0)) for t in fine], SmoothConfig())
    }
    sparse = list(smoothed([sample(t, motion(t), bool(t == 0)) for t in uneven], SmoothConfig()))
    gaps = [
        np.abs(one.state.translation - dense[round(one.sighting.time_s, 4)].state.translation).max() for one in sparse
    ]
    moved = np.ptp([motion(t).translation[0] for t in fine])
    assert max(gaps[10:-10]) < 0.02 * moved


@both
def test_a_cut_is_not_smoothed_across(smooth) -> None:
    samples = clip([state(x=0.0)] * 15 + [state(x=1.0)] * 15)
    samples[15] = replace(samples[15], sighting=replace(samples[15].sighting, after_cut=True))
    assert np.array_equal(places(smooth(samples, SmoothConfig()))[:, 0].round(9), [0.0] * 15 + [1.0] * 15)


@both
def test_the_causal_and_the_other_filter_agree_on_slow_motion(smooth) -> None:
    """One law, two filters: within 1.5 degrees on a nod of 10 degrees at half a hertz."""
    states = [state(turn=0.17 * np.sin(np.pi * i / FPS)) for i in range(75)]
    assert turns_deg(smooth(clip(states), SmoothConfig()), states).max() < 1.5


def test_short_gaps_are_bridged_and_never_called_tracked() -> None:
    states = [state(x=0.1 * i) for i in range(10)]
    seen = [None if 3 <= i <= 5 else one for i, one in enumerate(states)]
    out = list(fill_gaps(clip(seen), max_gap_s=0.5))
    assert [one.status for one in out] == [TRACKED] * 3 + [INTERPOLATED] * 3 + [TRACKED] * 4
    assert np.abs(places(out)[:, 0] - 0.1 * np.arange(10)).max() < 1e-6


@pytest.mark.parametrize(("missing", "bridged"), [(11, True), (12, False)])
def test_the_limit_counts_from_face_to_face(missing: int, bridged: bool) -> None:
    out = list(fill_gaps(clip([state()] + [None] * missing + [state()]), max_gap_s=0.48))
    assert {one.status for one in out[1:-1]} == {INTERPOLATED if bridged else MISSING}
    assert all(one.state is not None for one in out)


def test_nothing_is_invented_before_the_first_face_after_the_last_or_across_a_cut() -> None:
    samples = clip([None, None, state(), None, state(x=1.0), None])
    samples[4] = replace(samples[4], sighting=replace(samples[4].sighting, after_cut=True))
    out = list(fill_gaps(samples, max_gap_s=0.5))
    assert [one.status for one in out] == [MISSING, MISSING, TRACKED, MISSING, TRACKED, MISSING]
    assert out[0].state is None and out[3].state is samples[2].state and out[5].state is samples[4].state


def test_no_more_than_the_window_is_held() -> None:
    """However long the clip, a sample comes out as soon as the window beyond it, or the gap limit, has passed."""
    pulled = 0

    def endless() -> Iterator[MotionSample]:
        nonlocal pulled
        for pulled in range(2000):
            yield sample(pulled / FPS, None if 500 <= pulled < 900 else state(), after_cut=pulled == 0)

    for emitted, one in enumerate(smoothed(fill_gaps(endless(), max_gap_s=0.5), SmoothConfig())):
        assert one.sighting.index == emitted
        assert pulled - emitted <= (WINDOW_S + 0.5) * FPS + 2
    assert emitted == 1999


@pytest.mark.parametrize("axis_angle", [(0, 0, 0), (3.1, 0, 0), (0, -3.14159, 0), (1.2, -2.1, 1.7), (0, 0, 1e-6)])
def test_quaternions_round_trip(axis_angle) -> None:
    matrix = rotation(*map(float, axis_angle))
    assert np.abs(_matrix(_quaternion(matrix)) - matrix).max() < 1e-9
