"""The figures of a report: means with bootstrap intervals, medians, 95th percentiles."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

RESAMPLES = 2_000


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean, of nothing 0."""
    return sum(values) / len(values) if values else 0.0


def interval(values: Sequence[float], *, share: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Return a bootstrap interval of the mean, the same for the same values."""
    if len(set(values)) < 2:
        return (mean(values), mean(values))
    rng = random.Random(seed)
    means = sorted(mean(rng.choices(values, k=len(values))) for _ in range(RESAMPLES))
    cut = (1 - share) / 2
    return (means[int(cut * RESAMPLES)], means[int((1 - cut) * RESAMPLES) - 1])


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that ``share`` of the values do not exceed, of nothing 0."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0
