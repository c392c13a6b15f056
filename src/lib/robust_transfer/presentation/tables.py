"""Tables as a page shows them: HTML that scrolls, with the same numbers as a CSV file."""

import base64
import html
import re
from collections.abc import Collection

import pandas as pd
from IPython.display import HTML

from robust_transfer.attacks import PGD
from robust_transfer.records.store import Record

LONG = 24
"""Letters, without markup, up to which a row's label stays on one line."""
OURS = re.compile(
    "&lt;(wbr|/?(?:sub|sup|code|span|a)"
    '|(?:sup|span|a)(?: (?:class|id|title)="[^"]*"| href="[.#][^":]*")+)&gt;'
)
"""Our own markup in a text, after it was escaped."""
MARK = re.compile(r'<sup class="doubt" title="(.*?)">\?</sup>')
"""What ``doubted`` puts behind a text."""


def describe_attack(attack: PGD | None) -> str:
    """Name an inner attack in a few words."""
    if attack is None:
        return "none"
    name = "FGSM" if attack.steps == 1 else f"PGD-{attack.steps}"
    return f"{name}, predicted labels" if attack.labels == "predicted" else name


def percent(share: float | None) -> str:
    """Write a share of [0, 1] in percent with one decimal, and nothing for None."""
    return "" if share is None else f"{100 * share:.1f}"


def percent_interval(share: float, low: float, high: float) -> str:
    """Write an accuracy of [0, 1] and its interval in percent, which no line break divides.

    Ends that one decimal does not tell apart get two.
    """
    digits = 1 if percent(low) != percent(high) else 2
    ends = [f"{100 * end:.{digits}f}" for end in (low, high)]
    return f"{percent(share)} [{ends[0]},\N{NO-BREAK SPACE}{ends[1]}]"


def network_minutes(records: Collection[Record], digits: int) -> str:
    """How many networks were trained, how long and on which devices, for a sentence."""
    seconds = sum(record.seconds for record in records)
    devices = sorted({html.escape(record.provenance["device"]) for record in records})
    minutes = f"{seconds / 60:.{digits}f} network-minutes"
    return f"{len(records)} networks in {minutes} on {'; '.join(devices)}"


def show(table: pd.DataFrame, name: str = "table", data: pd.DataFrame | None = None) -> HTML:
    """Show a table in a notebook, network labels with their subscripts, and offer it as CSV.

    The file is part of the page, so the link works wherever the page is read, and a table and its
    file cannot differ.

    An empty table is said to be one. Below it stands why numbers are doubted; see ``doubted``.

    Args:
        table: what is shown.
        name: of the file.
        data: what the file holds where the table shows it in words; else the table itself.
    """
    if table.empty:
        return HTML("<p>This run has nothing to show here.</p>")
    text = plain(table if data is None else data).to_csv(float_format="%.6g")
    file = f"data:text/csv;base64,{base64.b64encode(text.encode()).decode()}"
    shown = table.map(as_html).rename(columns=as_html)
    shown = shown.rename_axis([None] * table.index.nlevels).rename(index=_wrapping)
    shown = shown.to_html(escape=False, float_format="{:.1f}".format, border=0)
    link = f'<a class="csv" href="{file}" download="{name}.csv">{name}.csv</a>'
    return HTML(f"{scrolling(shown)}{_reasons(table)}\n{link}")


def _reasons(table: pd.DataFrame) -> str:
    """Why numbers of a table are doubted, for below it; empty if none is."""
    parts = table.index.to_frame(), table
    labels, cells = ([str(value) for value in part.to_numpy().ravel()] for part in parts)
    said = [f"{MARK.sub('', label)}: {why}" for label in labels for why in MARK.findall(label)]
    said += [why for cell in cells for why in MARK.findall(cell)]
    text = as_html(". ".join(dict.fromkeys(said)))
    return f'\n<p class="doubts">? {text}.</p>' if said else ""


def as_html(value: object) -> object:
    """A text as HTML, in which nothing but our own markup is markup; other values as they are."""
    return OURS.sub(r"<\1>", html.escape(value, quote=False)) if isinstance(value, str) else value


def doubted(text: str, doubts: Collection[str]) -> str:
    """A label or a number, with a mark that says why an evaluation behind it is doubted."""
    return f'{text}<sup class="doubt" title="{"; ".join(doubts)}">?</sup>' if doubts else text


def _wrapping(label: object) -> object:
    """A row's label that, if it is long, may break: the numbers beside it should be seen."""
    label = as_html(label)
    if not isinstance(label, str) or len(re.sub("<.*?>", "", label)) <= LONG:
        return label
    parts = re.sub("(?<=[/_])(?=[a-z])(?![^<]*>)", "<wbr>", label)
    return f'<span class="words">{parts}</span>'


def scrolling(table: str) -> str:
    """Put an HTML table in the box that the book's theme lets scroll, by keyboard too."""
    return f'<div class="pst-scrollable-table-container">{table}</div>'


def plain(table: pd.DataFrame) -> pd.DataFrame:
    """A table as it should stand in a file: a header of one line, labels without HTML."""
    table = table.rename(index=unmarked).map(unmarked)
    if table.columns.nlevels > 1:
        table.columns = table.columns.map(" ".join)
    return table


def unmarked(value: object) -> object:
    """A network's label as plain text, for instance ``R_pgd→nat 18``; other values as they are."""
    if not isinstance(value, str):
        return value
    return without_marks(re.sub(r"<sub>(.*?)</sub>", r"_\1", value))


def without_marks(text: str) -> str:
    """The same text with a mere question mark where it is ``doubted``."""
    return MARK.sub(" ?", text)


def with_sd(values: pd.Series) -> str:
    """Mean ± standard deviation, which no line break divides; of two values rather both."""
    if len(values) == 2:
        return " and ".join(f"{value:.1f}" for value in values)
    return f"{values.mean():.1f}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{values.std(ddof=1):.1f}"


def epsilon_words(epsilon: float) -> str:
    """An epsilon for readers: in 255ths if it is a whole number of them, or short only in them."""
    steps, plain = 255 * epsilon, f"{epsilon:g}"
    whole = abs(steps - round(steps)) < 1e-6
    short = len(plain) > len("0.01") and abs(steps - round(steps, 2)) < 1e-6
    return f"{round(steps, 2):g}/255" if whole or short else plain
