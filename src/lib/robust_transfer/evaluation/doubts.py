"""Signs that an attack on a network could not work, whatever accuracy it left.

What hides the gradient from an attack looks like robustness (Athalye et al. 2018; Carlini et al.
2019, §3.2 and §5). The signs are found on some of the test images, and stand in the record of a
measurement, in numbers and, where they are worth a doubt, in words.
"""

import math
from itertools import islice

import torch
from torch import Tensor, nn

from robust_transfer.attacks import in_mode, input_gradient
from robust_transfer.data.images import Images
from robust_transfer.training import engine

IMAGES, BATCH = 1000, 250
"""On how many of the test images signs are looked for, and how many at once."""
MARGIN = 0.01
"""Shares, and differences of accuracies that contradict each other, are passed over up to this."""
FLAT = 87.0
"""A lead of the true class, in logits, from which e to its power has no inverse in fp32."""
WORDS = {
    "weights": "{} of the weights are not finite",
    "logits": "the logits of {} of the images are not finite",
    "changing": "the logits of {} of the images are others when asked again",
    "saturated": "the logits of {} of the images are so far apart that their loss has no slope",
    "no_gradient": "the gradient is zero for {} of the images",
    "broken_gradient": "the gradient is not finite for {} of the images",
    "no_surrogate_gradient": "black-box attacks left {} of the images as they were",
}
"""A sign → what it says of the share of weights or images that show it."""


def signs(model: nn.Module, images: Images) -> dict[str, float]:
    """Shares, in [0, 1], of weights and of the first images that show a sign.

    Args:
        model: the network.
        images: the test images, on its device.

    Returns:
        All but the last of ``WORDS``, in fp32 and eval mode.
    """
    weights = [value for value in model.state_dict().values() if value.is_floating_point()]
    broken = sum((~value.isfinite()).sum().item() for value in weights)
    size = engine.batch_size(BATCH, model, images.pixels)
    with in_mode(model, "eval"):
        target = engine.folded(model)
        found = [_of(target, *b) for b in islice(images.batches(size), math.ceil(IMAGES / size))]
    shares = {"weights": broken / sum(map(torch.numel, weights))}
    for name in found[0]:
        shares[name] = torch.cat([of[name] for of in found]).float().mean().item()
    return shares


def _of(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Which images of a batch show which sign, bool ``(N,)``."""
    with torch.no_grad():
        logits, again = model(images), model(images)
    gradient = input_gradient(model, images, labels).flatten(1)
    scale = logits.abs().amax(1)
    return {
        "logits": ~logits.isfinite().all(1),
        "changing": (logits - again).abs().amax(1) > 1e-3 * scale,
        "saturated": _lead(logits, labels) > FLAT,
        "no_gradient": (gradient == 0).all(1),
        "broken_gradient": ~gradient.isfinite().all(1),
    }


def _lead(logits: Tensor, labels: Tensor) -> Tensor:
    """By how much the truth leads, in logits ``(N,)``; of independent labels the least lead."""
    if labels.ndim > 1:
        return (logits * (2 * labels - 1)).amin(1)
    true = logits.gather(1, labels[:, None])
    return (true - logits.scatter(1, labels[:, None], -torch.inf)).amin(1)


def in_words(found: dict[str, float]) -> list[str]:
    """One sentence per sign whose share is worth a doubt; any weight is, that is not finite."""
    least = {"weights": 0.0}
    return [
        text.format(f"{100 * found[name]:.3g} %")
        for name, text in WORDS.items()
        if found.get(name, 0.0) > least.get(name, MARGIN)
    ]


def contradictions(gaps: dict[str, float], images: int) -> list[str]:
    """One sentence per order of accuracies that no working attack leaves.

    Args:
        gaps: what is said → by how much of [0, 1] the accuracies are in that order.
        images: that they are of; a gap of two of them may be chance.
    """
    margin = max(MARGIN, 2 / images) + 1e-9
    return [f"{said} by {100 * gap:.1f} points" for said, gap in gaps.items() if gap > margin]
