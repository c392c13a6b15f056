"""Natural, black-box and white-box accuracy of a network, with intervals and per-image outcomes."""

import warnings
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from robust_transfer.attacks import PGD, Attack, ThreatModel, fgsm, in_mode
from robust_transfer.config import MOST
from robust_transfer.data.images import Images, to_float
from robust_transfer.data.registry import one_class_an_image
from robust_transfer.evaluation import doubts, intervals
from robust_transfer.evaluation.measurement import BATCH, MeasurementConfig, joined, test_images
from robust_transfer.evaluation.packing import pack_bits, unpack_bits
from robust_transfer.files import lock, sha256, write_atomically, write_sealed
from robust_transfer.records.store import Store
from robust_transfer.training.engine import batch_size, folded
from robust_transfer.training.loop import TrainingConfig

STRONG = "strong"
"""The column beside Table 1, what is left after strong attacks."""
NAMES = {
    "natural": "natural",
    "wb_fgsm": "white-box FGSM",
    "wb_pgd": "white-box PGD",
    STRONG: "strong attacks",
    "bb_fgsm": "black-box FGSM",
    "bb_pgd": "black-box PGD",
}
"""Columns in the order of every table and figure, with their names for readers."""
COLUMNS = tuple(column for column in NAMES if column != STRONG)
"""The accuracies of Table 1, without attack, under white-box and under black-box attacks."""
CONTRADICTIONS = {
    "white-box FGSM is weaker than black-box FGSM": ("wb_fgsm", "bb_fgsm"),
    "white-box PGD is weaker than black-box PGD": ("wb_pgd", "bb_pgd"),
    "white-box PGD is weaker than FGSM": ("wb_pgd", "wb_fgsm"),
    "FGSM images are classified better than clean ones": ("wb_fgsm", "natural"),
    "PGD is weaker than FGSM": ("pgd_7", "fgsm"),
    "images under FGSM are classified better than clean ones": ("fgsm", "natural"),
}
"""What is said where the first accuracy is higher than the second, if both were measured."""
SURROGATE_BATCH = 250
"""Images at once through the surrogate, by reckoning 3.5 GB of a DenseNet-121's activations."""


class EvaluationConfig(MeasurementConfig):
    """Which accuracies are measured on a network.

    Attributes:
        surrogate: the network on which black-box examples are made.
        test_size: test images, from the beginning of the test split.
        threat_model: budget of all four attacks.
        steps, step_size: of PGD.
    """

    kind: ClassVar = "evaluation"

    surrogate: TrainingConfig
    test_size: int = Field(10_000, ge=1, le=MOST)
    threat_model: ThreatModel = ThreatModel()
    steps: int = Field(7, ge=1, le=MOST)
    step_size: float = Field(ThreatModel().epsilon / 4, ge=0, le=1)

    @model_validator(mode="after")
    def _surrogate_knows_the_images(self) -> Self:
        if self.surrogate.source is not None:
            raise ValueError(f"surrogate = {self.surrogate.name}: allowed is one from scratch")
        one_class_an_image("surrogate: dataset", self.surrogate.dataset)
        return self

    @property
    def attacks(self) -> dict[str, PGD]:
        """The attacks by name, without random start, against true labels (protocol §6)."""
        pgd = PGD(threat_model=self.threat_model, steps=self.steps, step_size=self.step_size)
        return {"fgsm": fgsm(self.threat_model), "pgd": pgd}

    @property
    def passes(self) -> float:
        attacks = self.attacks.values()
        return sum(0.67 * attack.steps for attack in attacks) + 0.33 * (1 + 2 * len(attacks))

    @property
    def task(self) -> TrainingConfig:
        """The surrogate, on whose data set all is measured."""
        return self.surrogate

    def networks(self, network: TrainingConfig) -> dict[str, TrainingConfig]:
        """The network and the surrogate."""
        return {"weights": network, "surrogate": self.surrogate}

    def prepare(self, store: Store, data_dir: str, device: torch.device) -> dict[str, Tensor]:
        """Adversarial images of the surrogate, made once per store and kept beside its record.

        They are made anew for other weights of the surrogate, or other test images.

        Returns:
            float ``(N, 3, H, W)`` in [0, 1] on the CPU, by the attack's name.
        """
        images = test_images(self, data_dir)
        weights = store.require(self.surrogate).checksum
        folder = store.folder(self.surrogate)
        path = folder / f"examples-{self.hash}-{weights[:16]}.safetensors"
        with lock(folder):
            sealed = store.read_sealed(path.with_suffix(".json"))
            if not path.exists() or sealed != {"data": images.fingerprint, "sha256": sha256(path)}:
                model = store.model(self.surrogate, device)
                made = safetensors.torch.save(made_on(model, images.to(device), self.attacks))
                write_atomically(path, made)
                sealed = {"data": images.fingerprint, "sha256": sha256(made)}
                write_sealed(path.with_suffix(".json"), sealed)
        return safetensors.torch.load_file(path)

    def _measure(self, model: nn.Module, images: Images, prepared: dict[str, Tensor]) -> dict:
        right = outcomes(model, images, self.attacks, prepared)
        shares = {column: float(right[column].mean()) for column in COLUMNS}
        packed = {k: pack_bits(right[k]) for k in COLUMNS}
        clean = to_float(images.pixels[: doubts.IMAGES]).cpu()
        left = (prepared["fgsm"][: len(clean)] == clean).flatten(1).all(1).float().mean().item()
        signs = {"no_surrogate_gradient": left} if self.threat_model.epsilon else {}
        return {"accuracies": shares, "outcomes": packed, "signs": signs}

    def _result(self, content: dict) -> "Evaluation":
        packed = content["outcomes"]
        return Evaluation({k: unpack_bits(v, content["n"]) for k, v in packed.items()}, content)


@dataclass(frozen=True)
class Evaluation:
    """Outcomes of one network: per column, which test images it classified correctly.

    Attributes:
        outcomes: bool ``(N,)`` per column of ``COLUMNS``.
        content: the stored record, with seconds and provenance.
    """

    outcomes: dict[str, np.ndarray]
    content: dict

    def accuracy(self, column: str) -> float:
        """Share of images classified correctly, in [0, 1]."""
        return float(self.outcomes[column].mean())

    def interval(self, column: str) -> tuple[float, float]:
        """95 % Wilson interval of an accuracy: sampling of test images, not of seeds."""
        hits = self.outcomes[column]
        return intervals.wilson(hits.sum(), len(hits))

    @property
    def doubts(self) -> list[str]:
        """What says that the attacks did not work; a sentence each (claims D27, D28)."""
        gaps = {
            said: self.accuracy(first) - self.accuracy(second)
            for said, (first, second) in CONTRADICTIONS.items()
            if {first, second} <= self.outcomes.keys()
        }
        told = doubts.in_words(self.content.get("signs", {}))  # old records have none
        return told + doubts.contradictions(gaps, len(next(iter(self.outcomes.values()))))


def made_on(model: nn.Module, images: Images, attacks: dict[str, Attack]) -> dict[str, Tensor]:
    """Adversarial images of a surrogate, float ``(N, 3, H, W)`` in [0, 1] on the CPU, by name."""
    size = batch_size(SURROGATE_BATCH, model, images.pixels)
    made = [
        {name: attack(model, *batch).cpu() for name, attack in attacks.items()}
        for batch in images.batches(size)
    ]
    return {name: torch.cat([of[name] for of in made]) for name in attacks}


def outcomes(
    model: nn.Module, images: Images, attacks: dict[str, Attack], black_box: dict[str, Tensor]
) -> dict[str, np.ndarray]:
    """Attack a network in eval mode and fp32, and say which images it got right.

    Args:
        model: the network, on the device of ``images``.
        images: the test images.
        attacks: white-box attacks by name.
        black_box: ready adversarial images by the same names, float ``(N, 3, H, W)`` in [0, 1].

    Returns:
        bool ``(N,)`` for ``natural`` and for ``wb_…`` and ``bb_…`` of every attack.

    Raises:
        ValueError: independent labels, for which an image is not simply right or wrong; logits, or
            adversarial images, of another shape, or adversarial images that are none.
    """
    if images.labels.ndim > 1:
        said = f"labels have shape {tuple(images.labels.shape)}: allowed is (N,), a class an image"
        raise ValueError(f"{said}; budgets.measure takes independent labels")
    correct = []
    size = batch_size(BATCH[images.labels.device.type], model, images.pixels)
    ready = {name: adversarial.split(size) for name, adversarial in black_box.items()}
    with in_mode(model, "eval"), torch.no_grad():
        target = folded(model)  # the attack's; what the images do is asked of the network itself
        for index, (batch, labels) in enumerate(images.batches(size)):
            shown = {"natural": batch}
            shown |= {f"bb_{name}": parts[index].to(batch) for name, parts in ready.items()}
            for name, attack in attacks.items():
                known = target if isinstance(attack, PGD) else model  # others may look inside
                with torch.enable_grad():
                    shown[f"wb_{name}"] = attack(known, batch.clone(), labels.clone()).detach()
            model.eval()  # whatever an attack did to it
            correct.append({k: _right(model, v, batch, labels, k) for k, v in shown.items()})
    return joined(correct)


def _right(model: nn.Module, shown: Tensor, batch: Tensor, labels: Tensor, column: str) -> Tensor:
    """Which images are answered correctly; an error if images or answers are not what they are."""
    if shown.shape != batch.shape or not ((shown >= 0) & (shown <= 1)).all():
        said = f"{column}: images {tuple(shown.shape)} in [{shown.min():.3g}, {shown.max():.3g}]"
        raise ValueError(f"{said}; allowed are {tuple(batch.shape)} in [0, 1]")
    logits = model(shown)
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"logits have shape {tuple(logits.shape)}: allowed is (N, classes)")
    return logits.argmax(1) == labels


def sweep(
    models: dict[str, nn.Module], images: Images, attacks: dict[float | str, Attack]
) -> pd.DataFrame:
    """Accuracy of networks under several attacks, of growing strength for instance.

    Where a network shows signs that no attack can work, it warns; see ``doubts``.

    Args:
        models: networks by label.
        images: what they classify, on their device.
        attacks: white-box attacks by strength, or by name.

    Returns:
        Accuracies in [0, 1]: a row per attack, a column per label.
    """
    named = {str(strength): attack for strength, attack in attacks.items()}
    for label, model in models.items():
        for doubt in doubts.in_words(doubts.signs(model, images)):
            warnings.warn(f"{label}: {doubt}", stacklevel=2)
    hits = {label: outcomes(model, images, named, {}) for label, model in models.items()}
    table = {k: [right[f"wb_{name}"].mean() for name in named] for k, right in hits.items()}
    return pd.DataFrame(table, index=pd.Index(attacks))
