"""One training loop, natural or adversarial, from scratch or from a source network.

The defaults are paper A's run of a natural ResNet-56 from scratch. Every oddity of the protocol
(``protocol`` page of the book) is a field of ``TrainingConfig``, so that a reader can flip it.
"""

import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, Self

import safetensors.torch
import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn

from robust_transfer.attacks import PGD, in_mode, loss_of, share_right
from robust_transfer.config import MOST, Config, Seed, Side, one_of
from robust_transfer.data.images import Images, training_batches
from robust_transfer.data.registry import DATASETS, DataSetName, load_divided
from robust_transfer.networks import transfer
from robust_transfer.networks.registry import (
    PRETRAINED,
    NetworkName,
    build,
    check_answers,
    check_parts,
    own_fingerprint,
)
from robust_transfer.networks.states import state_of
from robust_transfer.training import engine
from robust_transfer.training.checkpoints import Progress, load_checkpoint, save_checkpoint

VALIDATION_BATCH = {"cpu": 500, "cuda": 2500}
RISE = 0.25
"""Share of a one-cycle schedule in which the learning rate rises."""


OnEpoch = Callable[[dict], None]
"""What is called with each new row of a training's history."""


class TrainingDiverged(RuntimeError):
    """Loss or weights of an epoch were not finite; the checkpoint holds the epoch before."""


class TrainingConfig(Config):
    """Everything that decides a trained network; equal configurations have equal hashes.

    Attributes:
        name: the network's id in tables and folders, for instance ``pgd-nat-stage3``.
        network: a key of ``networks.registry.NETWORKS``.
        dataset: a key of ``data.registry.DATASETS``.
        train_size, validation_size: images used, out of the first so many of the training split.
        split_seed: seed of the division into training and validation images.
        attack: makes the adversarial half of every batch; ``None`` trains naturally.
        halves: clean and adversarial images pass ``separate``-ly through the network in train
            mode, each normalised with its own statistics (paper A's code), or as a ``joint`` one.
        epochs: passes over the training images.
        optimizer: ``sgd``, or ``adam`` with PyTorch's betas 0.9 and 0.999 (paper B, §III.G, at
            learning rate 1e-4).
        learning_rate, weight_decay: of the optimiser; decay is added to the gradient in both.
        momentum: of SGD.
        schedule: the learning rate falls in ``step``s (paper A), or rises from zero to
            ``learning_rate`` and falls back in ``one_cycle`` of straight lines (Smith 2019).
        decay_epochs: 0-based epochs from whose start the learning rate is ten times lower in the
            ``step`` schedule; paper A's 100 and 150 act one epoch late.
        batch_size: clean images a step; as many adversarial ones come on top.
        selection: which epoch is kept: the best validation accuracy (``mean`` of clean and
            adversarial, or ``adversarial`` alone; clean for natural training; the first on ties),
            or the ``last``.
        precision: of training and inner attack, see ``arithmetic``; evaluation is always in fp32.
        seed: of weights, order and augmentation.
        source: the network that this one starts from; ``None`` starts from scratch.
        strategy: which parts are retrained, a key of ``transfer.STRATEGIES``; goes with ``source``
            or ``pretrained``.
        frozen_batch_norm: whether running statistics of frozen layers ``adapt`` or ``freeze``, or
            every batch norm of a transfer is frozen (``freeze_all``).
        image_size: side to which images are resized; 0 is the data set's own.
        pretrained: start from the network's published ImageNet weights, under a new head; in place
            of a ``source``.
        features: of a head that is retrained alone, ``computed`` at every step of an augmented
            batch, or ``kept``: computed once, of the images as they are, by a network whose batch
            norm is frozen. Then an epoch is a matter of seconds.
    """

    name: str = Field("nat", pattern=r"^[a-z0-9_-]+$")
    network: NetworkName = "resnet56"
    dataset: DataSetName = "cifar10"
    train_size: int = Field(47_500, ge=2, le=MOST)
    validation_size: int = Field(2_500, ge=1, le=MOST)
    split_seed: Seed = 0
    attack: PGD | None = None
    halves: Literal["separate", "joint"] = "separate"
    epochs: int = Field(200, ge=1, le=MOST)
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-5, ge=0)
    schedule: Literal["step", "one_cycle"] = "step"
    decay_epochs: tuple[Annotated[int, Field(ge=0)], ...] = (101, 151)
    batch_size: int = Field(128, ge=2, le=MOST)
    selection: Literal["mean", "adversarial", "last"] = "mean"
    precision: engine.Precision = "fp32"
    seed: Seed = 0
    source: Self | None = None
    strategy: str | None = None
    frozen_batch_norm: transfer.FrozenBatchNorm = "adapt"
    image_size: Side = 0
    pretrained: bool = False
    features: Literal["computed", "kept"] = "computed"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        fixed = self.strategy == "head" and self.frozen_batch_norm != "adapt"
        if self.features == "kept" and not (fixed and self.attack is None):
            said = "allowed is it for strategy = 'head' with frozen_batch_norm, without an attack"
            raise ValueError(f"features = 'kept': {said}")
        if self.pretrained and self.source is not None:
            raise ValueError("pretrained = True: allowed is only a network without a source")
        if (self.pretrained or self.source is not None) != (self.strategy is not None):
            pairs = "source and strategy go together, as do pretrained and strategy"
            raise ValueError(f"{pairs}: give both or neither")
        if self.source is not None and self.source.network != self.network:
            raise ValueError(f"network = {self.network!r}: the source is {self.source.network}")
        if self.strategy is not None:
            check_parts(self.network, self.strategy)
        check_answers(self.network, self.image_size or DATASETS[self.dataset].side)
        if self.pretrained:
            one_of("pretrained network", self.network, PRETRAINED)
        return self

    def learning_rate_at(self, epoch: float) -> float:
        """Learning rate at a moment, in epochs from the start: 2.5 is the middle of the third."""
        if self.schedule == "one_cycle":
            done = epoch / self.epochs
            return self.learning_rate * min(done / RISE, (1 - done) / (1 - RISE))
        return self.learning_rate * 0.1 ** sum(epoch >= decay for decay in self.decay_epochs)


def load_data(config: TrainingConfig, data_dir: str) -> tuple[Images, Images]:
    """Training and validation images of a configuration; see ``registry.load`` for errors."""
    sizes = config.train_size, config.validation_size
    return load_divided(config.dataset, *sizes, config.split_seed, data_dir, config.image_size)


def images_at_hand(config: TrainingConfig, data_dir: str) -> tuple[Images, Images]:
    """Training and validation images, as far as they are there.

    Raises:
        FileNotFoundError: there are none, or not without a download.
    """
    if not DATASETS[config.dataset].at_hand("train", data_dir):
        raise FileNotFoundError(f"data_dir = {data_dir!r}: no {config.dataset}")
    return load_data(config, data_dir)


def fingerprints(config: TrainingConfig, images: tuple[Images, Images]) -> dict[str, str]:
    """What a network is made of: training and validation images, and a ``network`` of one's own."""
    found = dict(zip(("training", "validation"), (i.fingerprint for i in images), strict=True))
    side = images[0].pixels.shape[-1]
    own = own_fingerprint(config.network, DATASETS[config.dataset].classes, side)
    return found | ({"network": own} if own else {})


def initial_model(config: TrainingConfig, source_state: dict[str, Tensor] | None) -> nn.Module:
    """The network before its first step, transplanted and frozen where it starts from a source."""
    model = build(config.network, DATASETS[config.dataset].classes, config.seed, config.pretrained)
    if config.pretrained:
        source_state = model.state_dict()
    if source_state is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            transfer.transplant(model, source_state, config.strategy, config.frozen_batch_norm)
    return model


def quiet(row: dict) -> None:
    """Do nothing with a row of the history."""


def train(
    config: TrainingConfig,
    images: tuple[Images, Images],
    device: torch.device,
    checkpoint: Path,
    source_state: dict[str, Tensor] | None = None,
    on_epoch: OnEpoch = quiet,
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
    trained = model
    if config.features == "kept":
        trained = model.head
        training, validation = (features_of(model, config, i) for i in (training, validation))
    step = Step(trained, config)
    identity = " ".join([config.hash, *fingerprints(config, images).values()])
    if source_state is not None:  # trained anew it may be another, under the same hash
        content = safetensors.torch.save({k: v.contiguous() for k, v in source_state.items()})
        identity += f" {hashlib.sha256(content).hexdigest()}"
    found = load_checkpoint(checkpoint, identity, model, step.optimizer)
    best, progress = found or ({}, Progress([]))
    for epoch in range(len(progress.history), config.epochs):
        started = time.perf_counter()
        loss = train_epoch(step, training, epoch)
        if not (math.isfinite(loss) and all(p.isfinite().all() for p in model.parameters())):
            what = "weights are not finite" if math.isfinite(loss) else f"loss is {loss}"
            lower = f"lower learning_rate = {config.learning_rate}"
            raise TrainingDiverged(f"{what} in epoch {epoch}; {lower}")
        natural, adversarial = validate(trained, config, validation)
        row = {"epoch": epoch, "learning_rate": config.learning_rate_at(epoch + 0.5), "loss": loss}
        row |= {"natural": natural, "adversarial": adversarial}
        row["seconds"] = time.perf_counter() - started
        progress.history.append(row)
        score = selection_score(config, row)
        if score > progress.best_score:
            progress.best_epoch, progress.best_score = epoch, score
            best = {k: v.to("cpu", copy=True) for k, v in state_of(model).items()}
        save_checkpoint(checkpoint, identity, model, step.optimizer, best, progress)
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


def features_of(model: nn.Module, config: TrainingConfig, images: Images) -> Images:
    """What the head of a network meets of images, in their place: float ``(N, width)``."""
    size = engine.batch_size(VALIDATION_BATCH[images.labels.device.type], model, images.pixels)
    found: list[Tensor] = []
    handle = model.head.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    with handle, in_mode(model, "eval"), precision(config, images.labels.device), torch.no_grad():
        for batch, _ in images.batches(size):
            model(batch)
    return Images(torch.cat(found).float(), images.labels, images.fingerprint)


class Step:
    """One step of the optimiser on a batch; on a CUDA GPU recorded once and replayed.

    Attributes:
        optimizer: of the weights that are not frozen.
        generator: of order, augmentation and random starts.
    """

    def __init__(self, model: nn.Module, config: TrainingConfig) -> None:
        device = next(model.parameters()).device
        on_gpu = device.type == "cuda"
        self.model, self.config = model, config
        self.generator = Generator(device)
        weights = [p for p in model.parameters() if p.requires_grad]
        rate = torch.tensor(config.learning_rate, device=device)  # a recorded step reads it anew
        shared = {"lr": rate, "weight_decay": config.weight_decay, "fused": on_gpu}
        if config.optimizer == "adam":
            self.optimizer = torch.optim.Adam(weights, capturable=on_gpu, **shared)
        else:
            self.optimizer = torch.optim.SGD(weights, momentum=config.momentum, **shared)
        self._run = engine.Replay(self._step, self.generator) if on_gpu else self._step

    def __call__(self, images: Tensor, labels: Tensor, epoch: float) -> Tensor:
        """Train on float images ``(N, 3, H, W)`` at a moment of the schedule; return the loss."""
        for group in self.optimizer.param_groups:
            group["lr"].fill_(self.config.learning_rate_at(epoch))
        return self._run(images, labels)

    def _step(self, images: Tensor, labels: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        loss = backward(self.model, self.config, images, labels, self.generator)
        self.optimizer.step()
        return loss


def train_epoch(step: Step, images: Images, epoch: int) -> float:
    """One pass over the training images; returns the mean loss.

    Order, augmentation and random starts come from a generator seeded by seed and epoch, and so
    does what a network draws, as dropout does: an epoch is the same whether or not the run was
    interrupted before it.
    """
    config, count = step.config, 0
    seed = config.seed * 1_000_003 + epoch
    step.generator.manual_seed(seed)
    device = images.labels.device
    total = torch.zeros((), device=device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for pixels, labels in training_batches(images, config.batch_size, step.generator):
            middle = (count + len(labels) / 2) / len(images)
            total += len(labels) * step(pixels, labels, epoch + middle)
            count += len(labels)
    return total.item() / count


def backward(
    model: nn.Module, config: TrainingConfig, images: Tensor, labels: Tensor, generator: Generator
) -> Tensor:
    """Add the gradient of the loss, (clean + adversarial) / 2, and return the loss.

    The inner attack meets the network as it stands *after* the clean half has passed in train
    mode, that is with running statistics that this half has already moved (protocol §4).
    """

    def half_loss(images: Tensor, labels: Tensor, share: float) -> Tensor:
        transfer.train_mode(model)
        with precision(config, images.device):
            loss = share * loss_of(model(images), labels)
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
        target = engine.folded(model, arithmetic(config, images.device))
        return config.attack.perturb(target, images, labels, generator)


def precision(config: TrainingConfig, device: torch.device) -> torch.autocast:
    """Context in which convolutions run in the configured precision."""
    enabled = arithmetic(config, device) == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def arithmetic(config: TrainingConfig, device: torch.device) -> engine.Precision:
    """The configured precision, and fp32 in the place of bf16 that a device would emulate.

    bf16 is a choice of speed, of which nothing is then left. The record says what its device is
    without.
    """
    return config.precision if engine.has_bf16(device) else "fp32"


def validate(
    model: nn.Module, config: TrainingConfig, images: Images
) -> tuple[float, float | None]:
    """Clean accuracy, and accuracy under the training attack if there is one, in [0, 1].

    Of independent labels it is the share of all labels answered correctly.
    """
    device = images.labels.device
    generator = Generator(device).manual_seed(config.seed)
    clean, adversarial = torch.zeros(2, device=device)
    size = engine.batch_size(VALIDATION_BATCH[device.type], model, images.pixels)
    with in_mode(model, "eval"), precision(config, device), torch.no_grad():
        for batch, labels in images.batches(size):
            clean += share_right(model(batch), labels).sum()
            if config.attack is not None:
                batch = attacked(model, config, batch, labels, generator)
                adversarial += share_right(model(batch), labels).sum()
    count = len(images)
    return clean.item() / count, adversarial.item() / count if config.attack else None
