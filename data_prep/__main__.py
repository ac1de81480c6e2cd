"""`python -m data_prep VERB`: a table from verb to typed function, each imported only when it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from gpavatar.__main__ import Verb

VERBS = {
    "folder": Verb("data_prep.verbs", "folder", "any folder of videos, photos, frames and archives -> a set"),
    "vfhq": Verb("data_prep.verbs", "vfhq", "VFHQ's clip lists and videos -> a set"),
    "hdtf": Verb("data_prep.verbs", "hdtf", "HDTF's lists and videos -> a set"),
    "stills": Verb("data_prep.stills", "command", "portraits -> training pairs: drawn sources, the photo the target"),
    "synthetic": Verb("data_prep.synthetic", "command", "synthetic people with exact parameters -> a set"),
    "fetch": Verb("data_prep.verbs", "fetch", "download the videos that VFHQ's or HDTF's lists name"),
    "inspect": Verb("data_prep.inspect", "inspect", "print and check a set, draw a contact sheet"),
    "own": Verb("data_prep.verbs", "own", "lite-256, val-256, val-512 and synthetic-val from a folder of data"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m data_prep VERB ...`; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    verb, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if verb in ("-h", "--help"):
        print("usage: python -m data_prep VERB [--help] ...\n\nRaw footage to training sets.\n")
        print("\n".join(f"  {name:<10} {entry.about}" for name, entry in VERBS.items()))
        return 0
    from gpavatar.config import did_you_mean, run_program

    if verb not in VERBS:
        print(f"error: no verb is called {verb!r}; {did_you_mean(verb, list(VERBS))}", file=sys.stderr)
        return 2
    program = getattr(import_module(VERBS[verb].module), VERBS[verb].attribute)
    return run_program(program, rest, prog=f"python -m data_prep {verb}")


if __name__ == "__main__":
    sys.exit(main())
