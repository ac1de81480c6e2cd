"""The page at the end of a run."""

from __future__ import annotations


def write_report(outcome, place, config) -> None:
    """To come."""
