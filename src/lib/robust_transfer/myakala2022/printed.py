"""What paper B prints, and which of our cells stands beside which of its numbers."""

import numpy as np
import pandas as pd

from robust_transfer import paths
from robust_transfer.myakala2022.experiment import NONE, Cell

STAND_INS = {
    "CIFAR-10": ("resnet", "efficientnet"),
    "ImageNet": ("vit",),
    "ChestX-ray": ("densenet", "efficientnet"),
}
"""Kinds of networks beside whose numbers the paper's are set, on each of its data sets.

The first is the paper's own; an EfficientNet, too, is convolutional and made for ImageNet."""

COUNTERPARTS = {
    "cifar10": "CIFAR-10",
    "imagenet_subset": "ImageNet",
    "tiny_imagenet100": "ImageNet",
    "chestxray14": "ChestX-ray",
    "chest_xray8": "ChestX-ray",
}
"""The paper's name of each data set, or of the one that ours stands for."""

TABLE_2 = {
    "baseline_layer_freezing": NONE,
    "with_pretraining": frozenset({"pretraining"}),
    "with_augmentation": frozenset({"augmentation"}),
}
"""Columns of Table II with their techniques; all of them freeze layers."""


def tables() -> pd.DataFrame:
    """All accuracies that the paper prints, in percent.

    Returns:
        Indexed by data set, strategy and techniques (joined by ``+``): ``standard``, ``fgsm``,
        ``pgd``, the first two NaN where only Table II has the cell.
    """
    first = pd.read_csv(paths.REFERENCE / "myakala2022_table1.csv").assign(techniques="")
    second = pd.read_csv(paths.REFERENCE / "myakala2022_table2.csv")
    second = second.drop(columns="baseline_layer_freezing")  # Table I has it too
    second = second.rename(columns={name: "+".join(chosen) for name, chosen in TABLE_2.items()})
    second = second.melt("dataset", var_name="techniques", value_name="pgd")
    both = pd.concat([first.drop(columns="model"), second.assign(strategy="layer_freezing")])
    return both.set_index(["dataset", "strategy", "techniques"])


def of(cell: Cell) -> pd.Series:
    """What the paper prints for a cell: ``standard``, ``fgsm`` and ``pgd`` in percent, or NaN.

    A network of none of the kinds in ``STAND_INS`` has no counterpart in its tables.
    """
    dataset = COUNTERPARTS.get(cell.dataset)
    key = dataset, cell.strategy, "+".join(cell.ordered)
    table = tables()
    if key in table.index and any(kind in cell.network for kind in STAND_INS[dataset]):
        return table.loc[key]
    return pd.Series(np.nan, table.columns)


def pgd_by_dataset() -> pd.DataFrame:
    """PGD accuracies in percent: a row per data set, a column per strategy and techniques."""
    return tables()["pgd"].unstack(["strategy", "techniques"])
