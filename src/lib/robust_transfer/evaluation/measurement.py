"""What all measurements of networks share: made once, kept beside a record and found again.

A measurement is of published weights: it is made anew for others.
"""

import time
from collections.abc import Hashable, Sequence
from contextlib import suppress
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from robust_transfer.config import Config
from robust_transfer.data.images import Images
from robust_transfer.data.registry import DATASETS, load
from robust_transfer.evaluation.doubts import signs
from robust_transfer.records.store import Store
from robust_transfer.training.loop import TrainingConfig

BATCH = {"cpu": 250, "cuda": 2500}
"""Images at once, by kind of device, what stays in the caches of one, and fills the other."""


class Measured(Protocol):
    """What was measured on a network.

    Attributes:
        content: the stored record, with seconds and provenance.
        doubts: what says that its attacks did not work; a sentence each.
    """

    content: dict
    doubts: list[str]


class MeasurementConfig(Config):
    """What is measured on a network; the network and its seed are named beside it.

    Whoever derives from it adds the field ``test_size``, how many images of the test split are
    measured on; ``passes``; the method ``_measure``, of a model, images on its device and what was
    prepared, which gives fields for JSON; and ``_result``, which makes of a stored record what is
    returned.

    Attributes:
        kind: how names of its files begin.
    """

    kind: ClassVar[str]

    @property
    def file_name(self) -> str:
        """Name of the file beside a network's record that holds what was measured."""
        return f"{self.kind}-{self.hash}.json"

    @property
    def passes(self) -> float:
        """Forward and backward passes that an image costs, about, as ``count_batches`` counts."""
        raise NotImplementedError

    @property
    def task(self) -> Config:
        """Of whose ``dataset`` and ``image_size`` the test images are."""
        return self

    def networks(self, network: TrainingConfig) -> dict[str, TrainingConfig]:
        """The networks whose weights decide what is measured, by the field of their checksum."""
        return {"weights": network}

    def prepare(self, store: Store, data_dir: str, device: torch.device) -> dict[str, Tensor]:
        """Make what all networks are measured with, once; nothing, where nothing is said."""
        return {}

    def find(self, store: Store, network: TrainingConfig) -> Measured | None:
        """What is stored of the published weights, or None."""
        content = self._stored(store, network)
        return None if content is None else self._result(content)

    def get_or_measure(
        self, store: Store, network: TrainingConfig, data_dir: str, device: torch.device
    ) -> Measured:
        """Return what is stored of a finished network, or measure and store it.

        Raises:
            FileNotFoundError: no record with weights of a network that it takes, or no images.
            ValueError: the network was trained on other images.
        """
        store.check_made_of(network, data_dir)

        def compute() -> dict:
            model, images = store.model(network, device), self._images_of(network, data_dir)
            prepared = self.prepare(store, data_dir, device)
            started = time.perf_counter()
            images = images.to(device)
            measured = self._measure(model, images, prepared)
            measured["signs"] = signs(model, images) | measured.get("signs", {})
            made = {"data": images.fingerprint, "seconds": round(time.perf_counter() - started, 3)}
            named = {"config": self.model_dump(mode="json"), "network": network.hash}
            named |= self._checksums(store, network)
            content = named | {"n": len(images)} | measured | made
            return content | {"doubts": self._result(content).doubts}

        def find() -> dict | None:
            return self._stored(store, network)

        content = store.get_or_compute(network, self.file_name, find, compute, device)
        measured = self._result(content)
        same_images(self, [measured], data_dir)
        return measured

    def _stored(self, store: Store, network: TrainingConfig) -> dict | None:
        """The record of this measurement; another's that was renamed is none."""
        tied = self._checksums(store, network) | {"network": network.hash}
        content = store.read_beside(network, self.file_name, tied)
        return content if content and type(self)(**content["config"]) == self else None

    def _images_of(self, network: TrainingConfig, data_dir: str) -> Images:
        for name in ("dataset", "image_size"):
            asked, trained = (getattr(config, name) for config in (self.task, network))
            if asked != trained:
                raise ValueError(f"{name} = {asked!r}: {network.name} was trained on {trained!r}")
        return test_images(self, data_dir)

    def _checksums(self, store: Store, network: TrainingConfig) -> dict[str, str | None]:
        found = {name: store.find(config) for name, config in self.networks(network).items()}
        return {name: record and record.checksum for name, record in found.items()}


def test_images(config: MeasurementConfig, data_dir: str) -> Images:
    """The test images of a measurement, from the beginning of the test split."""
    task = config.task
    return load(task.dataset, "test", config.test_size, data_dir, task.image_size)


def same_images(config: MeasurementConfig, measured: Sequence[Measured], data_dir: str) -> None:
    """Raise ValueError unless all were made on the same test images, and on those at hand.

    Only then can they be paired. Where no images are at hand, records are what they are.
    """
    found = {result.content["data"] for result in measured}
    with suppress(FileNotFoundError):
        if DATASETS[config.task.dataset].at_hand("test", data_dir):
            found.add(test_images(config, data_dir).fingerprint)
    if len(found) > 1:
        sets = ", ".join(sorted(digest[:12] for digest in found))
        said = f"evaluations are of different test images, with fingerprints {sets}"
        raise ValueError(f"{said}; published_dir = '' makes all of them on yours")


def joined(batches: Sequence[dict[Hashable, Tensor]]) -> dict[Hashable, np.ndarray]:
    """What was found batch by batch, in one array by name; a batch may lack a name."""
    names = dict.fromkeys(name for found in batches for name in found)
    parts = {name: [found[name] for found in batches if name in found] for name in names}
    return {name: torch.cat(tensors).cpu().contiguous().numpy() for name, tensors in parts.items()}
