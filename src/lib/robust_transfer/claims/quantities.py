"""What can be compared: accuracies, shares of them that a transfer keeps, and bests of groups.

All are in percent, and their differences in percentage points, as claims state them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Cell:
    """The accuracy of a network in a column of the table."""

    network: str
    column: str

    @property
    def cells(self) -> tuple["Cell", ...]:
        """Itself."""
        return (self,)

    def value(self, mean: "Mean") -> float:
        return mean(self)

    def name(self, label: "Label") -> str:
        return label(self.network)


Mean = Callable[[Cell], float]
"""Where accuracies in percent are taken from: our records, the paper, or a resample of records."""
Label = Callable[[str], str]
"""From a network's id to its name for readers."""


class Quantity(Protocol):
    """Something in percent, computed from accuracies.

    Attributes:
        cells: those accuracies.
        column: their column.
    """

    cells: tuple[Cell, ...]
    column: str

    def value(self, mean: Mean) -> float:
        """The quantity; NaN where it is not defined."""

    def name(self, label: Label) -> str:
        """What it is, for readers, but for its column."""


@dataclass(frozen=True)
class Retained:
    """The share of an un-transferred defence's accuracy that a transferred network keeps."""

    network: str
    baseline: str
    column: str

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Of the network, and of the baseline."""
        return Cell(self.network, self.column), Cell(self.baseline, self.column)

    def value(self, mean: Mean) -> float:
        kept, whole = map(mean, self.cells)
        return 100 * kept / whole if whole else math.nan

    def name(self, label: Label) -> str:
        return f"share of {label(self.baseline)} kept by {label(self.network)}"


@dataclass(frozen=True)
class Best:
    """The highest accuracy in a group of networks."""

    group: str
    networks: tuple[str, ...]
    column: str

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Of the whole group."""
        return tuple(Cell(network, self.column) for network in self.networks)

    def value(self, mean: Mean) -> float:
        return max(map(mean, self.cells))

    def name(self, label: Label) -> str:
        return f"best of {self.group}"


Pair = tuple[Quantity, Quantity]


def gap(pair: Pair, mean: Mean) -> float:
    """First minus second, in percentage points.

    Rounded far below an image's weight, so that ties and thresholds are met exactly.
    """
    first, second = pair
    return round(first.value(mean) - second.value(mean), 9)


def compare(pair: Pair, relation: str, label: Label) -> str:
    """Two quantities and what they are to each other, for readers."""
    first, second = (part.name(label) for part in pair)
    if pair[0].column == pair[1].column:
        return f"{first} {relation} {second} in {pair[0].column}"
    return f"{first} in {pair[0].column} {relation} {second} in {pair[1].column}"


def cells(pairs: tuple[Pair, ...]) -> tuple[Cell, ...]:
    """The accuracies that pairs rest on, each once."""
    return tuple(dict.fromkeys(cell for pair in pairs for part in pair for cell in part.cells))
