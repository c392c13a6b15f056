"""What is left of a network when attacks come in turn, the strongest last."""

from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from robust_transfer.attacks import InTurn, fgsm, in_mode, strongest
from robust_transfer.config import MOST, Side
from robust_transfer.data.images import Images
from robust_transfer.data.registry import DataSetName
from robust_transfer.evaluation.accuracies import Evaluation
from robust_transfer.evaluation.measurement import BATCH, MeasurementConfig, joined
from robust_transfer.evaluation.packing import pack_bits, unpack_bits
from robust_transfer.training.engine import batch_size, folded


class StrongConfig(MeasurementConfig):
    """Which attacks a network is to withstand, one after the other.

    Attributes:
        dataset, image_size: those that the network was trained on.
        test_size: test images, from the beginning of the test split.
        attacks: each meets the images that withstood those before.
    """

    kind: ClassVar = "strong"

    dataset: DataSetName = "cifar10"
    image_size: Side = 0
    test_size: int = Field(1000, ge=1, le=MOST)
    attacks: InTurn = strongest()

    @property
    def passes(self) -> float:
        attacks = self.attacks.attacks
        return sum(0.67 * attack.steps for attack in attacks) / 2  # most images drop out

    def _measure(self, model: nn.Module, images: Images, prepared: dict[str, Tensor]) -> dict:
        right = withstood(model, images, self.attacks)
        shares = {name: float(hits.mean()) for name, hits in right.items()}
        return {"accuracies": shares, "outcomes": {k: pack_bits(v) for k, v in right.items()}}

    def _result(self, content: dict) -> Evaluation:
        packed = content["outcomes"]
        return Evaluation({k: unpack_bits(v, content["n"]) for k, v in packed.items()}, content)


def withstood(model: nn.Module, images: Images, attacks: InTurn) -> dict[str, np.ndarray]:
    """Attack a network in eval mode and fp32, and say which images it got right throughout.

    Args:
        model: the network, on the device of ``images``.
        images: the test images.
        attacks: against it, in turn.

    Returns:
        bool ``(N,)`` for ``natural``, for ``fgsm`` at the budget of the first attack, and for every
        attack: right without an attack, under it and under those before.
    """
    single = fgsm(attacks.attacks[0].threat_model)
    size = batch_size(BATCH[images.labels.device.type], model, images.pixels)
    found = []
    with in_mode(model, "eval"), torch.no_grad():
        target = folded(model)  # the attacks'; what images do is asked of the network itself
        for batch, labels in images.batches(size):
            left = model(batch).argmax(1) == labels
            right = {"natural": left}
            right["fgsm"] = model(single(target, batch, labels)).argmax(1) == labels
            places = left.nonzero()[:, 0]
            rounds = attacks.rounds(target, batch[places], labels[places])
            for name, met, tried in rounds:
                left = left.clone()
                left[places[met]] = model(tried).argmax(1) == labels[places[met]]
                right[name] = left
            found.append(right | {n: left for n in attacks.named if n not in right})  # none left
    return joined(found)
