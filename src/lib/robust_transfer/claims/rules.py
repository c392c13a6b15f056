"""The vocabulary of tests: small rules that look at a reproduction and return a finding.

Fixed before any result: T-diff replicates if the 95 % interval of the difference excludes zero in
the claimed direction, also after Holm's correction (``verdicts``), and its mean is at least half of
the claimed one. T-equiv asks for a 90 % interval inside a margin. T-order and T-cat are about
means.

Changed on 2026-11-26, after results were seen; the protocol says why, claim by claim. A T-diff of
which only the sign agrees holds in part only if its interval excludes zero, or allows for half of
the claim. "At most so far below" has a rule of its own, one-sided. A claim holds partly only if one
of its tests holds. What a ``Former`` rule finds is shown, and counts nothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from scipy.stats import binomtest

from robust_transfer.claims import outcome, quantities
from robust_transfer.claims.outcome import Finding, combine, holds
from robust_transfer.claims.quantities import Accuracy, Pair, Percentages
from robust_transfer.claims.reproduction import Reproduction
from robust_transfer.evaluation.intervals import Interval, signed, with_interval


class Rule(Protocol):
    """Anything that turns a reproduction into a finding."""

    def finding(self, reproduction: Reproduction) -> Finding:
        """Test the reproduction."""


def _resting(reproduction: Reproduction, basis: tuple[Accuracy, ...]) -> dict[str, object]:
    """The fields of a finding that say which accuracies it rests on, and how many images."""
    return {"basis": basis} | (reproduction.size(*basis) if basis else {})


@dataclass(frozen=True)
class _Compared:
    """Two networks in a column, told apart by a paired interval."""

    first: str
    second: str
    column: str

    @property
    def pair(self) -> tuple[Accuracy, Accuracy]:
        """Their accuracies."""
        return Accuracy(self.first, self.column), Accuracy(self.second, self.column)

    def _printed(self, reproduction: Reproduction) -> float:
        return quantities.gap(self.pair, reproduction.printed(*self.pair))

    def _found(
        self, reproduction: Reproduction, relation: str, interval: Interval, **judged
    ) -> Finding:
        return Finding(
            quantities.phrase(self.pair, relation, reproduction.labels),
            ours=with_interval(*interval[:3]),
            paper=signed(self._printed(reproduction)),
            **_resting(reproduction, self.pair),
            borrowed=reproduction.borrows(*self.pair),
            effect=interval.mean,
            low=interval.low,
            high=interval.high,
            **judged,
        )


@dataclass(frozen=True)
class Difference(_Compared):
    """T-diff: ``first`` is above ``second``, by ``expected`` points.

    Attributes:
        expected: claimed size; None takes the difference that the paper prints.
        cost: what is claimed is a small loss, so an interval wholly above its size is no full hit.
    """

    expected: float | None = None
    cost: bool = False

    def finding(self, reproduction: Reproduction) -> Finding:
        interval = reproduction.gap(*self.pair)
        expected = self._printed(reproduction) if self.expected is None else self.expected
        expected = 0.0 if math.isnan(expected) else expected  # nobody says how much
        full = interval.low > 0 and interval.mean >= expected / 2
        allowed = interval.high >= expected / 2
        full &= not self.cost or interval.low <= expected
        return self._found(
            reproduction,
            "above",
            interval,
            outcome=holds(
                full, interval.low > 0 or (interval.mean > 0 and interval.high >= expected / 2)
            ),
            expected=expected,
            p=interval.p,
            undecided=interval.mean <= 0 and allowed,
        )


@dataclass(frozen=True)
class Equivalence(_Compared):
    """T-equiv: two networks differ by at most ``margin`` points."""

    margin: float

    def finding(self, reproduction: Reproduction) -> Finding:
        interval = reproduction.gap(*self.pair, level=0.9)
        inside = -self.margin <= interval.low and interval.high <= self.margin
        apart = interval.low > self.margin or interval.high < -self.margin
        relation = f"within ±{self.margin:g} of"
        judged = {"outcome": holds(inside), "undecided": not inside and not apart}
        return self._found(reproduction, relation, interval, **judged)


@dataclass(frozen=True)
class NotBelow(_Compared):
    """``first`` is at most ``margin`` points below ``second``: one side of T-equiv."""

    margin: float

    def finding(self, reproduction: Reproduction) -> Finding:
        interval = reproduction.gap(*self.pair, level=0.9)
        holding, refuted = interval.low >= -self.margin, interval.high < -self.margin
        relation = f"at most {self.margin:g} below"
        judged = {"outcome": holds(holding), "undecided": not holding and not refuted}
        return self._found(reproduction, relation, interval, **judged)


@dataclass(frozen=True)
class AtMost:
    """T-cat: an accuracy is at most ``bound`` percent."""

    network: str
    column: str
    bound: float

    def finding(self, reproduction: Reproduction) -> Finding:
        accuracy = Accuracy(self.network, self.column)
        name, column = reproduction.labels[self.network], quantities.called(self.column)
        said = f"{name} at most {self.bound:g} % in {column}"
        if not reproduction.has(accuracy):
            return Finding(said, outcome.UNTESTED, "not measured")
        value = reproduction.means(accuracy)[accuracy]
        printed = reproduction.printed(accuracy)[accuracy]
        return Finding(
            said,
            holds(round(value, 9) <= self.bound),
            f"{value:.1f} %",
            "" if math.isnan(printed) else f"{printed:.1f} %",
            **_resting(reproduction, (accuracy,)),
        )


Gaps = list[tuple[Pair, float]]
"""Pairs that are defined, with first minus second in percentage points."""


@dataclass(frozen=True)
class Order:
    """T-order, and T-cat between accuracies: in every pair the first is above the second.

    Attributes:
        pairs: all should hold; how many do is counted. Pairs that are not defined, or not measured,
            drop out.
        words: what is put in order; a single pair says so itself.
        points: smallest allowed gap in percentage points; None asks for more than zero.
    """

    pairs: tuple[Pair, ...]
    words: str = ""
    points: float | None = None

    def finding(self, reproduction: Reproduction) -> Finding:
        basis = quantities.basis(self.pairs)
        said = self.words or self._relation(reproduction, self.pairs[0])
        printed = self._count(self._gaps(reproduction.printed(*basis)))
        if not (basis := tuple(filter(reproduction.has, basis))):
            return Finding(said, outcome.UNTESTED, "not measured", printed)
        judged = self._judge(reproduction, self._gaps(reproduction.means(*basis)))
        return Finding(said, paper=printed, **_resting(reproduction, basis), **judged)

    def _relation(self, reproduction: Reproduction, pair: Pair) -> str:
        relation = "above" if self.points is None else "minus" if self.points else "not below"
        words = quantities.phrase(pair, relation, reproduction.labels)
        return f"{words} at least {self.points:+g}" if self.points else words

    def _in_order(self, gap: float) -> bool:
        return gap > 0 if self.points is None else gap >= self.points

    def _gaps(self, percent: Percentages) -> Gaps:
        there = [pair for pair in self.pairs if percent.keys() >= {*quantities.basis((pair,))}]
        gaps = [(pair, quantities.gap(pair, percent)) for pair in there]
        return [(pair, gap) for pair, gap in gaps if not math.isnan(gap)]

    def _count(self, gaps: Gaps) -> str:
        if len(self.pairs) == 1:
            return "".join(signed(gap) for _, gap in gaps)
        return f"{sum(self._in_order(gap) for _, gap in gaps)} of {len(gaps)}" if gaps else ""

    def _judge(self, reproduction: Reproduction, ours: Gaps) -> dict[str, object]:
        """The fields of a finding that say how it went; names the exceptions if they are few.

        With their gaps, for an image or two can break an order.
        """
        broken = [(pair, gap) for pair, gap in ours if not self._in_order(gap)]
        text = self._count(ours)
        if 0 < len(broken) <= 3 and len(self.pairs) > len(broken):
            said = [f"{self._relation(reproduction, p)} ({signed(gap, 2)})" for p, gap in broken]
            text += "; not: " + "; ".join(said)
        return {"outcome": combine(holds(self._in_order(gap)) for _, gap in ours), "ours": text}


@dataclass(frozen=True)
class SignTest(Order):
    """An order that may have exceptions, as long as it holds more often than by chance."""

    def _judge(self, reproduction: Reproduction, ours: Gaps) -> dict[str, object]:
        judged = super()._judge(reproduction, ours)
        if signs := [gap > 0 for _, gap in ours if gap != 0]:
            p = float(binomtest(sum(signs), len(signs)).pvalue)
            majority = 2 * sum(signs) > len(signs)
            judged["ours"] += f"; p = {p:.2f} in a sign test"
            judged |= {"p": p, "outcome": holds(majority and p < outcome.ALPHA, partly=majority)}
        return judged


@dataclass(frozen=True)
class Alike(Order):
    """In *every* pair the two differ by at most ``points``."""

    def _in_order(self, gap: float) -> bool:
        return abs(gap) <= self.points

    def _judge(self, reproduction: Reproduction, ours: Gaps) -> dict[str, object]:
        if not ours:
            return {"outcome": outcome.UNTESTED, "ours": "not defined"}
        pair, widest = max(ours, key=lambda gap: abs(gap[1]))
        low, high = reproduction.resampled(pair)
        names = quantities.phrase(pair, "against", reproduction.labels)
        text = f"{self._count(ours)}; widest {with_interval(widest, low, high)}, {names}"
        effect = {"effect": widest, "low": low, "high": high}
        return {"outcome": holds(self._in_order(widest)), "ours": text} | effect


@dataclass(frozen=True)
class Control:
    """A negative control: none of the same tests, of something else, may hold."""

    rules: tuple[Rule, ...]

    def finding(self, reproduction: Reproduction) -> Finding:
        findings = [rule.finding(reproduction) for rule in self.rules]
        basis = tuple(dict.fromkeys(part for f in findings for part in f.basis))
        return Finding(
            "control, none may hold: " + "; ".join(f.statement for f in findings),
            holds(combine(f.outcome for f in findings) not in (outcome.REPLICATES, outcome.PARTLY)),
            "; ".join(f.ours for f in findings),
            "; ".join(f.paper for f in findings),
            **_resting(reproduction, basis),
            control=True,
        )


@dataclass(frozen=True)
class Former:
    """A rule until it was changed: what it finds is kept beside what the new one does."""

    rule: Rule

    def finding(self, reproduction: Reproduction) -> Finding:
        found = self.rule.finding(reproduction)
        words = f"former rule, not counted: {found.statement}"
        return replace(found, statement=words, p=None, expected=None, former=True)


class Fact(NamedTuple):
    """What a computation says of a claim: whether it holds (None: open), in words, from what.

    ``basis`` and ``undecided`` are as in ``Finding``.
    """

    holds: bool | None
    ours: str
    paper: str = ""
    basis: tuple[Accuracy, ...] = ()
    undecided: bool = False


@dataclass(frozen=True)
class Check:
    """Whatever no other rule says: a computation on a reproduction, the library or tables.

    Attributes:
        words: what is checked.
        fact: what came of it, or how to compute that.
    """

    words: str
    fact: Fact | Callable[[Reproduction], Fact]

    def finding(self, reproduction: Reproduction) -> Finding:
        fact = self.fact if isinstance(self.fact, Fact) else self.fact(reproduction)
        went = outcome.UNTESTED if fact.holds is None else holds(fact.holds)
        resting = _resting(reproduction, fact.basis)
        undecided = fact.undecided and went == outcome.FAILS
        return Finding(self.words, went, fact.ours, fact.paper, **resting, undecided=undecided)


class Claim:
    """A claim of a paper as rules.

    Attributes:
        rules: all of them hold if it replicates.
        lacking: what its test asks for beyond the records; without rules, why there are none.
    """

    def __init__(self, *rules: Rule, lacking: str = "") -> None:
        self.rules, self.lacking = rules, lacking
