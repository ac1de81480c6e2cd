"""`python -m data_prep VERB`: a table from verb to typed function, each imported only when it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from gpavatar.__main__ import Verb, run_verb

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
    return run_verb(VERBS, argv, "python -m data_prep", "Raw footage to training sets.")


if __name__ == "__main__":
    sys.exit(main())
