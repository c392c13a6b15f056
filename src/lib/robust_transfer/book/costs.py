"""What trainings and measurements cost, by the seconds in the published records."""

from collections import defaultdict
from functools import cache
from statistics import median
from typing import Literal

from robust_transfer import files, paths
from robust_transfer.data.registry import DATASETS
from robust_transfer.evaluation.accuracies import EvaluationConfig
from robust_transfer.evaluation.budgets import BudgetConfig
from robust_transfer.evaluation.measurement import MeasurementConfig
from robust_transfer.evaluation.strong import StrongConfig
from robust_transfer.records.store import RECORD
from robust_transfer.runner import count_batches
from robust_transfer.training.loop import TrainingConfig

Device = Literal["cpu", "cuda"]
"""A core of a processor, or a GPU."""
KINDS = {kind.kind: kind for kind in (EvaluationConfig, StrongConfig, BudgetConfig)}
"""Measurements by how the names of their files begin."""
SIDE = 32
"""Pixels of the edge of CIFAR's images, of which nearly all records are."""


@cache
def seconds(config: TrainingConfig, how: MeasurementConfig | None, device: Device) -> float:
    """What a measurement of a network takes, or its training, by the median of its like.

    What no record has is reckoned from others: training in such a precision from evaluation, which
    is in fp32, and such a network from the slowest that there is, larger images as many times
    slower.

    Args:
        config: the network.
        how: what is measured on it; None for its training.
        device: where.

    Raises:
        ValueError: nothing was ever measured on such a device.
    """
    near = _recorded()[device, _work(config, how)], _recorded()[device, EvaluationConfig.kind]
    for known in near:
        if config.network in known:
            return _passes(config, how) * median(known[config.network])
    side = config.image_size or DATASETS[config.dataset].side
    if not (slow := [median(of) for known in near for of in known.values()]):
        said = f"device = {device!r}: no record in {paths.PUBLISHED} says how long its work takes"
        raise ValueError(f"{said}; allowed is one on which something was measured")
    return _passes(config, how) * max(slow) * max(1.0, (side / SIDE) ** 2)


def is_recorded(config: TrainingConfig, how: MeasurementConfig | None, device: Device) -> bool:
    """Whether there is a record of the like, so that nothing is reckoned from others."""
    return config.network in _recorded()[device, _work(config, how)]


def _work(config: TrainingConfig, how: MeasurementConfig | None) -> str:
    return how.kind if how else config.precision


def _passes(config: TrainingConfig, how: MeasurementConfig | None) -> float:
    """Forward and backward passes of an image."""
    if how is not None:
        return how.passes * how.test_size
    return count_batches(config, config.train_size, config.validation_size) * config.batch_size


@cache
def _recorded() -> dict[tuple[str, str], dict[str, list[float]]]:
    """Seconds of a pass of an image in every published record, by device, work and network.

    They are of networks beside which others were at work, on a GPU three of them.
    """
    found = defaultdict(lambda: defaultdict(list))
    for path in sorted(paths.PUBLISHED.glob(f"*/*/{RECORD}")):
        config = TrainingConfig(**files.read_sealed(path)["config"])
        done = {path: None} | {p: p.name.partition("-")[0] for p in path.parent.glob("*-*.json")}
        for file, kind in done.items():
            content = files.read_sealed(file)
            how = KINDS[kind](**content["config"]) if kind else None
            device = "cpu" if content["provenance"]["device"].startswith("CPU") else "cuda"
            rate = content["seconds"] / _passes(config, how)
            found[device, _work(config, how)][config.network].append(rate)
    return found
