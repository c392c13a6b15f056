"""The experiment of paper A as a table: 25 target networks, their sources and the surrogate.

A profile says at which scale it runs; ``grid`` turns a profile into the table of networks, each
with the complete configuration of its training.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from robust_transfer import paths
from robust_transfer.attacks import EPSILON, PGD, ThreatModel, fgsm, strongest
from robust_transfer.config import MOST, Config, Seed, one_of, read
from robust_transfer.data.registry import DataSetName, one_class_an_image
from robust_transfer.evaluation.accuracies import EvaluationConfig
from robust_transfer.evaluation.budgets import HOPELESS, BudgetConfig
from robust_transfer.evaluation.measurement import MeasurementConfig
from robust_transfer.evaluation.strong import StrongConfig
from robust_transfer.networks import transfer
from robust_transfer.networks.registry import NetworkName
from robust_transfer.training.engine import Precision
from robust_transfer.training.loop import TrainingConfig

DEFENCES = ("nat", "fgsm", "fgsm_no_ll", "pgd")
"""How a network is trained; ``fgsm`` attacks predicted labels, ``fgsm_no_ll`` the true ones."""

SCALES = ("paper", "fifth", "fast", "overnight", "laptop")
"""Profiles on CIFAR, from the paper's scale down."""

PAPER_LAYERS = {"head": 1, "stage3": 18, "all": 56}
"""The paper's label of each strategy, the unfrozen layers of ResNet-56."""

ROWS = (
    ("nat", (("nat", "nat"),)),
    ("fgsm", ()),
    ("fgsm_no_ll", (("fgsm", "nat"), ("nat", "fgsm"), ("fgsm", "fgsm"))),
    ("pgd", (("pgd", "nat"), ("nat", "pgd"), ("pgd", "pgd"))),
)
"""Table 1 from top to bottom, each baseline, then the transfers, source and target, below it."""

SOURCES = ("nat", "fgsm", "pgd")
"""Defences of the networks on the source data that transfers start from."""

TABLE = "table1.csv"
"""Table 1 beside its records; it is there once everything is that the book shows of a profile."""

HEADLINE = ("pgd", "pgd-nat-stage3", "nat-pgd-all", "pgd-pgd-stage3", "pgd-pgd-all")
"""The rows behind the paper's headline, which further seeds train again."""

COMPARED = (("pgd-pgd-all", "pgd"), ("nat-pgd-all", "pgd"), ("pgd-pgd-all", "nat-pgd-all"))
"""The difference in the headline, and its two parts, any pre-training, and a robust one."""

BUDGETS = (1 / 4, 1 / 2, 1, 3 / 2, 2)
"""Over which the accuracy of every row is followed, in shares of epsilon."""


class Profile(Config):
    """The scale and protocol of one reproduction of Table 1; the defaults are paper A's.

    A file in ``notebooks/profiles`` gives those that it changes; any can be given to a notebook.

    Attributes:
        profile: name of this scale, shown with every number.
        source_dataset, target_dataset: keys of ``data.registry.DATASETS``.
        train_size, validation_size, split_seed, batch_size, learning_rate, schedule, precision,
            halves, selection, frozen_batch_norm, seed: see ``TrainingConfig``.
        test_size: see ``EvaluationConfig``.
        network, surrogate: keys of ``networks.registry.NETWORKS``; on the surrogate black-box
            examples are made.
        epochs, decay_epochs: from scratch.
        source_factor: how many times as long sources are trained, with decays as much later.
        transfer_epochs, transfer_decay_epochs: from a source.
        surrogate_batch_size: images a step of the surrogate's training.
        weight_decay: of natural training from scratch, and of all transfers.
        adversarial_weight_decay: of adversarial training from scratch.
        epsilon: l∞ radius on the [0, 1] scale, in training and evaluation.
        evaluation_epsilon: of evaluation, where it is another; no network is trained for it.
        step_ratio: PGD's step, as a share of epsilon.
        training_steps, evaluation_steps: of PGD.
        random_start, attack_mode: of PGD in training; ``mode`` of ``attacks.PGD``.
        further_seeds: seeds other than ``seed`` from which the rows of ``HEADLINE`` are trained
            again, their sources with them.
    """

    profile: str = Field("paper", pattern=r"^[a-z0-9-]+$")
    source_dataset: DataSetName = "cifar100"
    target_dataset: DataSetName = "cifar10"
    train_size: int = Field(47_500, ge=2, le=MOST)
    validation_size: int = Field(2_500, ge=1, le=MOST)
    test_size: int = Field(10_000, ge=1, le=MOST)
    split_seed: Seed = 0
    network: NetworkName = "resnet56"
    surrogate: NetworkName = "densenet121"
    epochs: int = Field(200, ge=1, le=MOST)
    schedule: Literal["step", "one_cycle"] = "step"
    decay_epochs: tuple[Annotated[int, Field(ge=0)], ...] = (101, 151)
    source_factor: int = Field(1, ge=1, le=MOST)
    transfer_epochs: int = Field(50, ge=1, le=MOST)
    transfer_decay_epochs: tuple[Annotated[int, Field(ge=0)], ...] = (21, 41)
    batch_size: int = Field(128, ge=2, le=MOST)
    surrogate_batch_size: int = Field(100, ge=2, le=MOST)
    learning_rate: float = Field(0.1, gt=0)
    weight_decay: float = Field(5e-5, ge=0)
    adversarial_weight_decay: float = Field(1e-5, ge=0)
    epsilon: float = Field(EPSILON, ge=0, le=1)
    evaluation_epsilon: float | None = Field(None, ge=0, le=1)
    step_ratio: float = Field(0.25, gt=0, le=1)
    training_steps: int = Field(7, ge=1, le=MOST)
    evaluation_steps: int = Field(7, ge=1, le=MOST)
    random_start: bool = False
    attack_mode: Literal["eval", "train"] = "eval"
    halves: Literal["separate", "joint"] = "separate"
    frozen_batch_norm: transfer.FrozenBatchNorm = "adapt"
    selection: Literal["mean", "adversarial", "last"] = "mean"
    precision: Precision = "fp32"
    seed: Seed = 0
    further_seeds: tuple[Seed, ...] = ()

    @model_validator(mode="after")
    def _every_seed_once(self) -> Self:
        seeds = (self.seed, *self.further_seeds)
        if len(set(seeds)) < len(seeds):
            raise ValueError(
                f"further_seeds = {self.further_seeds}: allowed are different ones, "
                f"without seed = {self.seed}"
            )
        return self

    @model_validator(mode="after")
    def _rows_can_be_evaluated(self) -> Self:
        one_class_an_image("target_dataset", self.target_dataset)
        return self

    @property
    def evaluated(self) -> ThreatModel:
        """What attacks may do in evaluation."""
        asked = self.evaluation_epsilon
        return ThreatModel(epsilon=self.epsilon if asked is None else asked)

    @property
    def folder(self) -> str:
        """Where its records are published, under ``book/results``."""
        return self.profile


@dataclass(frozen=True)
class Network:
    """A row of the experiment's table.

    Attributes:
        id: ``pgd`` (baseline), ``cifar100-pgd`` (source), ``pgd-nat-stage3`` (transfer).
        role: what the network is for.
        source: defence of the source, or None.
        target: defence of the network itself.
        strategy: what a transfer retrains, or None.
        config: the complete training.
        further: one of ``again``, with the id of the row that it repeats.
    """

    id: str
    role: Literal["source", "surrogate", "baseline", "transfer"]
    source: str | None
    target: str
    strategy: str | None
    config: TrainingConfig
    further: bool = False

    @property
    def in_table(self) -> bool:
        """Whether it is a row of Table 1; else it serves others as source or surrogate."""
        return self.role in ("baseline", "transfer")

    @property
    def paper_key(self) -> str:
        """Name and unfrozen layers as in the paper's table, for instance ``R_pgd->nat 18``."""
        name = f"R_{self.source}->{self.target}" if self.source else f"R_{self.target}"
        return f"{name} {PAPER_LAYERS[self.strategy]}" if self.strategy else name

    @property
    def label(self) -> str:
        """Name for readers, as the paper writes it, R with subscripts, then the unfrozen layers.

        The seed is named where it is a further one.
        """
        defences = f"{self.source}→{self.target}" if self.source else self.target
        dataset = f"{self.config.dataset} " if self.role == "source" else ""
        layers = f" {PAPER_LAYERS[self.strategy]}" if self.strategy else ""
        name = "surrogate" if self.role == "surrogate" else f"R<sub>{defences}</sub>"
        seed = f", seed {self.config.seed}" if self.further else ""
        return f"{dataset}{name}{layers}{seed}"


def inner_attack(profile: Profile, defence: str) -> PGD | None:
    """The attack against which a defence trains; None for natural training (protocol §4)."""
    one_of("defence", defence, DEFENCES)
    threat_model = ThreatModel(epsilon=profile.epsilon)
    if defence == "nat":
        return None
    if defence == "pgd":
        return PGD(
            threat_model=threat_model,
            steps=profile.training_steps,
            step_size=profile.step_ratio * profile.epsilon,
            random_start=profile.random_start,
            mode=profile.attack_mode,
        )
    labels = "predicted" if defence == "fgsm" else "true"
    return fgsm(threat_model, labels).model_copy(update={"mode": profile.attack_mode})


def grid(profile: Profile) -> list[Network]:
    """All networks: sources, surrogate, then the 25 rows in the paper's order."""
    sources = {defence: _scratch(profile, defence, source=True) for defence in SOURCES}
    table = [*sources.values(), _surrogate(profile)]
    for baseline, transfers in ROWS:
        table.append(_scratch(profile, baseline, source=False))
        for source, target in transfers:
            table += [_transfer(profile, sources[source], target, s) for s in transfer.STRATEGIES]
    return table


def again(profile: Profile) -> list[Network]:
    """The rows of ``HEADLINE`` and their sources, seed by further seed."""
    networks = []
    for seed in profile.further_seeds:
        table = grid(profile.model_copy(update={"seed": seed}))
        chosen = [network.config for network in select(table, [*HEADLINE])]
        needed = {c.hash for config in chosen for c in (config, config.source) if c}
        networks += [replace(n, further=True) for n in table if n.config.hash in needed]
    return networks


def measurements(profile: Profile, network: Network) -> dict[str, MeasurementConfig]:
    """All that is measured on a network, by the names that ``runs.Run`` has for it."""
    found = {"evaluation": evaluation(profile)} if network.in_table else {}
    if network.further or network.role == "surrogate":
        return found
    found["strong"] = strong(profile, network.config.dataset)
    return found | ({"budgets": budgets(profile)} if network.in_table else {})


def wishes(
    networks: list[Network], profile: Profile
) -> list[tuple[TrainingConfig, MeasurementConfig]]:
    """All measurements of networks, for ``Runner.measure``."""
    asked = [(network.config, measurements(profile, network)) for network in networks]
    return [(config, how) for config, hows in asked for how in hows.values()]


def evaluation(profile: Profile) -> EvaluationConfig:
    """How the 25 rows are evaluated, and the same rows of further seeds: by one surrogate."""
    return EvaluationConfig(
        surrogate=_surrogate(profile).config,
        test_size=profile.test_size,
        threat_model=profile.evaluated,
        steps=profile.evaluation_steps,
        step_size=profile.step_ratio * profile.evaluated.epsilon,
    )


def strong(profile: Profile, dataset: str) -> StrongConfig:
    """How rows of Table 1, and sources, meet stronger attacks, on 1,000 test images at most.

    The paper's seven steps end near the first maximum of the loss. What finer and longer attacks
    still find says how much of an accuracy is owed to that modest one.
    """
    size = min(1000, profile.test_size)
    return StrongConfig(dataset=dataset, test_size=size, attacks=strongest(profile.evaluated))


def budgets(profile: Profile) -> BudgetConfig:
    """How far the accuracy of a row falls as the budget grows, on 500 test images at most.

    The last budget is one that no network can withstand: an attack that leaves anything there does
    not work.
    """
    sizes = (min(1.0, share * profile.evaluated.epsilon) for share in BUDGETS)
    size = min(500, profile.test_size)
    fields = {"dataset": profile.target_dataset, "test_size": size}
    return BudgetConfig(**fields, epsilons=(*sizes, HOPELESS))


def rows(table: list[Network]) -> list[Network]:
    """The networks of Table 1: baselines and transfers."""
    return [network for network in table if network.in_table]


def select(table: list[Network], ids: list[str]) -> list[Network]:
    """The networks with these ids, in the order of the table; all of them for an empty list.

    Raises:
        ValueError: an unknown id, or something else than a list.
    """
    if not isinstance(ids, list):
        raise ValueError(f"networks = {ids!r}: allowed is a list (papermill -y 'networks: [pgd]')")
    known = [network.id for network in table]
    for wanted in ids:
        one_of("networks", wanted, known)
    return [network for network in table if not ids or network.id in ids]


def _scratch(profile: Profile, defence: str, source: bool) -> Network:
    dataset = profile.source_dataset if source else profile.target_dataset
    name = f"{dataset}-{defence}" if source else defence
    fields = {"dataset": dataset, "frozen_batch_norm": "adapt"}  # nothing is frozen
    if defence != "nat":
        fields["weight_decay"] = profile.adversarial_weight_decay
    if source:
        times = profile.source_factor
        fields["epochs"] = times * profile.epochs
        fields["decay_epochs"] = tuple(times * epoch for epoch in profile.decay_epochs)
    config = _training(profile, name, defence, **fields)
    return Network(name, "source" if source else "baseline", None, defence, None, config)


def _surrogate(profile: Profile) -> Network:
    natural = _scratch(profile, "nat", source=False).config
    changes = {"network": profile.surrogate, "batch_size": profile.surrogate_batch_size}
    config = TrainingConfig(**natural.model_dump() | changes | {"name": "surrogate"})
    return Network("surrogate", "surrogate", None, "nat", None, config)


def _transfer(profile: Profile, source: Network, target: str, strategy: str) -> Network:
    name = f"{source.target}-{target}-{strategy}"
    origin = {"source": source.config, "strategy": strategy, "dataset": profile.target_dataset}
    length = {"epochs": profile.transfer_epochs, "decay_epochs": profile.transfer_decay_epochs}
    config = _training(profile, name, target, **origin, **length)
    return Network(name, "transfer", source.target, target, strategy, config)


def _training(profile: Profile, name: str, defence: str, **fields) -> TrainingConfig:
    """A training against a defence's attack: fields are the profile's where it has one so named."""
    shared = set(Profile.model_fields) & set(TrainingConfig.model_fields)
    fields = {field: getattr(profile, field) for field in shared} | fields
    return TrainingConfig(name=name, attack=inner_attack(profile, defence), **fields)


def published_profile() -> str:
    """The profile that the published book shows: of the largest scale whose table is whole.

    Raises:
        FileNotFoundError: no table is published.
    """
    for name in SCALES:
        if (paths.PUBLISHED / name / TABLE).exists():
            return name
    raise FileNotFoundError(f"{paths.PUBLISHED}: no {TABLE} in any of {', '.join(SCALES)}")


def profile_path(profile: str) -> Path:
    """The file of a profile, given by name or by its path.

    Raises:
        ValueError: there is neither.
    """
    return paths.parameter_file("profile", paths.PROFILES, profile)


def read_profile(path: Path | str) -> Profile:
    """Read the profile in a file; see ``config.read``."""
    return read(Profile, path)
