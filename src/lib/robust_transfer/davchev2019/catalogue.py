"""The networks that come with the checkout: all of them as a table, each of them in one line."""

import pandas as pd
from torch import nn

from robust_transfer import paths
from robust_transfer.config import one_of
from robust_transfer.davchev2019 import experiment, runs
from robust_transfer.davchev2019.tables import LAST
from robust_transfer.evaluation.accuracies import COLUMNS, STRONG
from robust_transfer.records.store import Store


def load(
    name: str, *, profile: str = "", seed: int | None = None, device: str = "cpu"
) -> nn.Module:
    """A published network in eval mode, float32: images ``(N, 3, H, W)`` in [0, 1] to logits.

    Args:
        name: its id, for instance ``pgd-pgd-all``; see ``published``.
        profile: the scale at which it was trained; "" is the one that the published book shows.
        seed: which of its trainings; None is that of the profile's own seed.
        device: where it is put.

    Raises:
        ValueError: an unknown name, profile or seed; not published, or published without weights.
    """
    _, store, network = find(name, profile, seed)
    return store.model(network.config, device)


def find(
    name: str, profile: str = "", seed: int | None = None
) -> tuple[experiment.Profile, Store, experiment.Network]:
    """A published network, with its profile and the store that has its weights; see ``load``."""
    chosen, store = read(profile or experiment.published_profile())
    networks = experiment.grid(chosen) + experiment.again(chosen)
    one_of("name", name, {network.id for network in networks})
    seeds = {str(n.config.seed): n for n in networks if n.id == name}
    wanted = str(chosen.seed if seed is None else seed)
    network = seeds[one_of("seed", wanted, seeds)]
    if store.find(network.config, weights=True) is None:
        numbers = store.find(network.config) is not None
        why = "published without weights, for its numbers alone" if numbers else "not published"
        raise ValueError(f"{name}: {why} (profile {chosen.profile}, seed {wanted})")
    return chosen, store, network


def published() -> pd.DataFrame:
    """All published networks of all profiles, a row each.

    Returns:
        ``profile``, ``id``, ``seed``, ``label``, ``data`` set, whether there are ``weights`` to
        load, the folder of its ``record``, and, where it was evaluated, the five accuracies in
        [0, 1] on ``n`` test images; what strong attacks leave of the first of them; and
        what makes one doubt these numbers.
    """
    rows = []
    for profile, store in map(read, sorted(path.stem for path in paths.PROFILES.glob("*.yaml"))):
        networks = experiment.grid(profile) + experiment.again(profile)
        for run in runs.find(networks, store, profile):
            network, record, config = run.network, run.record, run.network.config
            if record is None:
                continue
            row = {"profile": profile.profile, "id": network.id, "seed": config.seed}
            row |= {"label": network.label, "data": config.dataset, "record": record.folder.name}
            row["weights"] = store.find(config, weights=True) is not None
            if evaluation := run.evaluation:
                row |= {column: evaluation.accuracy(column) for column in COLUMNS}
                row["n"] = evaluation.content["n"]
            if run.strong:
                row[STRONG] = run.strong.accuracy(LAST)
            row["doubts"] = "; ".join(run.doubts)
            rows.append(row)
    return pd.DataFrame(rows).convert_dtypes()


def read(profile: str) -> tuple[experiment.Profile, Store]:
    """A profile by name, and its published records by themselves."""
    chosen = experiment.read_profile(experiment.profile_path(profile))
    folder = paths.PUBLISHED / chosen.folder
    return chosen, Store(folder / "none", folder)
