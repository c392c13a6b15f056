"""The figures of paper A and of the book; every function returns a Matplotlib Figure."""

import re
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import Tensor

from robust_transfer.evaluation import COLUMNS
from robust_transfer.experiments import Network

PLOTTED = ("natural", "wb_fgsm", "wb_pgd", "bb_fgsm", "bb_pgd")
"""Columns in the order of the paper's heatmaps: clean, white box, black box."""
TITLES = {
    "natural": "natural",
    "wb_fgsm": "WB\nFGSM",
    "wb_pgd": "WB\nPGD",
    "bb_fgsm": "BB\nFGSM",
    "bb_pgd": "BB\nPGD",
}
COLOURS = dict(
    zip(("nat", "fgsm", "fgsm_no_ll", "pgd"), sns.color_palette("colorblind"), strict=False)
)
"""One colour-blind safe colour per defence, the same in every figure."""
RED = "#d62728"


def mathtext(label: str) -> str:
    """Turn the networks' labels (HTML subscripts) in a text into Matplotlib's mathtext."""

    def subscript(found: re.Match) -> str:
        defences = found[1].replace("_", r"\_").replace("→", r"{\to}")
        return rf"$R_{{\mathrm{{{defences}}}}}$"

    return re.sub(r"R<sub>(.*?)</sub>", subscript, label)


def normalised(table: pd.DataFrame) -> pd.DataFrame:
    """Min–max normalise every accuracy column over the rows: 1 is the best, 0 the worst.

    A column of equal values is all 1: none of its rows is worse than another.
    """
    values = table[list(PLOTTED)]
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
    ids = [row for block in blocks for row in block]
    size = (5.2 * len(tables), 0.31 * len(ids) + 1.5)
    figure, axes = subplots(1, len(tables), size)
    for axis, (title, table) in zip(axes[0], tables.items(), strict=True):
        shown = table.loc[ids]
        extremes = [f"{100 * shown[c].min():.1f}–{100 * shown[c].max():.1f}%" for c in PLOTTED]
        _heatmap(
            axis, normalised(shown), shown["label"], blocks, extremes, "cividis", (0, 1), ".2f"
        )
        axis.set_title(title, fontsize=10)
    return figure


def differences(ours: pd.DataFrame, theirs: pd.DataFrame, blocks: list[list[str]]) -> Figure:
    """Heatmap of our accuracy minus the paper's, in percentage points."""
    ids = [row for block in blocks for row in block]
    gaps = 100 * (ours.loc[ids, list(PLOTTED)] - theirs.loc[ids, list(PLOTTED)])
    figure, ((axis,),) = subplots(1, 1, (6, 0.31 * len(ids) + 1.5))
    extremes = [f"{gaps[c].min():+.0f} to {gaps[c].max():+.0f}" for c in PLOTTED]
    labels = ours.loc[ids, "label"]
    _heatmap(axis, gaps, labels, blocks, extremes, "PuOr_r", (-100, 100), "+.1f")
    return figure


def _heatmap(
    axis: Axes,
    values: pd.DataFrame,
    labels: pd.Series,
    blocks: list[list[str]],
    notes: list[str],
    cmap: str,
    limits: tuple[float, float],
    fmt: str,
) -> None:
    """Draw one panel: ``notes`` stand below the column titles."""
    sns.heatmap(
        values, vmin=limits[0], vmax=limits[1], cmap=cmap, annot=True, fmt=fmt, cbar=False,
        yticklabels=[mathtext(label) for label in labels], annot_kws={"size": 8}, ax=axis,
    )  # fmt: skip
    names = [f"{TITLES[column]}\n{note}" for column, note in zip(PLOTTED, notes, strict=True)]
    axis.set_xticks(np.arange(len(PLOTTED)) + 0.5, names, fontsize=8, rotation=0)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.set_ylabel("")
    edges = np.cumsum([len(block) for block in blocks])[:-1]
    axis.hlines(edges, 0, len(PLOTTED), color=RED, linewidth=2)
    axis.vlines((1, 3), 0, len(values), color=RED, linewidth=2)


def agreement(ours: pd.DataFrame, theirs: pd.DataFrame) -> Figure:
    """Our accuracy against the paper's, a panel per column, a point per network."""
    figure, axes = subplots(1, len(COLUMNS), (12, 3), sharex=True, sharey=True)
    for axis, column in zip(axes[0], PLOTTED, strict=True):
        axis.plot((0, 100), (0, 100), color="0.7", linewidth=1)
        for defence, group in ours.groupby("target"):
            x, y = 100 * theirs.loc[group.index, column], 100 * group[column]
            axis.scatter(x, y, s=16, color=COLOURS[defence], label=defence)
        axis.set(title=TITLES[column].replace("\n", " "), xlabel="paper (%)", aspect="equal")
    axes[0, 0].set_ylabel("ours (%)")
    axes[0, -1].legend(title="target trained", fontsize=7, title_fontsize=7)
    return figure


def forest(gaps: pd.DataFrame) -> Figure:
    """Claimed differences one below the other: ours with its interval, beside the paper's.

    Args:
        gaps: a row per difference, in percentage points: ``id`` of the claim, ``statement``,
            ``effect``, ``low``, ``high``, ``expected`` and ``outcome``.
    """
    figure, ((axis,),) = subplots(1, 1, (8, 0.27 * len(gaps) + 1))
    axis.axvline(0, color="0.7", linewidth=1)
    rows = np.arange(len(gaps))
    axis.scatter(gaps["expected"], rows, s=34, marker="D", fc="white", ec="0.35", label="claimed")
    outcomes = ("replicates", "partly", "fails")
    for outcome, marker, colour in zip(outcomes, "os^", list(COLOURS.values())[:3], strict=True):
        of_kind = (gaps["outcome"] == outcome).to_numpy()
        shown = gaps[of_kind]
        ends = (shown["effect"] - shown["low"], shown["high"] - shown["effect"])
        axis.errorbar(
            shown["effect"], rows[of_kind], xerr=ends, fmt=marker, color=colour, ms=5, capsize=2,
            label=f"ours: {outcome}",
        )  # fmt: skip
    axis.set_yticks(rows, [f"{r.id}  {mathtext(r.statement)}" for r in gaps.itertuples()], size=8)
    axis.set(xlabel="difference (percentage points)", ylim=(len(gaps) - 0.4, -0.6))
    figure.legend(loc="outside upper right", ncols=4, fontsize=8)
    return figure


def training_curves(histories: dict[str, pd.DataFrame], columns: int = 4) -> Figure:
    """Validation accuracy per epoch, a small panel per network.

    Args:
        histories: label → history of a record; natural accuracy solid, adversarial dashed.
        columns: panels in a row.
    """
    rows = -(-len(histories) // columns)
    figure, axes = subplots(rows, columns, (2.6 * columns, 1.9 * rows), sharey=True)
    for axis in axes.flat[len(histories) :]:
        axis.set_axis_off()
    for axis, (label, history) in zip(axes.flat, histories.items(), strict=False):
        epochs = history["epoch"] + 1
        axis.plot(epochs, 100 * history["natural"], color=COLOURS["nat"], label="natural")
        if history["adversarial"].notna().any():
            adversarial = 100 * history["adversarial"]
            axis.plot(epochs, adversarial, "--", color=COLOURS["pgd"], label="training attack")
        axis.set_title(mathtext(label), fontsize=9)
        axis.set_ylim(0, 100)
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy (%)")
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    handles = max((axis.get_legend_handles_labels() for axis in axes.flat), key=lambda h: len(h[0]))
    figure.legend(*handles, loc="outside upper right", ncols=2, fontsize=8)
    return figure


def attack_examples(rows: dict[str, Tensor], captions: dict[str, Sequence[str]]) -> Figure:
    """Images in a grid, a row per kind, with what a network answers below each.

    Args:
        rows: row title → float ``(N, 3, H, W)`` in [0, 1].
        captions: row title → N texts.
    """
    count = max(len(images) for images in rows.values())
    figure, axes = subplots(len(rows), count, (1.45 * count, 1.75 * len(rows)))
    for line, (title, images) in zip(axes, rows.items(), strict=True):
        for axis, image, caption in zip(line, images, captions[title], strict=True):
            axis.imshow(
                image.clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest", vmin=0, vmax=1
            )
            axis.set_xlabel(caption, fontsize=8)
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(title, fontsize=9)
    return figure


def accuracy_curves(curves: pd.DataFrame, xlabel: str) -> Figure:
    """Accuracy against an attack's strength.

    Args:
        curves: index the strength, a column of accuracies in [0, 1] per network label.
        xlabel: what the index is, with its unit.
    """
    figure, ((axis,),) = subplots(1, 1, (6, 3.6))
    markers = "osD^vP*X"
    palette = sns.color_palette("colorblind", len(curves.columns))
    for index, label in enumerate(curves.columns):
        axis.plot(
            curves.index, 100 * curves[label], marker=markers[index % len(markers)],
            color=palette[index], label=mathtext(label),
        )  # fmt: skip
    axis.set(xlabel=xlabel, ylabel="accuracy (%)", ylim=(0, 100))
    axis.legend(fontsize=8)
    return figure


def pipeline(table: Sequence[Network]) -> Figure:
    """Figure 1: sources, what is made of them on the target, baselines, and the evaluation.

    Args:
        table: the networks of ``experiments.grid``.
    """
    sources = {n.target: n for n in table if n.role == "source"}
    pairs = list(dict.fromkeys((n.source, n.target) for n in table if n.role == "transfer"))
    baselines = [n.target for n in table if n.role == "baseline"]
    rows = len(pairs) + len(baselines)
    figure, ((axis,),) = subplots(1, 1, (9, 0.52 * rows))
    axis.set(xlim=(-0.1, 9.1), ylim=(rows - 0.4, -1.2))
    axis.set_axis_off()
    heights = dict(zip(sources, np.linspace(0.8, len(pairs) - 1.8, len(sources)), strict=True))
    for defence, y in heights.items():
        _box(axis, 0, y, mathtext(f"R<sub>{defence}</sub>"), "#f4c6d7")
    for y, (source, target) in enumerate(pairs):
        _box(axis, 3.6, y, mathtext(f"R<sub>{source}→{target}</sub>  1, 18, 56"), "#cfe3f5")
        _arrow(axis, (1.7, heights[source]), (3.6, y), COLOURS[source])
    for y, defence in enumerate(baselines, start=len(pairs)):
        _box(axis, 3.6, y, mathtext(f"R<sub>{defence}</sub>"), "#dff0d8")
    _box(axis, 7.3, rows / 2 - 2.5, "natural accuracy", "#eeeeee")
    _box(axis, 7.3, rows / 2 - 0.5, "white-box\nFGSM, PGD", "#eeeeee")
    _box(axis, 7.3, rows / 2 + 1.5, "black-box\nFGSM, PGD", "#eeeeee")
    _box(axis, 7.3, rows - 1, "surrogate", "#f5e6c8")
    _arrow(axis, (8.15, rows - 1.4), (8.15, rows / 2 + 1.9), "0.3")
    axis.plot((5.4, 5.5, 5.5, 5.4), (-0.3, -0.3, rows - 0.7, rows - 0.7), color="0.3", lw=1.3)
    for y in (rows / 2 - 2.5, rows / 2 - 0.5, rows / 2 + 1.5):
        _arrow(axis, (5.5, rows / 2 - 0.5), (7.3, y), "0.3")
    source, target = sources["nat"].config.dataset, table[-1].config.dataset
    for x, text in ((0.85, f"sources on {source}"), (2.65, "new head,\nretrain"),
                    (4.45, f"targets on {target}"), (8.15, "evaluation")):  # fmt: skip
        axis.text(x, -0.85, text, ha="center", va="center", fontsize=9, style="italic")
    axis.text(3.4, rows - 2.5, "from\nscratch", ha="right", va="center", fontsize=9, style="italic")
    return figure


def subplots(rows: int, columns: int, size: tuple[float, float], **shared) -> tuple:
    """Make a figure and its axes ``(rows, columns)``; notebooks show what is returned, once."""
    figure, axes = plt.subplots(
        rows, columns, figsize=size, squeeze=False, layout="constrained", **shared
    )
    plt.close(figure)
    return figure, axes


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], colour) -> None:
    axis.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": colour, "lw": 1.3})


def _box(axis: Axes, x: float, y: float, text: str, colour: str) -> None:
    axis.add_patch(
        FancyBboxPatch((x, y - 0.33), 1.7, 0.66, boxstyle="round,pad=0.03", fc=colour, ec="0.4")
    )
    axis.text(x + 0.85, y, text, ha="center", va="center", fontsize=9)
