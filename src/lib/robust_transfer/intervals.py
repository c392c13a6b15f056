"""Intervals over test images and, where networks were trained more than once, over seeds."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

DRAWS = 1000
"""Resamples of a bootstrap: its 95 % ends then move by a few hundredths of its width."""


class Interval(NamedTuple):
    """A mean with the ends of its interval, and the two-sided p-value against zero."""

    mean: float
    low: float
    high: float
    p: float


def paired(gaps: np.ndarray, level: float = 0.95) -> Interval:
    """Mean difference of two networks' outcomes on the same images, with its interval.

    Images and seeds both count as drawn: the variance of the mean is the one over images plus the
    one over seeds. With several seeds Student's t replaces the normal, its degrees of freedom being
    Satterthwaite's; images are so many that only seeds cost any. One seed says nothing of others,
    and two tell their spread badly: where they happen to agree the interval is too narrow, and
    where they do not far too wide. Nominal 95 % then cover the truth in 87 to 93 % of cases, less
    the more of the spread is due to seeds.

    Args:
        gaps: float ``(seeds, images)`` in [-1, 1].
        level: share of such intervals that hold the true mean, in (0, 1).
    """
    seeds, images = gaps.shape
    mean = float(gaps.mean())
    variance = gaps.mean(0).var(ddof=1) / images
    freedom = np.inf
    if seeds > 1 and (over_seeds := gaps.mean(1).var(ddof=1) / seeds) > 0:
        variance += over_seeds
        freedom = (seeds - 1) * (variance / over_seeds) ** 2
    error = np.sqrt(variance)
    half = stats.t.ppf((1 + level) / 2, freedom) * error
    p = 2 * stats.t.sf(abs(mean) / max(error, np.finfo(float).tiny), freedom)
    return Interval(mean, mean - half, mean + half, float(p))


def bootstrap(
    outcomes: Sequence[np.ndarray], statistic: Callable[..., float], level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of a statistic of several accuracies on the same images.

    Args:
        outcomes: bool ``(seeds, images)`` each; seeds and images are drawn anew for all at once.
        statistic: of as many accuracies in [0, 1] as there are ``outcomes``.
        level: as in ``paired``.
    """
    rng = np.random.default_rng(0)  # the same resamples in every build of the book
    stacked = np.stack(outcomes).astype(np.float32)
    _, seeds, images = stacked.shape
    values = []
    for _ in range(DRAWS):
        chosen = stacked[:, rng.integers(seeds, size=seeds)].mean(1)
        weights = np.bincount(rng.integers(images, size=images), minlength=images)
        values.append(statistic(*(chosen @ weights / images)))
    tail = 50 * (1 - level)
    low, high = np.nanpercentile(values, (tail, 100 - tail))
    return float(low), float(high)
