"""A set made of parts: each clip is made and encoded on its own, kept as a file, and at the end all are put together.

A part that is there is not made again, so a run that was killed goes on where it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console
from rich.progress import track as progress

from data_prep.manifest import output_errors
from gpavatar.data.shards import Encoding, HeadInfo, PackedClip, ShardWriter

T = TypeVar("T")


def each(make: Callable[[T], object], tasks: Sequence[T], what: str, workers: int | None = None) -> None:
    """Call `make`, a function that other processes can import, on every task, in `workers` processes (None: all cores).

    One thread each: sums must not depend on the number of cores. An exception ends the run; what is done stays.
    """
    workers = min(workers or len(os.sched_getaffinity(0)), max(1, len(tasks)))
    console = Console(stderr=True)
    if workers == 1:
        with _one_thread():
            for task in progress(tasks, what, console=console, disable=not tasks):
                make(task)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for _ in progress(pool.map(make, tasks), what, len(tasks), console=console):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def write_set(parts: Sequence[Path], out: Path, head: HeadInfo, size_px: int, encoding: Encoding) -> None:
    """Put the parts together, in this order. The bytes depend on the parts alone."""
    with output_errors(), ShardWriter(out, head, size_px, encoding, overwrite=True) as writer:
        for part in parts:
            writer.add_packed(PackedClip.load(part))


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
