"""At which budget, or under which slip, networks like ours would give paper B's numbers."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from robust_transfer.evaluation.budgets import Budgets
from robust_transfer.myakala2022 import printed, repeats
from robust_transfer.myakala2022.experiment import Cell, words

MISTAKES = {
    "as stated": lambda epsilon: epsilon,
    "added on the [−1, 1] scale": lambda epsilon: epsilon / 2,
    "added after ImageNet normalisation": lambda epsilon: 0.225 * epsilon,
    "added on the [0, 255] scale": lambda epsilon: epsilon / 255,
}
"""How a stated epsilon may have been misapplied, with the l∞ radius on [0, 1] that results.

0.225 is the smallest of ImageNet's channel deviations.
"""

FEW = 10
"""Images of which a median says something, at least."""


def deepfool(table: Sequence[Cell], measured: Sequence[Sequence[Budgets]]) -> pd.DataFrame:
    """Median size of the smallest perturbations that DeepFool found.

    Over all repeats and the attacked images that were classified correctly; the l∞ size is in
    255ths. Images on which DeepFool found nothing count as infinitely far. Of fewer than
    ``FEW`` images no median is shown.
    """
    lines = {}
    for cell, repeated in zip(table, measured, strict=True):
        if not repeated[0].deepfool:
            continue
        right = {norm: _way_out(repeated, norm) for norm in ("l2", "linf")}
        line = lines[f"{cell.task}, {cell.label}"] = {"images": len(right["l2"])}
        if len(right["l2"]) >= FEW:
            line["median l2"] = f"{np.median(right['l2']):.3f}"
            line["median l∞ (1/255)"] = f"{255 * np.median(right['linf']):.2f}"
    return pd.DataFrame.from_dict(lines, "index").fillna("")


def _way_out(repeats: Sequence[Budgets], norm: str) -> np.ndarray:
    """Sizes that DeepFool found for images that were answered correctly, over all repeats."""
    sizes = np.concatenate([b.deepfool[norm] for b in repeats if b.deepfool] or [[]])
    return sizes[sizes > 0]


def majority(budgets: Budgets) -> float:
    """Accuracy, in percent, of always answering the most frequent class, or of never a label."""
    labels = budgets.labels
    if labels.ndim > 1:
        return 100 * float(np.mean(np.maximum(labels.mean(0), 1 - labels.mean(0))))
    return 100 * float(np.bincount(labels).max() / len(labels))


def needed_epsilons(rows: pd.DataFrame, table: Sequence[Cell]) -> pd.DataFrame:
    """At which epsilon our networks would keep the share of accuracy that the paper's keep.

    The paper's accuracy under an attack is taken relative to its standard accuracy, ours likewise,
    so that networks of another scale can be compared. In 255ths; below the smallest measured
    epsilon nothing is known but that it would be below.
    """
    lines = {}
    for cell in table:
        paper = printed.of(cell)
        if paper[["standard", "fgsm", "pgd"]].isna().any():
            continue
        line = {}
        for attack in ("fgsm", "pgd"):
            kept = paper[attack] / paper["standard"]
            curve = repeats.curve(rows, cell.id, attack)
            line[f"{attack.upper()} keeps in the paper"] = f"{100 * kept:.0f} %"
            size = repeats.reached(curve / curve.iloc[0], kept)
            line[f"ours does at ε · 255 ({attack.upper()})"] = _size(size, curve.index[1])
        lines[f"{cell.task}, {words(cell.strategy)}"] = line
    return pd.DataFrame.from_dict(lines, "index")


def _size(epsilon: float, smallest: float) -> str:
    """An epsilon in 255ths, or what is known of it beside the smallest measured one."""
    if np.isnan(epsilon):
        return "not reached"
    return f"below {255 * smallest:.2f}" if epsilon < smallest else f"{255 * epsilon:.2f}"


def mistakes(
    rows: pd.DataFrame, cell: Cell, measured: Sequence[Budgets], nominal: Sequence[float]
) -> pd.DataFrame:
    """Share of natural accuracy, in percent, that a cell keeps under PGD if epsilon is misapplied.

    Args:
        rows: of ``repeats.tidy``.
        cell: whose curve is read off, linearly between measured epsilons.
        measured: its repeats. Where DeepFool was run, they tell of how many right images it
            found no way out within an l2 radius; a stronger attack would leave fewer.
        nominal: stated epsilons.
    """
    curve = repeats.curve(rows, cell.id, "pgd")
    sizes, kept = curve.index.to_numpy(), (curve / curve.iloc[0]).to_numpy()
    way_out, table = _way_out(measured, "l2"), {}
    for epsilon in nominal:
        column = table[f"ε = {epsilon:g}"] = {
            name: 100 * float(np.interp(actual(epsilon), sizes, kept))
            for name, actual in MISTAKES.items()
        }
        if len(way_out):
            words = f"taken as an l2 radius (DeepFool, {len(way_out)} images)"
            column[words] = 100 * float((way_out > epsilon).mean())
    return pd.DataFrame(table)
