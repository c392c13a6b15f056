"""The vocabulary of tests: small rules that look at the evidence and return a finding.

Their conventions were fixed before any result. T-diff replicates if the 95 % interval of the
difference excludes zero in the claimed direction, also after Holm's correction (``verdicts``), and
its mean is at least half of the claimed one, and partly if only the sign agrees. T-equiv asks for a
90 % interval inside a margin. T-order and T-cat are about means.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from scipy.stats import binomtest

from robust_transfer.claims import quantities
from robust_transfer.claims.evidence import Evidence
from robust_transfer.claims.outcome import (
    ALPHA,
    FAILS,
    PARTLY,
    REPLICATES,
    UNTESTED,
    Finding,
    combine,
    holds,
)
from robust_transfer.claims.quantities import Cell, Mean, Pair
from robust_transfer.evaluation.intervals import signed, with_interval


class Rule(Protocol):
    """Anything that turns evidence into a finding."""

    def finding(self, evidence: Evidence) -> Finding:
        """Test the evidence."""


@dataclass(frozen=True)
class Difference:
    """T-diff: ``first`` is above ``second``, by ``expected`` points.

    Attributes:
        expected: claimed size; None takes the difference that the paper prints.
        cost: what is claimed is a small loss, so an interval wholly above its size is no full hit.
    """

    first: str
    second: str
    column: str
    expected: float | None = None
    cost: bool = False

    def finding(self, evidence: Evidence) -> Finding:
        pair = Cell(self.first, self.column), Cell(self.second, self.column)
        interval = evidence.gap(*pair)
        printed = quantities.gap(pair, evidence.printed)
        expected = printed if self.expected is None else self.expected
        expected = 0.0 if math.isnan(expected) else expected  # nobody says how much
        full = interval.low > 0 and interval.mean >= expected / 2
        full &= not self.cost or interval.low <= expected
        return Finding(
            quantities.compare(pair, "above", evidence.label),
            REPLICATES if full else PARTLY if interval.mean > 0 else FAILS,
            with_interval(*interval[:3]),
            signed(printed),
            cells=pair,
            **evidence.size(*pair),
            borrowed=evidence.borrows(*pair),
            effect=interval.mean,
            low=interval.low,
            high=interval.high,
            expected=expected,
            p=interval.p,
            undecided=interval.mean <= 0 and interval.high >= expected / 2,
        )


@dataclass(frozen=True)
class Equivalence:
    """T-equiv: two networks differ by at most ``margin`` points."""

    first: str
    second: str
    column: str
    margin: float

    def finding(self, evidence: Evidence) -> Finding:
        pair = Cell(self.first, self.column), Cell(self.second, self.column)
        mean, low, high, _ = evidence.gap(*pair, level=0.9)
        inside = -self.margin <= low and high <= self.margin
        return Finding(
            quantities.compare(pair, f"within ±{self.margin:g} of", evidence.label),
            holds(inside),
            with_interval(mean, low, high),
            signed(quantities.gap(pair, evidence.printed)),
            cells=pair,
            **evidence.size(*pair),
            borrowed=evidence.borrows(*pair),
            effect=mean,
            low=low,
            high=high,
            undecided=not inside and low <= self.margin and high >= -self.margin,
        )


@dataclass(frozen=True)
class AtMost:
    """T-cat: an accuracy is at most ``bound`` percent."""

    network: str
    column: str
    bound: float

    def finding(self, evidence: Evidence) -> Finding:
        cell = Cell(self.network, self.column)
        value = evidence.means(cell)(cell)
        return Finding(
            f"{evidence.label(self.network)} at most {self.bound:g} % in {self.column}",
            holds(round(value, 9) <= self.bound),
            f"{value:.1f} %",
            f"{evidence.printed(cell):.1f} %",
            cells=(cell,),
            **evidence.size(cell),
        )


Gaps = list[tuple[Pair, float]]
"""Pairs that are defined, with first minus second in percentage points."""


@dataclass(frozen=True)
class Order:
    """T-order, and T-cat between accuracies: in every pair the first is above the second.

    Attributes:
        pairs: all should hold; how many do is counted. Pairs that are not defined drop out.
        words: what is put in order; a single pair says so itself.
        points: smallest allowed gap in percentage points; None asks for more than zero.
    """

    pairs: tuple[Pair, ...]
    words: str = ""
    points: float | None = None

    def finding(self, evidence: Evidence) -> Finding:
        cells = quantities.cells(self.pairs)
        ours, paper = self._gaps(evidence.means(*cells)), self._gaps(evidence.printed)
        return Finding(
            self.words or self._relation(evidence, self.pairs[0]),
            cells=cells,
            **evidence.size(*cells),
            **{"paper": self._count(paper)} | self._judge(evidence, ours),
        )

    def _relation(self, evidence: Evidence, pair: Pair) -> str:
        if not self.points:
            relation = "above" if self.points is None else "not below"
            return quantities.compare(pair, relation, evidence.label)
        return f"{quantities.compare(pair, 'minus', evidence.label)} at least {self.points:+g}"

    def _in_order(self, gap: float) -> bool:
        return gap > 0 if self.points is None else gap >= self.points

    def _gaps(self, mean: Mean) -> Gaps:
        found = [(pair, quantities.gap(pair, mean)) for pair in self.pairs]
        return [(pair, gap) for pair, gap in found if not math.isnan(gap)]

    def _count(self, gaps: Gaps) -> str:
        if len(self.pairs) == 1:
            return "".join(signed(gap) for _, gap in gaps)
        return f"{sum(self._in_order(gap) for _, gap in gaps)} of {len(gaps)}" if gaps else ""

    def _judge(self, evidence: Evidence, ours: Gaps) -> dict[str, object]:
        """The fields of a finding that say how it went; names the exceptions if they are few."""
        broken = [pair for pair, gap in ours if not self._in_order(gap)]
        few = 0 < len(broken) <= 3 and len(self.pairs) > len(broken)
        names = "; ".join(self._relation(evidence, pair) for pair in broken)
        return {
            "outcome": combine(holds(self._in_order(gap)) for _, gap in ours),
            "ours": self._count(ours) + few * f"; not: {names}",
        }


@dataclass(frozen=True)
class SignTest(Order):
    """An order that may have exceptions, as long as it holds more often than by chance."""

    def _judge(self, evidence: Evidence, ours: Gaps) -> dict[str, object]:
        fields = super()._judge(evidence, ours)
        if signs := [gap > 0 for _, gap in ours if gap != 0]:
            fields["p"] = float(binomtest(sum(signs), len(signs)).pvalue)
            majority = 2 * sum(signs) > len(signs)
            full = majority and fields["p"] < ALPHA
            fields["outcome"] = REPLICATES if full else PARTLY if majority else FAILS
        return fields


@dataclass(frozen=True)
class Alike(Order):
    """In *every* pair the two differ by at most ``points``."""

    def _in_order(self, gap: float) -> bool:
        return abs(gap) <= self.points

    def _judge(self, evidence: Evidence, ours: Gaps) -> dict[str, object]:
        if not ours:
            return {"outcome": UNTESTED, "ours": "not defined"}
        pair, widest = max(ours, key=lambda found: abs(found[1]))
        low, high = evidence.resampled(pair)
        names = quantities.compare(pair, "against", evidence.label)
        text = f"{self._count(ours)}; widest {with_interval(widest, low, high)}, {names}"
        effect = {"effect": widest, "low": low, "high": high}
        return {"outcome": holds(self._in_order(widest)), "ours": text} | effect


@dataclass(frozen=True)
class Control:
    """A negative control: the same test, of something else, must fail."""

    rules: tuple[Rule, ...]

    def finding(self, evidence: Evidence) -> Finding:
        findings = [rule.finding(evidence) for rule in self.rules]
        cells = tuple(dict.fromkeys(cell for found in findings for cell in found.cells))
        return Finding(
            "control, must not all hold: " + "; ".join(found.statement for found in findings),
            holds(combine(found.outcome for found in findings) != REPLICATES),
            "; ".join(found.ours for found in findings),
            "; ".join(found.paper for found in findings),
            cells=cells,
            **evidence.size(*cells),
            control=True,
        )


class Fact(NamedTuple):
    """What a computation says of a claim: whether it holds (None: open), in words, from what.

    ``undecided`` is as in ``Finding``.
    """

    holds: bool | None
    ours: str
    paper: str = ""
    cells: tuple[Cell, ...] = ()
    undecided: bool = False


@dataclass(frozen=True)
class Check:
    """Whatever no other rule says: a computation on the evidence, the library or printed tables."""

    words: str
    compute: Callable[[Evidence], Fact]

    def finding(self, evidence: Evidence) -> Finding:
        fact = self.compute(evidence)
        outcome = UNTESTED if fact.holds is None else holds(fact.holds)
        size = evidence.size(*fact.cells) if fact.cells else {}
        undecided = outcome == FAILS and fact.undecided
        texts = self.words, outcome, fact.ours, fact.paper
        return Finding(*texts, fact.cells, **size, undecided=undecided)


class Claim:
    """A claim of a paper as rules.

    Attributes:
        rules: all of them hold if it replicates.
        lacking: what its test asks for beyond the records; without rules, why there are none.
    """

    def __init__(self, *rules: Rule, lacking: str = "") -> None:
        self.rules, self.lacking = rules, lacking
