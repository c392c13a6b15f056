"""The ledger: every claim with its test, what was found, and the verdict."""

from dataclasses import dataclass, fields, replace
from functools import cached_property

import pandas as pd
from statsmodels.stats.multitest import multipletests

from robust_transfer import paths
from robust_transfer.claims.evidence import Evidence
from robust_transfer.claims.outcome import (
    ALPHA,
    FAILS,
    PARTLY,
    REPLICATES,
    UNTESTED,
    VERDICTS,
    Finding,
    Verdict,
    combine,
)
from robust_transfer.claims.rules import Claim

MANY_SEEDS = {"D11": 5, "D12": 5, "D13": 5, "D14": 5, "D36": 5, "M01": 5, "M08": 8}
SEEDS = 3
"""Seeds that a verdict asks for, with the claims that ask for more (fixed before any result)."""
COUNTED = ("replicates", "partly", "fails", "untested")
"""Names of the verdicts' counts."""


@dataclass(frozen=True)
class Judgement:
    """A claim, tested.

    Attributes:
        id, group: which one, and what it is about.
        words: its row of claims.csv: ``claim``, ``evidence``, ``test``, ``expected``.
        claim: its rules.
        findings: one a rule.
    """

    id: str
    group: str
    words: pd.Series
    claim: Claim
    findings: tuple[Finding, ...]

    @cached_property
    def verdict(self) -> Verdict:
        """All rules hold, some or none do; a control that fails leaves it at partly."""
        verdict = combine(found.outcome for found in self.findings if not found.control)
        controlled = all(found.outcome == REPLICATES for found in self.findings if found.control)
        return PARTLY if verdict == REPLICATES and not controlled else verdict

    @property
    def seeds(self) -> int | None:
        """Fewest seeds that a finding rests on, controls aside; None if none rests on records."""
        return min(self._seeds, default=None)

    @property
    def _seeds(self) -> set[int]:
        return {found.seeds for found in self.findings if found.seeds and not found.control}

    @property
    def caveat(self) -> str:
        """Why the verdict is provisional, or why there is none; empty if it is final."""
        reasons = []
        needed = MANY_SEEDS.get(self.id, SEEDS)
        if self.seeds is not None and self.seeds < needed:
            reasons.append(f"{self.seeds} of {needed} seeds")
            if self.seeds == 1:
                reasons[-1] = "one seed" + (len(self._seeds) > 1) * " in part of the tests"
            if any(found.borrowed for found in self.findings):
                reasons[-1] += ": spread between seeds taken from other rows"
            elif self.seeds == 1 and any(found.low is not None for found in self.findings):
                reasons[-1] += ": interval over test images only"
        if any(lost_to_holm(found) for found in self.findings):
            reasons.append(f"p > {ALPHA} after Holm's correction")
        if any(found.undecided for found in self.findings):
            reasons.append("an interval does not exclude the claim")
        return "; ".join(reasons + [self.claim.lacking] * bool(self.claim.lacking))


def read() -> pd.DataFrame:
    """The claims in words, by id: ``paper``, ``claim``, ``evidence``, ``test``, ``expected``."""
    return pd.read_csv(paths.REFERENCE / "claims.csv", index_col="id", keep_default_na=False)


def judge(evidence: Evidence, groups: dict[str, dict[str, Claim]]) -> dict[str, Judgement]:
    """Test the claims of one paper, which is the family of Holm's correction.

    Args:
        evidence: what they are judged by.
        groups: the claims by group and id.
    """
    words, judged = read(), {}
    for group, claims in groups.items():
        for name, claim in claims.items():
            findings = tuple(rule.finding(evidence) for rule in claim.rules)
            judged[name] = Judgement(name, group, words.loc[name], claim, findings)
    return _corrected(judged)


def lost_to_holm(found: Finding) -> bool:
    """Whether a difference in the claimed direction is significant only before the correction."""
    tested = found.p is not None and found.outcome in (REPLICATES, PARTLY)
    return tested and found.p < ALPHA < found.adjusted


def _corrected(judged: dict[str, Judgement]) -> dict[str, Judgement]:
    """Adjust all p-values together; what is significant only before that is partly right."""
    ps = [found.p for claim in judged.values() for found in claim.findings if found.p is not None]
    adjusted = iter(multipletests(ps, ALPHA, "holm")[1] if ps else ())
    return {
        name: replace(
            claim,
            findings=tuple(
                found if found.p is None else _adjusted(found, float(next(adjusted)))
                for found in claim.findings
            ),
        )
        for name, claim in judged.items()
    }


def _adjusted(found: Finding, p: float) -> Finding:
    found = replace(found, adjusted=p)
    return replace(found, outcome=PARTLY) if lost_to_holm(found) else found


def ledger(judged: dict[str, Judgement]) -> pd.DataFrame:
    """One row a claim, by id.

    Returns:
        ``group``, ``claim``, ``rule``, ``verdict``, ``held`` (rules that hold, of those that can be
        tested here, controls aside), the first ``effect`` with its interval ``low``, ``high`` in
        percentage points, ``n`` test images, ``seeds``, ``caveat`` and the ids of its ``networks``.
    """
    table = []
    for name, claim in sorted(judged.items()):
        found = claim.findings
        first = next((f for f in found if f.effect is not None), None)
        networks = dict.fromkeys(cell.network for f in found for cell in f.cells)
        outcomes = [f.outcome for f in found if f.outcome != UNTESTED and not f.control]
        table.append(
            {
                "id": name,
                "group": claim.group,
                "claim": claim.words["claim"],
                "rule": claim.words["test"],
                "verdict": claim.verdict,
                "held": f"{outcomes.count(REPLICATES)} of {len(outcomes)}",
                "effect": first.effect if first else None,
                "low": first.low if first else None,
                "high": first.high if first else None,
                "n": min((f.n for f in found if f.n), default=None),
                "seeds": claim.seeds,
                "caveat": claim.caveat,
                "networks": ", ".join(networks),
            }
        )
    return pd.DataFrame(table).set_index("id").astype({"n": "Int64", "seeds": "Int64"})


def findings(judged: dict[str, Judgement], name: str) -> pd.DataFrame:
    """What was found on a claim, a row per rule: all fields of ``Finding``."""
    return pd.DataFrame([vars(found) for found in judged[name].findings])


def overview(judged: dict[str, Judgement]) -> pd.DataFrame:
    """Ids of the claims by group and verdict, with their number in the last row."""
    table = {verdict: {} for verdict in VERDICTS}
    for name, claim in judged.items():
        table[claim.verdict].setdefault(claim.group, []).append(name)
    groups = dict.fromkeys(claim.group for claim in judged.values())
    shown = pd.DataFrame(
        {v: [", ".join(sorted(table[v].get(group, []))) for group in groups] for v in VERDICTS},
        index=list(groups),
    )
    counts = numbers(judged)
    shown.loc["claims"] = [str(counts[name]) for name in COUNTED]
    return shown


def numbers(judged: dict[str, Judgement]) -> dict[str, int]:
    """The counts that prose quotes: claims by verdict, and differences by what they show."""
    verdicts = [claim.verdict for claim in judged.values()]
    gaps = differences(judged)
    counts = (verdicts.count(verdict) for verdict in VERDICTS)
    return dict(zip(COUNTED, counts, strict=True)) | {
        "claims": len(judged),
        "checks": sum(
            c.verdict == REPLICATES and c.group in ("Sanity", "Protocol") for c in judged.values()
        ),
        "undecided": sum(
            c.verdict == FAILS and any(f.undecided for f in c.findings) for c in judged.values()
        ),
        "provisional": sum(c.verdict != UNTESTED and bool(c.caveat) for c in judged.values()),
        "differences": len(gaps),
        "same_sign": int((gaps["effect"] > 0).sum()),
        "without_zero": int((gaps["low"] > 0).sum()),
        "after_holm": int(((gaps["low"] > 0) & (gaps["adjusted"] < ALPHA)).sum()),
        "reversed": int((gaps["high"] < 0).sum()),
    }


def differences(judged: dict[str, Judgement]) -> pd.DataFrame:
    """Every claimed difference: fields of ``Finding`` and the claim's ``id``, a row each."""
    table = [
        {"id": name} | vars(found)
        for name, claim in judged.items()
        for found in claim.findings
        if found.expected is not None
    ]
    return pd.DataFrame(table, columns=["id", *(field.name for field in fields(Finding))])
