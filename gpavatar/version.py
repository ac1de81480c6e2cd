"""Which code runs: written into every result, table and weights file."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from gpavatar import __version__


def code_version() -> str:
    """The git commit of the checkout that runs (-dirty where files differ from it), else the version installed."""
    return _git("describe", "--always", "--abbrev=40", "--dirty", "--exclude=*").strip() or __version__


def code_changes() -> str:
    """What differs from that commit, as a diff; nothing where there is no checkout."""
    return _git("diff", "HEAD")


def _git(*words: str) -> str:
    """What git says of the checkout; nothing where there is none, or no git."""
    checkout = Path(__file__).parent.parent
    if not (checkout / ".git").exists() or shutil.which("git") is None:
        return ""
    done = subprocess.run(["git", "-C", str(checkout), *words], capture_output=True, text=True, errors="replace")
    return done.stdout if done.returncode == 0 else ""
