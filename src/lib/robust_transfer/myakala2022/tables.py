"""Paper B's tables beside ours, and the tables that the paper does not have."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from robust_transfer.data.registry import DATASETS
from robust_transfer.evaluation import intervals
from robust_transfer.evaluation.budgets import Budgets
from robust_transfer.myakala2022 import printed, repeats
from robust_transfer.myakala2022.experiment import STRATEGIES, TECHNIQUES, Cell, Study, words
from robust_transfer.presentation.tables import epsilon_words, with_sd
from robust_transfer.records.store import Record


def mean_sd(rows: pd.DataFrame, cell: str, attack: str, epsilon: float) -> str:
    """Accuracy of a cell in percent: mean ± standard deviation over repeats."""
    return with_sd(repeats.accuracies(rows, cell, attack, epsilon))


def designs(study: Study, table: Sequence[Cell]) -> pd.DataFrame:
    """What is run: a row per task."""
    lines = {}
    for task, design in study.tasks.items():
        target = study.targets[task.split("/")[0]]
        lines[task] = {
            "the paper's": printed.COUNTERPARTS.get(task.split("/")[0], ""),
            "design": design,
            "cells": sum(cell.task == task for cell in table),
            "side in pixels": target.image_size or DATASETS[task.split("/")[0]].side,
            "training images": f"{target.train_size:,}",
            "epochs": target.epochs,
            "test images": f"{target.test_size:,}",
        }
    return pd.DataFrame.from_dict(lines, "index")


def provenance(
    study: Study, measured: Sequence[Sequence[Budgets]], records: Sequence[Record]
) -> str:
    """One sentence on scale, seeds, sources and hardware."""
    devices = {record.provenance["device"] for record in records}
    minutes = sum(record.seconds for record in records) / 60
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
        rows: of ``repeats.tidy``.
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
        paper = printed.of(cell)
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
        names = [name for name, chosen in printed.TABLE_2.items() if chosen == cell.techniques]
        if cell.strategy != "layer_freezing" or not names:
            continue
        said = {"paper, ε unstated": _percent(printed.of(cell)["pgd"])}
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
    """Paired t-tests of cells of one task, for readers; see ``repeats.compare``."""
    named = {cell.id: cell for cell in table}
    found = repeats.compare(rows, pairs, attack, epsilon)
    return pd.DataFrame(
        {
            "difference [95\N{NO-BREAK SPACE}%]": [
                intervals.with_interval(r.difference, r.low, r.high) for r in found.itertuples()
            ],
            "sd": found["sd"].map("{:.2f}".format),
            "p": found["p"].map(repeats.p_words).where(found["sd"] > 0, "–"),
            "p (Holm)": found["adjusted"].map(repeats.p_words).where(found["sd"] > 0, "–"),
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


def _percent(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.1f}"
