"""Judgements for readers: the ledger with links, and every claim with what its verdict rests on."""

import html
import re
from collections.abc import Mapping

import pandas as pd
from IPython.display import HTML

from robust_transfer import paths
from robust_transfer.claims.outcome import UNTESTED, networks
from robust_transfer.claims.verdicts import Judgement, ledger
from robust_transfer.evaluation.accuracies import NAMES
from robust_transfer.evaluation.intervals import with_interval
from robust_transfer.presentation.tables import as_html, scrolling

PLACES = "../claims"
"""From an executed notebook to the pages of claims."""
SHORT = NAMES | {"wb": "white box", "bb": "black box"}
"""How claims.csv calls columns, alone and in pairs, with their names for readers."""
PHRASES = {
    r"T-diff\((.+?), ?(.+?); ([^;()]+); ([^()]+)\)": r"\1 above \2 in \3, by \4 points",
    r"T-diff\((.+?), ?(.+?); ([^;()]+)\)": r"\1 above \2 in \3",
    r"T-equiv\((.+?), ?(.+?); (.+?); margin (.+?)\)": r"\1 and \2 alike in \3, within \4 points",
    r"T-equiv\(margin (.+?)\)": r"alike within \1 points",
    r"T-not-below\((.+?), ?(.+?); (.+?); margin (.+?)\)": r"\1 at most \4 points below \2 in \3",
    r"T-diff": "a difference",
    r"T-order": "an order",
    r"T-cat": "bounds",
    r"the T-cell tolerance": "the tolerance of a cell",
    r"\bR_(\w+)->(\w+)": r"R<sub>\1→\2</sub>",
    r"\bR_(\w+)": r"R<sub>\1</sub>",
    r">=": "≥",
    r"<=": "≤",
    r"\b[bw]b(?:_fgsm|_pgd)?\b": lambda found: SHORT[found[0]],
}
"""How claims.csv writes tests, networks and columns, and how readers read them."""
NEARLY = "partly, when a test that holds in part was enough for that"
"""The former verdict on a claim none of whose tests holds whole."""
Names = Mapping[str, str]
"""Network id → what to call it."""
IDS: Names = {}
"""Every network is called by its id."""


def page(judged: Judgement) -> str:
    """The page of a claim in ``book/claims``: its paper, and its group in small letters."""
    return f"{judged.words['paper']}/{re.sub('[^a-z]+', '-', judged.group.lower())}"


def index(
    judged: dict[str, Judgement], printed: dict[str, Judgement] | None = None
) -> pd.DataFrame:
    """The ledger in short: a row per claim, whose id is a link to its page.

    Args:
        judged: our verdicts.
        printed: those of the paper's own table under the same rules.
    """
    table = ledger(judged)
    own = [printed[name].verdict for name in table.index] if printed else []
    held = table["held"].replace("0 of 0", "")
    shown = {
        "claim": [f'<span class="words">{words}</span>' for words in table["claim"]],
        "verdict": table["verdict"],
        **({"of the paper's own table": own} if own else {}),
        "tests that hold": held.str.replace(" ", "\N{NO-BREAK SPACE}"),
        "effect": [_effect(row) for _, row in table.iterrows()],
        "n": ["" if pd.isna(n) else f"{n:,}" for n in table["n"]],
        "seeds": ["" if pd.isna(seeds) else str(seeds) for seeds in table["seeds"]],
    }
    links = [f'<a href="{PLACES}/{page(judged[i])}.html#{i}">{i}</a>' for i in table.index]
    return pd.DataFrame(shown).set_axis(links)


def in_words(text: str) -> str:
    """A claim's text in words; the file keeps it in short, as it was fixed."""
    for short, words in PHRASES.items():
        text = re.sub(short, words, text)
    return text


def _effect(row: pd.Series) -> str:
    return "" if pd.isna(row["effect"]) else with_interval(row["effect"], row["low"], row["high"])


def write(judged: dict[str, Judgement], target: str, labels: Names = IDS) -> None:
    """Write the part of every page of claims that is made of judgements, for the book to include.

    Args:
        judged: all claims of a paper.
        target: the page of the book that tells more of a network, under its id.
        labels: network id → its name for readers; else its id.
    """
    links = {
        name: f'<a href="../../{target}.html#{name}">{labels.get(name, name)}</a>'
        for claim in judged.values()
        for name in networks(claim.findings)
    }
    for name, group in {page(claim): claim.group for claim in judged.values()}.items():
        part = paths.GENERATED / "claims" / f"{name}.html"
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(sections(judged, group, links).data, encoding="utf-8")


def sections(judged: dict[str, Judgement], group: str, links: Names = IDS) -> HTML:
    """Claims of a group: words, test, findings, verdict of each, and what it rests on.

    Args:
        judged: all claims of a paper.
        group: which of them are shown.
        links: network id → HTML that names it; else its id does.
    """
    return HTML("\n".join(_block(c, links) for c in judged.values() if c.group == group))


def _block(judged: Judgement, links: Names) -> str:
    words = {name: as_html(in_words(text)) for name, text in judged.words.items()}
    told = {name: words[name.lower()] for name in ("Evidence", "Test", "Expected")}
    told["Until 2026-11-26"] = NEARLY if judged.nearly else ""
    told["Rests on"] = _basis(judged, links)
    told["Reason" if judged.verdict == UNTESTED else "Provisional"] = html.escape(judged.caveat)
    lines = [f'<section class="claim" id="{judged.id}">']
    lines += [f"<p><strong>{judged.id}: {judged.verdict}.</strong> {words['claim']}"]
    lines += [f"<br/><em>{name}:</em> {text}" if text else "" for name, text in told.items()]
    lines.append("</p>")
    if judged.findings:
        rows = [(f.statement, f.ours, f.paper, f.went) for f in judged.findings]
        table = pd.DataFrame(rows, columns=["test", "ours", "paper", "outcome"])
        table = table.set_index("test").rename_axis(None).map(as_html)
        table.index = table.index.map(as_html)
        lines.append(scrolling(table.to_html(escape=False, border=0)))
    return "\n".join([*lines, "</section>"])


def _basis(judged: Judgement, links: Names) -> str:
    """Test images, seeds and networks behind the findings; empty if no record is."""
    findings = [found for found in judged.findings if found.n]
    if not findings:
        return ""
    n, seeds = (
        "–".join(f"{end:,}" for end in dict.fromkeys((min(sizes), max(sizes))))
        for sizes in ([f.n for f in findings], [f.seeds for f in findings])
    )
    names = ", ".join(links.get(name, f"<code>{name}</code>") for name in networks(findings))
    return f"{n} test images, {seeds} {'seed' if seeds == '1' else 'seeds'}: {names}"
