"""Paper B's tables beside ours, and the tables that the paper does not have."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from robust_transfer import intervals, paths, trials
from robust_transfer.budgets import Budgets
from robust_transfer.records import Record
from robust_transfer.sources import SOURCES
from robust_transfer.study import NONE, STRATEGIES, TECHNIQUES, Cell, Study, words
from robust_transfer.tables import with_sd

PAPER_NETWORKS = {"CIFAR-10": "resnet", "ImageNet": "vit", "ChestX-ray": "densenet"}
"""The kind of network that the paper ran on each data set, one on each."""

COUNTERPARTS = {
    "cifar10": "CIFAR-10",
    "imagenet_subset": "ImageNet",
    "tiny_imagenet100": "ImageNet",
    "chestxray14": "ChestX-ray",
    "chest_xray8": "ChestX-ray",
}
"""The paper's name of each data set, or of the one that ours stands for."""

TABLE_2 = {
    "baseline_layer_freezing": NONE,
    "with_pretraining": frozenset({"pretraining"}),
    "with_augmentation": frozenset({"augmentation"}),
}
"""Columns of Table II with their techniques; all of them freeze layers."""

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


def epsilon_words(epsilon: float) -> str:
    """An epsilon for readers: in 255ths if it is a whole number of them."""
    steps = 255 * epsilon
    return f"{steps:.0f}/255" if abs(steps - round(steps)) < 1e-6 else f"{epsilon:g}"


def printed() -> pd.DataFrame:
    """All accuracies that the paper prints, in percent.

    Returns:
        Indexed by data set, strategy and techniques (joined by ``+``): ``standard``, ``fgsm``,
        ``pgd``, the first two NaN where only Table II has the cell.
    """
    first = pd.read_csv(paths.REFERENCE / "myakala2022_table1.csv").drop(columns="model")
    first.insert(2, "techniques", "")
    second = pd.read_csv(paths.REFERENCE / "myakala2022_table2.csv")
    second = second.melt("dataset", var_name="column", value_name="pgd")
    second = second[second["column"] != "baseline_layer_freezing"]
    second["techniques"] = ["+".join(TABLE_2[column]) for column in second.pop("column")]
    second.insert(1, "strategy", "layer_freezing")
    return pd.concat([first, second]).set_index(["dataset", "strategy", "techniques"])


def paper_of(cell: Cell) -> pd.Series:
    """What the paper prints for a cell: ``standard``, ``fgsm`` and ``pgd`` in percent, or NaN.

    A network of another kind than the paper's on these data has no counterpart in its tables.
    """
    dataset = COUNTERPARTS.get(cell.dataset)
    key = dataset, cell.strategy, "+".join(cell.ordered)
    table = printed()
    if key in table.index and PAPER_NETWORKS[dataset] in cell.network:
        return table.loc[key]
    return pd.Series(np.nan, table.columns)


def mean_sd(rows: pd.DataFrame, cell: str, attack: str, epsilon: float) -> str:
    """Accuracy of a cell in percent: mean ± standard deviation over repeats."""
    return with_sd(trials.accuracies(rows, cell, attack, epsilon))


def designs(study: Study, table: Sequence[Cell]) -> pd.DataFrame:
    """What is run: a row per task."""
    lines = {}
    for task, design in study.tasks.items():
        target = study.targets[task.split("/")[0]]
        lines[task] = {
            "the paper's": COUNTERPARTS.get(task.split("/")[0], ""),
            "design": design,
            "cells": sum(cell.task == task for cell in table),
            "side in pixels": target.image_size or SOURCES[task.split("/")[0]].side,
            "training images": f"{target.train_size:,}",
            "epochs": target.epochs,
            "test images": f"{target.test_size:,}",
        }
    return pd.DataFrame.from_dict(lines, "index")


def provenance(
    study: Study, measured: Sequence[Sequence[Budgets]], records: Sequence[Record]
) -> str:
    """One sentence on scale, seeds, sources and hardware."""
    devices = {record.content["provenance"]["device"] for record in records}
    minutes = sum(record.content["seconds"] for record in records) / 60
    minutes += sum(b.content["seconds"] for repeated in measured for b in repeated) / 60
    start = "published ImageNet weights" if study.pretrained else "networks trained here"
    tasks = f"{len(study.tasks)} task" + "s" * (len(study.tasks) > 1)
    return (
        f"Study {study.study}: {study.repeats} repeats of {len(measured)} cells on "
        f"{tasks}, from {start} (source data {study.source_dataset}, "
        f"{study.source_train_size:,} images), {len(records)} networks in {minutes:.0f} "
        f"network-minutes on {'; '.join(sorted(devices))}."
    )


def table_1(rows: pd.DataFrame, table: Sequence[Cell], shown: Sequence[float]) -> pd.DataFrame:
    """Table I: accuracy per task and strategy, ours at some epsilons below the paper's.

    Args:
        rows: of ``trials.tidy``.
        table: the cells.
        shown: which of the measured epsilons.

    Returns:
        A row per task and condition, a column per strategy; without the paper's rows where it has
        no counterpart.
    """
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for cell in table:
        if cell.techniques:
            continue
        paper = paper_of(cell)
        said = {"standard, paper": _percent(paper["standard"])}
        said["standard, ours"] = mean_sd(rows, cell.id, "natural", 0.0)
        for attack in ("fgsm", "pgd"):
            said[f"{attack.upper()}, paper, ε unstated"] = _percent(paper[attack])
            for epsilon in shown:
                name = f"{attack.upper()}, ours at ε = {epsilon_words(epsilon)}"
                said[name] = mean_sd(rows, cell.id, attack, epsilon)
        _enter(lines, cell.task, words(cell.strategy), said)
    return pd.DataFrame.from_dict(lines, "index").fillna("")


def table_2(rows: pd.DataFrame, table: Sequence[Cell], shown: Sequence[float]) -> pd.DataFrame:
    """Table II: PGD accuracy with layer freezing and one technique, ours below the paper's.

    Returns:
        A row per task and budget, a column per technique.
    """
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for cell in table:
        names = [name for name, chosen in TABLE_2.items() if chosen == cell.techniques]
        if cell.strategy != "layer_freezing" or not names:
            continue
        said = {"paper, ε unstated": _percent(paper_of(cell)["pgd"])}
        for epsilon in shown:
            name = f"ours at ε = {epsilon_words(epsilon)}"
            said[name] = mean_sd(rows, cell.id, "pgd", epsilon)
        _enter(lines, cell.task, words(names[0]), said)
    return pd.DataFrame.from_dict(lines, "index").fillna("")


def _enter(
    lines: dict[tuple[str, str], dict[str, str]], task: str, column: str, said: dict[str, str]
) -> None:
    """Put what a cell says under each condition into its column; nothing makes no row."""
    for condition, value in said.items():
        if value:
            lines.setdefault((task, condition), {})[column] = value


def all_cells(
    rows: pd.DataFrame, table: Sequence[Cell], task: str, shown: Sequence[float]
) -> pd.DataFrame:
    """Every cell of a task: strategy and techniques, natural and PGD accuracy."""
    lines = []
    for cell in table:
        if cell.task == task:
            line = {"strategy": words(cell.strategy)}
            line |= {words(t): "yes" if t in cell.techniques else "" for t in TECHNIQUES}
            line["natural"] = mean_sd(rows, cell.id, "natural", 0.0)
            for epsilon in shown:
                name = f"PGD, ε = {epsilon_words(epsilon)}"
                line[name] = mean_sd(rows, cell.id, "pgd", epsilon)
            lines.append(line)
    return pd.DataFrame(lines).set_index("strategy")


def effects(rows: pd.DataFrame, task: str, attack: str, epsilon: float) -> pd.DataFrame:
    """What each technique adds to accuracy, per strategy and over all strategies.

    A technique's effect is the mean over all matched pairs of cells that differ in it alone; it is
    computed per seed, and its 95 % interval is Student's over seeds.

    Returns:
        In percentage points: ``technique``, ``strategy`` (in words, or ``all``), ``gain``,
        ``low``, ``high`` and the number of matched ``pairs``.
    """
    chosen = rows[
        (rows["task"] == task) & (rows["attack"] == attack) & np.isclose(rows["epsilon"], epsilon)
    ]
    lines = []
    for technique in TECHNIQUES:
        others = [other for other in TECHNIQUES if other != technique]
        wide = chosen.pivot_table("accuracy", ["strategy", *others, "seed"], technique)
        if not {False, True} <= set(wide.columns):
            continue
        gains = 100 * (wide[True] - wide[False]).dropna()
        levels = gains.index.get_level_values("strategy")
        for strategy in (*(s for s in STRATEGIES if s in set(levels)), "all"):
            part = gains if strategy == "all" else gains[levels == strategy]
            by_seed = part.groupby("seed").mean()
            half = by_seed.sem() * stats.t.ppf(0.975, len(by_seed) - 1)
            gain = by_seed.mean()
            lines.append(
                {
                    "technique": words(technique),
                    "strategy": words(strategy),
                    "gain": gain,
                    "low": gain - half,
                    "high": gain + half,
                    "pairs": len(part) // len(by_seed),
                }
            )
    return pd.DataFrame(lines, columns=["technique", "strategy", "gain", "low", "high", "pairs"])


def compared(
    rows: pd.DataFrame,
    table: Sequence[Cell],
    pairs: Sequence[tuple[str, str]],
    attack: str,
    epsilon: float,
) -> pd.DataFrame:
    """Paired t-tests of cells of one task, for readers; see ``trials.compare``."""
    named = {cell.id: cell for cell in table}
    found = trials.compare(rows, pairs, attack, epsilon)
    return pd.DataFrame(
        {
            "difference [95\N{NO-BREAK SPACE}%]": [
                intervals.with_interval(r.difference, r.low, r.high) for r in found.itertuples()
            ],
            "sd": found["sd"].map("{:.2f}".format),
            "p": found["p"].map(trials.p_words).where(found["sd"] > 0, "–"),
            "p (Holm)": found["adjusted"].map(trials.p_words).where(found["sd"] > 0, "–"),
            "detectable": found["detectable"].map("{:.1f}".format).where(found["sd"] > 0, "–"),
        }
    ).set_axis(
        [
            f"{named[first].task}: {named[first].label} − {named[second].label}"
            for first, second in zip(found["first"], found["second"], strict=True)
        ]
    )


def strategy_pairs(table: Sequence[Cell]) -> list[tuple[str, str]]:
    """Layer freezing and full fine-tuning without techniques, for every task that has both."""
    named = {(cell.task, cell.strategy): cell.id for cell in table if not cell.techniques}
    return [
        (named[task, "layer_freezing"], named[task, "full_finetuning"])
        for task in dict.fromkeys(cell.task for cell in table)
        if {(task, "layer_freezing"), (task, "full_finetuning")} <= set(named)
    ]


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


def medical(rows: pd.DataFrame, table: Sequence[Cell], shown: Sequence[float]) -> pd.DataFrame:
    """AUROC and balanced accuracy beside accuracy, for tasks with two classes or many labels.

    Returns:
        A row per cell and condition, a column per measure.
    """
    conditions = {"natural": ("natural", 0.0)}
    conditions |= {f"PGD, ε = {epsilon_words(size)}": ("pgd", size) for size in shown}
    measures = {"accuracy": "accuracy", "balanced accuracy": "balanced_accuracy", "AUROC": "auroc"}
    lines = {}
    for cell in table:
        scored = rows[(rows["cell"] == cell.id) & rows["auroc"].notna()]
        for condition, (attack, size) in conditions.items() if len(scored) else ():
            at = scored[(scored["attack"] == attack) & np.isclose(scored["epsilon"], size)]
            lines[f"{cell.task}, {cell.label}", condition] = {
                name: with_sd(100 * at[column]) for name, column in measures.items()
            }
    return pd.DataFrame.from_dict(lines, "index")


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
        paper = paper_of(cell)
        if paper[["standard", "fgsm", "pgd"]].isna().any():
            continue
        line = {}
        for attack in ("fgsm", "pgd"):
            kept = paper[attack] / paper["standard"]
            curve = trials.curve(rows, cell.id, attack)
            line[f"{attack.upper()} keeps in the paper"] = f"{100 * kept:.0f} %"
            size = trials.reached(curve / curve.iloc[0], kept)
            line[f"ours does at ε · 255 ({attack.upper()})"] = _size(size, curve.index[1])
        lines[f"{cell.task}, {words(cell.strategy)}"] = line
    return pd.DataFrame.from_dict(lines, "index")


def _size(epsilon: float, smallest: float) -> str:
    """An epsilon in 255ths, or what is known of it beside the smallest measured one."""
    if np.isnan(epsilon):
        return "not reached"
    return f"below {255 * smallest:.2f}" if epsilon < smallest else f"{255 * epsilon:.2f}"


def mistakes(
    rows: pd.DataFrame, cell: Cell, repeats: Sequence[Budgets], nominal: Sequence[float]
) -> pd.DataFrame:
    """Share of natural accuracy, in percent, that a cell keeps under PGD if epsilon is misapplied.

    Args:
        rows: of ``trials.tidy``.
        cell: whose curve is read off, linearly between measured epsilons.
        repeats: its measurements. Where DeepFool was run, they tell of how many right images it
            found no way out within an l2 radius; a stronger attack would leave fewer.
        nominal: stated epsilons.
    """
    curve = trials.curve(rows, cell.id, "pgd")
    sizes, kept = curve.index.to_numpy(), (curve / curve.iloc[0]).to_numpy()
    way_out, table = _way_out(repeats, "l2"), {}
    for epsilon in nominal:
        column = table[f"ε = {epsilon:g}"] = {
            name: 100 * float(np.interp(actual(epsilon), sizes, kept))
            for name, actual in MISTAKES.items()
        }
        if len(way_out):
            words = f"taken as an l2 radius (DeepFool, {len(way_out)} images)"
            column[words] = 100 * float((way_out > epsilon).mean())
    return pd.DataFrame(table)


def _percent(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.1f}"
