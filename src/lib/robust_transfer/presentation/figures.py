"""The figures of the book that are about no paper; every function returns a Matplotlib Figure.

Figures are drawn as wide as a page and shown at that size, so a point is 4/3 pixels: no text is
smaller than ``SMALL``. What is drawn in ``INK`` follows the theme where a figure is in a page.
"""

import html
import io
import json
import re
from collections.abc import Sequence
from hashlib import sha256
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from seaborn.utils import relative_luminance
from torch import Tensor

from robust_transfer.evaluation.single_image import Surface
from robust_transfer.presentation.tables import without_marks

WIDTH = 7
"""Inches from edge to edge of a notebook's page in a window of 1280 pixels."""
SMALL = 8
"""Points of the smallest letters; a network's name needs the usual 10, for its subscript."""
PALETTE = (
    "#0077aa", "#dd7700", "#776655", "#9900ff", "#779955", "#cc3322", "#9977ff", "#aa8899",
)  # fmt: skip
"""Told apart by the colour-blind too, at three to one against the ground of either theme."""
COLOURS = dict(zip(("nat", "fgsm", "fgsm_no_ll", "pgd"), PALETTE, strict=False))
"""One colour per defence, the same in every figure."""
INK, GREY, RED = "#222832", "#7f8790", "#d62728"
"""Of letters and axes, of lines that guide the eye, of walls in heatmaps."""
OUTCOMES = {
    "holds": ("o", COLOURS["nat"]),
    "holds in part": ("s", COLOURS["fgsm"]),
    "fails": ("^", RED),
}
"""How a test went, as a mark and its colour."""
LIKELY = 0.1
"""A class is drawn if a network gives it this probability anywhere along the attack."""

plt.rcParams.update(
    dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor"), INK)
    | dict.fromkeys(("xtick.color", "ytick.color"), INK)
    | dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), SMALL)
    | dict.fromkeys(("axes.titlesize", "figure.labelsize", "legend.fontsize"), 10)
    | {"axes.facecolor": "none", "axes.prop_cycle": plt.cycler(color=PALETTE)}
    | {"legend.frameon": False, "savefig.dpi": 200}
    | {"svg.hashsalt": "the same names in every build"}
)


class _Drawing(Figure):
    """A figure that Jupyter shows as SVG alone."""

    def _ipython_display_(self) -> None:
        display({"image/svg+xml": svg(self), "text/plain": repr(self)}, raw=True)


def svg(figure: Figure) -> str:
    """A figure as SVG, on white, the same in every build; letters are paths, so they fit."""
    file = io.StringIO()
    unsaid = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", metadata=unsaid)
    return file.getvalue()


def inline(drawing: str, alt_text: str) -> str:
    """An SVG file as part of a page, which gives it ink and ground; its names become its own.

    Args:
        drawing: the file's content.
        alt_text: what it shows, for readers who do not see it.
    """
    drawing = re.sub("<style.*?</style>", "", drawing[drawing.index("<svg") :], flags=re.DOTALL)
    drawing = drawing.replace(INK, "currentColor")
    drawing = drawing.replace("fill: #ffffff", "fill: none", 1)  # Matplotlib draws the ground first
    own = sha256(drawing.encode()).hexdigest()[:8]
    drawing = re.sub(r"""(\sid="|href="#|url\(#)""", rf"\g<1>d{own}-", drawing)
    named = f'<svg role="img" aria-label="{html.escape(alt_text)}"'
    return f'<div class="drawing">{drawing.replace("<svg", named, 1)}</div>'


def scripted(twin: Figure, content: dict, alt_text: str) -> str:
    """A static figure, and in JSON what a script of the page draws in its place."""
    island = json.dumps(content).replace("</", r"<\/")  # nothing in it may end the script
    return f'{inline(svg(twin), alt_text)}<script type="application/json">{island}</script>'


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
            ``effect``, ``low``, ``high``, ``expected`` and how its test ``went``.
    """
    figure, ((axis,),) = subplots(1, 1, 0.27 * len(gaps) + 1)
    axis.axvline(0, color=GREY, linewidth=1)
    gaps = gaps.reset_index(drop=True)
    rows = gaps.index
    axis.scatter(gaps["expected"], rows, s=34, marker="D", fc="none", ec=INK, label="claimed")
    for outcome, (marker, colour) in OUTCOMES.items():
        shown = gaps[gaps["went"] == outcome]
        ends = (shown["effect"] - shown["low"], shown["high"] - shown["effect"])
        axis.errorbar(
            shown["effect"], shown.index, xerr=ends, fmt=marker, color=colour, ms=5, capsize=2,
            label=f"ours: {outcome}",
        )  # fmt: skip
    axis.set_yticks(rows, [f"{r.id}  {mathtext(r.statement)}" for r in gaps.itertuples()], size=10)
    axis.set(xlabel="difference (percentage points)", ylim=(len(gaps) - 0.4, -0.6))
    shared_legend(figure, "upper right", 4)
    return figure


def training_curves(histories: dict[str, pd.DataFrame], columns: int = 4) -> Figure:
    """Validation accuracy per epoch, a small panel per network.

    Args:
        histories: label → history of a record; natural accuracy solid, adversarial dashed.
        columns: panels in a row.
    """
    labels = ("epoch", "accuracy (%)")
    figure, axes = small_multiples(len(histories), columns, 1.9, labels, sharey=True)
    for axis, (label, history) in zip(axes, histories.items(), strict=True):
        epochs = history["epoch"] + 1
        axis.plot(epochs, 100 * history["natural"], color=COLOURS["nat"], label="natural")
        if history["adversarial"].notna().any():
            adversarial = 100 * history["adversarial"]
            axis.plot(epochs, adversarial, "--", color=COLOURS["pgd"], label="training attack")
        axis.set_title(mathtext(label).replace(", ", ",\n"))
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
    figure, axes = subplots(len(rows), count, len(rows) * (WIDTH / count + 0.4))
    for line, (title, images) in zip(axes, rows.items(), strict=True):
        for axis, image, caption in zip(line, images, captions[title], strict=True):
            pixels = image.clamp(0, 1).permute(1, 2, 0).numpy()
            axis.imshow(pixels, interpolation="none", vmin=0, vmax=1)  # as they are, in SVG too
            axis.set_xlabel(caption, fontsize=SMALL)
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(title)
    return figure


def accuracy_curves(curves: pd.DataFrame, xlabel: str) -> Figure:
    """Accuracy against an attack's strength.

    Args:
        curves: index the strength, a column of accuracies in [0, 1] per network label.
        xlabel: what the index is, with its unit.
    """
    figure, ((axis,),) = subplots(1, 1, 3.6)
    for label, marker in zip(curves, cycle("osD^vP*X"), strict=False):
        axis.plot(curves.index, 100 * curves[label], marker=marker, label=mathtext(label))
    axis.set(xlabel=xlabel, ylabel="accuracy (%)", ylim=(0, 100))
    shared_legend(figure, "right upper", 1)
    return figure


def subplots(rows: int, columns: int, height: float, **shared) -> tuple[Figure, np.ndarray]:
    """Make a figure and its axes ``(rows, columns)``; notebooks show what is returned, once."""
    style = {"figsize": (WIDTH, height), "layout": "constrained", "FigureClass": _Drawing}
    figure, axes = plt.subplots(rows, columns, squeeze=False, **style, **shared)
    plt.close(figure)
    return figure, axes


def small_multiples(
    count: int, columns: int, height: float, labels: tuple[str, str], **shared
) -> tuple[Figure, list[Axes]]:
    """Make a figure of panels in rows, labels on its left and lower edge; returns the panels too.

    Args:
        count: number of panels.
        columns: of them in a row.
        height: of a panel, in inches.
        labels: of the x and the y axis.
        shared: see ``plt.subplots``.
    """
    rows = -(-count // columns)
    figure, axes = subplots(rows, columns, height * rows, **shared)
    for axis in axes.flat[count:]:
        axis.set_axis_off()
    plt.setp(axes[:, 0], ylabel=labels[1])
    plt.setp(axes[-1], xlabel=labels[0])
    return figure, list(axes.flat[:count])


def shared_legend(figure: Figure, place: str, columns: int) -> None:
    """Draw one legend beside all panels, of the panel that has most to tell."""
    legends = (axis.get_legend_handles_labels() for axis in figure.axes)
    handles = max(legends, key=lambda legend: len(legend[0]))
    figure.legend(*handles, loc=f"outside {place}", ncols=columns)


def beliefs(
    panels: dict[str, pd.DataFrame], names: Sequence[str], truth: int, xlabel: str
) -> Figure:
    """Probability of each likely class against an attack's strength, a panel per network.

    Args:
        panels: network label → a row per strength, a column per class (``single_image.beliefs``).
        names: of the classes.
        truth: the image's class; its curve is thick.
        xlabel: what the index is, with its unit.
    """
    shown = sorted({c for p in panels.values() for c in p if p[c].max() > LIKELY} | {truth})
    others = [c for c in shown if c != truth]
    colours = dict(zip(others, cycle(PALETTE), strict=False))
    figure, axes = subplots(1, len(panels), 3.1, sharex=True, sharey=True)
    for axis, (label, table) in zip(axes[0], panels.items(), strict=True):
        for c, style in zip(others, cycle(("-", "--", ":", "-.")), strict=False):
            axis.plot(table.index, table[c], style, color=colours[c], label=names[c])
        axis.plot(table.index, table[truth], color=INK, lw=2.5, label=f"{names[truth]} (truth)")
        axis.set(title=mathtext(label), ylim=(-0.02, 1.02))
    figure.supxlabel(xlabel)
    axes[0, 0].set_ylabel("probability")
    shared_legend(figure, "upper center", 4)
    return figure


def surfaces(panels: dict[str, Surface]) -> Figure:
    """Loss on a plane through an image, a panel per network, all in one scale.

    Args:
        panels: network label → loss; a white line surrounds where the answer is wrong.
    """
    top = max(surface.loss.max().item() for surface in panels.values())
    figure, axes = subplots(1, len(panels), 2.6, sharex=True, sharey=True)
    for axis, (label, surface) in zip(axes[0], panels.items(), strict=True):
        units = 256 * surface.offsets
        levels = [top * i / 24 for i in range(25)]
        mesh = axis.contourf(units, units, surface.loss, levels, cmap="cividis")
        mesh.set_edgecolor("face")  # else the page shows between levels
        if surface.margin.min() < 0 < surface.margin.max():
            axis.contour(units, units, surface.margin, [0], colors="white", linewidths=2)
        axis.plot(0, 0, "o", color="white", mec="black")
        axis.set(title=mathtext(label), aspect="equal")
    figure.supxlabel("along the gradient's sign")
    axes[0, 0].set_ylabel("along random signs")
    figure.colorbar(mesh, ax=axes, label="loss", ticks=range(0, int(top) + 1))
    return figure


def heatmap(axis: Axes, values: pd.DataFrame, **style) -> None:
    """Draw a heatmap with its numbers in black or white: 4.5 : 1 against each cell at least.

    Args:
        axis: to draw on.
        values: numbers by row and column; no number is written where one is missing.
        style: of ``seaborn.heatmap``.
    """
    style = {"cmap": "cividis", "annot": True, "annot_kws": {"size": SMALL}} | style
    sns.heatmap(values, cbar=False, ax=axis, **style)
    (mesh,) = axis.collections
    mesh.set(edgecolor="face", linewidth=0.5)  # else the page shows between cells
    cells = mesh.to_rgba(np.ma.compressed(mesh.get_array()))
    for number, cell in zip(axis.texts, cells, strict=False):  # there may be no numbers
        number.set_color("black" if relative_luminance(cell) > 0.18 else "white")
