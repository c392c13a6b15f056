"""What claims of paper B are judged by: the measured cells of a study."""

from collections.abc import Sequence

import pandas as pd

from robust_transfer.claims.evidence import Evidence
from robust_transfer.evaluation.accuracies import Evaluation
from robust_transfer.evaluation.budgets import Budgets
from robust_transfer.myakala2022 import printed, repeats
from robust_transfer.myakala2022.experiment import Cell, Study
from robust_transfer.presentation.tables import epsilon_words

LOW, HIGH = 0.01, 8 / 255
"""Smallest budget that the paper names, and the customary one."""
NATURAL = "natural"


def column(attack: str, epsilon: float) -> str:
    """Name of an accuracy: ``natural``, or attack and budget."""
    return NATURAL if attack == NATURAL else f"{attack.upper()} ε = {epsilon_words(epsilon)}"


class Gathered:
    """The measurements of a study, in every form that its claims ask for.

    Attributes:
        cells: the cells.
        measured: cell id → measurements of its repeats.
        rows: of ``repeats.tidy``.
        evidence: per-image outcomes for the rules.
    """

    def __init__(
        self, study: Study, cells: Sequence[Cell], measured: Sequence[Sequence[Budgets]]
    ) -> None:
        self.study, self.cells = study, list(cells)
        self.measured = {cell.id: list(found) for cell, found in zip(cells, measured, strict=True)}
        self.rows = repeats.tidy(cells, measured)
        found, paper = {}, {}
        for cell, repeated in zip(cells, measured, strict=True):
            found[cell.id] = {
                config.seed: _outcomes(budgets)
                for config, budgets in zip(cell.configs, repeated, strict=True)
            }
            theirs = printed.of(cell) / 100
            paper[cell.id] = {
                "label": f"{cell.task}: {cell.label}",
                NATURAL: theirs["standard"],
            } | {
                column(attack, epsilon): theirs[attack]
                for attack in ("fgsm", "pgd")
                for epsilon in study.epsilons
            }
        self.evidence = Evidence(found, pd.DataFrame.from_dict(paper, "index"))

    def named(self, strategy: str, *techniques: str) -> dict[str, str]:
        """Task → id of its cell with exactly this strategy and these techniques."""
        return {
            cell.task: cell.id
            for cell in self.cells
            if (cell.strategy, cell.techniques) == (strategy, frozenset(techniques))
        }

    @property
    def shown(self) -> list[float]:
        """Of the two budgets that claims are tested at, those that were measured."""
        return [e for e in (LOW, HIGH) if e in self.study.epsilons]

    def on(self, dataset: str) -> list[str]:
        """Tasks that stand for one of the paper's data sets."""
        tasks = dict.fromkeys(cell.task for cell in self.cells)
        names = printed.COUNTERPARTS
        return [task for task in tasks if names.get(task.split("/")[0]) == dataset]


def _outcomes(budgets: Budgets) -> Evaluation:
    """Which images were answered correctly under which condition; all labels of an image count."""
    right = {}
    for attack, epsilon in budgets.outputs:
        same = budgets.predicted(attack, epsilon) == budgets.labels
        right[column(attack, epsilon)] = same if same.ndim == 1 else same.all(axis=1)
    return Evaluation(right, budgets.content)
