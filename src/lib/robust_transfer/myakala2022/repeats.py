"""What repeats of an experiment say: mean and spread, paired t-tests, and how much they can show.

Paper B repeats every setting three times and compares settings by paired t-tests (§III.G, §IV.B).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from robust_transfer.evaluation.budgets import Budgets
from robust_transfer.myakala2022.experiment import TECHNIQUES, Cell
from robust_transfer.runner import Runner

ALPHA = 0.05
POWER = 0.8


def measure(runner: Runner, table: Sequence[Cell]) -> list[list[Budgets]]:
    """Per cell the measurements of its repeats; what is missing is trained and measured now."""
    pairs = [(config, cell.budgets) for cell in table for config in cell.configs]
    found = iter(runner.measure(pairs))
    return [[next(found) for _ in cell.configs] for cell in table]


def tidy(table: Sequence[Cell], measured: Sequence[Sequence[Budgets]]) -> pd.DataFrame:
    """All measurements, one per row.

    Args:
        table: the cells.
        measured: per cell the measurements of its repeats.

    Returns:
        ``cell``, ``task``, ``dataset``, ``network``, ``strategy``, a yes or no for each of
        ``TECHNIQUES``, ``seed``, ``attack``, ``epsilon``, ``n`` test images, ``accuracy``,
        ``balanced_accuracy`` and ``auroc`` (NaN with more than two classes), all three in [0, 1].
    """
    rows = []
    for cell, repeats in zip(table, measured, strict=True):
        identity = {
            "cell": cell.id,
            "task": cell.task,
            "dataset": cell.dataset,
            "network": cell.network,
            "strategy": cell.strategy,
        } | {technique: technique in cell.techniques for technique in TECHNIQUES}
        for config, budgets in zip(cell.configs, repeats, strict=True):
            for condition, output in budgets.outputs.items():
                scored = output.dtype.kind == "f"
                rows.append(
                    identity
                    | {
                        "seed": config.seed,
                        "attack": condition[0],
                        "epsilon": condition[1],
                        "n": len(budgets.labels),
                        "accuracy": budgets.accuracy(*condition),
                        "balanced_accuracy": budgets.balanced_accuracy(*condition),
                        "auroc": budgets.auroc(*condition) if scored else np.nan,
                    }
                )
    return pd.DataFrame(rows)


def spread(rows: pd.DataFrame, metric: str = "accuracy") -> pd.DataFrame:
    """Mean and standard deviation over repeats, in percent.

    Args:
        rows: of ``tidy``.
        metric: one of its last three columns.

    Returns:
        Indexed by ``cell``, ``attack``, ``epsilon``: ``mean``, ``sd``, ``seeds``.
    """
    grouped = rows.groupby(["cell", "attack", "epsilon"], sort=False)[metric]
    table = grouped.agg(["mean", "std", "count"])
    table[["mean", "std"]] *= 100
    return table.rename(columns={"std": "sd", "count": "seeds"})


def curve(rows: pd.DataFrame, cell: str, attack: str) -> pd.Series:
    """Mean accuracy of a cell in [0, 1] by epsilon, from the natural one at 0 on."""
    chosen = rows[(rows["cell"] == cell) & rows["attack"].isin(["natural", attack])]
    return chosen.groupby("epsilon")["accuracy"].mean()


def accuracies(rows: pd.DataFrame, cell: str, attack: str, epsilon: float) -> pd.Series:
    """Accuracy of a cell in percent, by seed."""
    chosen = rows[
        (rows["cell"] == cell) & (rows["attack"] == attack) & np.isclose(rows["epsilon"], epsilon)
    ]
    return 100 * chosen.set_index("seed")["accuracy"].sort_index()


def detectable(sd: float, repeats: int) -> float:
    """Smallest true difference that a paired t-test finds with a power of 80 %.

    Args:
        sd: standard deviation of the paired differences; the result is in its unit.
        repeats: number of pairs, at least 2.
    """
    effect = TTestPower().solve_power(nobs=repeats, alpha=ALPHA, power=POWER)
    return float(effect) * sd


def compare(
    rows: pd.DataFrame, pairs: Sequence[tuple[str, str]], attack: str, epsilon: float
) -> pd.DataFrame:
    """Paired t-tests over seeds, corrected together by Holm's method.

    Args:
        rows: of ``tidy``.
        pairs: ids of the cells, first minus second.
        attack: ``natural``, ``fgsm`` or ``pgd``.
        epsilon: its budget.

    Returns:
        A row per pair, in percentage points: ``first``, ``second``, ``difference``, ``sd`` of the
        paired differences, ``low`` and ``high`` of the 95 % interval, ``p``, ``adjusted``,
        ``detectable`` and ``pairs``. Without any spread p is 0, or 1 for no difference.
    """
    table = []
    for first, second in pairs:
        a, b = (accuracies(rows, cell, attack, epsilon) for cell in (first, second))
        gaps = (a - b).dropna().to_numpy()
        if (count := len(gaps)) < 2:
            raise ValueError(
                f"epsilon = {epsilon:.4g}: {first} and {second} share {count} seeds that were "
                f"measured under {attack}; a test needs 2 or more"
            )
        mean, sd = gaps.mean(), gaps.std(ddof=1)
        error = sd / np.sqrt(count)
        half = stats.t.ppf(1 - ALPHA / 2, count - 1) * error
        p = 2 * stats.t.sf(abs(mean) / error, count - 1) if error > 0 else float(mean == 0)
        table.append(
            {
                "first": first,
                "second": second,
                "difference": mean,
                "sd": sd,
                "low": mean - half,
                "high": mean + half,
                "p": float(p),
                "detectable": detectable(sd, count) if sd > 0 else 0.0,
                "pairs": count,
            }
        )
    names = "first second difference sd low high p detectable pairs"
    result = pd.DataFrame(table, columns=names.split())
    adjusted = multipletests(result["p"], ALPHA, "holm")[1] if table else []
    result.insert(7, "adjusted", adjusted)
    return result


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
    if after == 0:
        return float(sizes[0])
    ends = slice(after - 1, after + 1)
    return float(np.interp(-accuracy, -values[ends], sizes[ends]))
