"""What claims are judged by: an experiment reproduced, image by image, and its paper's table."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from robust_transfer.claims import quantities
from robust_transfer.claims.quantities import Accuracy, Pair, Percentages
from robust_transfer.evaluation import intervals
from robust_transfer.evaluation.accuracies import COLUMNS, Evaluation
from robust_transfer.evaluation.intervals import Interval, Spread


@dataclass(frozen=True)
class Reproduction:
    """Outcomes of the networks of one experiment, beside its paper.

    Attributes:
        evaluations: network id → seed → evaluation, all on the same test images.
        paper: a row per network, by id: ``label``, ``source``, ``target``, ``strategy`` and, in
            [0, 1], the accuracies that the paper prints.
        doubts: network id → what says that attacks on it did not work, where that was looked for.
        histories: network id → its training, a row per epoch; see ``Record.history``.
    """

    evaluations: dict[str, dict[int, Evaluation]]
    paper: pd.DataFrame
    doubts: dict[str, list[str]] = field(default_factory=dict)
    histories: dict[str, pd.DataFrame] = field(default_factory=dict)

    def outcomes(self, *basis: Accuracy) -> list[np.ndarray]:
        """Which images were classified correctly, per accuracy: bool ``(seeds, images)``.

        Only seeds that all the networks have are taken, so that seeds pair up like images.
        """
        seeds = (
            {s for s, e in self.evaluations[part.network].items() if part.column in e.outcomes}
            for part in basis
        )
        shared = set.intersection(*seeds)
        if not shared:
            raise ValueError(f"{' and '.join(a.network for a in basis)} have no seed in common")
        return [
            np.stack([self.evaluations[a.network][s].outcomes[a.column] for s in sorted(shared)])
            for a in basis
        ]

    def has(self, accuracy: Accuracy) -> bool:
        """Whether an accuracy was measured, from one seed at least."""
        found = self.evaluations[accuracy.network].values()
        return any(accuracy.column in evaluation.outcomes for evaluation in found)

    def means(self, *basis: Accuracy) -> Percentages:
        """These accuracies in percent, over all images and the seeds they share."""
        hits = zip(basis, self.outcomes(*basis), strict=True)
        return {accuracy: 100 * float(of.mean()) for accuracy, of in hits}

    def printed(self, *basis: Accuracy) -> Percentages:
        """The paper's accuracies, in percent; NaN in a column that it does not have."""
        table = self.paper.reindex(columns=[*dict.fromkeys(a.column for a in basis)])
        return {a: 100 * float(table.loc[a.network, a.column]) for a in basis}

    def gap(self, first: Accuracy, second: Accuracy, level: float = 0.95) -> Interval:
        """``first`` minus ``second`` in percentage points, paired over images and seeds."""
        a, b = self.outcomes(first, second)
        gaps, others = a.astype(float) - b, self.spread(first.column)
        mean, low, high, p = intervals.paired(gaps, level, others)
        return Interval(100 * mean, 100 * low, 100 * high, p)

    def spread(self, column: str) -> Spread | None:
        """How far apart seeds lie in a column, over the networks that have several."""
        repeated = (repeats.values() for repeats in self.evaluations.values())
        return intervals.pooled(
            [e.accuracy(column) for e in repeats if column in e.outcomes] for repeats in repeated
        )

    def borrows(self, first: Accuracy, second: Accuracy) -> bool:
        """Whether the interval of their gap takes the spread between seeds from other networks."""
        seeds = self.size(first, second)["seeds"]
        return intervals.borrows(seeds, self.spread(first.column))

    def resampled(self, pair: Pair, level: float = 0.95) -> tuple[float, float]:
        """Bootstrap interval of the gap of a pair of quantities, in percentage points."""
        basis = quantities.basis((pair,))

        def statistic(*shares: float) -> float:
            drawn = {a: 100 * share for a, share in zip(basis, shares, strict=True)}
            return quantities.gap(pair, drawn)

        return intervals.bootstrap(self.outcomes(*basis), statistic, level)

    def size(self, *basis: Accuracy) -> dict[str, int]:
        """Test images ``n``, at least, and ``seeds`` that all these accuracies have."""
        shapes = [hits.shape for hits in self.outcomes(*basis)]
        return {"n": min(n for _, n in shapes), "seeds": shapes[0][0]}

    @property
    def labels(self) -> pd.Series:
        """Network id → its name for readers."""
        return self.paper["label"]

    @property
    def ours(self) -> pd.DataFrame:
        """Our accuracies in the form of ``paper``, in [0, 1], of the seeds that all rows have."""
        table = self.paper.copy()
        for column in COLUMNS:
            percent = self.means(*(Accuracy(network, column) for network in table.index))
            table[column] = [value / 100 for value in percent.values()]
        return table
