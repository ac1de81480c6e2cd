"""The thread stages: same items, bounded, errors where they belong, nothing left running."""

from __future__ import annotations

import threading
import time

import pytest

from gpavatar.streaming import Stopwatch, prefetch


def test_the_items_come_in_order_and_all_of_them() -> None:
    assert list(prefetch(prefetch(range(100), depth=3), depth=1)) == list(range(100))


def test_no_more_than_the_depth_is_made_ahead() -> None:
    made = []
    stream = prefetch((made.append(i) or i for i in range(100)), depth=3)
    next(stream)
    time.sleep(0.1)
    assert len(made) == 1 + 3 + 1  # taken, waiting, and the one in the hand of the thread
    stream.close()


def test_stages_run_at_the_same_time() -> None:
    def slow(items):
        for item in items:
            time.sleep(0.02)
            yield item

    start_s = time.perf_counter()
    assert len(list(slow(prefetch(slow(prefetch(slow(range(10)))))))) == 10
    assert time.perf_counter() - start_s < 0.45  # one after the other they take 0.6 s, side by side 0.24 s


def test_an_error_is_raised_where_it_would_have_come() -> None:
    def failing():
        yield 1
        raise ValueError("broken frame")

    stream = prefetch(failing())
    assert next(stream) == 1
    with pytest.raises(ValueError, match="broken frame"):
        next(stream)


def test_a_stage_that_is_dropped_stops_too() -> None:
    before = threading.active_count()
    stream = prefetch(prefetch(iter(int, 1)))  # without end
    next(stream)
    del stream
    for _ in range(100):
        if threading.active_count() == before:
            return
        time.sleep(0.02)
    raise AssertionError("the threads live on")


def test_closing_the_last_stage_stops_all_threads_and_closes_the_first() -> None:
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    before = threading.active_count()
    first = endless()
    middle = prefetch(first)
    last = prefetch(middle)
    next(last)
    last.close()
    assert closed.is_set() and threading.active_count() == before


def test_a_stage_within_another_counts_for_itself_only() -> None:
    watch = Stopwatch()
    inner = watch.each("inner", (time.sleep(0.02) or i for i in range(3)))
    for _ in watch.each("outer", (time.sleep(0.01) or i for i in inner)):
        time.sleep(0.05)  # spent by the caller, in no stage
    assert watch.seconds["inner"] == pytest.approx(0.06, abs=0.012)
    assert watch.seconds["outer"] == pytest.approx(0.03, abs=0.012)


def test_waiting_for_another_thread_is_no_work() -> None:
    watch = Stopwatch()
    slow = prefetch(watch.each("slow", (time.sleep(0.03) or i for i in range(4))), depth=1)
    assert len(list(watch.each("quick", (time.sleep(0.005) or i for i in slow)))) == 4
    assert watch.seconds["slow"] == pytest.approx(0.12, abs=0.012)
    assert watch.seconds["quick"] == pytest.approx(0.02, abs=0.012)
