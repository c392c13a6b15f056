"""Claims of the papers as executable tests, judged by the records.

``judge(gather(profile, store))`` tests all claims of paper A; ``ledger`` and the other functions
turn the judgements into tables.
"""

from robust_transfer.claims.evidence import Evidence, gather
from robust_transfer.claims.gathered import Gathered
from robust_transfer.claims.shown import index, page, show
from robust_transfer.claims.verdicts import (
    Judgement,
    differences,
    findings,
    judge,
    ledger,
    numbers,
    overview,
    read,
)

__all__ = [
    "Evidence",
    "Gathered",
    "Judgement",
    "differences",
    "findings",
    "gather",
    "index",
    "judge",
    "ledger",
    "numbers",
    "overview",
    "page",
    "read",
    "show",
]
