"""Stages of a stream side by side: each in its own thread, a few items apart, and the time each of them takes."""

from __future__ import annotations

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

POLL_S = 0.1  # how often a stage that waits for room looks whether it is still wanted


class _ThreadTimes(threading.local):
    """Of the current thread: seconds waited for other stages, and seconds of the stages within the one running."""

    waited_s = 0.0
    inner_s = 0.0


@dataclass(frozen=True)
class _Failure:
    error: BaseException


_END = object()
_times = _ThreadTimes()


def prefetch(items: Iterable[T], depth: int = 4) -> Prefetch[T]:
    """The same items in the same order, made ahead by a thread, never more than `depth` waiting.

    The thread starts at once. An error in making an item is raised here, where the item would have come. Closing stops
    the thread, and closes `items` if that is a generator or another stage, so that a chain ends from its end.
    """
    return Prefetch(items, depth)


class Prefetch(Iterator[T]):
    """What `prefetch` returns."""

    def __init__(self, items: Iterable[T], depth: int) -> None:
        self._waiting: queue.Queue = queue.Queue(depth)
        self._unwanted = threading.Event()
        # The thread must not hold this object, or it would live on when the last user drops it.
        ends = (items, self._waiting, self._unwanted)
        self._worker = threading.Thread(target=_work, args=ends, name="prefetch", daemon=True)
        self._worker.start()

    def __next__(self) -> T:
        if self._unwanted.is_set():
            raise StopIteration
        with _waits():
            item = self._waiting.get()
        if item is _END or isinstance(item, _Failure):
            self.close()
            raise StopIteration if item is _END else item.error
        return item

    def close(self) -> None:
        """Stop the thread, after the item that it is making, and wait for it."""
        self._unwanted.set()
        self._worker.join()

    def __del__(self) -> None:
        self._unwanted.set()


def _work(items: Iterable[T], waiting: queue.Queue, unwanted: threading.Event) -> None:
    def hand_over(item) -> None:
        while not unwanted.is_set():
            try:
                with _waits():
                    return waiting.put(item, timeout=POLL_S)
            except queue.Full:
                continue

    try:
        for item in items:
            hand_over(item)
            if unwanted.is_set():
                break
        hand_over(_END)
    except BaseException as error:  # raised again in the thread that asks for items
        hand_over(_Failure(error))
    finally:
        if isinstance(items, (Generator, Prefetch)):
            items.close()


class Stopwatch:
    """Seconds spent in each named stage, not counting what it waited for others or what stages within it took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time of the block to `stage`."""
        outer_inner_s, _times.inner_s = _times.inner_s, 0.0
        waited_s, start_s = _times.waited_s, time.perf_counter()
        try:
            yield
        finally:
            busy_s = time.perf_counter() - start_s - (_times.waited_s - waited_s)
            with self._lock:
                self.seconds[stage] += busy_s - _times.inner_s
            _times.inner_s = outer_inner_s + busy_s

    def each(self, stage: str, items: Iterable[T]) -> Generator[T, None, None]:
        """The same items; the time that making them takes is added to `stage`."""
        iterator = iter(items)
        while True:
            with self(stage):
                item = next(iterator, _END)
            if item is _END:
                return
            yield item


@contextmanager
def _waits() -> Iterator[None]:
    start_s = time.perf_counter()
    try:
        yield
    finally:
        _times.waited_s += time.perf_counter() - start_s
