"""A study with what was measured of it: cells with their repeats, repeats with their records."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from robust_transfer.claims.reproduction import Reproduction
from robust_transfer.evaluation.accuracies import Evaluation
from robust_transfer.evaluation.budgets import Budgets
from robust_transfer.myakala2022 import printed
from robust_transfer.myakala2022.experiment import TECHNIQUES, Cell, Study
from robust_transfer.presentation.tables import epsilon_words
from robust_transfer.records.store import Record
from robust_transfer.runner import Runner

LOW, HIGH = 0.01, 8 / 255
"""Smallest budget that the paper names, and the customary one."""


@dataclass(frozen=True, eq=False)
class Repeat:
    """A cell from one seed: the record of its training, and what the network answered."""

    seed: int
    record: Record | None
    budgets: Budgets


@dataclass(frozen=True, eq=False)
class MeasuredCell(Cell):
    """A cell with its repeats, seed by seed."""

    repeats: tuple[Repeat, ...]

    def by_seed(
        self, attack: str = "natural", epsilon: float = 0.0, measure: str = "accuracy"
    ) -> pd.Series:
        """A measure in percent, by seed: ``accuracy``, ``balanced_accuracy`` or ``auroc``."""
        values = {r.seed: getattr(r.budgets, measure)(attack, epsilon) for r in self.repeats}
        return 100 * pd.Series(values)

    def by_budget(self, attack: str) -> pd.DataFrame:
        """Accuracies in percent: a row per epsilon, from the natural one at 0 on, columns seeds."""
        attacked = {epsilon: self.by_seed(attack, epsilon) for epsilon in self.budgets.epsilons}
        return pd.DataFrame({0.0: self.by_seed()} | attacked).T


@dataclass(frozen=True, eq=False)
class MeasuredStudy:
    """A study with its cells, in every form that its claims ask for."""

    study: Study
    cells: Sequence[MeasuredCell]

    def named(self, strategy: str, *techniques: str) -> dict[str, MeasuredCell]:
        """Task → its cell with exactly this strategy and these techniques."""
        return {
            cell.task: cell
            for cell in self.cells
            if (cell.strategy, cell.techniques) == (strategy, frozenset(techniques))
        }

    @property
    def tasks(self) -> list[str]:
        """Data set and network of every task that has cells."""
        return list(dict.fromkeys(cell.task for cell in self.cells))

    @property
    def tested(self) -> list[float]:
        """Of the two budgets that claims are tested at, those that were measured."""
        return [epsilon for epsilon in (LOW, HIGH) if epsilon in self.study.epsilons]

    def on(self, dataset: str) -> list[str]:
        """Tasks that stand for one of the paper's data sets."""
        names = printed.COUNTERPARTS
        return [task for task in self.tasks if names.get(task.split("/")[0]) == dataset]

    @cached_property
    def reproduction(self) -> Reproduction:
        """Per-image outcomes for the rules, beside the paper's accuracies at every budget."""
        evaluations, paper = {}, {}
        for cell in self.cells:
            evaluations[cell.id] = {r.seed: _outcomes(r.budgets) for r in cell.repeats}
            theirs = printed.of(cell) / 100
            row = {"label": f"{cell.task}: {cell.label}", "natural": theirs["standard"]}
            for attack, epsilon in cell.budgets.attacks:
                row[column(attack, epsilon)] = theirs[attack]
            paper[cell.id] = row
        return Reproduction(evaluations, pd.DataFrame.from_dict(paper, "index"))


def _outcomes(budgets: Budgets) -> Evaluation:
    """Which images were answered correctly under which condition; all labels of an image count."""
    right = {}
    for attack, epsilon in budgets.outputs:
        same = budgets.predicted(attack, epsilon) == budgets.labels
        right[column(attack, epsilon)] = same if same.ndim == 1 else same.all(axis=1)
    return Evaluation(right, budgets.content)


def column(attack: str, epsilon: float) -> str:
    """Name of an accuracy: ``natural``, or attack and budget."""
    return "natural" if attack == "natural" else f"{attack.upper()} ε = {epsilon_words(epsilon)}"


def measure(runner: Runner, table: Sequence[Cell]) -> list[MeasuredCell]:
    """The cells with all repeats; what is missing is trained and measured now."""
    pairs = [(config, cell.budgets) for cell in table for config in cell.configs]
    budgets = iter(runner.measure(pairs))
    return [
        MeasuredCell(
            **vars(cell),
            repeats=tuple(
                Repeat(c.seed, runner.store.find(c), next(budgets)) for c in cell.configs
            ),
        )
        for cell in table
    ]


def measurements(cells: Sequence[MeasuredCell]) -> pd.DataFrame:
    """All measurements, one per row.

    Returns:
        ``cell``, ``task``, ``dataset``, ``network``, ``strategy``, a yes or no for each of
        ``TECHNIQUES``, ``seed``, ``attack``, ``epsilon``, ``n`` test images, ``accuracy``,
        ``balanced_accuracy`` and ``auroc`` (NaN with more than two classes), all three in [0, 1].
    """
    rows = []
    for cell in cells:
        names = ("id", "task", "dataset", "network", "strategy")
        identity = {name: getattr(cell, name) for name in names}
        identity |= {technique: technique in cell.techniques for technique in TECHNIQUES}
        for repeat in cell.repeats:
            budgets = repeat.budgets
            for (attack, epsilon), output in budgets.outputs.items():
                scored = output.dtype.kind == "f"
                row = {
                    "seed": repeat.seed,
                    "attack": attack,
                    "epsilon": epsilon,
                    "n": len(budgets.labels),
                    "accuracy": budgets.accuracy(attack, epsilon),
                    "balanced_accuracy": budgets.balanced_accuracy(attack, epsilon),
                    "auroc": budgets.auroc(attack, epsilon) if scored else float("nan"),
                }
                rows.append(identity | row)
    return pd.DataFrame(rows).rename(columns={"id": "cell"})
