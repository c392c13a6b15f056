"""Accuracy of a network over budgets of growing size, and its smallest perturbations (paper B)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from pydantic import Field, field_validator, model_validator
from scipy.stats import mannwhitneyu
from torch import Tensor, nn

from robust_transfer.attacks import (
    PGD,
    ThreatModel,
    deepfool,
    fgsm,
    in_mode,
    input_gradient,
    share_right,
)
from robust_transfer.config import MOST, Side
from robust_transfer.data.images import Images
from robust_transfer.data.registry import DATASETS, DataSetName
from robust_transfer.evaluation import doubts
from robust_transfer.evaluation.intervals import wilson
from robust_transfer.evaluation.measurement import BATCH, MeasurementConfig, joined
from robust_transfer.evaluation.packing import pack_array, unpack_array
from robust_transfer.training import engine

Condition = tuple[str, float]
"""What images went through, ``natural`` (0.0), or ``fgsm`` or ``pgd`` with its epsilon."""

NATURAL: Condition = ("natural", 0.0)
NORMS = ("l2", "linf")
HOPELESS = 0.5
"""From this budget on, any image can become a grey one, and no network can withstand it."""
EPSILONS = (1 / 255, 2 / 255, 0.01, 4 / 255, 0.03, 8 / 255, 0.05, 0.07, 0.09)
"""The customary budgets, and paper B's "0.01 to 0.1 in steps of 0.02" (§III.D)."""


class BudgetConfig(MeasurementConfig):
    """At which budgets a network is attacked.

    Attributes:
        dataset, image_size: those that the network was trained on.
        test_size: test images, from the beginning of the test split.
        attacked_images: how many of the test images FGSM and PGD attack; the others count for
            ``Budgets.standard`` alone. 0 is all of them.
        epsilons: l∞ radii between 0 and 1, kept in order and without repetition.
        steps: of PGD.
        step_ratio: length of a step of PGD as a share of epsilon.
        deepfool_images: how many of the attacked images DeepFool attacks; 0 leaves it out.
    """

    kind: ClassVar = "budgets"

    dataset: DataSetName = "cifar10"
    image_size: Side = 0
    test_size: int = Field(10_000, ge=1, le=MOST)
    attacked_images: int = Field(0, ge=0, le=MOST)
    epsilons: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(EPSILONS, min_length=1)
    steps: int = Field(10, ge=1, le=MOST)
    step_ratio: float = Field(0.25, gt=0, le=1)
    deepfool_images: int = Field(0, ge=0)

    @field_validator("epsilons")
    @classmethod
    def _in_order(cls, epsilons: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(set(epsilons)))

    @model_validator(mode="after")
    def _enough_images(self) -> Self:
        sizes = {"test_size": self.test_size, "attacked_images": self.attacked_images}
        sizes |= {"deepfool_images": self.deepfool_images}
        asked = f"deepfool_images = {self.deepfool_images}: allowed is 0"
        for few, many in pairwise([name for name, size in reversed(sizes.items()) if size]):
            if sizes[few] > sizes[many]:
                said = f"{few} = {sizes[few]}: allowed is 0"
                raise ValueError(f"{said} to {many}, {sizes[many]}")
        if self.deepfool_images and DATASETS[self.dataset].multi_label:
            raise ValueError(f"{asked}, {self.dataset} has independent labels")
        return self

    @property
    def attacks(self) -> dict[Condition, PGD]:
        """All attacks, without random start, against true labels."""
        table: dict[Condition, PGD] = {}
        for epsilon in self.epsilons:
            threat_model, step_size = ThreatModel(epsilon=epsilon), self.step_ratio * epsilon
            pgd = PGD(threat_model=threat_model, steps=self.steps, step_size=step_size)
            table |= {("fgsm", epsilon): fgsm(threat_model), ("pgd", epsilon): pgd}
        return table

    @property
    def passes(self) -> float:
        attacks = self.attacks.values()
        controls = 0.67 + len(self.epsilons)
        all_of_them = sum(0.67 * a.steps for a in attacks) + 0.33 * len(attacks) + controls
        return 0.33 + all_of_them * (self.attacked_images or self.test_size) / self.test_size

    def _measure(self, model: nn.Module, images: Images, prepared: dict[str, Tensor]) -> dict:
        standard = float(np.concatenate([*right_of(model, images)]).mean(dtype=np.float64))
        if self.attacked_images:
            images = images.first(self.attacked_images)
        outputs, distances, controls = measure(model, images, self)
        labels = small(images.labels, DATASETS[self.dataset].classes).cpu().numpy()
        answers = [{"attack": a, "epsilon": e} | pack_array(o) for (a, e), o in outputs.items()]
        sizes = {norm: pack_array(found) for norm, found in distances.items()}
        means = [{"epsilon": epsilon} | found for epsilon, found in controls.items()]
        measured = {"labels": pack_array(labels), "outputs": answers, "deepfool": sizes}
        return measured | {"controls": means, "standard": standard}

    def _result(self, content: dict) -> "Budgets":
        outputs = {(row["attack"], row["epsilon"]): unpack_array(row) for row in content["outputs"]}
        sizes = {norm: unpack_array(found) for norm, found in content["deepfool"].items()}
        return Budgets(self.dataset, unpack_array(content["labels"]), outputs, sizes, content)


@dataclass(frozen=True)
class Budgets:
    """What a network answered under every condition.

    Attributes:
        dataset: a key of ``data.registry.DATASETS``.
        labels: uint8 ``(N,)``, int16 of more than 256 classes; or uint8 ``(N, classes)`` of 0 and 1
            where labels are independent.
        outputs: per condition the predicted class, like ``labels``; or log-odds in float16, of the
            second of two classes ``(N,)`` or of independent labels ``(N, classes)``. Other than
            probabilities, they do not saturate at 1 in half precision, and rank alike.
        deepfool: per norm the smallest perturbation found of the first images, float32, 0 where
            the answer is wrong already and infinite where none was found; empty if not measured.
        content: the stored record, with seconds and provenance.
    """

    dataset: str
    labels: np.ndarray
    outputs: dict[Condition, np.ndarray]
    deepfool: dict[str, np.ndarray]
    content: dict

    @property
    def controls(self) -> dict[float, dict[str, float]]:
        """What attacks are held against, by epsilon; old records have none.

        ``noise`` is the accuracy on images with uniform noise of that size; ``alignment`` the mean
        cosine of the loss's gradients at an image and at its FGSM image. Near 0 the loss is so
        uneven that a single step says little (Andriushchenko and Flammarion 2020, §4).
        """
        return {row["epsilon"]: row for row in self.content.get("controls", [])}

    @property
    def standard(self) -> float:
        """Share of labels answered correctly without attack, of all test images, in [0, 1]."""
        return self.content.get("standard", self.accuracy())  # old records attacked all of them

    def predicted(self, attack: str = "natural", epsilon: float = 0.0) -> np.ndarray:
        """Predicted classes, or independent labels, like ``labels``."""
        output = self._output(attack, epsilon)
        return (output > 0).astype(np.uint8) if output.dtype.kind == "f" else output

    def scores(self, attack: str = "natural", epsilon: float = 0.0) -> np.ndarray:
        """Log-odds of the second of two classes, or of independent labels, like ``labels``.

        Raises:
            ValueError: there are more than two classes, so that only answers are kept.
        """
        output = self._output(attack, epsilon)
        if output.dtype.kind != "f":
            raise ValueError(f"dataset = {self.dataset!r}: scores need two classes or many labels")
        return output.astype(np.float64)

    def accuracy(self, attack: str = "natural", epsilon: float = 0.0) -> float:
        """Share of labels answered correctly, in [0, 1]."""
        return float((self.predicted(attack, epsilon) == self.labels).mean())

    def interval(self, attack: str = "natural", epsilon: float = 0.0) -> tuple[float, float]:
        """95 % Wilson interval of an accuracy: sampling of test images, not of seeds.

        Independent labels of an image count as one observation, which errs on the wide side.
        """
        count = len(self.labels)
        return wilson(self.accuracy(attack, epsilon) * count, count)

    def balanced_accuracy(self, attack: str = "natural", epsilon: float = 0.0) -> float:
        """Mean over classes of the share recognised; of independent labels, the mean over labels.

        A label has two classes, present and absent. Classes without an image are passed over.
        """
        recalls = [
            np.mean([(found[true == value] == value).mean() for value in np.unique(true)])
            for true, found in self._columns(self.predicted(attack, epsilon))
        ]
        return float(np.mean(recalls))

    def sensitivity(self, attack: str = "natural", epsilon: float = 0.0) -> float:
        """Share of what is there, class 1 or a label, that is recognised, in [0, 1]."""
        return self._recognised(1, attack, epsilon)

    def specificity(self, attack: str = "natural", epsilon: float = 0.0) -> float:
        """Share of what is not there that is recognised as such, in [0, 1]."""
        return self._recognised(0, attack, epsilon)

    def auroc(self, attack: str = "natural", epsilon: float = 0.0) -> float:
        """Area under the ROC curve, ties counting half; of independent labels, the mean over them.

        Labels that all images share are passed over; NaN where none is left.

        Raises:
            ValueError: there are more than two classes.
        """
        areas = [
            mannwhitneyu(score[true == 1], score[true == 0], method="asymptotic").statistic
            / ((true == 1).sum() * (true == 0).sum())
            for true, score in self._columns(self.scores(attack, epsilon))
            if 0 < true.sum() < len(true)
        ]
        return float(np.mean(areas)) if areas else float("nan")

    def confusion(self, attack: str = "natural", epsilon: float = 0.0) -> pd.DataFrame:
        """Number of images per true class (rows) and predicted class (columns).

        Under an attack only images count that were right without it: what was wrong before is no
        work of the attack, and would make its errors look like those without it.

        Raises:
            ValueError: labels are independent.
        """
        if self.labels.ndim > 1:
            raise ValueError(f"dataset = {self.dataset!r}: a confusion matrix needs one class each")
        names = DATASETS[self.dataset].class_names
        counts = np.zeros((len(names), len(names)), dtype=int)
        counted = self.predicted() == self.labels if attack != "natural" else slice(None)
        np.add.at(counts, (self.labels[counted], self.predicted(attack, epsilon)[counted]), 1)
        return pd.DataFrame(counts, pd.Index(names, name="true"), pd.Index(names, name="predicted"))

    @property
    def doubts(self) -> list[str]:
        """What says that the attacks did not work; a sentence each."""
        gaps, weaker = {}, self.accuracy()
        for (attack, epsilon), score in {at: self.accuracy(*at) for at in self.outputs}.items():
            at = f"at ε = {255 * epsilon:.4g}/255"
            said = f"{attack.upper()} images {at} are classified better than clean ones"
            gaps[said] = score - self.accuracy()
            if attack == "pgd":
                gaps[f"PGD is weaker than FGSM {at}"] = score - self.accuracy("fgsm", epsilon)
                said = f"PGD leaves more {at} than at the next smaller ε"
                gaps[said], weaker = score - weaker, score
                if epsilon in self.controls:
                    noise = self.controls[epsilon]["noise"]
                    gaps[f"PGD is weaker than noise {at}"] = score - noise
                if epsilon >= HOPELESS:
                    gaps[f"PGD {at}, which nothing can withstand, is withstood"] = score
        told = doubts.in_words(self.content.get("signs", {}))  # old records have none
        return told + doubts.contradictions(gaps, len(self.labels))

    def _recognised(self, label: int, attack: str, epsilon: float) -> float:
        return float((self.predicted(attack, epsilon) == label)[self.labels == label].mean())

    def _output(self, attack: str, epsilon: float) -> np.ndarray:
        if (attack, epsilon) not in self.outputs:
            measured = ", ".join(f"{name} {size:.4g}" for name, size in self.outputs)
            raise ValueError(f"attack = {attack} {epsilon:.4g}: measured are {measured}")
        return self.outputs[attack, epsilon]

    def _columns(self, answers: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """True labels with the answers to them: one pair, or one per independent label."""
        count = len(self.labels)
        columns = self.labels.reshape(count, -1).T, answers.reshape(count, -1).T
        return list(zip(*columns, strict=True))


def pooled(parts: Sequence[Budgets], dataset: str) -> Budgets:
    """What several networks answered to images of their own, as if one had answered them all.

    Signs and controls are means over the networks, seconds are their sum.

    Args:
        parts: of networks that were measured under the same conditions.
        dataset: the name under which they are put together.
    """
    if len(parts) == 1:
        return parts[0]

    def join(field: str) -> dict:
        found = [getattr(part, field) for part in parts]
        return {key: np.concatenate([of[key] for of in found]) for key in found[0]}

    contents = [part.content for part in parts]
    signs = pd.DataFrame([content.get("signs", {}) for content in contents]).mean().to_dict()
    rows = pd.concat([pd.DataFrame(content.get("controls", [])) for content in contents])
    controls = rows.groupby("epsilon", as_index=False).mean() if len(rows) else rows
    content = {"seconds": sum(of["seconds"] for of in contents), "signs": signs}
    content["controls"] = controls.to_dict("records")
    content["standard"] = float(np.mean([part.standard for part in parts]))
    labels = np.concatenate([part.labels for part in parts])
    return Budgets(dataset, labels, join("outputs"), join("deepfool"), content)


def measure(
    model: nn.Module, images: Images, config: BudgetConfig
) -> tuple[dict[Condition, np.ndarray], dict[str, np.ndarray], dict[float, dict[str, float]]]:
    """Attack a network in eval mode and fp32 with every budget.

    Args:
        model: the network.
        images: the test images, on its device.
        config: the attacks.

    Returns:
        ``outputs``, ``deepfool`` and ``controls`` of ``Budgets``.
    """
    outputs, distances, controls, left = [], [], [], config.deepfool_images
    generator = torch.Generator(images.pixels.device).manual_seed(0)
    size = engine.batch_size(BATCH[images.pixels.device.type], model, images.pixels)
    with in_mode(model, "eval"), torch.no_grad():
        target = engine.folded(model)  # the attacks'; answers are asked of the network itself
        for batch, labels in images.batches(size):
            outputs.append({NATURAL: kept(model(batch), labels)})
            for condition, attack in config.attacks.items():
                outputs[-1][condition] = kept(model(attack(target, batch, labels)), labels)
            attacked = batch[:left], labels[:left]
            distances.append({n: deepfool(target, *attacked, n) for n in NORMS if left})
            left -= min(left, len(batch))
            controls.append(held_against(model, target, batch, labels, config.epsilons, generator))
    means = {at: float(found.mean()) for at, found in joined(controls).items()}
    names = ("noise", "alignment")
    by_epsilon = {e: {name: means[name, e] for name in names} for e in config.epsilons}
    return joined(outputs), joined(distances), by_epsilon


def held_against(
    model: nn.Module,
    target: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilons: tuple[float, ...],
    generator: torch.Generator,
) -> dict[tuple[str, float], Tensor]:
    """Image by image what ``Budgets.controls`` are the means of, float32 ``(N,)``."""
    found, slope = {}, input_gradient(target, images, labels)
    for epsilon in epsilons:
        ball = ThreatModel(epsilon=epsilon)
        found["noise", epsilon] = share_right(model(ball.start(images, generator)), labels)
        stepped = ball.project(images + epsilon * slope.sign(), images)
        there = input_gradient(target, stepped, labels)
        both = (gradient.flatten(1).double() for gradient in (slope, there))
        found["alignment", epsilon] = torch.cosine_similarity(*both, eps=1e-30).nan_to_num()
    return found


def right_of(model: nn.Module, images: Images) -> Iterator[np.ndarray]:
    """Batch by batch, image by image, the share of labels answered correctly without attack."""
    size = engine.batch_size(BATCH[images.pixels.device.type], model, images.pixels)
    with in_mode(model, "eval"), torch.no_grad():
        for batch, labels in images.batches(size):
            yield share_right(model(batch), labels).cpu().numpy()


def kept(logits: Tensor, labels: Tensor) -> Tensor:
    """What ``Budgets.outputs`` keeps of logits ``(N, classes)`` for such labels."""
    if labels.ndim > 1:
        return logits.half()
    if logits.shape[1] == 2:
        return (logits[:, 1] - logits[:, 0]).half()
    return small(logits.argmax(1), logits.shape[1])


def small(labels: Tensor, classes: int) -> Tensor:
    """Labels in one byte each, of more than 256 classes in two."""
    return labels.byte() if classes <= 256 else labels.short()
