"""The ledger: every claim with its test, what was found, and the verdict."""

from dataclasses import dataclass, fields, replace
from functools import cached_property

import pandas as pd
from statsmodels.stats.multitest import multipletests

from robust_transfer import paths
from robust_transfer.claims import outcome
from robust_transfer.claims.outcome import ALPHA, PARTLY, REPLICATES, UNTESTED, Finding
from robust_transfer.claims.reproduction import Reproduction
from robust_transfer.claims.rules import Claim

MANY_SEEDS = {"D11": 5, "D12": 5, "D13": 5, "D14": 5, "D36": 5, "M01": 5, "M08": 8}
SEEDS = 3
"""Seeds that a verdict asks for, with the claims that ask for more (fixed before any result)."""
CODE = "Our code"
"""Group of claims that a test of our own code settles; none of them counts as replicated."""
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
    def verdict(self) -> outcome.Verdict:
        """All rules hold, some or none do; a control that fails leaves it at partly."""
        verdict = outcome.combine(f.outcome for f in self.findings if f.counts)
        controlled = all(f.outcome == REPLICATES for f in self.findings if f.control)
        return PARTLY if verdict == REPLICATES and not controlled else verdict

    @property
    def nearly(self) -> bool:
        """Whether it fails though a test holds in part, which formerly made it partly right."""
        return self.verdict == outcome.FAILS and any(
            f.outcome == PARTLY for f in self.findings if f.counts
        )

    @property
    def undecided(self) -> bool:
        """Whether it fails, but by no test whose interval excludes the claim."""
        failing = [f.undecided for f in self.findings if f.counts and f.outcome == outcome.FAILS]
        return self.verdict == outcome.FAILS and any(failing) and all(failing)

    @property
    def seeds(self) -> int | None:
        """Fewest seeds that a finding rests on, controls aside; None if none rests on records."""
        return min(self._seeds, default=None)

    @property
    def _seeds(self) -> set[int]:
        return {f.seeds for f in self.findings if f.seeds and f.counts}

    @property
    def caveat(self) -> str:
        """Why the verdict is provisional, or why there is none; empty if it is final."""
        reasons = []
        needed = MANY_SEEDS.get(self.id, SEEDS)
        if self.seeds is not None and self.seeds < needed:
            few = "one seed in part of the tests" if len(self._seeds) > 1 else "one seed"
            few = few if self.seeds == 1 else f"{self.seeds} of {needed} seeds"
            if any(f.borrowed for f in self.findings):
                few += ": spread between seeds taken from other rows"
            elif self.seeds == 1 and any(f.low is not None for f in self.findings):
                few += ": interval over test images only"
            reasons.append(few)
        if any(lost_to_holm(f) for f in self.findings):
            reasons.append(f"p > {ALPHA} after Holm's correction")
        open_to_it = any(f.undecided for f in self.findings if f.counts)
        if self.undecided or (open_to_it and self.verdict != outcome.FAILS):
            reasons.append("an interval does not exclude the claim")
        return "; ".join(filter(None, [*reasons, self.claim.lacking]))


def texts() -> pd.DataFrame:
    """The claims in words, by id: ``paper``, ``claim``, ``evidence``, ``test``, ``expected``."""
    return pd.read_csv(paths.REFERENCE / "claims.csv", index_col="id", keep_default_na=False)


def judge(reproduction: Reproduction, groups: dict[str, dict[str, Claim]]) -> dict[str, Judgement]:
    """Test the claims of one paper, which is the family of Holm's correction.

    Args:
        reproduction: what they are judged by.
        groups: the claims by group and id.
    """
    judged, words = {}, texts()
    for group, claims in groups.items():
        for name, claim in claims.items():
            found = tuple(rule.finding(reproduction) for rule in claim.rules)
            judged[name] = Judgement(name, group, words.loc[name], claim, found)
    return _corrected(judged)


def lost_to_holm(finding: Finding) -> bool:
    """Whether a difference in the claimed direction is significant only before the correction."""
    tested = finding.p is not None and finding.outcome in (REPLICATES, PARTLY)
    return tested and finding.p < ALPHA < finding.adjusted


def _corrected(judged: dict[str, Judgement]) -> dict[str, Judgement]:
    """Adjust all p-values together; what is significant only before that is partly right."""
    ps = [f.p for claim in judged.values() for f in claim.findings if f.p is not None]
    adjusted = iter(multipletests(ps, ALPHA, "holm")[1] if ps else ())

    def correct(finding: Finding) -> Finding:
        if finding.p is None:
            return finding
        finding = replace(finding, adjusted=float(next(adjusted)))
        return replace(finding, outcome=PARTLY) if lost_to_holm(finding) else finding

    return {
        name: replace(claim, findings=tuple(map(correct, claim.findings)))
        for name, claim in judged.items()
    }


def ledger(judged: dict[str, Judgement]) -> pd.DataFrame:
    """One row a claim, by id.

    Returns:
        ``group``, ``claim``, ``rule``, ``verdict``, ``held`` (rules that hold, of those that can be
        tested here, controls aside), the first ``effect`` with its interval ``low``, ``high`` in
        percentage points, ``n`` test images, ``seeds``, ``caveat`` and the ids of its ``networks``.
    """
    table = {}
    for name, claim in sorted(judged.items()):
        first = next((f for f in claim.findings if f.effect is not None), None)
        outcomes = [f.outcome for f in claim.findings if f.outcome != UNTESTED and f.counts]
        table[name] = {
            "group": claim.group,
            "claim": claim.words["claim"],
            "rule": claim.words["test"],
            "verdict": claim.verdict,
            "held": f"{outcomes.count(REPLICATES)} of {len(outcomes)}",
            **{field: getattr(first, field, None) for field in ("effect", "low", "high")},
            "n": min((f.n for f in claim.findings if f.n), default=None),
            "seeds": claim.seeds,
            "caveat": claim.caveat,
            "networks": ", ".join(outcome.networks(claim.findings)),
        }
    rows = pd.DataFrame(table.values(), index=pd.Index(table, name="id"))
    return rows.astype({"n": "Int64", "seeds": "Int64"})


def findings(judged: dict[str, Judgement], name: str) -> pd.DataFrame:
    """What was found on a claim, a row per rule: all fields of ``Finding``."""
    return pd.DataFrame([vars(finding) for finding in judged[name].findings])


def overview(judged: dict[str, Judgement]) -> pd.DataFrame:
    """Ids of the claims by group and verdict, with their number in the last row."""
    groups, counts = dict.fromkeys(claim.group for claim in judged.values()), numbers(judged)
    ids = ledger(judged).reset_index().groupby(["group", "verdict"])["id"].agg(", ".join)
    shown = ids.unstack().reindex(index=groups, columns=outcome.VERDICTS).fillna("")
    shown = shown.rename_axis(index=None, columns=None)
    shown.loc["claims"] = [str(counts[name]) for name in COUNTED]
    return shown


def numbers(judged: dict[str, Judgement]) -> dict[str, int]:
    """The counts that prose quotes: claims by verdict, and differences by what they show."""
    claims, gaps = ledger(judged), claimed_differences(judged)
    undecided = {name: c.undecided for name, c in judged.items()}
    own, claims = claims["group"] == CODE, claims[claims["group"] != CODE]
    verdict, checks = claims["verdict"], claims["group"].isin(["Sanity", "Protocol"])
    counts = dict(zip(COUNTED, (verdict == kind for kind in outcome.VERDICTS), strict=True)) | {
        "claims": verdict.notna(),
        "code": own,
        "checks": checks & (verdict == REPLICATES),
        "undecided": pd.Series(undecided)[claims.index],
        "nearly": pd.Series({name: c.nearly for name, c in judged.items()})[claims.index],
        "decided": verdict != UNTESTED,
        "provisional": (verdict != UNTESTED) & (claims["caveat"] != ""),
        "differences": gaps["expected"].notna(),
        "same_sign": gaps["effect"] > 0,
        "without_zero": gaps["low"] > 0,
        "after_holm": (gaps["low"] > 0) & (gaps["adjusted"] < ALPHA),
        "reversed": gaps["high"] < 0,
    }
    return {name: int(of.sum()) for name, of in counts.items()}


def claimed_differences(judged: dict[str, Judgement]) -> pd.DataFrame:
    """Every claimed difference, a row each: the claim's ``id``, fields of ``Finding``, ``went``."""
    table = [
        {"id": name, "went": finding.went} | vars(finding)
        for name, claim in judged.items()
        for finding in claim.findings
        if finding.expected is not None
    ]
    names = [field.name for field in fields(Finding)]
    return pd.DataFrame(table, columns=["id", *names, "went"])
