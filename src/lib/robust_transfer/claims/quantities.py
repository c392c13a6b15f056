"""What can be compared: accuracies, shares of them that a transfer keeps, and bests of groups.

All are in percent, and their differences in percentage points, as claims state them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from robust_transfer.evaluation.accuracies import NAMES


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of a network in a column of the table."""

    network: str
    column: str

    @property
    def basis(self) -> tuple["Accuracy", ...]:
        """Itself."""
        return (self,)

    def value(self, percent: "Percentages") -> float:
        return percent[self]

    def name(self, labels: Mapping[str, str]) -> str:
        return labels[self.network]


Percentages = Mapping[Accuracy, float]
"""Accuracies in percent, of our records, of the paper, or of a resample of records."""


class Quantity(Protocol):
    """Something in percent, computed from accuracies.

    Attributes:
        basis: those accuracies.
        column: their column.
    """

    basis: tuple[Accuracy, ...]
    column: str

    def value(self, percent: Percentages) -> float:
        """The quantity; NaN where it is not defined."""

    def name(self, labels: Mapping[str, str]) -> str:
        """What it is, for readers, but for its column; ``labels`` are networks' names by id."""


@dataclass(frozen=True)
class Retained:
    """The share of an un-transferred defence's accuracy that a transferred network keeps."""

    network: str
    baseline: str
    column: str

    @property
    def basis(self) -> tuple[Accuracy, ...]:
        """Of the network, and of the baseline."""
        return Accuracy(self.network, self.column), Accuracy(self.baseline, self.column)

    def value(self, percent: Percentages) -> float:
        left, whole = (percent[part] for part in self.basis)
        return 100 * left / whole if whole else math.nan

    def name(self, labels: Mapping[str, str]) -> str:
        return f"share of {labels[self.baseline]} kept by {labels[self.network]}"


@dataclass(frozen=True)
class Best:
    """The highest accuracy in a group of networks."""

    group: str
    networks: tuple[str, ...]
    column: str

    @property
    def basis(self) -> tuple[Accuracy, ...]:
        """Of the whole group."""
        return tuple(Accuracy(network, self.column) for network in self.networks)

    def value(self, percent: Percentages) -> float:
        return max(percent[part] for part in self.basis)

    def name(self, labels: Mapping[str, str]) -> str:
        return f"best of {self.group}"


Pair = tuple[Quantity, Quantity]


def gap(pair: Pair, percent: Percentages) -> float:
    """First minus second, in percentage points.

    Rounded far below an image's weight, so that ties and thresholds are met exactly.
    """
    first, second = pair
    return round(first.value(percent) - second.value(percent), 9)


def phrase(pair: Pair, relation: str, labels: Mapping[str, str]) -> str:
    """Two quantities and what they are to each other, for readers."""
    first, second = (part.name(labels) for part in pair)
    columns = [called(part.column) for part in pair]
    if pair[0].column == pair[1].column:
        return f"{first} {relation} {second} in {columns[0]}"
    return f"{first} in {columns[0]} {relation} {second} in {columns[1]}"


def called(column: str) -> str:
    """A column's name for readers; those of the second paper have no other."""
    return NAMES.get(column, column)


def basis(pairs: tuple[Pair, ...]) -> tuple[Accuracy, ...]:
    """The accuracies that pairs rest on, each once."""
    return tuple(dict.fromkeys(part for pair in pairs for side in pair for part in side.basis))
