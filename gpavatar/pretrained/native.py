"""What the native libraries behind the networks need around them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

_STDERR = threading.Lock()  # two threads that put it aside at once would lose it


@contextlib.contextmanager
def native_stderr_silenced() -> Iterator[None]:
    """The C++ side logs to file descriptor 2 while it loads, and no setting of its own stops it."""
    with _STDERR:
        sys.stderr.flush()
        kept, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(sink)


def remember_ignored_timers() -> None:
    """Tell Python that SIGPROF is ignored, after a native library has said so to the system alone.

    MediaPipe's threads carry profiling timers, whose signal it ignores behind Python's back. Whoever saves and restores
    Python's handlers (Lightning does around a training) would put the default back, and the next tick end the process.
    Only the main thread may say it; another leaves things as they are.
    """
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGPROF) == signal.SIG_DFL:
        signal.signal(signal.SIGPROF, signal.SIG_IGN)
