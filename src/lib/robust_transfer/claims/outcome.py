"""How a test went, and how several outcomes make a verdict."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from robust_transfer.claims.quantities import Accuracy

Verdict = Literal["replicates", "partly", "fails", "cannot be tested here"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
REPLICATES, PARTLY, FAILS, UNTESTED = VERDICTS
WENT = dict(zip(VERDICTS, ("holds", "holds in part", "fails", UNTESTED), strict=True))
"""Outcomes of single tests for readers, who know claims by the others."""
ALPHA = 0.05


@dataclass(frozen=True)
class Finding:
    """What a rule found.

    Attributes:
        statement: what was tested, in words.
        outcome: how it went.
        ours, paper: what decided it, in words, and the same of the paper's table.
        basis: the accuracies it rests on; none if it rests on no record.
        n, seeds: test images and seeds of those.
        effect, low, high: our difference and the ends of its interval, in percentage points.
        expected: the claimed difference, likewise.
        p, adjusted: two-sided p-value, where the rule has one, and after Holm's correction.
        borrowed: the interval takes the spread between seeds from other networks.
        undecided: it failed, but its interval allows for the claim too.
        control: it can take a verdict away, but not earn one.
        former: by a rule that was changed after results were seen; it is shown and counts nothing.
    """

    statement: str
    outcome: Verdict
    ours: str
    paper: str = ""
    basis: tuple[Accuracy, ...] = ()
    n: int | None = None
    seeds: int | None = None
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    expected: float | None = None
    p: float | None = None
    adjusted: float | None = None
    borrowed: bool = False
    undecided: bool = False
    control: bool = False
    former: bool = False

    @property
    def counts(self) -> bool:
        """Whether a verdict may rest on it."""
        return not (self.control or self.former)

    @property
    def went(self) -> str:
        """How it went, for readers."""
        if self.control and self.outcome != UNTESTED:
            return "none holds" if self.outcome == REPLICATES else "holds, though none may"
        return WENT[self.outcome]


def combine(outcomes: Iterable[Verdict]) -> Verdict:
    """One verdict of several: all hold, one at least, or none; one that holds in part does not.

    What cannot be tested is passed over.
    """
    judged = {outcome for outcome in outcomes if outcome != UNTESTED}
    if not judged:
        return UNTESTED
    if REPLICATES not in judged:
        return FAILS
    return REPLICATES if len(judged) == 1 else PARTLY


def holds(condition: bool, partly: bool = False) -> Verdict:
    """The outcome of a yes or no, the no with a part that holds or without."""
    return REPLICATES if condition else PARTLY if partly else FAILS


def networks(findings: Iterable[Finding]) -> tuple[str, ...]:
    """Ids of the networks that findings rest on, each once."""
    return tuple(dict.fromkeys(part.network for found in findings for part in found.basis))
