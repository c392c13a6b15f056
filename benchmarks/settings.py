"""What is measured: the arguments of the command, the network and the images."""

from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from benchmarks.peers import PEERS
from robust_transfer import paths
from robust_transfer.attacks import PGD, fgsm
from robust_transfer.config import Config
from robust_transfer.data.images import Images, to_float
from robust_transfer.data.registry import DATASETS, load
from robust_transfer.networks.registry import NETWORKS
from robust_transfer.presentation.speed import PARTS
from robust_transfer.records.store import Store
from robust_transfer.runner import Runner
from robust_transfer.training.loop import TrainingConfig

RESNETS = tuple(name for name in NETWORKS if name.startswith("resnet"))
PROFILES = tuple(sorted(path.stem for path in paths.PROFILES.glob("*.yaml")))
PGD7 = PGD()
ATTACKS = {"PGD-7": PGD7, "FGSM": fgsm()}
"""The attacks of the paper: ε 8/256, PGD's step ε/4, no random start, true labels, eval mode."""


class Settings(Config):
    """The arguments of ``python -m benchmarks``; their descriptions are its help."""

    parts: tuple[Literal[PARTS], ...] = Field(PARTS, description="what to measure")
    peers: tuple[Literal[tuple(PEERS)], ...] = Field(tuple(PEERS), description="libraries to meet")
    rounds: int = Field(5, ge=1, description="turns of every contestant")
    batch_size: int = Field(128, ge=2, description="images a turn")
    images: int = Field(
        2000, ge=2, validate_default=True, description="test images; the part precision takes all"
    )
    data_dir: str = Field("", description="folder of the images")
    dataset: Literal[tuple(DATASETS)] = Field("cifar10", description="the images")
    network: Literal[RESNETS] = Field("resnet56", description="the network; trained if need be")
    train_size: int = Field(8000, ge=2, description="images it is trained on")
    validation_size: int = Field(500, ge=1, description="images that select its epoch")
    epochs: int = Field(6, ge=1, description="epochs it is trained for")
    profile: Literal[PROFILES] = Field(
        "overnight", description="published networks whose accuracies are compared"
    )
    compile: bool = Field(False, description="measure torch.compile too, a minute's warm-up")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to measure")
    out: str = Field("book/benchmarks", description="folder of the measurements")

    @field_validator("images")
    @classmethod
    def _a_batch_for_every_round(cls, images: int, others: ValidationInfo) -> int:
        rounds, size = (others.data.get(name, 0) for name in ("rounds", "batch_size"))
        if rounds * size > images:
            raise ValueError(f"{rounds} rounds of {size} need {rounds * size} or more")
        return images


class Bench:
    """The network and the images that everything is measured with.

    Attributes:
        settings: the arguments.
        device: where it is measured.
        folder: where measurements and the network's record go.
        config: the network's training; made fit for attacks, so that robust accuracies tell
            something, in minutes.
        store: its record, and the published networks of the profile.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.device = Runner(device=settings.device).torch_device
        self.folder = Path(paths.resolve(settings.out))
        self.store = Store(self.folder / "records", paths.PUBLISHED / settings.profile)
        self.config = TrainingConfig(
            name="benchmark",
            attack=PGD(steps=5),
            schedule="one_cycle",
            learning_rate=0.2,
            weight_decay=5e-4,
            precision="bf16",
            **settings.model_dump(
                include={"network", "dataset", "train_size", "validation_size", "epochs"}
            ),
        )

    def network(self) -> nn.Module:
        """A copy of the trained network as PyTorch makes them: fp32, contiguous; in eval mode."""
        return deepcopy(self._trained).to(memory_format=torch.contiguous_format)

    @cached_property
    def _trained(self) -> nn.Module:
        _ = self.images  # now: what is wrong with them should not come out after the training
        self.store.get_or_train(self.config, self.settings.data_dir, self.device, _say_epoch)
        return self.store.model(self.config, self.device)

    @cached_property
    def images(self) -> Images:
        """The test images, on the device."""
        return self.test_images(self.settings.dataset)

    def test_images(self, dataset: str) -> Images:
        """The first test images of a data set, on the device."""
        count = self.settings.images
        return load(dataset, "test", count, self.settings.data_dir).to(self.device)

    def batch(self, number: int, size: int = 0) -> tuple[Tensor, Tensor]:
        """Contiguous float images in [0, 1] and labels: the batch of a round."""
        size = size or self.settings.batch_size
        chosen = slice(number * size, (number + 1) * size)
        pixels = to_float(self.images.pixels[chosen])
        return pixels.contiguous(), self.images.labels[chosen]


def _say_epoch(row: dict) -> None:
    print(f"training the network: epoch {row['epoch'] + 1}, {row['seconds']:.0f} s", flush=True)
