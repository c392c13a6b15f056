"""What claims are judged by: per-image outcomes of the networks, and the paper's printed table."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from robust_transfer.claims import quantities
from robust_transfer.claims.quantities import Cell, Mean, Pair
from robust_transfer.evaluation import accuracies, intervals
from robust_transfer.evaluation.accuracies import COLUMNS, Evaluation
from robust_transfer.evaluation.intervals import Interval, Spread


@dataclass(frozen=True)
class Evidence:
    """Outcomes of the networks of one experiment, beside its paper.

    Attributes:
        evaluations: network id → seed → evaluation, all on the same test images.
        paper: a row per network, by id: ``label``, ``source``, ``target``, ``strategy`` and, in
            [0, 1], the accuracies that the paper prints.
    """

    evaluations: dict[str, dict[int, Evaluation]]
    paper: pd.DataFrame

    def outcomes(self, *cells: Cell) -> list[np.ndarray]:
        """Which images were classified correctly, per cell: bool ``(seeds, images)``.

        Only seeds that all the networks have are taken, so that seeds pair up like images.
        """
        shared = set.intersection(*(set(self.evaluations[cell.network]) for cell in cells))
        if not shared:
            raise ValueError(f"{' and '.join(c.network for c in cells)} have no seed in common")
        return [
            np.stack(
                [self.evaluations[cell.network][s].outcomes[cell.column] for s in sorted(shared)]
            )
            for cell in cells
        ]

    def means(self, *cells: Cell) -> Mean:
        """Accuracies of these cells in percent, over all images and the seeds they share."""
        found = dict(zip(cells, self.outcomes(*cells), strict=True))
        return lambda cell: 100 * float(found[cell].mean())

    def printed(self, cell: Cell) -> float:
        """The paper's accuracy, in percent."""
        return 100 * float(self.paper.loc[cell.network, cell.column])

    def gap(self, first: Cell, second: Cell, level: float = 0.95) -> Interval:
        """``first`` minus ``second`` in percentage points, paired over images and seeds."""
        a, b = self.outcomes(first, second)
        gaps, others = a.astype(float) - b, self.spread(first.column)
        mean, low, high, p = intervals.paired(gaps, level, others)
        return Interval(100 * mean, 100 * low, 100 * high, p)

    def spread(self, column: str) -> Spread | None:
        """How far apart seeds lie in a column, over the networks that have several."""
        named = {name: tuple(repeats.values()) for name, repeats in self.evaluations.items()}
        return accuracies.spread(named, column)

    def borrows(self, first: Cell, second: Cell) -> bool:
        """Whether the interval of their gap takes the spread between seeds from other networks."""
        seeds = self.size(first, second)["seeds"]
        return intervals.borrows(seeds, self.spread(first.column))

    def resampled(self, pair: Pair, level: float = 0.95) -> tuple[float, float]:
        """Bootstrap interval of the gap of a pair of quantities, in percentage points."""
        cells = quantities.cells((pair,))

        def statistic(*accuracies: float) -> float:
            percent = dict(zip(cells, (100 * accuracy for accuracy in accuracies), strict=True))
            return quantities.gap(pair, percent.__getitem__)

        return intervals.bootstrap(self.outcomes(*cells), statistic, level)

    def size(self, *cells: Cell) -> dict[str, int]:
        """Test images ``n``, at least, and ``seeds`` that all these cells have."""
        shapes = [found.shape for found in self.outcomes(*cells)]
        return {"n": min(n for _, n in shapes), "seeds": shapes[0][0]}

    def label(self, network: str) -> str:
        """A network's name for readers."""
        return self.paper.loc[network, "label"]

    @property
    def ours(self) -> pd.DataFrame:
        """Our accuracies in the form of ``paper``, in [0, 1], of the seeds that all rows have."""
        table = self.paper.copy()
        for column in COLUMNS:
            cells = [Cell(network, column) for network in table.index]
            mean = self.means(*cells)
            table[column] = [mean(cell) / 100 for cell in cells]
        return table
