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


def prefetch(items: Iterable[T], depth: int = 4) -> Generator[T, None, None]:
    """The same items in the same order, made ahead by a thread, never more than `depth` waiting.

    An error in making them is raised here, where it would have come. Closing the generator stops the thread, and
    closes `items` if it is a generator itself, so that a chain of stages ends from its end.
    """
    waiting: queue.Queue = queue.Queue(depth)
    unwanted = threading.Event()

    def hand_over(item) -> None:
        while not unwanted.is_set():
            try:
                with _waits():
                    return waiting.put(item, timeout=POLL_S)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                hand_over(item)
                if unwanted.is_set():
                    break
            hand_over(_END)
        except BaseException as error:  # raised again in the thread that asks for items
            hand_over(_Failure(error))
        finally:
            if isinstance(items, Generator):
                items.close()

    def take() -> T | _Failure:
        with _waits():
            return waiting.get()

    worker = threading.Thread(target=work, name="prefetch", daemon=True)
    worker.start()
    try:
        while (item := take()) is not _END:
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        unwanted.set()
        worker.join()


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
