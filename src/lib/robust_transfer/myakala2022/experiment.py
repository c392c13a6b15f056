"""The experiment of paper B as a table of cells: task, strategy and techniques, several seeds each.

A study file says which tasks run by which design, and at which scale; ``cells`` turns it into the
table, each cell with the complete configuration of every repeat and of what is measured.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations, groupby, product
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from robust_transfer import paths
from robust_transfer.attacks import PGD, ThreatModel, strongest
from robust_transfer.config import MOST, Config, Side, one_of, read
from robust_transfer.data.registry import DATASETS, DataSetName
from robust_transfer.evaluation.budgets import EPSILONS, BudgetConfig
from robust_transfer.evaluation.measurement import MeasurementConfig
from robust_transfer.evaluation.strong import StrongConfig
from robust_transfer.networks.registry import NETWORKS, has_batch_norm
from robust_transfer.training.engine import Precision
from robust_transfer.training.loop import TrainingConfig

STUDY_SCALES = ("paper", "imagenet", "laptop")
"""Studies of real images, from the paper's scale down."""

STUDY_TABLE = "study.csv"
"""All measurements of a study beside its records; it is there once they are."""

Strategy = Literal["full_finetuning", "layer_freezing", "feature_extraction"]
Technique = Literal["pretraining", "batch_norm", "augmentation"]

FINE_TUNINGS: dict[Strategy, str] = {
    "full_finetuning": "all",
    "layer_freezing": "stage3",
    "feature_extraction": "head",
}
"""Paper B's strategies, with the keys of ``networks.transfer.STRATEGIES``."""

TECHNIQUES: tuple[Technique, ...] = get_args(Technique)
"""Adversarial pre-training, frozen batch norm, adversarial augmentation (paper B, §III.F)."""

NONE: frozenset[str] = frozenset()

CHOICES = [frozenset(c) for n in range(len(TECHNIQUES) + 1) for c in combinations(TECHNIQUES, n)]
"""All that techniques can be combined to."""

PLAIN = tuple(product(FINE_TUNINGS, [NONE]))
"""Every strategy without any technique."""

OVERALL = "all strategies"
"""What stands for a strategy where the mean over those that there are is meant."""
ROBUST = ("pretraining", "augmentation")
"""The techniques that train on adversarial images, one by one in Table II."""

DESIGNS: dict[str, tuple[tuple[str, frozenset[str]], ...]] = {
    "architecture": PLAIN[:1],
    "strategies": PLAIN,
    "single": PLAIN
    + tuple((s, frozenset({t})) for s, t in product([*FINE_TUNINGS][:2], TECHNIQUES)),
    "tables": PLAIN + tuple(("layer_freezing", frozenset({t})) for t in ROBUST),
    "factorial": tuple(product(FINE_TUNINGS, CHOICES)),
}
"""Which strategies and techniques a task is run with.

``tables`` has the cells that the paper prints (Tables I and II), ``strategies`` those of Table I,
``single`` these, and each technique by itself where more than the head is trained, ``factorial``
every combination, ``architecture`` the plainest cell, to compare networks on the same data.
"""


def _task(name: str) -> str:
    """A task's name, checked: data set and network, divided by a slash."""
    dataset, _, network = name.partition("/")
    one_of("tasks: data set", dataset, DATASETS)
    one_of("tasks: network", network, NETWORKS)
    return name


Design = Literal["architecture", "strategies", "single", "tables", "factorial"]
Task = Annotated[str, AfterValidator(_task)]


class Target(Config):
    """How much of a target data set is used, and for how long.

    Attributes:
        train_size, validation_size: images out of the first so many of the training split.
        test_size: test images, from the beginning of the test split.
        attacked_images: how many of them are attacked; 0 is all.
        strong_images: how many of them the strongest attacks meet at the shown budgets, on the
            networks of the first seed; see ``StrongConfig``. 0 leaves them out.
        image_size: side to which images are resized; 0 is the data set's own.
        epochs: of fine-tuning.
        folds: how many divisions by patient take the place of the data set's own, to test all of
            its images; sizes are then those of each. 0 keeps its own.
    """

    train_size: int = Field(ge=2, le=MOST)
    validation_size: int = Field(ge=1, le=MOST)
    test_size: int = Field(ge=1, le=MOST)
    attacked_images: int = Field(0, ge=0, le=MOST)
    strong_images: int = Field(0, ge=0, le=MOST)
    image_size: Side = 0
    epochs: int = Field(ge=1, le=MOST)
    folds: int = Field(0, ge=0, le=MOST)

    @model_validator(mode="after")
    def _whole_folds(self) -> Self:
        if self.folds and self.strong_images not in (0, self.test_size):
            said = f"strong_images = {self.strong_images}: allowed are 0 and test_size"
            raise ValueError(f"{said}, {self.test_size}, where there are folds")
        return self


TASKS: dict[str, Design] = {
    "cifar10/imagenet_resnet50": "factorial",
    "imagenet_subset/imagenet_vit_b_16": "tables",
    "chestxray14/imagenet_densenet121": "tables",
}
TARGETS: dict[str, Target] = {
    "cifar10": Target(train_size=47_500, validation_size=2_500, test_size=10_000, epochs=10),
    "imagenet_subset": Target(
        train_size=47_500, validation_size=2_500, test_size=5_000, image_size=224, epochs=10
    ),
    "chestxray14": Target(
        train_size=7_500, validation_size=500, test_size=2_000, image_size=224, epochs=10
    ),
}
"""The paper's tasks, and as much of their data sets as it says, or as we read it."""


class Study(Config):
    """The scale and protocol of one run of paper B's experiment; the defaults are the paper's.

    Where the paper is silent, the default is a reading of ours; the protocol page lists them.

    Attributes:
        study: name of this scale, shown with every number.
        combinations: name of the study that has all combinations of techniques, where this one
            has not; its cells are judged with these.
        tasks: ``data set/network`` → the design it is run with, a key of ``DESIGNS``.
        targets: data set → its sizes, for every data set of ``tasks``.
        strategies, techniques: cells with others are left out of every design.
        repeats: seeds of each cell; 0, 1, … vary head, order and augmentation.
        pretrained: start from published ImageNet weights; else sources are trained from scratch.
        features: of feature extraction, ``kept`` from a network whose batch norm is frozen, or
            ``computed`` at every step, the batch norm adapting; see ``TrainingConfig``.
        sources: the ``natural`` and the ``robust`` network that fine-tuning starts from, where they
            are not to be trained as the next fields say.
        source_dataset: on what sources are trained; with ``pretrained`` only the robust ones.
        source_train_size, source_validation_size, source_epochs, source_batch_size,
            source_learning_rate: their training, with Adam and one cycle.
        learning_rate, batch_size: of fine-tuning, with Adam (§III.G).
        training_epsilon, training_steps, training_step_ratio: the PGD of adversarial pre-training
            and augmentation; a step is that share of epsilon.
        epsilons, steps, step_ratio, deepfool_images: see ``BudgetConfig``.
        shown: budgets in tables and figures, out of ``epsilons``.
        precision: of training; what is measured is always in fp32.
    """

    study: str = Field("paper", pattern=r"^[a-z0-9-]+$")
    combinations: str = ""
    tasks: dict[Task, Design] = Field(TASKS, min_length=1)
    targets: dict[DataSetName, Target] = Field(TARGETS, min_length=1)
    strategies: tuple[Strategy, ...] = Field(tuple(FINE_TUNINGS), min_length=1)
    techniques: tuple[Technique, ...] = TECHNIQUES
    repeats: int = Field(3, ge=2, le=MOST)
    pretrained: bool = True
    features: Literal["computed", "kept"] = "kept"
    sources: dict[Literal["natural", "robust"], TrainingConfig] | None = None
    source_dataset: DataSetName = "imagenet_subset"
    source_image_size: Side = 224
    source_train_size: int = Field(47_500, ge=2, le=MOST)
    source_validation_size: int = Field(2_500, ge=1, le=MOST)
    source_epochs: int = Field(10, ge=1, le=MOST)
    source_batch_size: int = Field(32, ge=2, le=MOST)
    source_learning_rate: float = Field(1e-4, gt=0)
    learning_rate: float = Field(1e-4, gt=0)
    batch_size: int = Field(32, ge=2, le=MOST)
    training_epsilon: float = Field(8 / 255, ge=0, le=1)
    training_steps: int = Field(7, ge=1, le=MOST)
    training_step_ratio: float = Field(0.25, gt=0, le=1)
    epsilons: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(EPSILONS, min_length=1)
    shown: tuple[float, ...] = Field((0.01, 8 / 255), min_length=1)
    steps: int = Field(10, ge=1, le=MOST)
    step_ratio: float = Field(0.25, gt=0, le=1)
    deepfool_images: int = Field(100, ge=0)
    precision: Precision = "fp32"

    @property
    def folder(self) -> str:
        """Where its records are published, under ``book/results``."""
        return f"study-{self.study}"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for task, design in self.tasks.items():
            dataset, network = task.split("/")
            one_of("tasks: data set without sizes in targets", dataset, self.targets)
            divisions = sum(name.startswith(f"{dataset}_fold") for name in DATASETS)
            if (count := self.targets[dataset].folds) not in (0, divisions):
                allowed = (
                    f"allowed is 0, or {divisions}, all of them" if divisions else "allowed is 0"
                )
                raise ValueError(f"targets: {dataset}.folds = {count}: {allowed}")
            for source in (self.sources or {}).values():
                one_of("tasks: network, as sources have it,", network, {source.network})
            for _, chosen in treatments(self, task) if self.sources else ():
                one_of("sources", "robust" if "pretraining" in chosen else "natural", self.sources)
            if not treatments(self, task):
                has = ", ".join(dict.fromkeys(strategy for strategy, _ in DESIGNS[design]))
                raise ValueError(
                    f"strategies = {', '.join(self.strategies)}: {task} would have no cell; its "
                    f"design {design} has {has}"
                )
        for epsilon in self.shown:
            if epsilon not in self.epsilons:
                measured = ", ".join(f"{size:.6g}" for size in self.epsilons)
                raise ValueError(f"shown = {epsilon:.6g}: allowed are epsilons, {measured}")
        return self


@dataclass(frozen=True)
class Cell:
    """One setting of the experiment.

    Attributes:
        dataset, network: the task.
        strategy: a key of ``FINE_TUNINGS``.
        techniques: out of ``TECHNIQUES``.
        configs: the complete training of every repeat, and in it of every fold.
        budgets: what is measured on each; see ``wishes``.
        strong: what else is measured on those of the first seed, budget by budget.
    """

    dataset: str
    network: str
    strategy: str
    techniques: frozenset[str]
    configs: tuple[TrainingConfig, ...]
    budgets: BudgetConfig
    strong: tuple[StrongConfig, ...]

    @property
    def wishes(self) -> list[tuple[TrainingConfig, BudgetConfig]]:
        """Every network with its budgets, of a fold on the images that it left out."""
        return [(config, _of(config, self.budgets)) for config in self.configs]

    @property
    def strong_wishes(self) -> list[tuple[TrainingConfig, StrongConfig]]:
        """The networks of the first seed with the strongest attacks, budget by budget."""
        first = [config for config in self.configs if config.seed == self.configs[0].seed]
        return [(config, _of(config, how)) for how in self.strong for config in first]

    @property
    def task(self) -> str:
        """Data set and network."""
        return f"{self.dataset}/{self.network}"

    @property
    def treatment(self) -> tuple[str, frozenset[str]]:
        """Strategy and techniques, as in ``DESIGNS``."""
        return self.strategy, self.techniques

    @property
    def id(self) -> str:
        """For instance ``cifar10-resnet20-layer_freezing-pretraining``."""
        return "-".join([self.dataset, self.network, self.strategy, *self.ordered])

    @property
    def label(self) -> str:
        """Strategy and techniques for readers."""
        return " + ".join([words(self.strategy), *map(words, self.ordered)])

    @property
    def scored(self) -> bool:
        """Whether its networks give scores, of one of two classes, or of independent labels."""
        return DATASETS[self.dataset].multi_label or DATASETS[self.dataset].classes == 2

    @property
    def ordered(self) -> list[str]:
        """The techniques in their usual order."""
        return [technique for technique in TECHNIQUES if technique in self.techniques]


def _of(config: TrainingConfig, how: MeasurementConfig) -> MeasurementConfig:
    """A measurement on the test images of a network's own data set, which may be a fold."""
    return type(how)(**dict(how) | {"dataset": config.dataset})


def words(name: str) -> str:
    """A strategy or a technique for readers."""
    special = {"batch_norm": "frozen batch norm", "full_finetuning": "full fine-tuning"}
    return special.get(name, name.replace("_", " "))


def treatments(study: Study, task: str) -> list[tuple[str, frozenset[str]]]:
    """Strategies and techniques of a task.

    Frozen batch norm drops out where there is none, and where keeping features freezes it anyway.
    """
    lacking = set() if has_batch_norm(task.split("/")[1]) else {"batch_norm"}
    possible = dict.fromkeys(study.strategies, set(study.techniques) - lacking)
    if study.features == "kept" and "feature_extraction" in possible:
        possible["feature_extraction"] = possible["feature_extraction"] - {"batch_norm"}
    design = DESIGNS[study.tasks[task]]
    return [(s, chosen) for s, chosen in design if s in possible and chosen <= possible[s]]


def folds(dataset: str, target: Target) -> list[str]:
    """The data sets that a target's networks are trained on: itself, or all of its divisions."""
    return [f"{dataset}_fold{fold}" for fold in range(target.folds)] or [dataset]


def cells(study: Study) -> list[Cell]:
    """All cells, task by task."""
    table = []
    for task in study.tasks:
        for treatment in treatments(study, task):
            setting = (*task.split("/"), *treatment)
            divided = folds(setting[0], study.targets[setting[0]])
            configs = tuple(
                _fine_tuning(study, *setting, seed, fold)
                for seed, fold in product(range(study.repeats), divided)
            )
            measured = _budgets(study, setting[0]), _strong(study, setting[0])
            table.append(Cell(*setting, configs, *measured))
    return table


def by_task(cells: Iterable[Cell], least: int = 1) -> dict[str, list[Cell]]:
    """The cells of every task that has so many; in a study they follow each other."""
    groups = {task: list(group) for task, group in groupby(cells, lambda cell: cell.task)}
    return {task: group for task, group in groups.items() if len(group) >= least}


def source(study: Study, network: str, robust: bool) -> TrainingConfig:
    """The network that fine-tuning starts from; trained once, as published weights are."""
    if study.sources:
        return study.sources[one_of("sources", "robust" if robust else "natural", study.sources)]
    name = f"{study.source_dataset}-{network}-{'pgd' if robust else 'nat'}"
    strategy = "all" if study.pretrained else None
    own = {n.removeprefix("source_"): value for n, value in study if n.startswith("source_")}
    return _training(
        study, robust, name=name, network=network, strategy=strategy, schedule="one_cycle", **own
    )


def _fine_tuning(
    study: Study,
    dataset: str,
    network: str,
    strategy: str,
    techniques: frozenset[str],
    seed: int,
    fold: str,
) -> TrainingConfig:
    robust, adversarial = "pretraining" in techniques, "augmentation" in techniques
    fixed = strategy == "feature_extraction" and study.features == "kept"
    published = study.pretrained and not robust  # the source is a download
    return _training(
        study,
        adversarial,
        name="-".join([fold, network, strategy, *(t for t in TECHNIQUES if t in techniques)]),
        network=network,
        dataset=fold,
        decay_epochs=(),
        seed=seed,
        source=None if published else source(study, network, robust),
        pretrained=published,
        strategy=FINE_TUNINGS[strategy],
        frozen_batch_norm="freeze_all" if "batch_norm" in techniques or fixed else "adapt",
        features="kept" if fixed and not adversarial else "computed",
        **_shared(TrainingConfig, study.targets[dataset]),
    )


def _training(study: Study, adversarial: bool, **fields) -> TrainingConfig:
    """A training with what all of a study have in common; adversarial ones have an attack."""
    attack = PGD(
        threat_model=ThreatModel(epsilon=study.training_epsilon),
        steps=study.training_steps,
        step_size=study.training_step_ratio * study.training_epsilon,
    )
    usual = {"attack": attack if adversarial else None, "halves": "joint"}
    usual |= {"optimizer": "adam", "weight_decay": 0, "features": "computed"}
    return TrainingConfig(**_shared(TrainingConfig, study) | usual | fields)


def _shared(kind: type[Config], *given: Config) -> dict[str, object]:
    """The fields of given configurations that one of this kind has by the same name."""
    return {n: value for config in given for n, value in config if n in kind.model_fields}


def _budgets(study: Study, dataset: str) -> BudgetConfig:
    target = study.targets[dataset]
    most = 0 if DATASETS[dataset].multi_label else target.attacked_images or target.test_size
    fewer = {"deepfool_images": min(study.deepfool_images, most)}
    fields = _shared(BudgetConfig, study, target) | fewer
    return BudgetConfig(dataset=dataset, **fields)


def _strong(study: Study, dataset: str) -> tuple[StrongConfig, ...]:
    target = study.targets[dataset]
    if not target.strong_images or DATASETS[dataset].multi_label:
        return ()
    fields = _shared(StrongConfig, target) | {"dataset": dataset}
    fields["test_size"] = min(target.strong_images, target.test_size)
    attacks = [strongest(ThreatModel(epsilon=epsilon)) for epsilon in study.shown]
    return tuple(StrongConfig(**fields, attacks=of) for of in attacks)


def published_study() -> Path:
    """The study that the published book shows: of the largest scale that is whole.

    Raises:
        FileNotFoundError: none is published.
    """
    for name in STUDY_SCALES:
        if (paths.PUBLISHED / f"study-{name}" / STUDY_TABLE).exists():
            return paths.STUDIES / f"{name}.yaml"
    sought = ", ".join(f"study-{name}" for name in STUDY_SCALES)
    raise FileNotFoundError(f"{paths.PUBLISHED}: no {STUDY_TABLE} in any of {sought}")


def judged(study: Study) -> list[Study]:
    """A study, and the one that it names for combinations of techniques, which are judged together.

    Raises:
        ValueError: there is no study of that name.
    """
    if not study.combinations:
        return [study]
    file = paths.parameter_file("combinations", paths.STUDIES, study.combinations)
    return [study, read_study(file)]


def read_study(path: Path | str) -> Study:
    """Read the study in a file; see ``config.read``."""
    return read(Study, path)
