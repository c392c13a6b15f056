"""One training loop, natural or adversarial, from scratch or from a source network.

The defaults are paper A's run of a natural ResNet-56 from scratch. Every oddity of the protocol
(``protocol`` page of the book) is a field of ``TrainingConfig``, so that a reader can flip it.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator, model_validator
from torch import Generator, Tensor, nn

from robust_transfer import data, models, transfer
from robust_transfer.attacks import PGD, in_mode
from robust_transfer.checkpoints import Progress, load_checkpoint, save_checkpoint
from robust_transfer.checks import Config, config_hash, one_of

VALIDATION_BATCH = 500


class TrainingDiverged(RuntimeError):
    """Loss or weights of an epoch were not finite; the checkpoint holds the epoch before."""


class TrainingConfig(Config):
    """Everything that decides a trained network; equal configurations have equal hashes.

    Attributes:
        name: the network's id in tables and folders, for instance ``pgd-nat-stage3``.
        network: a key of ``models.NETWORKS``.
        dataset: a key of ``data.DATASETS``.
        train_size, validation_size: images used, out of the first so many of the training split.
        split_seed: seed of the division into training and validation images.
        attack: makes the adversarial half of every batch; ``None`` trains naturally.
        halves: clean and adversarial images pass ``separate``-ly through the network in train
            mode, each normalised with its own statistics (paper A's code), or as a ``joint`` one.
        epochs: passes over the training images.
        learning_rate, momentum, weight_decay: of SGD.
        decay_epochs: 0-based epochs from whose start the learning rate is ten times lower; paper
            A's 100 and 150 act one epoch late.
        batch_size: clean images a step; as many adversarial ones come on top.
        selection: which epoch is kept: the best validation accuracy (``mean`` of clean and
            adversarial, or ``adversarial`` alone; clean for natural training; the first on ties),
            or the ``last``.
        precision: of training and inner attack; evaluation is always in fp32.
        seed: of weights, order and augmentation.
        source: the network that this one starts from; ``None`` starts from scratch.
        strategy: which parts are retrained, a key of ``transfer.STRATEGIES``; goes with ``source``.
        frozen_batch_norm: whether running statistics of frozen layers ``adapt`` or ``freeze``.
    """

    name: str = Field("nat", pattern=r"^[a-z0-9_-]+$")
    network: str = "resnet56"
    dataset: str = "cifar10"
    train_size: int = Field(47_500, ge=2)
    validation_size: int = Field(2_500, ge=1)
    split_seed: int = Field(0, ge=0)
    attack: PGD | None = None
    halves: Literal["separate", "joint"] = "separate"
    epochs: int = Field(200, ge=1)
    learning_rate: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-5, ge=0)
    decay_epochs: tuple[int, ...] = (101, 151)
    batch_size: int = Field(128, ge=2)
    selection: Literal["mean", "adversarial", "last"] = "mean"
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = Field(0, ge=0)
    source: Self | None = None
    strategy: str | None = None
    frozen_batch_norm: transfer.FrozenBatchNorm = "adapt"

    @field_validator("network")
    @classmethod
    def _known_network(cls, name: str) -> str:
        one_of("network", name, models.NETWORKS)
        return name

    @field_validator("dataset")
    @classmethod
    def _known_dataset(cls, name: str) -> str:
        one_of("dataset", name, data.DATASETS)
        return name

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.source is None) != (self.strategy is None):
            raise ValueError("source and strategy go together: give both or neither")
        if self.source is not None:
            one_of("strategy", self.strategy, transfer.STRATEGIES)
            if self.source.network != self.network:
                raise ValueError(f"network = {self.network!r}: the source is {self.source.network}")
            if self.strategy == "stage3" and not self.network.startswith("resnet"):
                raise ValueError(
                    f"strategy = 'stage3': {self.network} has no third stage to retrain"
                )
        return self

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that stand for all fields, the source's included."""
        return config_hash(self)

    def learning_rate_at(self, epoch: int) -> float:
        """Learning rate of a 0-based epoch."""
        return self.learning_rate * 0.1 ** sum(epoch >= decay for decay in self.decay_epochs)


def load_data(config: TrainingConfig, data_dir: str) -> tuple[data.Images, data.Images]:
    """Training and validation images of a configuration; see ``data.load`` for the errors."""
    count = config.train_size + config.validation_size
    images = data.load(config.dataset, "train", count, data_dir)
    return data.split(images, config.train_size, config.split_seed)


def initial_model(config: TrainingConfig, source_state: dict[str, Tensor] | None) -> nn.Module:
    """The network before its first step, transplanted and frozen where it starts from a source."""
    model = models.build(config.network, data.DATASETS[config.dataset], config.seed)
    if source_state is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            transfer.transplant(model, source_state, config.strategy)
    return model


def train(
    config: TrainingConfig,
    images: tuple[data.Images, data.Images],
    device: torch.device,
    checkpoint: Path,
    source_state: dict[str, Tensor] | None = None,
    on_epoch: Callable[[dict], None] = lambda row: None,
) -> tuple[dict[str, Tensor], Progress]:
    """Train a network, or go on where its checkpoint stands.

    Args:
        config: what to train.
        images: training and validation images.
        device: where to train.
        checkpoint: file written after every epoch; a kill costs at most one.
        source_state: state of ``config.source``, for a transfer.
        on_epoch: called with each new row of the history.

    Returns:
        The state of the selected epoch, on the CPU, and the progress with its history: one row an
        epoch of ``epoch, learning_rate, loss, natural, adversarial, seconds`` (validation
        accuracies in [0, 1]; ``adversarial`` is None for natural training).

    Raises:
        TrainingDiverged: a loss or weights that are not finite; names the epoch.
    """
    training, validation = (part.to(device) for part in images)
    model = initial_model(config, source_state).to(device)
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad],
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    identity = f"{config.hash} {images[0].fingerprint}"
    best, progress = load_checkpoint(checkpoint, identity, model, optimizer) or ({}, Progress([]))
    for epoch in range(len(progress.history), config.epochs):
        started = time.perf_counter()
        loss = train_epoch(model, optimizer, config, training, epoch)
        finite = all(p.isfinite().all() for p in model.parameters())
        if not (math.isfinite(loss) and finite):
            what = "weights are not finite" if math.isfinite(loss) else f"loss is {loss}"
            raise TrainingDiverged(
                f"{what} in epoch {epoch}; lower learning_rate = {config.learning_rate}"
            )
        natural, adversarial = validate(model, config, validation)
        row = {
            "epoch": epoch,
            "learning_rate": config.learning_rate_at(epoch),
            "loss": loss,
            "natural": natural,
            "adversarial": adversarial,
            "seconds": time.perf_counter() - started,
        }
        progress.history.append(row)
        score = selection_score(config, row)
        if score > progress.best_score:
            progress.best_epoch, progress.best_score = epoch, score
            best = {k: v.to("cpu", copy=True) for k, v in model.state_dict().items()}
        save_checkpoint(checkpoint, identity, model, optimizer, best, progress)
        on_epoch(row)
    return best, progress


def selection_score(config: TrainingConfig, row: dict) -> float:
    """What the selected epoch has the highest value of (protocol §3, checkpoint)."""
    if config.selection == "last":
        return row["epoch"]
    if config.attack is None:
        return row["natural"]
    if config.selection == "adversarial":
        return row["adversarial"]
    return (row["natural"] + row["adversarial"]) / 2


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: TrainingConfig,
    images: data.Images,
    epoch: int,
) -> float:
    """One pass over the training images; returns the mean loss.

    Order, augmentation and random starts come from a generator seeded by seed and epoch, so an
    epoch is the same whether or not the run was interrupted before it.
    """
    device = images.labels.device
    generator = Generator(device).manual_seed(config.seed * 1_000_003 + epoch)
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate_at(epoch)
    total, count = torch.zeros((), device=device), 0
    for pixels, labels in data.training_batches(images, config.batch_size, generator):
        optimizer.zero_grad()
        total += len(labels) * backward(model, config, pixels, labels, generator)
        count += len(labels)
        optimizer.step()
    return total.item() / count


def backward(
    model: nn.Module, config: TrainingConfig, images: Tensor, labels: Tensor, generator: Generator
) -> Tensor:
    """Add the gradient of the loss, (clean + adversarial) / 2, and return the loss.

    The inner attack meets the network as it stands *after* the clean half has passed in train
    mode, that is with running statistics that this half has already moved (protocol §4).
    """

    def half_loss(images: Tensor, labels: Tensor, share: float) -> Tensor:
        transfer.train_mode(model, config.frozen_batch_norm)
        with precision(config, images.device):
            loss = share * F.cross_entropy(model(images).float(), labels)
        loss.backward()  # adding the halves' gradients is the gradient of their mean
        return loss.detach()

    if config.attack is None:
        return half_loss(images, labels, 1.0)
    if config.halves == "separate":
        clean = half_loss(images, labels, 0.5)
        return clean + half_loss(attacked(model, config, images, labels, generator), labels, 0.5)
    adversarial = attacked(model, config, images, labels, generator)
    return half_loss(torch.cat([images, adversarial]), torch.cat([labels, labels]), 1.0)


def attacked(
    model: nn.Module, config: TrainingConfig, images: Tensor, labels: Tensor, generator: Generator
) -> Tensor:
    """The inner attack's images for a batch, in the attack's batch-norm mode."""
    with in_mode(model, config.attack.mode), precision(config, images.device):
        return config.attack.perturb(model, images, labels, generator)


def precision(config: TrainingConfig, device: torch.device) -> torch.autocast:
    """Context in which convolutions run in the configured precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")


def validate(
    model: nn.Module, config: TrainingConfig, images: data.Images
) -> tuple[float, float | None]:
    """Clean accuracy, and accuracy under the training attack if there is one, in [0, 1]."""
    device = images.labels.device
    generator = Generator(device).manual_seed(config.seed)
    clean = torch.zeros((), device=device)
    adversarial = torch.zeros((), device=device)
    with in_mode(model, "eval"), precision(config, device), torch.no_grad():
        for batch, labels in images.batches(VALIDATION_BATCH):
            clean += (model(batch).argmax(1) == labels).sum()
            if config.attack is not None:
                batch = attacked(model, config, batch, labels, generator)
                adversarial += (model(batch).argmax(1) == labels).sum()
    count = len(images)
    return clean.item() / count, adversarial.item() / count if config.attack else None
