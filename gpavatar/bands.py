"""Work shared out among threads, for compiled kernels and tensor operations, which release the GIL."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import torch
from threadpoolctl import threadpool_limits

MAX_THREADS = 8
LEAST_ROWS = 16  # of a band; less work than that is not worth waking a thread


def in_bands(rows: int, kernel: Callable[[int, int], None]) -> None:
    """Call `kernel(first, end)` on bands of rows that together cover [0, rows), on as many threads as torch may use.

    Plain threads rather than numba's own: those end the process when two threads of the program enter them at once,
    or after a fork.
    """
    bands = max(1, min(torch.get_num_threads(), MAX_THREADS, rows // LEAST_ROWS))
    limits = [rows * band // bands for band in range(bands + 1)]
    waiting = [_pool(os.getpid()).submit(kernel, a, b) for a, b in itertools.pairwise(limits[1:])]
    kernel(limits[0], limits[1])
    _finish(waiting)


def in_pieces(count: int, size: int, work: Callable[[int, int], None]) -> None:
    """Call `work(first, end)` on pieces of `size` that together cover [0, count); a thread that is done takes the next.

    For tensor operations: each of the threads computes alone, so that they do not wait for each other.
    """
    pieces = iter(range(0, count, size))

    def some() -> None:
        for first in pieces:  # one `range_iterator`, whose steps the GIL keeps apart
            work(first, min(first + size, count))

    threads = min(torch.get_num_threads(), MAX_THREADS, -(-count // size))
    if threads <= 1:
        some()
    else:
        _finish([_pool(os.getpid()).submit(some) for _ in range(threads)])


def limit_this_thread(threads: int) -> None:
    """Tensor operations and bands of this thread take so many threads. (torch.set_num_threads would reach others too.)

    For threads that each do the whole of a task: with every core taken by one of them, helpers only wait.
    """
    torch.get_num_threads()  # the first call in a thread sets what the next line changes
    threadpool_limits(max(1, threads), user_api="openmp")


def _finish(waiting: list[Future]) -> None:
    for future in waiting:
        future.result()


@lru_cache(maxsize=1)
def _pool(_process_id: int) -> ThreadPoolExecutor:
    """One pool a process: threads do not survive a fork."""
    return ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="bands", initializer=limit_this_thread, initargs=(1,))
