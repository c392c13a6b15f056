"""Networks of the grid with what came of them: the record of a training, and measurements."""

from dataclasses import dataclass

from robust_transfer.davchev2019 import experiment
from robust_transfer.davchev2019.experiment import Network, Profile
from robust_transfer.evaluation.accuracies import Evaluation
from robust_transfer.evaluation.budgets import Budgets
from robust_transfer.presentation.tables import doubted
from robust_transfer.records.store import Record, Store
from robust_transfer.runner import Runner


@dataclass(frozen=True)
class Run:
    """A network, trained and evaluated.

    Attributes:
        network: which one.
        record: of its training; None while there is none.
        evaluation: on the test images; None while there is none, and of sources and surrogate.
        strong: under strong attacks; None while there is none, and of the surrogate and of further
            seeds.
        budgets: answers as the budget grows, of rows of the profile's own seed.
    """

    network: Network
    record: Record | None = None
    evaluation: Evaluation | None = None
    strong: Evaluation | None = None
    budgets: Budgets | None = None

    @property
    def doubts(self) -> list[str]:
        """What says that the attacks on it did not work."""
        measured = [found for found in (self.evaluation, self.strong, self.budgets) if found]
        return list(dict.fromkeys(doubt for found in measured for doubt in found.doubts))

    @property
    def label(self) -> str:
        """The network's name for readers, marked where it is doubted."""
        return doubted(self.network.label, self.doubts)


def find(networks: list[Network], store: Store, profile: Profile) -> list[Run]:
    """What a store has of networks of a profile, a run each."""
    found = []
    for network in networks:
        hows = experiment.measurements(profile, network).items()
        measured = {name: how.find(store, network.config) for name, how in hows}
        found.append(Run(network, store.find(network.config), **measured))
    return found


def get_or_run(networks: list[Network], runner: Runner, profile: Profile) -> list[Run]:
    """Networks of a profile, trained and measured where they were not."""
    runner.train([network.config for network in networks])
    runner.measure(experiment.wishes(networks, profile))
    return find(networks, runner.store, profile)
