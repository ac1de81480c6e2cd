"""Files that tests use where the cache has them, and do not fetch: large ones, and those not free for every use."""

from __future__ import annotations

import pytest

from gpavatar import assets


def needs(*names: str) -> pytest.MarkDecorator:
    """Skips a test unless the assets are in the cache; CI may fill it beforehand."""
    missing = [name for name in names if not assets.cached_path(assets.shipped_manifest()[name]).is_file()]
    return pytest.mark.skipif(bool(missing), reason=f"run: gpavatar assets fetch {' '.join(missing)}")
