"""Which classes are taken for which, clean and under attack (paper B, §IV.C)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from robust_transfer.myakala2022 import repeats
from robust_transfer.myakala2022.measured import MeasuredCell

RELABELLINGS = 2000
"""Relabellings of the permutation test; its p-value is then known to about a hundredth."""


def confusion(cell: MeasuredCell, attack: str = "natural", epsilon: float = 0.0) -> pd.DataFrame:
    """Images per true (rows) and predicted class (columns), added up over repeats."""
    return sum(repeat.budgets.confusion(attack, epsilon) for repeat in cell.repeats)


def total(counts: pd.DataFrame) -> int:
    """Number of errors in a confusion matrix."""
    return int(counts.to_numpy().sum() - np.trace(counts.to_numpy()))


def between(counts: pd.DataFrame, first: str, second: str) -> float:
    """Share of all errors that confuse two classes, either way, in [0, 1]; NaN without errors."""
    errors = total(counts)
    pair = counts.loc[first, second] + counts.loc[second, first]
    return float(pair / errors) if errors else float("nan")


def evenly(counts: pd.DataFrame) -> float:
    """The share of a pair of classes if errors were spread evenly over all pairs."""
    return 2 / (len(counts) * (len(counts) - 1))


def concentration(counts: pd.DataFrame) -> float:
    """Share of the errors in the tenth of class pairs that have most, in [0, 1]."""
    pairs = np.sort(_pairs(counts))[::-1]
    top = max(1, round(len(pairs) / 10))
    return float(pairs[:top].sum() / pairs.sum()) if pairs.sum() else float("nan")


def same_pairs(clean: pd.DataFrame, attacked: pd.DataFrame) -> tuple[float, float]:
    """Whether an attack confuses the classes that are confused without it (Mantel's test).

    Returns:
        Pearson's correlation of the two symmetric matrices over pairs of classes, and its
        one-sided p-value under relabellings of the classes of one (Mantel 1967); NaN and 1 where
        one of them has the same count in every pair.
    """
    fixed, counts = _pairs(clean), attacked.to_numpy()
    if np.ptp(fixed) == 0 or np.ptp(_pairs(counts)) == 0:
        return float("nan"), 1.0
    rng = np.random.default_rng(0)  # the same relabellings in every build of the book
    size = len(counts)
    orders = np.stack([np.arange(size), *(rng.permutation(size) for _ in range(RELABELLINGS))])
    first, second = np.triu_indices(size, 1)
    drawn = (counts + counts.T)[orders[:, first], orders[:, second]]
    observed, *others = _standardised(drawn) @ _standardised(fixed) / len(fixed)
    as_high = sum(value >= observed - 1e-12 for value in others)
    return float(observed), (as_high + 1) / (RELABELLINGS + 1)


def _standardised(values: np.ndarray) -> np.ndarray:
    """Less their mean and over their standard deviation, along the last axis."""
    return (values - values.mean(-1, keepdims=True)) / values.std(-1, keepdims=True)


def summary(cells: Sequence[MeasuredCell], epsilon: float) -> pd.DataFrame:
    """Where PGD's errors fall, a row per cell with more than two classes, one an image.

    Returns:
        For readers: share of the errors on the tenth of class pairs that have most (where errors
        could be on more pairs than that), correlation with the clean confusions and its p-value,
        and for CIFAR-10 the share of cat and dog.
    """
    lines = {}
    for cell in cells:
        if cell.scored:
            continue
        clean, attacked = confusion(cell), confusion(cell, "pgd", epsilon)
        correlation, p = same_pairs(clean, attacked)
        count = total(attacked)
        few = count < len(_pairs(attacked))  # then they lie on few pairs whatever they are
        line = {
            "errors": count,
            "on a tenth of the pairs": "" if few else f"{100 * concentration(attacked):.0f} %",
            "correlation with clean": f"{correlation:.2f}",
            "p": repeats.p_words(p),
        }
        if {"cat", "dog"} <= set(clean):
            for name, counts in (("clean", clean), ("attacked", attacked)):
                line[f"cat and dog, {name}"] = f"{100 * between(counts, 'cat', 'dog'):.1f} %"
            line["spread evenly"] = f"{100 * evenly(attacked):.1f} %"
        lines[f"{cell.task}, {cell.marked}"] = line
    return pd.DataFrame.from_dict(lines, "index").fillna("")


def _pairs(counts: pd.DataFrame | np.ndarray) -> np.ndarray:
    """Confusions of each pair of classes, either way."""
    matrix = np.asarray(counts)
    return (matrix + matrix.T)[np.triu_indices(len(matrix), 1)]
