"""Figures of one image under attack; every function returns a Matplotlib Figure."""

from collections.abc import Sequence

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from robust_transfer.figures import mathtext, subplots
from robust_transfer.seeing import Surface

LIKELY = 0.1
"""A class is drawn if a network gives it this probability anywhere along the attack."""
STYLES = ("-", "--", ":", "-.")


def beliefs(
    panels: dict[str, pd.DataFrame], names: Sequence[str], truth: int, xlabel: str
) -> Figure:
    """Probability of each likely class against an attack's strength, a panel per network.

    Args:
        panels: network label → a row per strength, a column per class (``seeing.beliefs``).
        names: of the classes.
        truth: the image's class; its curve is black and thick.
        xlabel: what the index is, with its unit.
    """
    shown = sorted({c for p in panels.values() for c in p if p[c].max() > LIKELY} | {truth})
    others = [c for c in shown if c != truth]
    colours = dict(zip(others, sns.color_palette("colorblind", len(others)), strict=True))
    figure, axes = subplots(1, len(panels), (2.9 * len(panels), 3.1), sharex=True, sharey=True)
    for axis, (label, table) in zip(axes[0], panels.items(), strict=True):
        for index, c in enumerate(others):
            style = STYLES[index % len(STYLES)]
            axis.plot(table.index, table[c], style, color=colours[c], label=names[c])
        axis.plot(table.index, table[truth], color="black", lw=2.5, label=f"{names[truth]} (truth)")
        axis.set(title=mathtext(label), xlabel=xlabel, ylim=(-0.02, 1.02))
    axes[0, 0].set_ylabel("probability")
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=5, fontsize=8)
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
