"""Rows of a picture shared out among threads, for compiled kernels that release the GIL."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch

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
    for future in waiting:
        future.result()


@lru_cache(maxsize=1)
def _pool(_process_id: int) -> ThreadPoolExecutor:
    """One pool a process: threads do not survive a fork."""
    return ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="bands")
