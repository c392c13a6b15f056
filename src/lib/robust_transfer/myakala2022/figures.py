"""Paper B's figures beside ours, and the figures that the paper does not have."""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robust_transfer.myakala2022 import repeats
from robust_transfer.myakala2022.experiment import STRATEGIES, Cell, words
from robust_transfer.myakala2022.printed import COUNTERPARTS, accuracies, of
from robust_transfer.presentation.figures import subplots
from robust_transfer.presentation.tables import epsilon_words

COLOURS = dict(zip(STRATEGIES, sns.color_palette("colorblind"), strict=False))
"""One colour-blind safe colour per strategy."""
HATCHES = dict(zip(STRATEGIES, ("", "//", ".."), strict=True))
MARKERS = {"": "o", "pretraining": "s", "augmentation": "^"}
"""One marker per technique of the paper's Table II."""


def figure_1(rows: pd.DataFrame, table: Sequence[Cell], shown: Sequence[float]) -> Figure:
    """PGD accuracy per data set and strategy: the paper's, and ours at some epsilons.

    Error bars are standard deviations over repeats; the paper prints none.
    """
    plain = [cell for cell in table if not cell.techniques]
    tasks = [task for task, group in _by_task(plain).items() if len(group) > 1]
    figure, axes = subplots(1, 1 + len(shown), (3.4 * (1 + len(shown)), 3.2), sharey=True)
    paper = accuracies()["pgd"].xs("", level="techniques")
    names = list(dict.fromkeys(paper.index.get_level_values("dataset")))
    heights = {s: [paper[name, s] for name in names] for s in STRATEGIES}
    _bars(axes[0, 0], names, heights, {})
    axes[0, 0].set_title("paper, ε unstated", fontsize=9)
    for axis, epsilon in zip(axes[0, 1:], shown, strict=True):
        values = dict.fromkeys(product(tasks, STRATEGIES), pd.Series(dtype=float)) | {
            (cell.task, cell.strategy): repeats.accuracies(rows, cell.id, "pgd", epsilon)
            for cell in plain
        }
        heights = {s: [values[task, s].mean() for task in tasks] for s in STRATEGIES}
        spread = {s: [values[task, s].std(ddof=1) for task in tasks] for s in STRATEGIES}
        _bars(axis, [task.replace("/", "\n") for task in tasks], heights, spread)
        axis.set_title(f"ours, ε = {epsilon_words(epsilon)}", fontsize=9)
    axes[0, 0].set_ylabel("PGD accuracy (%)")
    axes[0, -1].legend(fontsize=8)
    return figure


def _bars(
    axis: Axes,
    names: Sequence[str],
    heights: Mapping[str, Sequence[float]],
    spread: Mapping[str, Sequence[float]],
) -> None:
    places = np.arange(len(names))
    for index, (strategy, values) in enumerate(heights.items()):
        axis.bar(
            places + 0.27 * (index - 1), values, 0.25, yerr=spread.get(strategy), capsize=2,
            color=COLOURS[strategy], hatch=HATCHES[strategy], edgecolor="white",
            label=words(strategy),
        )  # fmt: skip
    axis.set_xticks(places, names, fontsize=8)
    axis.set_ylim(0, 100)


def figure_2(rows: pd.DataFrame, table: Sequence[Cell], epsilon: float) -> Figure:
    """Standard against PGD accuracy of the cells of Tables I and II, ours and the paper's.

    A hollow marker is the paper's, a full one ours. The paper gives no standard accuracy of
    networks with augmentation; that of pre-trained ones follows from its text on CIFAR-10 alone.
    """
    tasks = _by_task(table)
    several = {task: group for task, group in tasks.items() if len(group) > 1}
    groups = {
        task: [cell for cell in group if "+".join(cell.ordered) in MARKERS]
        for task, group in (several or tasks).items()
    }
    figure, axes = subplots(1, len(groups), (3.6 * len(groups), 3.5), sharex=True, sharey=True)
    for axis, (task, group) in zip(axes[0], groups.items(), strict=True):
        for cell in group:
            technique = "+".join(cell.ordered)
            style = {"marker": MARKERS[technique], "s": 42, "edgecolor": COLOURS[cell.strategy]}
            natural = repeats.accuracies(rows, cell.id, "natural", 0.0).mean()
            attacked = repeats.accuracies(rows, cell.id, "pgd", epsilon).mean()
            if cell.strategy == "layer_freezing" or not technique:
                axis.scatter(
                    natural, attacked, color=COLOURS[cell.strategy], label=cell.label, **style
                )
                paper = of(cell)
                axis.scatter(paper["standard"], paper["pgd"], facecolor="none", **style)
        counterpart = COUNTERPARTS.get(task.split("/")[0])
        note = f"\nhollow: the paper's {counterpart}" if counterpart else ""
        axis.set_title(task + note, fontsize=8)
        axis.set(xlabel="standard accuracy (%)", xlim=(0, 100), ylim=(-3, 100))
    axes[0, 0].set_ylabel(f"PGD accuracy (%), ours at ε = {epsilon_words(epsilon)}")
    axes[0, 0].legend(fontsize=7, loc="upper left")
    return figure


def budget_curves(rows: pd.DataFrame, table: Sequence[Cell], attack: str) -> Figure:
    """Accuracy against epsilon, a panel per task; shaded: one standard deviation over repeats.

    Panels have scales of their own: two classes begin where a hundred never come.
    """
    groups = _by_task([c for c in table if "+".join(c.ordered) in MARKERS])
    columns = min(2, len(groups))
    lines = -(-len(groups) // columns)
    figure, axes = subplots(lines, columns, (4.6 * columns, 2.7 * lines), sharex=True)
    for axis in axes.flat[len(groups) :]:
        axis.set_axis_off()
    for axis, (task, group) in zip(axes.flat, groups.items(), strict=False):
        for cell in group:
            technique = "+".join(cell.ordered)
            if technique and cell.strategy != "layer_freezing":
                continue
            chosen = rows[(rows["cell"] == cell.id) & rows["attack"].isin(["natural", attack])]
            grouped = 100 * chosen.groupby("epsilon")["accuracy"].agg(["mean", "std"])
            sizes = 255 * grouped.index.to_numpy()
            style = {"color": COLOURS[cell.strategy]}
            dashes = "-" if not technique else "--" if technique == "pretraining" else ":"
            axis.plot(sizes, grouped["mean"], dashes, marker=MARKERS[technique], ms=4,
                      label=cell.label, **style)  # fmt: skip
            ends = grouped["mean"] - grouped["std"], grouped["mean"] + grouped["std"]
            axis.fill_between(sizes, *ends, alpha=0.15, linewidth=0, **style)
        axis.set_title(task, fontsize=9)
        axis.set_ylim(bottom=0)
    for axis in axes[:, 0]:
        axis.set_ylabel(f"{attack.upper()} accuracy (%)")
    for axis in axes[-1]:
        axis.set_xlabel("ε in 255ths")
    handles = max((axis.get_legend_handles_labels() for axis in axes.flat), key=lambda h: len(h[0]))
    figure.legend(*handles, loc="outside upper center", ncols=3, fontsize=8)
    return figure


def effects(gains: pd.DataFrame) -> Figure:
    """What techniques add, per strategy, with intervals over seeds.

    Args:
        gains: of ``tables.effects``.
    """
    techniques = list(dict.fromkeys(gains["technique"]))
    rows = max(1, len(techniques))  # a study may have none
    figure, ((axis,),) = subplots(1, 1, (7, 0.9 * rows + 1))
    axis.axvline(0, color="0.7", linewidth=1)
    shifts = np.linspace(-0.27, 0.27, 4)
    for strategy, marker, shift in zip((*STRATEGIES, "all"), "osD^", shifts, strict=True):
        part = gains[gains["strategy"] == words(strategy)]
        heights = [techniques.index(name) + shift for name in part["technique"]]
        ends = (part["gain"] - part["low"], part["high"] - part["gain"])
        axis.errorbar(
            part["gain"], heights, xerr=ends, fmt=marker, capsize=2, ms=5,
            color=COLOURS.get(strategy, "0.2"), label=words(strategy),
        )  # fmt: skip
    axis.set_yticks(range(len(techniques)), techniques)
    axis.set(xlabel="gain in percentage points", ylim=(rows - 0.5, -0.5))
    figure.legend(loc="outside upper center", ncols=4, fontsize=8)
    return figure


def confusions(counts: Mapping[str, pd.DataFrame]) -> Figure:
    """Confusion matrices side by side, in percent of each true class."""
    figure, axes = subplots(1, len(counts), (4.3 * len(counts), 4.1), sharey=True)
    for axis, (title, table) in zip(axes[0], counts.items(), strict=True):
        shares = 100 * table.div(table.sum(axis=1).clip(lower=1), axis=0)
        sns.heatmap(
            shares, vmin=0, vmax=100, cmap="cividis", annot=len(table) <= 12, fmt=".0f",
            cbar=False, annot_kws={"size": 7}, ax=axis,
        )  # fmt: skip
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=8)
    return figure


def flows(parts: Mapping[str, pd.DataFrame]) -> Figure:
    """Gradient before fine-tuning and distance moved by it, part by part, a line per task.

    Args:
        parts: task → of ``layers.get_or_measure``.
    """
    figure, axes = subplots(1, 2, (8, 3), sharex=True)
    titles = {"gradient": "‖∂J/∂θ‖ / ‖θ‖ before", "moved": "‖θ − θ₀‖ / ‖θ₀‖ after"}
    for axis, (column, title) in zip(axes[0], titles.items(), strict=True):
        for (task, table), marker in zip(parts.items(), "osD^vP*X", strict=False):
            axis.plot(table.index, table[column], marker=marker, label=task)
        axis.set_title(title, fontsize=9)
        axis.set_yscale("log")
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=len(parts), fontsize=8)
    return figure


def _by_task(table: Sequence[Cell]) -> dict[str, list[Cell]]:
    groups: dict[str, list[Cell]] = {}
    for cell in table:
        groups.setdefault(cell.task, []).append(cell)
    return groups
