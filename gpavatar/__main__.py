"""The `gpavatar` command: a table from verb to typed function, each imported only when it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from gpavatar.interrupt import quiet_while_importing
from gpavatar.waiting import sleep_soon


@dataclass(frozen=True)
class Verb:
    """A program: the module `python -m` also runs, the name in it of the function (or functions), and one line."""

    module: str
    attribute: str
    about: str


VERBS = {
    "reenact": Verb("gpavatar.reenact", "reenact", "photos and a driving clip in, a video out"),
    "track": Verb("gpavatar.track", "track", "a photo or clip in, head parameters and camera out"),
    "eval": Verb("gpavatar.eval", "evaluate", "measure methods on a set: tables, a report, comparisons"),
    "train": Verb("gpavatar.train", "train", "sets in, the weights of a learned method out"),
    "verify": Verb("gpavatar.verify", "verify", "which marks a result carries, and whether they are sound"),
    "export": Verb("gpavatar.export", "export", "weights of others into our format"),
    "assets": Verb("gpavatar.assets", "COMMANDS", "list, fetch and verify the external files"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `gpavatar VERB ...`; returns the exit code."""
    return run_verb(VERBS, argv, "gpavatar", "3-D head avatars from one photo, a few, or a stream.")


def run_verb(verbs: dict[str, Verb], argv: Sequence[str] | None, command: str, about: str) -> int:
    """Run `command VERB ...` from a table of verbs; returns the exit code, 2 for a verb that is not in it."""
    quiet_while_importing()
    sleep_soon()
    argv = list(sys.argv[1:] if argv is None else argv)
    verb, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if verb in ("-h", "--help"):
        print(f"usage: {command} VERB [--help] ...\n\n{about}\n")
        print("\n".join(f"  {name:<10} {entry.about}" for name, entry in verbs.items()))
        return 0
    from gpavatar.config import did_you_mean, run_program

    if verb not in verbs:
        print(f"error: no verb is called {verb!r}; {did_you_mean(verb, list(verbs))}", file=sys.stderr)
        return 2
    program = getattr(import_module(verbs[verb].module), verbs[verb].attribute)
    return run_program(program, rest, prog=f"{command} {verb}")


if __name__ == "__main__":
    sys.exit(main())
