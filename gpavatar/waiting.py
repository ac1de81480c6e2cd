"""How long a helper thread of a tensor operation spins for the next one before it sleeps; before torch is imported.

GNU's OpenMP lets it spin for milliseconds. Frames are drawn by several threads and libraries on all cores, so that what
spins takes time from what computes: with a tenth of a millisecond a frame of `gpavatar_lite` on two cores takes a tenth
less. Sleeping at once would cost more than that, since the next operation mostly comes soon.
"""

from __future__ import annotations

import os

SPINS = 10_000


def sleep_soon() -> None:
    """For this process, where nothing else was asked for."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
