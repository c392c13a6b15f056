"""Figures to point at: Vega-Lite charts that say what is behind a mark, each with a static twin.

In the built book a script draws the chart in place of its twin; without scripts, and in Jupyter,
the twin stays. There, the chart alone is ``heatmaps(…).chart``.
"""

import base64
import html
import io
import json
import re
import warnings
from dataclasses import dataclass

import altair as alt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from robust_transfer import figures
from robust_transfer.evaluation import wilson
from robust_transfer.figures import PLOTTED, RED, TITLES
from robust_transfer.intervals import signed
from robust_transfer.tables import percent

CELL = alt.Step(46), alt.Step(22)
"""Width and height of a heatmap's cells in pixels: two panels fit a page, one a telephone."""
POINTED = "#e7298a"
"""Frame of the network pointed at: a colour far from all of the heatmap's and from its lines."""


@dataclass(frozen=True)
class Interactive:
    """A chart and the figure that stands for it where it cannot be drawn.

    Attributes:
        chart: the Vega-Lite chart.
        twin: the same as a Matplotlib figure.
        alt_text: what both show, for readers who do not see them.
    """

    chart: alt.TopLevelMixin
    twin: Figure
    alt_text: str

    def _repr_html_(self) -> str:
        image = io.BytesIO()
        self.twin.savefig(image, format="png", dpi=100)
        source = f"data:image/png;base64,{base64.b64encode(image.getvalue()).decode()}"
        spec = self.chart.to_dict() | {"description": self.alt_text}
        island = json.dumps(spec).replace("</", r"<\/")  # nothing in it may end the script
        return (
            f'<div class="chart" tabindex="0" role="group" aria-label="chart">'
            f'<img src="{source}" alt="{html.escape(self.alt_text)}">'
            f'<script type="application/json">{island}</script></div>'
        )


def heatmaps(
    tables: dict[str, pd.DataFrame], blocks: list[list[str]], alt_text: str
) -> Interactive:
    """``figures.heatmaps`` of our table and the paper's, to point at.

    A click leads to the network's card on the page of models.

    Args:
        tables: ``ours``, as made by ``tables.results``, and ``paper``, as by ``tables.paper``.
        blocks: ids of the rows shown, divided by red lines.
        alt_text: what the figure shows.
    """
    ids = [row for block in blocks for row in block]
    pointed = alt.selection_point("pointed", fields=["network"], on="pointerover", empty=False)
    panels = []
    for title, table in tables.items():
        cells = _cells(table.loc[ids], tables["ours"].loc[ids], tables["paper"].loc[ids])
        panels.append(_panel(title, cells, blocks, pointed))
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        # it says that both panels share what is pointed at, which is what they are to do
        chart = alt.concat(*panels, columns=len(panels), spacing=12).add_params(pointed)
    return Interactive(_styled(chart), figures.heatmaps(tables, blocks), alt_text)


def _cells(shown: pd.DataFrame, ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """One row per cell of a heatmap, with all that is said of it."""
    shares, cells = figures.normalised(shown), []
    for column in PLOTTED:
        low, high = percent(shown[column].min()), percent(shown[column].max())
        title = TITLES[column] if "\n" in TITLES[column] else f" \n{TITLES[column]}"
        for row in shown.index:
            ends = percent(ours.loc[row, f"{column}_low"]), percent(ours.loc[row, f"{column}_high"])
            gap = 100 * (ours.loc[row, column] - theirs.loc[row, column])
            cells.append(
                {
                    "network": plain(ours.loc[row, "label"]),
                    "column": f"{title}\n{low}–\n{high} %",
                    "share": round(shares.loc[row, column], 4),
                    "accuracy": " ".join(title.split()),
                    "ours": f"{percent(ours.loc[row, column])} %",
                    "interval": f"{ends[0]} to {ends[1]} %, n = {ours.loc[row, 'n']:,}",
                    "paper": f"{percent(theirs.loc[row, column])} %",
                    "difference": f"{signed(gap)} points",
                    "run": f"../models.html#{row}",
                }
            )
    return pd.DataFrame(cells)


def _panel(
    title: str, cells: pd.DataFrame, blocks: list[list[str]], pointed: alt.Parameter
) -> alt.LayerChart:
    """One heatmap: tiles with numbers, red lines between blocks and kinds of attack."""
    split = alt.Axis(
        orient="top", title=None, labelExpr=r"split(datum.label, '\n')", labelAngle=0,
        labelPadding=38, labelLineHeight=12,  # four lines, from the first one down
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
        color=alt.condition("datum.share > 0.5", alt.value("black"), alt.value("white")),
    )
    starts = [sum(map(len, blocks[:i])) for i in range(1, len(blocks))]
    names, columns = cells["network"].unique()[starts], cells["column"].unique()[[1, 3]]
    lines = alt.Chart(pd.DataFrame({"network": names})).encode(down.bandPosition(0))
    walls = alt.Chart(pd.DataFrame({"column": columns})).encode(across.bandPosition(0))
    red = [chart.mark_rule(color=RED, strokeWidth=2) for chart in (lines, walls)]
    layers = alt.layer(tiles, numbers, *red)
    return layers.properties(title=title, width=CELL[0], height=CELL[1])


def accuracy_curves(
    curves: pd.DataFrame, xlabel: str, n: int, runs: dict[str, str], alt_text: str
) -> Interactive:
    """``figures.accuracy_curves`` to point at; a click in the legend brings a network forward.

    Args:
        curves: index: strength; accuracies in [0, 1] per network label.
        xlabel: what the index is, with its unit.
        n: images that each accuracy counts.
        runs: network label → name of its record.
        alt_text: what the figure shows.
    """
    points = []
    for label in curves:
        for strength, accuracy in curves[label].items():
            low, high = wilson(accuracy * n, n)
            points.append(
                {
                    "network": plain(label),
                    "strength": strength,
                    "accuracy": 100 * accuracy,
                    "shown": f"{percent(accuracy)} %",
                    "interval": f"{percent(low)} to {percent(high)} %, n = {n:,}",
                    "record": runs[label],
                }
            )
    names = [plain(label) for label in curves]
    colours = sns.color_palette("colorblind", len(names)).as_hex()
    chosen = alt.selection_point("chosen", fields=["network"], bind="legend")
    scale = alt.Scale(domain=names, range=list(colours))
    said = ["network", alt.Tooltip("strength", title=xlabel)]
    said += [alt.Tooltip("shown", title="accuracy"), "interval", "record"]
    chart = (
        alt.Chart(pd.DataFrame(points), width="container", height=260)
        .mark_line(point=alt.OverlayMarkDef(size=70, filled=True))
        .encode(
            alt.X("strength:Q", title=xlabel),
            alt.Y("accuracy:Q", title="accuracy (%)", scale=alt.Scale(domain=[0, 100])),
            alt.Color("network:N", scale=scale, legend=alt.Legend(orient="bottom", columns=2)),
            alt.Shape("network:N", scale=alt.Scale(domain=names)),
            opacity=alt.condition(chosen, alt.value(1), alt.value(0.15)),
            tooltip=said,
        )
        .add_params(chosen)
    )
    return Interactive(_styled(chart), figures.accuracy_curves(curves, xlabel), alt_text)


def plain(label: str) -> str:
    """A network's label without subscripts, for instance ``R pgd→nat 18``."""
    return re.sub(r"<sub>(.*?)</sub>", r" \1", label)


def _styled(chart: alt.TopLevelMixin) -> alt.TopLevelMixin:
    """On white in either theme, as static figures are, and in letters that can be read."""
    return chart.configure(background="white").configure_axis(labelFontSize=11, titleFontSize=12)
