"""The figures of the book that are about no paper; every function returns a Matplotlib Figure."""

import re
from collections.abc import Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from robust_transfer.evaluation.single_image import Surface
from robust_transfer.presentation.tables import without_marks

COLOURS = dict(
    zip(("nat", "fgsm", "fgsm_no_ll", "pgd"), sns.color_palette("colorblind"), strict=False)
)
"""One colour-blind safe colour per defence, the same in every figure."""
RED = "#d62728"
OUTCOMES = {
    "replicates": ("o", COLOURS["nat"]),
    "partly": ("s", COLOURS["fgsm"]),
    "fails": ("^", RED),
}
"""How a test went, as a mark and its colour."""
LIKELY = 0.1
"""A class is drawn if a network gives it this probability anywhere along the attack."""


def mathtext(label: str) -> str:
    """Turn the networks' labels (HTML subscripts) in a text into Matplotlib's mathtext."""

    def subscript(found: re.Match) -> str:
        defences = found[1].replace("_", r"\_").replace("→", r"{\to}")
        return rf"$R_{{\mathrm{{{defences}}}}}$"

    return re.sub(r"R<sub>(.*?)</sub>", subscript, without_marks(label))


def forest(gaps: pd.DataFrame) -> Figure:
    """Claimed differences one below the other: ours with its interval, beside the paper's.

    Args:
        gaps: a row per difference, in percentage points: ``id`` of the claim, ``statement``,
            ``effect``, ``low``, ``high``, ``expected`` and ``outcome``.
    """
    figure, ((axis,),) = subplots(1, 1, (8, 0.27 * len(gaps) + 1))
    axis.axvline(0, color="0.7", linewidth=1)
    gaps = gaps.reset_index(drop=True)
    rows = gaps.index
    axis.scatter(gaps["expected"], rows, s=34, marker="D", fc="white", ec="0.35", label="claimed")
    for outcome, (marker, colour) in OUTCOMES.items():
        shown = gaps[gaps["outcome"] == outcome]
        ends = (shown["effect"] - shown["low"], shown["high"] - shown["effect"])
        axis.errorbar(
            shown["effect"], shown.index, xerr=ends, fmt=marker, color=colour, ms=5, capsize=2,
            label=f"ours: {outcome}",
        )  # fmt: skip
    axis.set_yticks(rows, [f"{r.id}  {mathtext(r.statement)}" for r in gaps.itertuples()], size=8)
    axis.set(xlabel="difference (percentage points)", ylim=(len(gaps) - 0.4, -0.6))
    shared_legend(figure, "upper right", 4)
    return figure


def training_curves(histories: dict[str, pd.DataFrame], columns: int = 4) -> Figure:
    """Validation accuracy per epoch, a small panel per network.

    Args:
        histories: label → history of a record; natural accuracy solid, adversarial dashed.
        columns: panels in a row.
    """
    panel, labels = (2.6, 1.9), ("epoch", "accuracy (%)")
    figure, axes = small_multiples(len(histories), columns, panel, labels, sharey=True)
    for axis, (label, history) in zip(axes, histories.items(), strict=True):
        epochs = history["epoch"] + 1
        axis.plot(epochs, 100 * history["natural"], color=COLOURS["nat"], label="natural")
        if history["adversarial"].notna().any():
            adversarial = 100 * history["adversarial"]
            axis.plot(epochs, adversarial, "--", color=COLOURS["pgd"], label="training attack")
        axis.set_title(mathtext(label), fontsize=9)
        axis.set_ylim(0, 100)
    shared_legend(figure, "upper right", 2)
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
            pixels = image.clamp(0, 1).permute(1, 2, 0).numpy()
            axis.imshow(pixels, interpolation="nearest", vmin=0, vmax=1)
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
    colours = sns.color_palette("colorblind", len(curves.columns))
    for label, colour, marker in zip(curves, colours, cycle("osD^vP*X"), strict=False):
        values = 100 * curves[label]
        axis.plot(curves.index, values, marker=marker, color=colour, label=mathtext(label))
    axis.set(xlabel=xlabel, ylabel="accuracy (%)", ylim=(0, 100))
    axis.legend(fontsize=8)
    return figure


def subplots(rows: int, columns: int, size: tuple[float, float], **options) -> tuple:
    """Make a figure and its axes ``(rows, columns)``; notebooks show what is returned, once."""
    options = {"figsize": size, "squeeze": False, "layout": "constrained"} | options
    figure, axes = plt.subplots(rows, columns, **options)
    plt.close(figure)
    return figure, axes


def small_multiples(
    count: int, columns: int, panel: tuple[float, float], labels: tuple[str, str], **shared
) -> tuple[Figure, list[Axes]]:
    """Make a figure of panels in rows, labels on its left and lower edge; returns the panels too.

    Args:
        count: number of panels.
        columns: of them in a row.
        panel: width and height of one.
        labels: of the x and the y axis.
        shared: see ``subplots``.
    """
    rows = -(-count // columns)
    figure, axes = subplots(rows, columns, (panel[0] * columns, panel[1] * rows), **shared)
    for axis in axes.flat[count:]:
        axis.set_axis_off()
    plt.setp(axes[:, 0], ylabel=labels[1])
    plt.setp(axes[-1], xlabel=labels[0])
    return figure, list(axes.flat[:count])


def shared_legend(figure: Figure, place: str, columns: int) -> None:
    """Draw one legend beside all panels, of the panel that has most to tell."""
    legends = (axis.get_legend_handles_labels() for axis in figure.axes)
    handles = max(legends, key=lambda legend: len(legend[0]))
    figure.legend(*handles, loc=f"outside {place}", ncols=columns, fontsize=8)


def beliefs(
    panels: dict[str, pd.DataFrame], names: Sequence[str], truth: int, xlabel: str
) -> Figure:
    """Probability of each likely class against an attack's strength, a panel per network.

    Args:
        panels: network label → a row per strength, a column per class (``single_image.beliefs``).
        names: of the classes.
        truth: the image's class; its curve is black and thick.
        xlabel: what the index is, with its unit.
    """
    shown = sorted({c for p in panels.values() for c in p if p[c].max() > LIKELY} | {truth})
    others = [c for c in shown if c != truth]
    colours = dict(zip(others, sns.color_palette("colorblind", len(others)), strict=True))
    figure, axes = subplots(1, len(panels), (2.9 * len(panels), 3.1), sharex=True, sharey=True)
    for axis, (label, table) in zip(axes[0], panels.items(), strict=True):
        for c, style in zip(others, cycle(("-", "--", ":", "-.")), strict=False):
            axis.plot(table.index, table[c], style, color=colours[c], label=names[c])
        axis.plot(table.index, table[truth], color="black", lw=2.5, label=f"{names[truth]} (truth)")
        axis.set(title=mathtext(label), xlabel=xlabel, ylim=(-0.02, 1.02))
    axes[0, 0].set_ylabel("probability")
    shared_legend(figure, "lower center", 5)
    return figure


def surfaces(panels: dict[str, Surface]) -> Figure:
    """Loss on a plane through an image, a panel per network, all in one scale.

    Args:
        panels: network label → loss; a white line surrounds where the answer is wrong.
    """
    top = max(surface.loss.max().item() for surface in panels.values())
    figure, axes = subplots(1, len(panels), (3 * len(panels) + 0.8, 3.2), sharex=True, sharey=True)
    for axis, (label, surface) in zip(axes[0], panels.items(), strict=True):
        units = 256 * surface.offsets
        levels = [top * i / 24 for i in range(25)]
        mesh = axis.contourf(units, units, surface.loss, levels, cmap="cividis")
        if surface.margin.min() < 0 < surface.margin.max():
            axis.contour(units, units, surface.margin, [0], colors="white", linewidths=2)
        axis.plot(0, 0, "o", color="white", mec="black")
        axis.set(title=mathtext(label), xlabel="along the gradient's sign", aspect="equal")
    axes[0, 0].set_ylabel("along random signs")
    figure.colorbar(mesh, ax=axes, label="loss", ticks=range(0, int(top) + 1))
    return figure
