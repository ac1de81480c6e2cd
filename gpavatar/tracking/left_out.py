"""Source frames that an avatar is not made from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum


class Fault(Enum):
    """Why a frame is left out."""

    BLURRED = "blurred"
    HIDDEN = "hidden"
    SOMEBODY_ELSE = "of another person"


@dataclass(frozen=True)
class LeftOut:
    """How many frames there were, and what was wrong with those that are not used."""

    num_frames: int
    faults: tuple[Fault, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """By what was wrong."""
        found = Counter(self.faults)
        return {fault.value: found[fault] for fault in Fault if found[fault]}

    def __str__(self) -> str:
        """In a line: "3 of 40 source frames left out: 2 blurred, 1 hidden"."""
        kinds = ", ".join(f"{count} {fault}" for fault, count in self.counts.items())
        return f"{len(self.faults)} of {self.num_frames} source frames left out: {kinds}"


NOTHING_LEFT_OUT = LeftOut(0)
