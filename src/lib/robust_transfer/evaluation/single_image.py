"""What an attack does to an image and to a network's judgement of it, in numbers that can be drawn.

Everything looks at networks in eval mode and leaves them as they were. Most of it asks for
gradients, which a ``training.engine.folded`` network gives sooner.
"""

from dataclasses import dataclass
from itertools import product

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_transfer.attacks import Attack, in_mode, input_gradient
from robust_transfer.data.images import Images, to_float
from robust_transfer.evaluation.budgets import Condition


def answers(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """What a network answers in eval mode, and how sure it is.

    Args:
        model: maps images to logits.
        images: float ``(N, 3, H, W)`` in [0, 1].

    Returns:
        Predicted labels, int64 ``(N,)``, and their softmax probabilities, float ``(N,)``.
    """
    with in_mode(model, "eval"), torch.no_grad():
        probability, label = model(images).softmax(1).max(1)
    return label, probability


def beliefs(model: nn.Module, seen: dict[float, Tensor]) -> pd.DataFrame:
    """Probabilities that a network gives each class while an attack on one image grows.

    Args:
        model: maps images to logits ``(N, classes)``.
        seen: by the attack's strength, the image that came of it, float ``(1, 3, H, W)`` in [0, 1].

    Returns:
        A row per strength, a column per class; each row sums to 1.
    """
    with in_mode(model, "eval"), torch.no_grad():
        probabilities = model(torch.cat([*seen.values()])).softmax(1)
    return pd.DataFrame(probabilities.cpu().numpy(), index=pd.Index(seen))


@dataclass(frozen=True)
class Shown:
    """Attacked images that several networks were shown, and what each of them answered.

    Attributes:
        pixels: uint8 ``(N, 3, H, W)``, the attacked images as a picture file holds them.
        answers: by network, what ``answers`` returns.
    """

    pixels: Tensor
    answers: dict[str, tuple[Tensor, Tensor]]


def shown_to_all(
    models: dict[str, nn.Module], images: Images, attacks: dict[Condition, Attack]
) -> dict[Condition, dict[str, Shown]]:
    """Attack each network, and show what came of it to all of them.

    Attacked images are rounded to 8 bits first: networks answer what a reader can be shown.

    Args:
        models: map images to logits, by name.
        images: what is attacked, on the networks' device.
        attacks: white-box, each in turn against each network.

    Returns:
        By attack, and in it by the name of the attacked network.
    """
    clean, labels = next(images.batches(len(images)))
    found = {condition: {} for condition in attacks}
    for (condition, attack), (attacked, target) in product(attacks.items(), models.items()):
        pixels = (255 * attack(target, clean, labels)).round().byte()
        told = {name: answers(model, to_float(pixels)) for name, model in models.items()}
        found[condition][attacked] = Shown(pixels, told)
    return found


@dataclass(frozen=True)
class Surface:
    """Loss of a network on a square piece of a plane through an image.

    Attributes:
        offsets: distance from the image along either direction, float ``(points,)``, in units of
            the [0, 1] scale.
        loss: cross-entropy, float ``(points, points)``: rows go along the random direction, columns
            along the gradient's sign.
        margin: logit of the true class minus the highest other one, in the same places: the answer
            is right where it is positive.
    """

    offsets: Tensor
    loss: Tensor
    margin: Tensor


def loss_surface(
    model: nn.Module, image: Tensor, label: Tensor, across: Tensor, reach: float, points: int = 15
) -> Surface:
    """Loss around an image: one direction is the sign of the gradient, the other is given.

    Values are not clipped to [0, 1], or the plane would be bent.

    Args:
        model: maps images to logits ``(N, classes)``.
        image: float ``(1, 3, H, W)`` in [0, 1].
        label: int64 ``(1,)``.
        across: second direction, of the image's shape; see ``random_signs``.
        reach: how far to look along either direction, in units of the [0, 1] scale.
        points: of the grid along either direction, odd so that one of them is the image.
    """
    offsets = torch.linspace(-reach, reach, points, device=image.device)
    with in_mode(model, "eval"):
        along = input_gradient(model, image, label).sign()
        shifted = image + offsets.view(-1, 1, 1, 1) * along  # (points, 3, H, W)
        with torch.no_grad():
            rows = [model(shifted + offset * across) for offset in offsets]
    logits = torch.stack(rows).cpu()  # (points, points, classes)
    truth = label.cpu().expand(points, points)
    loss = F.cross_entropy(logits.movedim(2, 1), truth, reduction="none")
    true = F.one_hot(truth, logits.shape[2]).bool()
    margin = logits[true].view(points, points) - logits.masked_fill(true, -torch.inf).amax(2)
    return Surface(offsets.cpu(), loss, margin)


def random_signs(image: Tensor, seed: int) -> Tensor:
    """A direction of −1 and 1 in equal shares by chance, of the image's shape."""
    generator = torch.Generator().manual_seed(seed)
    return (2.0 * torch.randint(2, image.shape, generator=generator) - 1).to(image.device)


def gradients(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Gradient of each image's loss in eval mode, like ``images``."""
    with in_mode(model, "eval"):
        return input_gradient(model, images, labels)


def visible(signed: Tensor) -> Tensor:
    """Make signed images visible: grey is zero, each image stretched on its own.

    Args:
        signed: float ``(N, 3, H, W)``, for instance gradients or perturbations.

    Returns:
        In [0, 1]; what exceeds the 99th percentile of an image's magnitudes is clipped.
    """
    most = signed.abs().flatten(1).quantile(0.99, dim=1).clamp_min(torch.finfo(signed.dtype).tiny)
    return (0.5 + 0.5 * signed / most.view(-1, 1, 1, 1)).clamp(0, 1)


def alignment(images: Tensor, signed: Tensor) -> Tensor:
    """How much a gradient resembles its image: absolute cosine of the two, each about its mean.

    After Etmann et al. (2019), whose alignment is the projection of the image on the gradient; here
    without the mean of either, which a grey ground would dominate, and without the image's length.

    Args:
        images: float ``(N, 3, H, W)``.
        signed: gradients of the same shape.

    Returns:
        float ``(N,)`` in [0, 1]; for a gradient of mere noise about ``(2 / (π · 3HW))**0.5``.
    """
    centred = [x - x.mean((2, 3), keepdim=True) for x in (images, signed)]
    return F.cosine_similarity(*(x.flatten(1) for x in centred)).abs()
