"""Your own data set, network and attack, from image files to robust accuracies in seconds.

python examples/bring_your_own.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from robust_transfer import attacks
from robust_transfer.data.layouts import ClassFolders
from robust_transfer.data.registry import load, register
from robust_transfer.evaluation import accuracies
from robust_transfer.networks.backbones import Normalise
from robust_transfer.networks.registry import NETWORKS
from robust_transfer.records.store import Store
from robust_transfer.training.loop import TrainingConfig

folder = Path(sys.argv[1])

# Images: files in FOLDER/stripes/{train,val}/CLASS/. These are noisy stripes, drawn here.
rng = np.random.default_rng(0)
for split, count in (("train", 100), ("val", 40)):
    for name in ("across", "down"):
        (folder / "stripes" / split / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            stripes = 40 * np.sin(0.8 * np.arange(16) + rng.uniform(0, 6))[:, None, None]
            image = 128 + stripes + rng.normal(0, 20, (16, 16, 3))
            image = image if name == "across" else image.transpose(1, 0, 2)
            file = folder / "stripes" / split / name / f"{index}.png"
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(file)

# Data set: from now on it is known by its name.
register(ClassFolders(name="stripes", class_names=["across", "down"], side=16))


# Network: images in [0, 1] to logits, in parts with names; the last of them is the head.
class Small(nn.Module):
    """Two convolutions and a head."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.normalise = Normalise()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU())
        self.stage3 = nn.Sequential(nn.Conv2d(16, 32, 3, 2), nn.BatchNorm2d(32), nn.ReLU())
        self.head = nn.Linear(32, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stage3(self.stem(self.normalise(images)))
        return self.head(features.mean((2, 3)))


NETWORKS["small"] = Small


# Attack: anything that is called like this. Here, PGD along a running mean of the gradients.
def momentum_pgd(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Attack a batch."""
    threat_model, attacked, mean = attacks.ThreatModel(), images, torch.zeros_like(images)
    for _ in range(10):
        gradient = attacks.input_gradient(model, attacked, labels)
        mean = mean + gradient / gradient.abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-12)
        attacked = threat_model.project(attacked + attacks.EPSILON / 4 * mean.sign(), images)
    return attacked


# Experiment: robust features of the drawn glyphs, with a new head for the stripes.
source = TrainingConfig(
    name="source", network="small", dataset="glyphs20", attack=attacks.PGD(),
    train_size=500, validation_size=100, epochs=3, batch_size=50,
)  # fmt: skip
target = TrainingConfig(
    name="target", network="small", dataset="stripes", source=source, strategy="head",
    train_size=160, validation_size=40, epochs=3, batch_size=20,
)  # fmt: skip
store = Store(folder / "results")
store.get_or_train(target, str(folder), torch.device("cpu"))  # its source first

test = load("stripes", "test", 80, str(folder))
against = {"pgd": attacks.PGD(), "momentum_pgd": momentum_pgd}
for column, right in accuracies.outcomes(store.model(target), test, against, {}).items():
    print(f"{column}: {right.mean():.0%} of {len(right)} images")
