"""Paper B's figures beside ours, and the figures that the paper does not have."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robust_transfer.myakala2022 import printed
from robust_transfer.myakala2022.experiment import FINE_TUNINGS, OVERALL, by_task, words
from robust_transfer.myakala2022.measured import LEAST, MeasuredCell, most_left
from robust_transfer.presentation.figures import (
    GREY,
    INK,
    PALETTE,
    heatmap,
    shared_legend,
    small_multiples,
    subplots,
)
from robust_transfer.presentation.tables import epsilon_words

STRATEGY_COLOURS = dict(zip(FINE_TUNINGS, PALETTE, strict=False))
"""One colour per strategy."""
HATCHES = dict(zip(FINE_TUNINGS, ("", "//", ".."), strict=True))
MARKERS = {"": "o", "pretraining": "s", "batch_norm": "D", "augmentation": "^"}
"""One marker per technique."""
ROUND = (0.1, 0.25, 0.5, 1, 2, 4, 8, 16)
"""Epsilons, in 255ths, that get a tick."""
DASHES = {"": "-", "pretraining": "--", "batch_norm": "-.", "augmentation": ":"}


def figure_1(cells: Sequence[MeasuredCell], shown: Sequence[float]) -> Figure:
    """PGD accuracy per data set and strategy: the paper's, and ours at some epsilons.

    Budgets of which nothing is left are passed over: their bars would be none.
    Error bars are standard deviations over repeats; the paper prints none.
    """
    groups = by_task((cell for cell in cells if not cell.techniques), least=2)
    drawn = [cell for group in groups.values() for cell in group]
    if drawn:
        shown = [e for e in shown if most_left(drawn, "pgd", e) >= LEAST] or shown[:1]
    names = [(cell.task.replace("/", "\n"), cell.strategy) for cell in drawn]
    rows = pd.MultiIndex.from_tuples(names, names=["task", "strategy"])
    figure, axes = subplots(1 + len(shown), 1, 2.2 * (1 + len(shown)))
    paper = printed.tables()["pgd"].xs("", level="techniques").unstack("strategy", sort=False)
    _bars(axes[0, 0], paper, pd.DataFrame())
    axes[0, 0].set_title("paper, ε unstated")
    for axis, epsilon in zip(axes[1:, 0], shown, strict=True):
        table = pd.DataFrame([cell.by_seed("pgd", epsilon) for cell in drawn]).set_axis(rows)
        _bars(axis, *(table.agg(of, axis=1).unstack(sort=False) for of in ("mean", "std")))
        axis.set_title(f"ours, ε = {epsilon_words(epsilon)}")
    figure.supylabel("PGD accuracy (%)")
    shared_legend(figure, "upper center", 3)
    return figure


def _bars(axis: Axes, heights: pd.DataFrame, spread: pd.DataFrame) -> None:
    """Bars side by side, a group per row and a bar per strategy."""
    places = np.arange(len(heights))
    for index, strategy in enumerate(FINE_TUNINGS):
        axis.bar(
            places + 0.27 * (index - 1), heights.get(strategy, np.nan), 0.25,
            yerr=spread.get(strategy), ecolor=INK, capsize=2, color=STRATEGY_COLOURS[strategy],
            hatch=HATCHES[strategy], edgecolor="white", label=words(strategy),
        )  # fmt: skip
    axis.set_xticks(places, heights.index)
    axis.set_ylim(0, 100)


def figure_2(cells: Sequence[MeasuredCell], epsilon: float) -> Figure:
    """Standard against PGD accuracy of cells with one technique at most, ours and the paper's.

    A hollow marker is the paper's, a full one ours. The paper gives no standard accuracy of
    networks with augmentation; that of pre-trained ones follows from its text on CIFAR-10 alone.
    """
    groups = by_task(cells, least=2) or by_task(cells)
    figure, axes = subplots(1, len(groups), 4.4, sharex=True, sharey=True)
    for axis, (task, group) in zip(axes[0], groups.items(), strict=True):
        for cell in filter(_one_at_most, group):
            colour, marker = STRATEGY_COLOURS[cell.strategy], MARKERS["+".join(cell.ordered)]
            style = {"marker": marker, "s": 42, "edgecolor": colour}
            ours = cell.by_seed().mean(), cell.by_seed("pgd", epsilon).mean()
            axis.scatter(*ours, color=colour, label=cell.label, **style)
            axis.scatter(*printed.of(cell)[["standard", "pgd"]], facecolor="none", **style)
        counterpart = printed.COUNTERPARTS.get(task.split("/")[0])
        note = f"\nhollow: the paper's {counterpart}" if counterpart else ""
        axis.set_title(task + note)
        axis.set(xlim=(0, 100), ylim=(-3, 100))
    figure.supxlabel("standard accuracy (%)")
    axes[0, 0].set_ylabel(f"PGD accuracy (%), ours at ε = {epsilon_words(epsilon)}")
    shared_legend(figure, "upper center", 2)
    return figure


def _one_at_most(cell: MeasuredCell) -> bool:
    """Whether a cell has no more than one technique."""
    return len(cell.techniques) <= 1


def budget_curves(cells: Sequence[MeasuredCell], attack: str) -> Figure:
    """Accuracy against epsilon, a panel per task; shaded: one standard deviation over repeats.

    Panels have scales of their own: two classes begin where a hundred never come. Epsilons are on
    a logarithmic scale, after a straight piece from 0 to the smallest.
    """
    groups = by_task(filter(_one_at_most, cells))
    labels = ("ε in 255ths", f"{attack.upper()} accuracy (%)")
    columns = min(2, len(groups))
    figure, axes = small_multiples(len(groups), columns, 3.4, labels, sharex=True)
    for axis, (task, group) in zip(axes, groups.items(), strict=True):
        for cell in group:
            table, technique = cell.by_budget(attack), "+".join(cell.ordered)
            sizes = (255 * table.index).to_numpy().round(2)
            mean, sd = table.mean(axis=1), table.std(axis=1)
            colour = STRATEGY_COLOURS[cell.strategy]
            style = {"linestyle": DASHES[technique], "marker": MARKERS[technique], "ms": 4}
            axis.plot(sizes, mean, color=colour, label=cell.label, **style)
            axis.fill_between(sizes, mean - sd, mean + sd, alpha=0.15, linewidth=0, color=colour)
        axis.set_title(task)
        axis.set_ylim(bottom=0)
        axis.set_xscale("symlog", base=2, linthresh=sizes[1])
        axis.minorticks_off()
        axis.set_xticks(ticks := [size for size in sizes if size in (0, *ROUND)])
        axis.set_xticklabels(f"{size:g}" for size in ticks)
    shared_legend(figure, "upper center", 2)
    return figure


def gains(effects: pd.DataFrame) -> Figure:
    """What techniques add, per strategy, with intervals over seeds.

    Args:
        effects: of ``tables.effects``.
    """
    techniques = list(dict.fromkeys(effects["technique"]))
    rows = max(1, len(techniques))  # a study may have none
    figure, ((axis,),) = subplots(1, 1, 0.9 * rows + 1)
    axis.axvline(0, color=GREY, linewidth=1)
    shifts = np.linspace(-0.27, 0.27, 4)
    for strategy, marker, shift in zip((*FINE_TUNINGS, OVERALL), "osD^", shifts, strict=True):
        part = effects[effects["strategy"] == words(strategy)]
        if part.empty:
            continue
        heights = [techniques.index(name) + shift for name in part["technique"]]
        ends = (part["gain"] - part["low"], part["high"] - part["gain"])
        axis.errorbar(
            part["gain"], heights, xerr=ends, fmt=marker, capsize=2, ms=5,
            color=STRATEGY_COLOURS.get(strategy, INK), label=words(strategy),
        )  # fmt: skip
    axis.set_yticks(range(len(techniques)), techniques)
    axis.set(xlabel="gain in percentage points", ylim=(rows - 0.5, -0.5))
    shared_legend(figure, "upper center", 4)
    return figure


def confusions(counts: Mapping[str, pd.DataFrame]) -> Figure:
    """Confusion matrices side by side, in percent of each true class."""
    figure, axes = subplots(1, len(counts), 3.7, sharey=True)
    for axis, (title, table) in zip(axes[0], counts.items(), strict=True):
        shares = 100 * table.div(table.sum(axis=1).clip(lower=1), axis=0)
        few = len(table) <= 12
        heatmap(axis, shares, vmin=0, vmax=100, annot=few, fmt=".0f", rasterized=not few)
        axis.set_title(title)
    return figure


def flows(parts: Mapping[str, pd.DataFrame]) -> Figure:
    """Gradient before fine-tuning and distance moved by it, part by part, a line per task.

    Args:
        parts: task → of ``layers.get_or_measure``.
    """
    figure, axes = subplots(1, 2, 3, sharex=True)
    titles = {"gradient": "‖∂J/∂θ‖ / ‖θ‖ before", "moved": "‖θ − θ₀‖ / ‖θ₀‖ after"}
    for axis, (column, title) in zip(axes[0], titles.items(), strict=True):
        for (task, table), marker in zip(parts.items(), "osD^vP*X", strict=False):
            axis.plot(table.index, table[column], marker=marker, label=task)
        axis.set_title(title)
        axis.set_yscale("log")
        axis.tick_params("y", which="both", labelsize=10)  # for the exponents
    shared_legend(figure, "upper center", 2)
    return figure
