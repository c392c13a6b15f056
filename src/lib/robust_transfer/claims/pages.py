"""Judgements for readers: the ledger with links, and every claim with what its verdict rests on."""

import html
import re
from collections.abc import Mapping

import pandas as pd
from IPython.display import HTML

from robust_transfer.claims.outcome import UNTESTED, Finding
from robust_transfer.claims.verdicts import Judgement, ledger
from robust_transfer.evaluation.intervals import with_interval
from robust_transfer.presentation.tables import scrolling

PLACES = "../claims"
"""From an executed notebook to the pages of claims."""


def page(judged: Judgement) -> str:
    """The page of a claim in ``book/claims``: its paper, and its group in small letters."""
    return f"{judged.words['paper']}/{re.sub('[^a-z]+', '-', judged.group.lower())}"


def index(judged: dict[str, Judgement]) -> pd.DataFrame:
    """The ledger in short: a row per claim, whose id is a link to its page."""
    table = ledger(judged)
    held = table["held"].replace("0 of 0", "")
    shown = {
        "claim": [f'<span class="words">{html.escape(words)}</span>' for words in table["claim"]],
        "verdict": table["verdict"],
        "tests that hold": held.str.replace(" ", "\N{NO-BREAK SPACE}"),
        "effect": [_effect(row) for _, row in table.iterrows()],
        "n": ["" if pd.isna(n) else f"{n:,}" for n in table["n"]],
        "seeds": ["" if pd.isna(seeds) else str(seeds) for seeds in table["seeds"]],
    }
    links = [f'<a href="{PLACES}/{page(judged[i])}.html#{i}">{i}</a>' for i in table.index]
    return pd.DataFrame(shown).set_axis(links)


def _effect(row: pd.Series) -> str:
    return "" if pd.isna(row["effect"]) else with_interval(row["effect"], row["low"], row["high"])


def sections(
    judged: dict[str, Judgement], group: str, named: Mapping[str, str] | None = None
) -> HTML:
    """Claims of a group: words, test, findings, verdict of each, and what it rests on.

    Args:
        judged: all claims of a paper.
        group: which of them are shown.
        named: network id → HTML that names it, a link for instance; else its id does.
    """
    return HTML("\n".join(_block(c, named or {}) for c in judged.values() if c.group == group))


def _block(judged: Judgement, named: Mapping[str, str]) -> str:
    words = {name: html.escape(text) for name, text in judged.words.items()}
    lines = [f'<section class="claim" id="{judged.id}">']
    lines += [f"<p><strong>{judged.id}: {judged.verdict}.</strong> {words['claim']}"]
    for name, text in _told(judged, words, named).items():
        lines.append(f"<br/><em>{name}:</em> {text}" if text else "")
    lines.append("</p>")
    if judged.findings:
        table = pd.DataFrame([vars(found) for found in judged.findings]).set_index("statement")
        table = table[["ours", "paper", "outcome"]].rename_axis(None).map(_escaped)
        table.index = table.index.map(_escaped)
        lines.append(scrolling(table.to_html(escape=False, border=0)))
    return "\n".join([*lines, "</section>"])


def _escaped(text: str) -> str:
    """Text as HTML; the subscripts in networks' names stay what they are."""
    return re.sub(r"&lt;(/?sub)&gt;", r"<\1>", html.escape(text))


def _told(judged: Judgement, words: dict[str, str], named: Mapping[str, str]) -> dict[str, str]:
    return {
        "Evidence": words["evidence"],
        "Test": words["test"],
        "Expected": words["expected"],
        "Rests on": _basis(judged.findings, named),
        "Reason" if judged.verdict == UNTESTED else "Provisional": html.escape(judged.caveat),
    }


def _basis(findings: tuple[Finding, ...], named: Mapping[str, str]) -> str:
    """Test images, seeds and networks behind the findings; empty if no record is."""
    networks = dict.fromkeys(cell.network for found in findings for cell in found.cells)
    if not networks:
        return ""
    sizes = [sorted({getattr(found, of) for found in findings if found.n}) for of in ("n", "seeds")]
    n, seeds = ("–".join(f"{end:,}" for end in dict.fromkeys((s[0], s[-1]))) for s in sizes)
    names = ", ".join(named.get(network, f"<code>{network}</code>") for network in networks)
    return f"{n} test images, {seeds} seed{'s' * (seeds != '1')}: {names}"
