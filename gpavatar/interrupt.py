"""Ctrl-C while a program is still importing: one line and exit code 130, not a traceback out of some library."""

from __future__ import annotations

import os
import signal
import sys
import threading


def quiet_while_importing() -> None:
    """From now until `heard_by_the_program` Ctrl-C ends this process at once: nothing was begun, nothing is half done.

    Not by an exception: raised in the middle of an import, libraries turn it into errors of their own.
    """
    if threading.current_thread() is threading.main_thread() and _handler_is(signal.default_int_handler):
        signal.signal(signal.SIGINT, _end)


def heard_by_the_program() -> None:
    """Ctrl-C is KeyboardInterrupt again."""
    if threading.current_thread() is threading.main_thread() and _handler_is(_end):
        signal.signal(signal.SIGINT, signal.default_int_handler)


def is_program_of(package: str) -> bool:
    """Whether Python is just importing `package` to run it or a module of it (`python -m package.module`)."""
    modules = (word.removeprefix("-m") for word in sys.orig_argv[1:])
    return sys.argv[:1] == ["-m"] and any(module.partition(".")[0] == package for module in modules)


def _handler_is(handler: object) -> bool:
    return signal.getsignal(signal.SIGINT) is handler


def _end(number: int, frame: object) -> None:
    print("interrupted before anything was begun", file=sys.stderr, flush=True)
    os._exit(130)
