"""Natural, black-box and white-box accuracy of a network, with intervals and per-image outcomes."""

import base64
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from robust_transfer.attacks import PGD, Attack, ThreatModel, fgsm, in_mode
from robust_transfer.config import Config
from robust_transfer.data.images import Images
from robust_transfer.evaluation import intervals
from robust_transfer.files import lock, sha256, write_atomically, write_sealed
from robust_transfer.records.provenance import provenance, seconds_since
from robust_transfer.records.store import WEIGHTS, Store
from robust_transfer.training.engine import folded
from robust_transfer.training.loop import TrainingConfig, load_split

COLUMNS = ("natural", "bb_fgsm", "bb_pgd", "wb_fgsm", "wb_pgd")
"""The accuracies of Table 1: without attack, under black-box and under white-box attacks."""
BATCH = {"cpu": 250, "cuda": 2500}
"""Images at once, by kind of device: what stays in the caches of one, and fills the other."""
SURROGATE_BATCH = 250
"""Images at once through the surrogate, by reckoning 3.5 GB of a DenseNet-121's activations."""


class EvaluationConfig(Config):
    """What is measured on a network; the network and its seed are named beside it.

    Attributes:
        surrogate: the network on which black-box examples are made.
        test_size: test images, from the beginning of the test split.
        threat_model: budget of all four attacks.
        steps, step_size: of PGD.
    """

    surrogate: TrainingConfig
    test_size: int = Field(10_000, ge=1)
    threat_model: ThreatModel = ThreatModel()
    steps: int = Field(7, ge=1)
    step_size: float = Field(ThreatModel().epsilon / 4, ge=0, le=1)

    @model_validator(mode="after")
    def _surrogate_knows_the_images(self) -> Self:
        if self.surrogate.source is not None:
            raise ValueError(f"surrogate = {self.surrogate.name}: allowed is one from scratch")
        return self

    @property
    def attacks(self) -> dict[str, PGD]:
        """The attacks by name, without random start, against true labels (protocol §6)."""
        pgd = PGD(threat_model=self.threat_model, steps=self.steps, step_size=self.step_size)
        return {"fgsm": fgsm(self.threat_model), "pgd": pgd}


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


def outcomes(
    model: nn.Module,
    images: Images,
    attacks: dict[str, Attack],
    black_box: dict[str, Tensor],
) -> dict[str, np.ndarray]:
    """Attack a network in eval mode and fp32, and say which images it got right.

    Args:
        model: the network, on the device of ``images``.
        images: the test images.
        attacks: white-box attacks by name.
        black_box: ready adversarial images by the same names, float ``(N, 3, H, W)`` in [0, 1].

    Returns:
        bool ``(N,)`` for ``natural`` and for ``wb_…`` and ``bb_…`` of every attack.
    """
    correct: dict[str, list[Tensor]] = {}
    size = BATCH[images.labels.device.type]
    ready = {name: adversarial.split(size) for name, adversarial in black_box.items()}
    with in_mode(model, "eval"), torch.no_grad():
        target = folded(model)  # the attack's; what the images do is asked of the network itself
        for index, (batch, labels) in enumerate(images.batches(size)):
            shown = {"natural": batch}
            shown |= {f"bb_{name}": parts[index].to(batch) for name, parts in ready.items()}
            for name, attack in attacks.items():
                shown[f"wb_{name}"] = attack(target, batch, labels)
            for column, seen in shown.items():
                correct.setdefault(column, []).append(model(seen).argmax(1) == labels)
    return {column: torch.cat(parts).cpu().numpy() for column, parts in correct.items()}


def sweep(
    models: dict[str, nn.Module], images: Images, attacks: dict[float, Attack]
) -> pd.DataFrame:
    """Accuracy of networks under attacks of growing strength.

    Args:
        models: networks by label.
        images: what they classify, on their device.
        attacks: white-box attacks by strength.

    Returns:
        Accuracies in [0, 1]: a row per strength, a column per label.
    """
    named = {str(strength): attack for strength, attack in attacks.items()}
    table = {}
    for label, model in models.items():
        hits = outcomes(model, images, named, {})
        table[label] = [hits[f"wb_{strength}"].mean() for strength in named]
    return pd.DataFrame(table, index=pd.Index(attacks))


def black_box_examples(
    store: Store, config: EvaluationConfig, data_dir: str, device: torch.device
) -> dict[str, Tensor]:
    """Adversarial images of the surrogate, made once per store and kept beside its record.

    They are made anew for other weights of the surrogate, or other test images.
    """
    images = test_images(config, data_dir)
    weights = weights_of(store, config.surrogate)
    folder = store.folder(config.surrogate)
    path = folder / f"examples-{config.hash}-{weights[:16]}.safetensors"
    seal = path.with_suffix(".json")
    with lock(folder):
        sealed = {"data": images.fingerprint}
        if path.exists():
            sealed["sha256"] = sha256(path)
        if not path.exists() or store.read_sealed(seal) != sealed:
            model = store.model(config.surrogate, device)
            made: dict[str, list[Tensor]] = {name: [] for name in config.attacks}
            for batch, labels in images.to(device).batches(SURROGATE_BATCH):
                for name, attack in config.attacks.items():
                    made[name].append(attack(model, batch, labels).cpu().contiguous())
            tensors = {name: torch.cat(parts) for name, parts in made.items()}
            write_atomically(path, safetensors.torch.save(tensors))
            write_sealed(seal, sealed | {"sha256": sha256(path)})
    return safetensors.torch.load_file(path)


def weights_of(store: Store, network: TrainingConfig) -> str:
    """Checksum of a finished network's published weights.

    Raises:
        FileNotFoundError: the network has no record yet.
    """
    if (record := store.find(network)) is None:
        raise FileNotFoundError(f"{store.folder(network)}: no finished record of {network.name}")
    return record.content["sha256"][WEIGHTS]


def get_or_evaluate(
    store: Store,
    network: TrainingConfig,
    config: EvaluationConfig,
    data_dir: str,
    device: torch.device,
) -> Evaluation:
    """Return the stored evaluation of a finished network, or make and store it.

    Raises:
        FileNotFoundError: no record of the network or the surrogate with weights, or no images.
        ValueError: network and surrogate were trained on different images.
    """
    if (found := find(store, network, config)) is not None:
        return found
    for name in ("dataset", "image_size"):
        if (own := getattr(network, name)) != (asked := getattr(config.surrogate, name)):
            raise ValueError(f"{name} = {own!r} of {network.name}: the surrogate has {asked!r}")
    images = test_images(config, data_dir)
    black_box = black_box_examples(store, config, data_dir, device)
    started = time.perf_counter()
    model = store.model(network, device)
    measured = outcomes(model, images.to(device), config.attacks, black_box)
    content = {
        "config": config.model_dump(mode="json"),
        "network": network.hash,
        "weights": weights_of(store, network),
        "surrogate": weights_of(store, config.surrogate),
        "n": len(images),
        "accuracies": {column: float(measured[column].mean()) for column in COLUMNS},
        "outcomes": {column: pack(measured[column]) for column in COLUMNS},
        "data": images.fingerprint,
        "seconds": seconds_since(started),
        "provenance": provenance(device),
    }
    write_sealed(store.folder(network) / _name(config), content)
    return Evaluation(measured, content)


def find(store: Store, network: TrainingConfig, config: EvaluationConfig) -> Evaluation | None:
    """The stored evaluation of the published weights of network and surrogate, or None."""
    found = store.find(network), store.find(config.surrogate)
    if None in found:
        return None
    weights, surrogate = (record.content["sha256"][WEIGHTS] for record in found)
    expected = {"weights": weights, "surrogate": surrogate}
    content = store.read_beside(network, _name(config), expected)
    if content is None:
        return None
    packed = content["outcomes"]
    return Evaluation({k: unpack(v, content["n"]) for k, v in packed.items()}, content)


def same_images(evaluations: Iterable[Evaluation]) -> None:
    """Raise ValueError unless all were made on the same test images, so that they can be paired."""
    found = {evaluation.content["data"] for evaluation in evaluations}
    if len(found) > 1:
        sets = ", ".join(sorted(digest[:12] for digest in found))
        raise ValueError(
            f"evaluations are of different test images, with fingerprints {sets}; "
            "published_dir = '' makes all of them on yours"
        )


def test_images(config: EvaluationConfig, data_dir: str) -> Images:
    """The test images of an evaluation: those of the surrogate's data set."""
    return load_split(config.surrogate, "test", config.test_size, data_dir)


def pack(hits: np.ndarray) -> str:
    """bool ``(N,)`` → one bit an image, base64."""
    return base64.b64encode(np.packbits(hits)).decode()


def unpack(packed: str, count: int) -> np.ndarray:
    """Inverse of ``pack``: bool ``(count,)``."""
    bits = np.frombuffer(base64.b64decode(packed), dtype=np.uint8)
    return np.unpackbits(bits, count=count).astype(bool)


def doubts(evaluation: Evaluation, margin: float = 0.01) -> list[str]:
    """What in a network's accuracies says that its gradients may be masked.

    Args:
        evaluation: the outcomes of one network.
        margin: differences up to this are passed over.

    Returns:
        One sentence per doubt; none for a sound evaluation (Athalye et al. 2018; claims D27, D28).
    """
    score = {column: evaluation.accuracy(column) for column in COLUMNS}
    checks = {
        "white-box FGSM is weaker than black-box FGSM": score["wb_fgsm"] - score["bb_fgsm"],
        "white-box PGD is weaker than black-box PGD": score["wb_pgd"] - score["bb_pgd"],
        "white-box PGD is weaker than FGSM": score["wb_pgd"] - score["wb_fgsm"],
        "FGSM images are classified better than clean ones": score["wb_fgsm"] - score["natural"],
    }
    return [f"{text} by {100 * gap:.1f} points" for text, gap in checks.items() if gap > margin]


def _name(config: EvaluationConfig) -> str:
    return f"evaluation-{config.hash}.json"


def spread(named: dict[str, tuple[Evaluation, ...]], column: str) -> intervals.Spread | None:
    """How far apart seeds lie in a column, over the networks that have several."""
    return intervals.spread([[e.accuracy(column) for e in repeats] for repeats in named.values()])
