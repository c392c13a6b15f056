"""The figures of paper A; every function returns a Matplotlib Figure."""

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from robust_transfer.davchev2019.experiment import Network
from robust_transfer.davchev2019.tables import DEFENCES
from robust_transfer.evaluation.accuracies import COLUMNS, NAMES
from robust_transfer.networks.transfer import STRATEGIES
from robust_transfer.presentation import figures

TITLES = {column: NAMES[column].replace(" ", "\n") for column in COLUMNS}
"""Names of columns on two lines, as heatmaps have room for."""
SURVIVAL = {
    ("pgd", "pgd"): "robust source,\nretrained against PGD",
    ("nat", "pgd"): "natural source,\nretrained against PGD",
    ("pgd", "nat"): "robust source,\nretrained naturally",
}
"""Lines of the figure ``survival``, by the trainings of source and target."""
MOVED = {"head": "head", "stage3": "last\nstage", "all": "every\nlayer"}
"""What of the network is retrained, along its axis."""


def normalised(table: pd.DataFrame) -> pd.DataFrame:
    """Min–max normalise every accuracy column over the rows: 1 is the best, 0 the worst.

    A column of equal values is all 1: none of its rows is worse than another.
    """
    values = table[list(COLUMNS)]
    low, high = values.min(), values.max()
    return ((values - low) / (high - low)).fillna(1.0)


def heatmaps(tables: dict[str, pd.DataFrame], blocks: list[list[str]]) -> Figure:
    """Heatmaps of the same networks side by side, drawn as in the paper's Figures 2–5.

    Args:
        tables: title → accuracies in [0, 1], indexed by network id, with a ``label`` column.
        blocks: ids of the rows shown; red lines are drawn between blocks.

    Returns:
        One panel per table; each cell holds the value normalised over the rows shown, above each
        column stand its smallest and largest accuracy in percent.
    """
    ids = list(chain(*blocks))
    figure, axes = figures.subplots(1, len(tables), 0.27 * len(ids) + 1, sharey=True)
    for axis, (title, table) in zip(axes[0], tables.items(), strict=True):
        shown = table.loc[ids]
        ends = (100 * shown[list(COLUMNS)].agg(["min", "max"])).items()
        names = [f"{TITLES[c]}\n{low:.1f}–\n{high:.1f}%" for c, (low, high) in ends]
        _heatmap(axis, normalised(shown), shown["label"], blocks, names, vmin=0, vmax=1)
        axis.set_title(title)
    return figure


def deviations(ours: pd.DataFrame, theirs: pd.DataFrame, blocks: list[list[str]]) -> Figure:
    """Heatmap of our accuracy minus the paper's, in percentage points."""
    ids = list(chain(*blocks))
    gaps = 100 * (ours.loc[ids, list(COLUMNS)] - theirs.loc[ids, list(COLUMNS)])
    figure, ((axis,),) = figures.subplots(1, 1, 0.27 * len(ids) + 1)
    names = [f"{TITLES[c]}\n{gaps[c].min():+.0f} to {gaps[c].max():+.0f}" for c in COLUMNS]
    style = {"vmin": -100, "vmax": 100, "cmap": "PuOr_r", "fmt": "+.1f"}
    _heatmap(axis, gaps, ours.loc[ids, "label"], blocks, names, **style)
    return figure


def _heatmap(
    axis: Axes,
    values: pd.DataFrame,
    labels: Iterable[str],
    blocks: Sequence[Sequence[object]],
    names: Sequence[str],
    walls: tuple[int, ...] = (1, 3),
    **style,
) -> None:
    """Draw one panel: rows in ``blocks`` between red lines, columns between ``walls``."""
    figures.heatmap(axis, values, **{"fmt": ".2f"} | style)
    rows = [figures.mathtext(label) for label in labels]
    axis.set_yticks(np.arange(len(rows)) + 0.5, rows, fontsize=10, rotation=0)
    axis.set_xticks(np.arange(len(names)) + 0.5, names, rotation=0)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.set(xlabel="", ylabel="")
    edges = np.cumsum([len(block) for block in blocks])[:-1]
    axis.hlines(edges, 0, len(names), color=figures.RED, linewidth=2)
    axis.vlines(walls, 0, len(values), color=figures.RED, linewidth=2)


def survival(title: str, table: pd.DataFrame, top: float) -> Figure:
    """White-box PGD accuracy of transfers against how much of the network was retrained.

    Half as wide as a page, so that two stand side by side, or one below the other on a telephone.

    Args:
        title: whose accuracies these are.
        table: in [0, 1], as made by ``tables.results``.
        top: upper end of the scale, in percent.

    Returns:
        A line for each training in ``SURVIVAL`` and, dashed, what training against PGD without a
        source gives.
    """
    figure, ((axis,),) = figures.subplots(1, 1, 3.9)
    figure.set_figwidth(figures.WIDTH / 2 - 0.1)
    scratch, alone = 100 * table.loc["pgd", "wb_pgd"], "no source,\ntrained against PGD"
    axis.axhline(scratch, color=figures.INK, linestyle="--", label=alone)
    for (source, target), label in SURVIVAL.items():
        found = [100 * table.loc[f"{source}-{target}-{s}", "wb_pgd"] for s in STRATEGIES]
        style = "o-" if source == "pgd" else "s:"
        colour = figures.COLOURS[target]
        axis.plot(list(MOVED.values()), found, style, color=colour, label=label)
    axis.set(title=title, xlim=(-0.25, 2.25), xlabel="retrained", ylim=(-2, top))
    axis.set_ylabel("accuracy under PGD (%)")
    figure.legend(loc="outside lower center", ncols=2, fontsize=figures.SMALL)
    return figure


def scatter(ours: pd.DataFrame, theirs: pd.DataFrame) -> Figure:
    """Our accuracy against the paper's, a panel per column, a point per network."""
    figure, axes = figures.subplots(1, len(COLUMNS), 2.3, sharex=True, sharey=True)
    for axis, column in zip(axes[0], COLUMNS, strict=True):
        axis.plot((0, 100), (0, 100), color=figures.GREY, linewidth=1)
        for defence, group in ours.groupby("target"):
            x, y = 100 * theirs.loc[group.index, column], 100 * group[column]
            axis.scatter(x, y, s=16, color=figures.COLOURS[defence], label=DEFENCES[defence])
        axis.set(title=TITLES[column], aspect="equal")
    axes[0, 0].set_ylabel("ours (%)")
    figure.supxlabel("paper (%)")
    figures.shared_legend(figure, "upper center", 4)
    return figure


def scheme(table: Sequence[Network]) -> Figure:
    """Figure 1: sources, what is made of them on the target, baselines, and the evaluation.

    Args:
        table: the networks of ``experiment.grid``.
    """
    sources = {n.target: n for n in table if n.role == "source"}
    pairs = list(dict.fromkeys((n.source, n.target) for n in table if n.role == "transfer"))
    baselines = [n.target for n in table if n.role == "baseline"]
    rows = len(pairs) + len(baselines)
    figure, ((axis,),) = figures.subplots(1, 1, 0.55 * rows)
    axis.set(xlim=(-0.1, 9.1), ylim=(rows - 0.4, -1.2))
    axis.set_axis_off()
    heights = dict(zip(sources, np.linspace(0.8, len(pairs) - 1.8, len(sources)), strict=True))
    for defence, y in heights.items():
        _box(axis, 0, y, f"R<sub>{defence}</sub>", "#f4c6d7")
    for y, (source, target) in enumerate(pairs):
        _box(axis, 3.1, y, f"R<sub>{source}→{target}</sub>  1, 18, 56", "#cfe3f5", 2.7)
        _arrow(axis, (1.7, heights[source]), (3.1, y), figures.COLOURS[source])
    for y, defence in enumerate(baselines, start=len(pairs)):
        _box(axis, 3.1, y, f"R<sub>{defence}</sub>", "#dff0d8", 2.7)
    measured = {"natural accuracy": -2.5, "white-box\nFGSM, PGD": -0.5, "black-box\nFGSM, PGD": 1.5}
    for text, y in measured.items():
        _box(axis, 7.3, rows / 2 + y, text, "#eeeeee")
    _box(axis, 7.3, rows - 1, "surrogate", "#f5e6c8")
    _arrow(axis, (8.15, rows - 1.4), (8.15, rows / 2 + 1.9))
    axis.plot((5.9, 6, 6, 5.9), (-0.3, -0.3, rows - 0.7, rows - 0.7), color=figures.INK, lw=1.3)
    for y in measured.values():
        _arrow(axis, (6, rows / 2 - 0.5), (7.3, rows / 2 + y))
    source, target = sources["nat"].config.dataset, table[-1].config.dataset
    for x, text in ((0.85, f"sources on {source}"), (2.4, "new head,\nretrain"),
                    (4.45, f"targets on {target}"), (8.15, "evaluation")):  # fmt: skip
        axis.text(x, -0.85, text, ha="center", va="center", style="italic")
    axis.text(2.9, rows - 2.5, "from\nscratch", ha="right", va="center", style="italic")
    return figure


def _arrow(
    axis: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = figures.INK
) -> None:
    axis.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": colour, "lw": 1.3})


def _box(axis: Axes, x: float, y: float, text: str, colour: str, width: float = 1.7) -> None:
    style = {"boxstyle": "round,pad=0.03", "fc": colour, "ec": figures.GREY}
    axis.add_patch(FancyBboxPatch((x, y - 0.33), width, 0.66, **style))
    style = {"ha": "center", "va": "center", "color": "black"}  # on the box, in either theme
    axis.text(x + width / 2, y, figures.mathtext(text), **style)
