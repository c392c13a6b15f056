"""At which budget, or under which slip, networks like ours would give paper B's numbers."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from robust_transfer.evaluation.budgets import Budgets
from robust_transfer.myakala2022 import printed, repeats
from robust_transfer.myakala2022.measured import MeasuredCell

MISTAKES = {
    "as stated": 1,
    "added on the [−1, 1] scale": 1 / 2,
    "added after ImageNet normalisation": 0.225,
    "added on the [0, 255] scale": 1 / 255,
}
"""How a stated epsilon may have been misapplied, with the share of it on [0, 1] that results.

0.225 is the smallest of ImageNet's channel deviations.
"""

FEW = 10
"""Images of which a median says something, at least."""


def smallest_steps(cells: Sequence[MeasuredCell]) -> pd.DataFrame:
    """Median size of the smallest perturbations that DeepFool found.

    Over all repeats and the attacked images that were classified correctly; the l∞ size is in
    255ths. Images on which DeepFool found nothing count as infinitely far. Of fewer than
    ``FEW`` images no median is shown.
    """
    lines = {}
    for cell in cells:
        if cell.repeats[0].budgets.deepfool:
            sizes, largest = _way_out(cell, "l2"), _way_out(cell, "linf")
            line = lines[f"{cell.task}, {cell.marked}"] = {"images": len(sizes)}
            if len(sizes) >= FEW:
                line["median l2"] = f"{np.median(sizes):.3f}"
                line["median l∞ (1/255)"] = f"{255 * np.median(largest):.2f}"
    return pd.DataFrame.from_dict(lines, "index").fillna("")


def _way_out(cell: MeasuredCell, norm: str) -> np.ndarray:
    """Sizes that DeepFool found for images that were answered correctly, over all repeats."""
    found = [r.budgets.deepfool[norm] for r in cell.repeats if r.budgets.deepfool]
    sizes = np.concatenate(found or [[]])
    return sizes[sizes > 0]


def majority(budgets: Budgets) -> float:
    """Accuracy, in percent, of always answering the most frequent class, or of never a label."""
    labels = budgets.labels
    if labels.ndim > 1:
        return 100 * float(np.mean(np.maximum(labels.mean(0), 1 - labels.mean(0))))
    return 100 * float(np.bincount(labels).max() / len(labels))


def needed_epsilons(cells: Sequence[MeasuredCell]) -> pd.DataFrame:
    """At which epsilon our networks would keep the share of accuracy that the paper's keep.

    The paper's accuracy under an attack is taken relative to its standard accuracy, ours likewise,
    so that networks of another scale can be compared. In 255ths; below the smallest measured
    epsilon nothing is known but that it would be below.
    """
    lines = {}
    for cell in cells:
        paper = printed.of(cell)
        if paper[["standard", "fgsm", "pgd"]].isna().any():
            continue
        line = {}
        for attack in ("fgsm", "pgd"):
            share = paper[attack] / paper["standard"]
            curve = cell.by_budget(attack).mean(axis=1)
            line[f"{attack.upper()} keeps in the paper"] = f"{100 * share:.0f} %"
            size = repeats.reached(curve / curve.iloc[0], share)
            line[f"ours does at ε · 255 ({attack.upper()})"] = _size(size, curve.index[1])
        lines[f"{cell.task}, {cell.marked}"] = line
    return pd.DataFrame.from_dict(lines, "index")


def _size(epsilon: float, smallest: float) -> str:
    """An epsilon in 255ths, or what is known of it beside the smallest measured one."""
    if np.isnan(epsilon):
        return "not reached"
    return f"below {255 * smallest:.2f}" if epsilon < smallest else f"{255 * epsilon:.2f}"


def mistakes(cell: MeasuredCell, nominal: Sequence[float]) -> pd.DataFrame:
    """Share of natural accuracy, in percent, that a cell keeps under PGD if epsilon is misapplied.

    Args:
        cell: whose curve is read off, linearly between measured epsilons. Where DeepFool was run,
            its repeats tell of how many right images it found no way out within an l2 radius; a
            stronger attack would leave fewer.
        nominal: stated epsilons.
    """
    curve = cell.by_budget("pgd").mean(axis=1)
    sizes, shares = curve.index.to_numpy(), (curve / curve.iloc[0]).to_numpy()
    way_out, table = _way_out(cell, "l2"), {}
    for epsilon in nominal:
        column = table[f"ε = {epsilon:g}"] = {
            name: 100 * float(np.interp(share * epsilon, sizes, shares))
            for name, share in MISTAKES.items()
        }
        if len(way_out):
            column["taken as an l2 radius (DeepFool)"] = 100 * float((way_out > epsilon).mean())
    return pd.DataFrame(table)
