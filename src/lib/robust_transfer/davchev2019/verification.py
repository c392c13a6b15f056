"""A cell of Table 1 measured again: the stored weights are attacked anew, image by image."""

from dataclasses import dataclass

import numpy as np
import torch

from robust_transfer.config import one_of
from robust_transfer.davchev2019 import catalogue, experiment
from robust_transfer.davchev2019.experiment import Network, Profile
from robust_transfer.davchev2019.tables import LAST
from robust_transfer.evaluation import accuracies, strong
from robust_transfer.evaluation.accuracies import COLUMNS, STRONG
from robust_transfer.evaluation.measurement import test_images
from robust_transfer.records.store import Store


@dataclass(frozen=True)
class Verification:
    """A cell, as recorded and as found now.

    Attributes:
        network, column: the cell.
        recorded, again: which images were classified correctly, bool ``(N,)``.
    """

    network: str
    column: str
    recorded: np.ndarray
    again: np.ndarray

    @property
    def differ(self) -> int:
        """On how many images the two differ."""
        return int((self.recorded != self.again).sum())

    def __str__(self) -> str:
        n, before, now = len(self.again), 100 * self.recorded.mean(), 100 * self.again.mean()
        outcomes = f"{self.differ} of {n:,} outcomes differ from the record"
        return f"{self.network} {self.column}: {outcomes}, {now:.1f} % now and {before:.1f} % then"


def verify(
    name: str,
    column: str,
    *,
    profile: str = "",
    seed: int | None = None,
    data_dir: str = "",
    images: int = 1000,
    device: str = "cpu",
) -> Verification:
    """Attack a published network again, and compare every outcome with its record.

    Another processor adds in another order, so that a few outcomes on the edge may differ.

    Args:
        name: id of the network.
        column: of Table 1, or ``strong``.
        profile: the scale; "" is the one that the published book shows.
        seed: which of its trainings; None is that of the profile's own seed.
        data_dir: folder of the images.
        images: how many of those of the record, from the first.
        device: where it is attacked.

    Raises:
        ValueError: an unknown name or column; not published, without weights, or not measured; the
            images are others than those of the record.
        FileNotFoundError: there are no images.
    """
    one_of("column", column, (*COLUMNS, STRONG))
    chosen, store, network = catalogue.find(name, profile, seed)
    return measure_again(chosen, store, network, column, data_dir, images, torch.device(device))


def measure_again(
    profile: Profile,
    store: Store,
    network: Network,
    column: str,
    data_dir: str,
    count: int,
    device: torch.device,
) -> Verification:
    """The same of a network in a store; see ``verify``."""
    config = network.config
    hard, usual = experiment.strong(profile, config.dataset), experiment.evaluation(profile)
    how = hard if column == STRONG else usual
    if (found := how.find(store, config)) is None:
        raise ValueError(f"{network.id} {column}: not measured (profile {profile.profile})")
    whole = test_images(how, data_dir)
    if whole.fingerprint != found.content["data"]:
        raise ValueError(f"data_dir = {data_dir!r}: its test images are others than the record's")
    images, model = whole.first(count).to(device), store.model(config, device)
    if column == STRONG:
        again, column_of = strong.withstood(model, images, hard.attacks), LAST
    else:
        kind, _, attack = column.partition("_")
        attacks = {attack: usual.attacks[attack]} if attack else {}
        surrogate = store.model(usual.surrogate, device) if kind == "bb" else None
        black_box = accuracies.made_on(surrogate, images, attacks) if surrogate else {}
        against = attacks if kind == "wb" else {}
        again, column_of = accuracies.outcomes(model, images, against, black_box), column
    recorded = found.outcomes[column_of][: len(images)]
    return Verification(network.id, column, recorded, again[column_of])
