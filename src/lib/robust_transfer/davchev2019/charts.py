"""Paper A's heatmaps to point at, with the name of their static twin; ``presentation.charts``."""

import warnings
from itertools import accumulate, chain

import altair as alt
import pandas as pd

from robust_transfer.davchev2019 import figures
from robust_transfer.davchev2019.figures import TITLES
from robust_transfer.evaluation.accuracies import COLUMNS, NAMES
from robust_transfer.evaluation.intervals import signed
from robust_transfer.presentation import charts
from robust_transfer.presentation.figures import RED
from robust_transfer.presentation.tables import percent

TILE = alt.Step(45), alt.Step(22)
"""Width and height of a heatmap's tiles in pixels; two panels fit a page, one a telephone."""
POINTED = "#e7298a"
"""Frame of the network pointed at, in a colour far from all of the heatmap's and from its lines."""


def heatmaps(
    tables: dict[str, pd.DataFrame], blocks: list[list[str]], alt_text: str
) -> charts.Interactive:
    """``figures.heatmaps`` of our table and the paper's, to point at.

    A click leads to the network's card on the page of models.

    Args:
        tables: ``ours``, as made by ``tables.results``, and ``paper``, as by ``tables.paper``.
        blocks: ids of the rows shown, divided by red lines.
        alt_text: what the figure shows.
    """
    ids = list(chain(*blocks))
    pointed = alt.selection_point("pointed", fields=["network"], on="pointerover", empty=False)
    panels = []
    for title, table in tables.items():
        cells = _cells(table.loc[ids], tables["ours"].loc[ids], tables["paper"].loc[ids])
        panels.append(_panel(title, cells, blocks, pointed))
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        # it says that both panels share what is pointed at, which is what they are to do
        chart = alt.concat(*panels, columns=len(panels), spacing=12).add_params(pointed)
    return charts.Interactive(charts.styled(chart), figures.heatmaps(tables, blocks), alt_text)


def _cells(shown: pd.DataFrame, ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """One row per cell of a heatmap, with all that is said of it."""
    shares = figures.normalised(shown)
    low, high = shown[list(COLUMNS)].min(), shown[list(COLUMNS)].max()
    titles = {c: TITLES[c] if "\n" in TITLES[c] else f" \n{TITLES[c]}" for c in COLUMNS}
    cells = [
        {
            "network": charts.spaced(mine["label"]),
            "column": f"{titles[c]}\n{percent(low[c])}–\n{percent(high[c])} %",
            "share": round(shares.loc[row, c], 4),
            "accuracy": NAMES[c],
            "ours": f"{percent(mine[c])} %",
            "interval": charts.interval(mine[f"{c}_low"], mine[f"{c}_high"], mine["n"]),
            "paper": f"{percent(theirs.loc[row, c])} %",
            "difference": f"{signed(100 * (mine[c] - theirs.loc[row, c]))} points",
            "run": f"../models.html#{row}",
        }
        for c in COLUMNS
        for row, mine in ours.iterrows()
    ]
    return pd.DataFrame(cells)


def _panel(
    title: str, cells: pd.DataFrame, blocks: list[list[str]], pointed: alt.Parameter
) -> alt.LayerChart:
    """One heatmap: tiles with numbers, red lines between blocks and kinds of attack."""
    split = alt.Axis(
        orient="top", title=None, labelExpr=r"split(datum.label, '\n')", labelAngle=0,
        labelPadding=38, labelLineHeight=12,  # four lines, from the first one down
        labelFontSize=9,
    )  # fmt: skip
    across, down = alt.X("column:N", sort=None, axis=split), alt.Y("network:N", sort=None)
    said = ("network", "accuracy", "ours", "interval", "paper", "difference")
    base = alt.Chart(cells).encode(across, down.title(None), href="run:N", tooltip=list(said))
    tiles = base.mark_rect(strokeWidth=2, cursor="pointer").encode(
        alt.Color("share:Q", scale=alt.Scale(scheme="cividis", domain=[0, 1]), legend=None),
        stroke=alt.condition(pointed, alt.value(POINTED), alt.value(None)),
    )
    numbers = base.mark_text(fontSize=10, cursor="pointer").encode(
        alt.Text("share:Q", format=".2f"),
        color=alt.condition("datum.share > 0.47", alt.value("black"), alt.value("white")),
    )
    starts = list(accumulate(map(len, blocks[:-1])))
    names, columns = cells["network"].unique()[starts], cells["column"].unique()[[1, 3]]
    lines = alt.Chart(pd.DataFrame({"network": names})).encode(down.bandPosition(0))
    walls = alt.Chart(pd.DataFrame({"column": columns})).encode(across.bandPosition(0))
    red = [chart.mark_rule(color=RED, strokeWidth=2) for chart in (lines, walls)]
    layers = alt.layer(tiles, numbers, *red)
    return layers.properties(title=title, width=TILE[0], height=TILE[1])
