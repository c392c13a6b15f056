"""A study with what was measured of it: cells with their repeats, repeats with their records."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Self

import pandas as pd

from robust_transfer.claims.reproduction import Reproduction
from robust_transfer.evaluation.accuracies import Evaluation
from robust_transfer.evaluation.budgets import Budgets, pooled
from robust_transfer.myakala2022 import printed
from robust_transfer.myakala2022.experiment import TECHNIQUES, Cell
from robust_transfer.presentation.tables import doubted, epsilon_words, with_sd
from robust_transfer.records.store import Record, Store
from robust_transfer.runner import Runner

HIGH = 8 / 255
TESTED = (0.5 / 255, 0.01, HIGH)
"""Budgets at which claims are tested, as far as they were measured.

At the first, networks fall that were never trained against attacks; the second is the smallest that
the paper names, the third the customary one."""

LEAST = 5.0
"""Percent of the images that must withstand an attack for anything to be compared under it."""


@dataclass(frozen=True, eq=False)
class Repeat:
    """A cell from one seed: the records of its trainings, and what the networks answered.

    There is one training, or one per fold; then the answers are to all folds' images.
    """

    seed: int
    records: tuple[Record, ...]
    budgets: Budgets


@dataclass(frozen=True, eq=False)
class MeasuredCell(Cell):
    """A cell with its repeats, seed by seed."""

    repeats: tuple[Repeat, ...]

    @property
    def marked(self) -> str:
        """Its label for readers, marked where a repeat's measurement is doubted."""
        return doubted(self.label, self.doubts)

    @property
    def doubts(self) -> list[str]:
        """What says that attacks on its networks did not work, in how many seeds, with a case."""
        found = [doubts for r in self.repeats if (doubts := r.budgets.doubts)]
        told = f"{len(found)} of {len(self.repeats)} seeds, for instance: "
        return [told + found[0][0]] if found else []

    def shown(
        self, attack: str = "natural", epsilon: float = 0.0, measure: str = "accuracy"
    ) -> str:
        """A measure in percent over the seeds, for readers, marked where it is doubted."""
        return doubted(with_sd(self.by_seed(attack, epsilon, measure)), self.doubts)

    def by_seed(
        self, attack: str = "natural", epsilon: float = 0.0, measure: str = "accuracy"
    ) -> pd.Series:
        """A measure in percent, by seed: ``accuracy``, ``balanced_accuracy`` or ``auroc``.

        Accuracy without attack is that on all test images, of which fewer may have been attacked.
        """
        if (attack, measure) == ("natural", "accuracy"):
            return 100 * pd.Series({r.seed: r.budgets.standard for r in self.repeats})
        values = {r.seed: getattr(r.budgets, measure)(attack, epsilon) for r in self.repeats}
        return 100 * pd.Series(values)

    def by_budget(self, attack: str) -> pd.DataFrame:
        """Accuracies on attacked images in percent: a row per epsilon from 0 on, columns seeds."""
        attacked = {epsilon: self.by_seed(attack, epsilon) for epsilon in self.budgets.epsilons}
        clean = 100 * pd.Series({r.seed: r.budgets.accuracy() for r in self.repeats})
        return pd.DataFrame({0.0: clean} | attacked).T


@dataclass(frozen=True, eq=False)
class MeasuredStudy:
    """The cells of a study, or of several, in every form that their claims ask for."""

    cells: Sequence[MeasuredCell]

    @property
    def plain(self) -> dict[str, MeasuredCell]:
        """Task → its cell of full fine-tuning without any technique."""
        return {cell.task: cell for (cell,) in matched(self.cells, ("full_finetuning",))}

    @property
    def tested(self) -> list[float]:
        """Of the budgets that claims are tested at, those that were measured on every cell."""
        everywhere = [set(cell.budgets.epsilons) for cell in self.cells]
        return [epsilon for epsilon in TESTED if all(epsilon in of for of in everywhere)]

    def on(self, dataset: str) -> Self:
        """Of the study only the tasks that stand for one of the paper's data sets."""
        there = [c for c in self.cells if printed.COUNTERPARTS.get(c.dataset) == dataset]
        return replace(self, cells=there)

    @cached_property
    def reproduction(self) -> Reproduction:
        """Per-image outcomes for the rules, beside the paper's accuracies at every budget."""
        evaluations, paper = {}, {}
        for cell in self.cells:
            evaluations[cell.id] = {r.seed: _outcomes(r.budgets) for r in cell.repeats}
            theirs = printed.of(cell) / 100
            paper[cell.id] = {"label": f"{cell.task}: {cell.label}", "natural": theirs["standard"]}
            paper[cell.id] |= {column(*at): theirs[at[0]] for at in cell.budgets.attacks}
        return Reproduction(evaluations, pd.DataFrame.from_dict(paper, "index"))


def matched(cells: Sequence[Cell], *treatments: Sequence[str]) -> list[tuple[Cell, ...]]:
    """The cells with these strategies and techniques, of every task that has them all."""
    wanted = [(strategy, frozenset(techniques)) for strategy, *techniques in treatments]
    found = [{c.task: c for c in cells if c.treatment == treatment} for treatment in wanted]
    tasks = [task for task in found[0] if all(task in of for of in found)]
    return [tuple(of[task] for of in found) for task in tasks]


def _outcomes(budgets: Budgets) -> Evaluation:
    """Which images were answered correctly under which condition; all labels of an image count."""
    count = len(budgets.labels)
    same = {column(*at): budgets.predicted(*at) == budgets.labels for at in budgets.outputs}
    right = {name: of.reshape(count, -1).all(axis=1) for name, of in same.items()}
    return Evaluation(right, budgets.content)


def most_left(cells: Iterable[MeasuredCell], attack: str, epsilon: float) -> float:
    """The largest accuracy that an attack leaves of some measured cells, in percent."""
    return max(cell.by_seed(attack, epsilon).mean() for cell in cells)


def column(attack: str, epsilon: float) -> str:
    """Name of an accuracy: ``natural``, or attack and budget."""
    return "natural" if attack == "natural" else f"{attack.upper()} ε = {epsilon_words(epsilon)}"


def stored(cell: Cell, store: Store) -> MeasuredCell:
    """A cell with what is stored of all its networks.

    Raises:
        FileNotFoundError: something is not there.
    """
    found = [how.find(store, config) for config, how in cell.wishes]
    if None in found:
        raise FileNotFoundError(f"{store.layers[-1]}: not all of {cell.id} was measured")
    return of_networks(cell, [store.require(config) for config in cell.configs], found)


def measure(runner: Runner, table: Sequence[Cell]) -> list[MeasuredCell]:
    """The cells with all repeats; what is missing is trained and measured now."""
    found = iter(runner.measure([wish for cell in table for wish in cell.wishes]))
    return [of_networks(c, [runner.store.find(n) for n in c.configs], found) for c in table]


def of_networks(cell: Cell, records: Iterable[Record], found: Iterable[Budgets]) -> MeasuredCell:
    """A cell of what was measured on its networks, in their order; folds are put together."""
    networks = zip(cell.configs, records, found, strict=False)
    seeds = {seed: list(of) for seed, of in groupby(networks, lambda network: network[0].seed)}
    repeats = [
        Repeat(
            seed, tuple(record for _, record, _ in of), pooled([b for *_, b in of], cell.dataset)
        )
        for seed, of in seeds.items()
    ]
    return MeasuredCell(**vars(cell), repeats=tuple(repeats))


def measurements(cells: Sequence[MeasuredCell]) -> pd.DataFrame:
    """All measurements, one per row.

    Returns:
        ``cell``, ``task``, ``dataset``, ``network``, ``strategy``, a yes or no for each of
        ``TECHNIQUES``, ``seed``, ``attack``, ``epsilon``, ``n`` test images, ``accuracy``,
        ``balanced_accuracy`` and ``auroc`` (NaN with more than two classes), all three in [0, 1].
    """
    rows = [
        {"cell": cell.id}
        | {name: getattr(cell, name) for name in ("task", "dataset", "network", "strategy")}
        | {technique: technique in cell.techniques for technique in TECHNIQUES}
        | {"seed": repeat.seed, "attack": at[0], "epsilon": at[1], "n": len(repeat.budgets.labels)}
        | {
            "accuracy": repeat.budgets.accuracy(*at),
            "balanced_accuracy": repeat.budgets.balanced_accuracy(*at),
            "auroc": repeat.budgets.auroc(*at) if cell.scored else float("nan"),
        }
        for cell in cells
        for repeat in cell.repeats
        for at in repeat.budgets.outputs
    ]
    return pd.DataFrame(rows)
