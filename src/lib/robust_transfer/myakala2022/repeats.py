"""What repeats of a cell say: paired t-tests, how much they can show, and where curves fall.

Paper B repeats every setting three times and compares settings by paired t-tests (§III.G, §IV.B).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from robust_transfer.claims.outcome import ALPHA
from robust_transfer.myakala2022.measured import MeasuredCell

POWER = 0.8

CellPair = tuple[MeasuredCell, MeasuredCell]
"""Two cells that are compared, first minus second."""
Comparison = tuple[CellPair, float]
"""A pair of cells, and the epsilon of the attack under which it is compared."""


def detectable(sd: float, repeats: int) -> float:
    """Smallest true difference that a paired t-test finds with a power of 80 %.

    Args:
        sd: standard deviation of the paired differences; the result is in its unit.
        repeats: number of pairs, at least 2.
    """
    effect = TTestPower().solve_power(nobs=repeats, alpha=ALPHA, power=POWER)
    return float(effect) * sd


def compare(comparisons: Sequence[Comparison], attack: str) -> pd.DataFrame:
    """Paired t-tests over seeds, corrected together by Holm's method.

    Args:
        comparisons: the cells, and the attack's budget.
        attack: ``natural``, ``fgsm`` or ``pgd``.

    Returns:
        A row per comparison, in percentage points: ``first``, ``second``, ``difference``, ``sd`` of
        the paired differences, ``low`` and ``high`` of the 95 % interval, ``p``, ``adjusted``,
        ``detectable`` and ``pairs``. Without any spread p is 0, or 1 for no difference.
    """
    names = "first second difference sd low high p detectable pairs"
    tests = [_t_test(*pair, attack, epsilon) for pair, epsilon in comparisons]
    result = pd.DataFrame(tests, columns=names.split())
    adjusted = multipletests(result["p"], ALPHA, "holm")[1] if tests else []
    result.insert(7, "adjusted", adjusted)
    return result


def _t_test(first: MeasuredCell, second: MeasuredCell, attack: str, epsilon: float) -> tuple:
    gaps = (first.by_seed(attack, epsilon) - second.by_seed(attack, epsilon)).dropna().to_numpy()
    if (count := len(gaps)) < 2:
        raise ValueError(
            f"epsilon = {epsilon:.4g}: {first.id} and {second.id} share {count} seeds that were "
            f"measured under {attack}; a test needs 2 or more"
        )
    mean, sd = gaps.mean(), gaps.std(ddof=1)
    error = sd / np.sqrt(count)
    half = stats.t.ppf(1 - ALPHA / 2, count - 1) * error
    p = 2 * stats.t.sf(abs(mean) / error, count - 1) if error > 0 else float(mean == 0)
    smallest = detectable(sd, count) if sd > 0 else 0.0
    return first.id, second.id, mean, sd, mean - half, mean + half, float(p), smallest, count


def p_words(p: float) -> str:
    """A p-value for readers."""
    return "below 0.001" if p < 0.001 else f"{p:.3f}"


def reached(curve: pd.Series, accuracy: float) -> float:
    """The epsilon at which a falling curve first meets an accuracy, interpolated linearly.

    Args:
        curve: accuracies by epsilon, from 0 on.
        accuracy: the same unit; NaN where the curve starts below it or never falls to it.
    """
    values, sizes = curve.to_numpy(), curve.index.to_numpy()
    if values[0] < accuracy or values.min() > accuracy:
        return float("nan")
    after = int(np.argmax(values <= accuracy))
    ends = slice(max(after - 1, 0), after + 1)
    return float(np.interp(-accuracy, -values[ends], sizes[ends]))
