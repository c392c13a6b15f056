"""Networks of the grid with what came of them: the record of a training, two evaluations."""

from dataclasses import dataclass

from robust_transfer.davchev2019 import experiment
from robust_transfer.davchev2019.experiment import Network, Profile
from robust_transfer.evaluation.accuracies import Evaluation
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
    """

    network: Network
    record: Record | None = None
    evaluation: Evaluation | None = None
    strong: Evaluation | None = None

    @property
    def doubts(self) -> list[str]:
        """What says that the attacks on it did not work."""
        evaluations = [found for found in (self.evaluation, self.strong) if found]
        return list(dict.fromkeys(doubt for found in evaluations for doubt in found.doubts))

    @property
    def label(self) -> str:
        """The network's name for readers, marked where it is doubted."""
        return doubted(self.network.label, self.doubts)


def find(networks: list[Network], store: Store, profile: Profile) -> list[Run]:
    """What a store has of networks of a profile, a run each."""
    how = experiment.evaluation(profile)
    found = []
    for network in networks:
        config = network.config
        harder = experiment.strong(profile, config.dataset)
        measured = how.find(store, config), harder.find(store, config)
        found.append(Run(network, store.find(config), *measured))
    return found


def get_or_run(networks: list[Network], runner: Runner, profile: Profile) -> list[Run]:
    """Networks of a profile, trained, evaluated and attacked strongly where they were not."""
    runner.train([network.config for network in networks])
    rows = [network.config for network in experiment.rows(networks)]
    runner.evaluate(rows, experiment.evaluation(profile))
    wanted = [n.config for n in networks if experiment.meets_strong_attacks(n)]
    runner.measure([(config, experiment.strong(profile, config.dataset)) for config in wanted])
    return find(networks, runner.store, profile)
