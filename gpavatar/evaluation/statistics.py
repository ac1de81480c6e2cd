"""Means over people, and how sure they are.

People are the unit: the frames of one person are alike, so each identity's frames are averaged first and only then the
identities. The interval is of the bootstrap over identities, percentiles 2.5 and 97.5, with seeded draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Estimate:
    """A mean over identities with its 95 % interval; NaN where nothing counts, the interval also for one identity."""

    mean: float
    low: float
    high: float
    num_identities: int


def estimate(
    values: Float[np.ndarray, " frame"], identities: Sequence[str], resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Mean over identities of the means over their frames; NaN values do not count.

    The interval: identities drawn with replacement as often as there are, `resamples` times.
    """
    means = identity_means(values, identities)
    if len(means) == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    if len(means) == 1:
        return Estimate(float(means[0]), math.nan, math.nan, 1)
    draws = np.random.default_rng(seed).integers(len(means), size=(resamples, len(means)))
    low, high = np.quantile(means[draws].mean(1), (0.025, 0.975))
    return Estimate(float(means.mean()), float(low), float(high), len(means))


def paired(
    before: Float[np.ndarray, " frame"],
    after: Float[np.ndarray, " frame"],
    identities: Sequence[str],
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Of after − before on the same frames; a frame that says nothing in one of the two does not count."""
    return estimate(after - before, identities, resamples, seed)


def identity_means(values: Float[np.ndarray, " frame"], identities: Sequence[str]) -> Float[np.ndarray, " identity"]:
    """Mean of each identity's frames that count, identities in the order of their names."""
    values = np.asarray(values, np.float64)
    counts = ~np.isnan(values)
    names = np.asarray(identities)
    known = sorted(set(names[counts].tolist()))
    return np.array([values[counts & (names == name)].mean() for name in known], np.float64)
