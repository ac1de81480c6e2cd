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


@dataclass(frozen=True)
class _Failure:
    error: BaseException


_END = object()


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

    worker = threading.Thread(target=work, name="prefetch", daemon=True)
    worker.start()
    try:
        while (item := waiting.get()) is not _END:
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        unwanted.set()
        worker.join()


class Stopwatch:
    """Seconds spent in each named stage, waiting not included; a stage within another counts for itself only."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()
        self._inner = threading.local()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time of the block to `stage`."""
        outer_s, self._inner.seconds = getattr(self._inner, "seconds", 0.0), 0.0
        start_s = time.perf_counter()
        try:
            yield
        finally:
            total_s = time.perf_counter() - start_s
            with self._lock:
                self.seconds[stage] += total_s - self._inner.seconds
            self._inner.seconds = outer_s + total_s

    def each(self, stage: str, items: Iterable[T]) -> Generator[T, None, None]:
        """The same items; the time that making them takes is added to `stage`."""
        iterator = iter(items)
        while True:
            with self(stage):
                item = next(iterator, _END)
            if item is _END:
                return
            yield item
