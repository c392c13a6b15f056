"""Published records for cells that run in a browser as they do in Jupyter.

The browser's Python is Brython, so this file asks for nothing but a few modules of the standard
library. The book carries it, with the records, in the page that shows its cells.
"""

import ast
import base64
import html
import json
from contextlib import redirect_stdout
from io import StringIO
from traceback import walk_tb


class Html:
    """Something to show at the end of a cell, given as HTML."""

    def __init__(self, text: str) -> None:
        self.text = text

    def _repr_html_(self) -> str:
        return self.text


class Records:
    """Table 1, ours with the outcome of every test image, and the paper's.

    Attributes:
        networks: ids in the table's order.
        columns: the five accuracies: ``natural``, ``wb_fgsm``, ``wb_pgd``, ``bb_fgsm``, ``bb_pgd``.
        n: number of test images, the same ones for all networks.
    """

    def __init__(self, content: dict) -> None:
        self._content = content
        self._read = {}
        self.networks = list(content["networks"])
        self.columns = content["columns"]
        self.n = content["n"]

    def outcomes(self, network: str, column: str) -> list:
        """1 for every test image that the network got right, 0 for the others, in a fixed order."""
        key = network, column
        if key not in self._read:
            packed = base64.b64decode(self._entry(network, column)["outcomes"])
            bits = [byte >> shift & 1 for byte in packed for shift in range(7, -1, -1)]
            self._read[key] = bits[: self.n]
        return self._read[key]

    def accuracy(self, network: str, column: str) -> float:
        """Our accuracy in percent."""
        share = sum(self.outcomes(network, column)) / self.n
        return 100 * share  # in the order of the book's tables, so that ties round alike

    def paper(self, network: str, column: str) -> float:
        """The paper's accuracy in percent."""
        return self._entry(network, column)["paper"]

    def _entry(self, network: str, column: str) -> dict:
        known = ("network", network, self.networks), ("column", column, self.columns)
        for name, given, allowed in known:
            if given not in allowed:
                raise ValueError(f"{name} = {given!r}: allowed are {', '.join(allowed)}")
        return self._content["networks"][network][column]

    def _repr_html_(self) -> str:
        """Say what is here, and carry it: records and this file, for the page's own Python."""
        with open(__file__, encoding="utf-8") as file:
            cargo = json.dumps({"library": file.read(), "records": self._content})
        cargo = cargo.replace("</", "<\\/")  # nothing in it may end the script
        return (
            f"<p>{len(self.networks)} networks, {len(self.columns)} accuracies each, "
            f"{self.n:,} test images. {html.escape(self._content['scale'])}</p>"
            "<noscript><p>Scripts are off in this browser: below each cell stands what it gave "
            "when the book was built.</p></noscript>"
            f'<script type="application/json" id="live-records">{cargo}</script>'
        )


def collect(runs: list, theirs, scale: str) -> Records:
    """Collect the records of evaluated networks.

    Args:
        runs: networks with what came of them; the evaluated ones, all on the same images, are
            the table's rows.
        theirs: the paper's table, as made by ``tables.paper``.
        scale: one sentence on what was run.
    """
    evaluated = {run.network.id: run.evaluation.content for run in runs if run.evaluation}
    first = next(iter(evaluated.values()))
    columns = [column for column in theirs if column in first["outcomes"]]
    content = {"columns": columns, "n": first["n"], "scale": scale}
    content["networks"] = {
        name: {
            column: {"outcomes": packed, "paper": round(100 * float(theirs.loc[name, column]), 1)}
            for column, packed in evaluation["outcomes"].items()
        }
        for name, evaluation in evaluated.items()
    }
    return Records(content)


def one_decimal(value: float) -> str:
    """A number as ``f"{value:.1f}"`` has it; Brython's own formatting rounds twice."""
    above, below = value.as_integer_ratio()
    tenths, left = divmod(10 * abs(above), below)
    tenths += 2 * left > below or (2 * left == below and tenths % 2)
    return f"{'-' if value < 0 else ''}{tenths // 10}.{tenths % 10}"


def table(rows: list, header: list) -> Html:
    """A table of rows of cells; numbers get one decimal."""
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in header)
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in rows)
    content = f"<thead><tr>{head}</tr></thead>{body}"
    return Html(f'<table class="dataframe" tabindex="0">{content}</table>')


def _cell(value: object) -> str:
    text = one_decimal(value) if isinstance(value, float) else str(value)
    return f"<td>{html.escape(text)}</td>"


def bars(values: dict, marks: dict | None = None) -> Html:
    """Horizontal bars from 0 to 100 percent.

    Args:
        values: name → percent.
        marks: name → percent where a diamond is put, for instance the paper's.
    """
    parts = []
    for row, (name, value) in enumerate(values.items()):
        y = 22 * row
        parts.append(_text(121, y + 15, name, "end"))
        size = f'width="{3 * value:.1f}" height="16"'
        parts.append(f'<rect x="130" y="{y + 3}" {size} fill="#0173b2"/>')
        if marks:
            x = 130 + 3 * marks[name]
            parts.append(f'<path d="M{x:.1f} {y + 4}l6 7l-6 7l-6 -7z" fill="#fff" stroke="#333"/>')
        parts.append(_text(490, y + 15, one_decimal(value), "end"))
    said = ", ".join(f"{name} {one_decimal(value)}" for name, value in values.items())
    return _drawing(495, 22 * len(values), "".join(parts), f"Bars in percent: {said}")


def heatmap(rows: list, columns: list, value) -> Html:
    """Percentages as coloured cells, each column's colours stretched from its worst to its best.

    Args:
        rows: names, from top to bottom.
        columns: names, from left to right.
        value: ``value(row, column)`` in percent.
    """
    parts = []
    for j, column in enumerate(columns):
        values = [value(row, column) for row in rows]
        low, high = min(values), max(values)
        parts.append(_text(163 + 66 * j, 14, column, "middle"))
        for i, percent in enumerate(values):
            share = (percent - low) / (high - low) if high > low else 1
            ink = "#000" if share > 0.5 else "#fff"
            place = f'x="{130 + 66 * j}" y="{20 + 20 * i}" width="66" height="20"'
            parts.append(f'<rect {place} fill="{_cividis(share)}"/>')
            parts.append(_text(163 + 66 * j, 34 + 20 * i, one_decimal(percent), "middle", ink))
    parts += [_text(125, 34 + 20 * i, row, "end") for i, row in enumerate(rows)]
    size = 130 + 66 * len(columns), 20 + 20 * len(rows)
    return _drawing(*size, "".join(parts), f"Heatmap of {len(rows)} rows: {', '.join(columns)}")


def _cividis(share: float) -> str:
    """A colour between dark blue and yellow that is told apart in any colour vision."""
    ends = (0, 34, 78), (124, 123, 120), (254, 232, 56)
    low, high = ends[0:2] if share < 0.5 else ends[1:3]
    part = 2 * share % 1 if share < 1 else 1
    mixed = (round(a + part * (b - a)) for a, b in zip(low, high, strict=True))
    return f"rgb({','.join(map(str, mixed))})"


def _text(x: float, y: float, text: object, anchor: str, fill: str = "#000") -> str:
    text = html.escape(str(text))
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{fill}">{text}</text>'


def _drawing(width: int, height: int, parts: str, said: str) -> Html:
    return Html(
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'aria-label="{html.escape(said)}" font-size="12" style="background:#fff">{parts}</svg>'
    )


_LAST = "_last_"
"""Name of a cell's last expression while it runs."""


def run(source: str, names: dict) -> str:
    """Run a cell: what it prints, then what its last line is, as HTML; or what went wrong, where.

    Args:
        source: Python.
        names: what the cell finds defined; each run begins with these alone.
    """
    space, shown = dict(names), ""
    with redirect_stdout(StringIO()) as output:
        try:
            exec(_keeping_the_last(source), space)
            value = space.get(_LAST)
            if value is not None:
                drawn = hasattr(value, "_repr_html_")
                shown = value._repr_html_() if drawn else f"<pre>{html.escape(repr(value))}</pre>"
        except Exception as error:
            shown = f'<pre class="error" role="alert">{html.escape(_explained(error))}</pre>'
    printed = output.getvalue()
    return (f"<pre>{html.escape(printed)}</pre>" if printed else "") + shown


def _keeping_the_last(source: str) -> str:
    """The same source, its last expression assigned to a name; line numbers stay as they are."""
    body, lines = ast.parse(source).body, source.splitlines()
    if body and isinstance(last := body[-1], ast.Expr):
        for row, column, text in (
            (last.end_lineno, last.end_col_offset, ")"),
            (last.lineno, last.col_offset, f"{_LAST} = ("),
        ):
            line = lines[row - 1]
            lines[row - 1] = line[:column] + text + line[column:]
    return "\n".join(lines)


def _explained(error: Exception) -> str:
    """An error in one line, with the line of the cell in which it came up."""
    line = getattr(error, "lineno", None)
    for frame, number in walk_tb(error.__traceback__):
        if frame.f_code.co_filename == "<string>":
            line = number
    message = getattr(error, "msg", None) or str(error)
    where = f"line {line}: " if line else ""
    return f"{where}{type(error).__name__}: {message}"
