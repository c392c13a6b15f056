"""Intervals over test images and seeds, and how a difference is written with its own."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats
from statsmodels.stats.proportion import proportion_confint


def wilson(hits: float, count: int) -> tuple[float, float]:
    """95 % Wilson interval of the share ``hits / count``."""
    return proportion_confint(hits, count, alpha=0.05, method="wilson")


DRAWS = 1000
"""Resamples of a bootstrap; its 95 % ends then move by a few hundredths of its width."""

ENOUGH = 3
"""Seeds from which on a difference tells its own spread between seeds."""


class Interval(NamedTuple):
    """A mean with the ends of its interval, and the two-sided p-value against zero."""

    mean: float
    low: float
    high: float
    p: float


class Spread(NamedTuple):
    """How far apart trainings lie that differ in nothing but the seed.

    Attributes:
        variance: of the accuracy of one training, in [0, 1].
        freedom: degrees of freedom that it is known with.
    """

    variance: float
    freedom: int


def pooled(repeated: Iterable[Sequence[float]]) -> Spread | None:
    """Pool the spread between seeds over networks; None if each was trained once.

    Args:
        repeated: of every network its accuracies in [0, 1], one per seed.
    """
    several = [np.asarray(accuracies) for accuracies in repeated if len(accuracies) > 1]
    if not several:
        return None
    freedom = sum(len(accuracies) - 1 for accuracies in several)
    return Spread(sum(float(((a - a.mean()) ** 2).sum()) for a in several) / freedom, freedom)


def borrows(seeds: int, others: Spread | None) -> bool:
    """Whether a difference over so few seeds takes its spread from other networks."""
    return seeds < ENOUGH and others is not None


def paired(gaps: np.ndarray, level: float = 0.95, others: Spread | None = None) -> Interval:
    """Mean difference of two networks' outcomes on the same images, with its interval.

    Images and seeds both count as drawn: the variance of the mean is the one over images plus the
    one over seeds. With ``ENOUGH`` seeds their spread is the difference's own; one seed has none
    and two tell it badly, so with fewer it is twice that of a training of ``others``. Student's t
    then replaces the normal, its degrees of freedom being Satterthwaite's; images are so many that
    only seeds cost any. Without either, the interval is over images alone.

    Args:
        gaps: float ``(seeds, images)`` in [-1, 1].
        level: share of such intervals that hold the true mean, in (0, 1).
        others: what networks that were trained from several seeds tell of their spread.
    """
    seeds, images = gaps.shape
    mean = float(gaps.mean())
    variance, freedom = gaps.mean(0).var(ddof=1) / images, np.inf
    if borrows(seeds, others):
        over_seeds, known = 2 * others.variance / seeds, others.freedom
    elif seeds > 1:
        over_seeds, known = gaps.mean(1).var(ddof=1) / seeds, seeds - 1
    else:
        over_seeds = 0.0
    if over_seeds > 0:
        variance += over_seeds
        freedom = known * (variance / over_seeds) ** 2
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


def signed(points: float, digits: int = 1) -> str:
    """A difference in percentage points, with its sign; nothing for NaN, which nobody printed."""
    return "" if math.isnan(points) else f"{points:+.{digits}f}".replace("-", "−")


def with_interval(mean: float, low: float, high: float, digits: int = 1) -> str:
    """A difference in percentage points and its interval, which no line break divides."""
    shown = [signed(points, digits) for points in (mean, low, high)]
    return "{} [{},\N{NO-BREAK SPACE}{}]".format(*shown)
