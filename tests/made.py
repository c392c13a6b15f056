"""Measurements made up for tests: what a cell would have answered, at given accuracies."""

import numpy as np

from robust_transfer.evaluation.budgets import Budgets
from robust_transfer.myakala2022.experiment import Cell, Study, cells
from robust_transfer.myakala2022.measured import MeasuredCell, Repeat

TARGET = {"train_size": 8, "validation_size": 2, "test_size": 100, "epochs": 1}
EMBEDDED = {
    "repeats": 2,
    "pretrained": False,
    "source_dataset": "glyphs20",
    "source_image_size": 0,
    "source_train_size": 64,
    "source_validation_size": 16,
    "source_epochs": 1,
    "steps": 1,
    "deepfool_images": 0,
}
"""What studies have in common that train in seconds, on images drawn by code."""
EPSILONS = (0.01, 8 / 255, 0.09)


def study(tasks: dict[str, str], **changes) -> Study:
    """A study of CIFAR-10, Tiny ImageNet and chest X-rays whose networks nobody trains."""
    targets = {name: TARGET for name in ("cifar10", "tiny_imagenet100", "chest_xray8")}
    fields = {"pretrained": False, "source_dataset": "cifar100", "source_image_size": 0}
    fields |= {"features": "computed"}  # so that a factorial is whole
    return Study(**fields | {"tasks": tasks, "targets": targets, "epsilons": EPSILONS} | changes)


def measure(table: list[Cell], accuracy, count: int = 100) -> list[MeasuredCell]:
    """Answers of every repeat: ``accuracy(cell, seed, attack, epsilon)`` of them are right."""
    return [
        MeasuredCell(
            **vars(cell),
            repeats=tuple(
                Repeat(c.seed, (), _answers(cell, c.seed, accuracy, count)) for c in cell.configs
            ),
        )
        for cell in table
    ]


def _answers(cell: Cell, seed: int, accuracy, count: int) -> Budgets:
    two = cell.dataset == "chest_xray8"
    labels = (np.arange(count) % (2 if two else 10)).astype(np.uint8)
    outputs = {}
    for condition in (("natural", 0.0), *cell.budgets.attacks):
        right = np.arange(count) < round(count * accuracy(cell, seed, *condition))
        if two:
            outputs[condition] = np.where(right == (labels == 1), 1.0, -1.0).astype(np.float16)
        else:
            outputs[condition] = np.where(right, labels, (labels + 1) % 10).astype(np.uint8)
    return Budgets(cell.dataset, labels, outputs, {}, {"seconds": 60.0, "config": {}})


def table(tasks: dict[str, str], **changes) -> list[Cell]:
    """The cells of such a study."""
    return cells(study(tasks, **changes))
