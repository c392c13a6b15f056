"""Figures to point at: Vega-Lite charts that say what is behind a mark, each with a static twin.

A chart has the name of the function in a module ``figures`` that draws its twin.
In the built book a script draws the chart in place of its twin; without scripts, and in Jupyter,
the twin stays. There, the chart alone is ``heatmaps(…).chart``.
"""

import re
from dataclasses import dataclass
from itertools import cycle, islice

import altair as alt
import pandas as pd
from matplotlib.figure import Figure

from robust_transfer.evaluation.intervals import wilson
from robust_transfer.presentation import figures
from robust_transfer.presentation.tables import percent, without_marks


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
        spec = self.chart.to_dict() | {"description": self.alt_text}
        drawn = figures.scripted(self.twin, spec, self.alt_text)
        return f'<div class="chart" tabindex="0" role="group" aria-label="chart">{drawn}</div>'


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
    points = [
        {
            "network": spaced(label),
            "strength": strength,
            "accuracy": 100 * accuracy,
            "shown": f"{percent(accuracy)} %",
            "interval": interval(*wilson(accuracy * n, n), n),
            "record": runs[label],
        }
        for label in curves
        for strength, accuracy in curves[label].items()
    ]
    names = [spaced(label) for label in curves]
    colours = [*islice(cycle(figures.PALETTE), len(names))]
    chosen = alt.selection_point("chosen", fields=["network"], bind="legend")
    scale = alt.Scale(domain=names, range=colours)
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
    return Interactive(styled(chart), figures.accuracy_curves(curves, xlabel), alt_text)


def spaced(label: str) -> str:
    """A network's label without subscripts, for instance ``R pgd→nat 18``."""
    return re.sub(r"<sub>(.*?)</sub>", r" \1", without_marks(label))


def interval(low: float, high: float, n: int) -> str:
    """The interval of an accuracy in [0, 1], and of how many images it speaks."""
    return f"{percent(low)} to {percent(high)} %, n = {n:,}"


def styled(chart: alt.TopLevelMixin) -> alt.TopLevelMixin:
    """In letters that can be read; charts.js gives the colours of the page."""
    return chart.configure_axis(labelFontSize=11, titleFontSize=12)
