"""Networks of the grid with what came of them: the record of a training, an evaluation."""

from dataclasses import dataclass

from robust_transfer.davchev2019.experiment import Network, rows
from robust_transfer.evaluation.accuracies import Evaluation, EvaluationConfig
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
    """

    network: Network
    record: Record | None = None
    evaluation: Evaluation | None = None

    @property
    def doubts(self) -> list[str]:
        """What says that the evaluation's attacks did not work."""
        return self.evaluation.doubts if self.evaluation else []

    @property
    def label(self) -> str:
        """The network's name for readers, marked where its evaluation is doubted."""
        return doubted(self.network.label, self.doubts)


def find(networks: list[Network], store: Store, how: EvaluationConfig) -> list[Run]:
    """What a store has of the networks, a run each."""
    return [Run(n, store.find(n.config), how.find(store, n.config)) for n in networks]


def get_or_run(networks: list[Network], runner: Runner, how: EvaluationConfig) -> list[Run]:
    """The networks, trained and the rows of Table 1 among them evaluated where they were not."""
    runner.train([network.config for network in networks])
    runner.evaluate([network.config for network in rows(networks)], how)
    return find(networks, runner.store, how)
