"""Means over people and their intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpavatar.evaluation.statistics import estimate, identity_means, paired

NAN = float("nan")


def test_every_person_counts_once_however_many_frames_there_are():
    values = np.array([1.0, 1.0, 1.0, 1.0, 4.0])
    assert estimate(values, ["a"] * 4 + ["b"]).mean == 2.5
    np.testing.assert_array_equal(identity_means(values, ["b"] * 4 + ["a"]), [4.0, 1.0])


def test_frames_that_say_nothing_do_not_count():
    found = estimate(np.array([1.0, NAN, 3.0, NAN]), ["a", "a", "b", "c"])
    assert (found.mean, found.num_identities) == (2.0, 2)


def test_the_interval_is_that_of_the_mean():
    rng = np.random.default_rng(0)
    values = rng.normal(5.0, 2.0, 100)
    found = estimate(values, [f"{n:03d}" for n in range(100)], resamples=4000)
    half = 1.96 * values.std() / 10
    assert found.low == pytest.approx(found.mean - half, abs=0.05)  # measured 0.02
    assert found.high == pytest.approx(found.mean + half, abs=0.05)


def test_the_same_draws_every_time_and_none_without_spread():
    values, people = np.arange(12.0) ** 2, [f"{n:02d}" for n in range(12)]
    assert estimate(values, people, seed=3) == estimate(values, people, seed=3)
    assert estimate(values, people, seed=3) != estimate(values, people, seed=4)
    same = estimate(np.full(12, 2.0), people)
    assert (same.low, same.mean, same.high) == (2.0, 2.0, 2.0)


def test_one_person_has_no_interval_and_nobody_no_mean():
    one, none = estimate(np.array([1.0, 2.0]), ["a", "a"]), estimate(np.array([NAN]), ["a"])
    assert one.mean == 1.5 and math.isnan(one.low) and math.isnan(one.high)
    assert math.isnan(none.mean) and none.num_identities == 0


def test_pairing_takes_out_what_is_common():
    rng = np.random.default_rng(0)
    people = [f"{n:02d}" for n in range(40)]
    before = rng.normal(20.0, 5.0, 40)
    after = before + 0.1 + rng.normal(0, 0.05, 40)
    change = paired(before, after, people)
    assert 0.05 < change.low < change.mean < change.high < 0.15
    assert estimate(after, people).low < estimate(before, people).mean
    assert paired(before, np.where(before > 20, NAN, after), people).num_identities == int((before <= 20).sum())
