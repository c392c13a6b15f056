"""Threat model and attacks: FGSM and PGD inside an l∞ ball, DeepFool; on images in [0, 1].

Attacks ask nothing of a model but logits and input gradients, and leave it as they found it. They
know nothing of training: the training loop uses them, and so can any other PyTorch model.

Labels are of two kinds, told apart by their type: one class an image, int64 ``(N,)``, or
independent labels that each apply or not, float32 ``(N, classes)`` of 0 and 1.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from robust_transfer.config import Config, one_of

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""What every attack is: model, images and labels to adversarial images, like the images."""

EPSILON = 8 / 256
"""Paper A's budget: 0.0625 on its [-1, 1] scale is 0.03125 = 8/256 on [0, 1]."""


class ThreatModel(Config):
    """What an adversary may do: move every pixel by at most ``epsilon``, staying inside [0, 1].

    Attributes:
        epsilon: l∞ radius in units of the [0, 1] image scale, between 0 and 1.
    """

    epsilon: float = Field(EPSILON, ge=0, le=1)

    def project(self, adversarial: Tensor, images: Tensor) -> Tensor:
        """Nearest point to ``adversarial`` in the ball around ``images`` and in [0, 1].

        Where half precision rounds a point out of the ball, it is taken one rounding further in.
        """
        if images.dtype in (torch.float32, torch.float64):
            low, high = images - self.epsilon, images + self.epsilon
            return torch.clamp(torch.minimum(torch.maximum(adversarial, low), high), 0, 1)
        whole = images.float()
        nearest = self.project(adversarial.float(), whole)
        rounded = nearest.to(images.dtype)
        inner = ThreatModel(epsilon=max(0.0, self.epsilon - torch.finfo(images.dtype).eps))
        inside = (rounded.float() - whole).abs() <= self.epsilon
        return rounded.where(inside, inner.project(nearest, whole).to(images.dtype))


class PGD(Config):
    """Projected gradient descent: repeated signed gradient steps, each projected to the ball.

    ``x_k = project(x_{k-1} + step_size · sign ∇J(x_{k-1}, y))``, J as in ``loss_of`` and the
    gradient taken at the *current* iterate; the last iterate is returned (paper A, §2.3; the
    printed formula evaluates it at the clean image, which would reduce to FGSM, see claim D39).

    Attributes:
        threat_model: the allowed perturbations.
        steps: number of gradient steps, at least 1; paper A uses 7.
        step_size: length of a step on the [0, 1] scale; paper A uses epsilon / 4.
        random_start: begin at a uniform point of the ball (Madry et al.); paper A does not.
        labels: ``true`` labels, or the ones the model ``predicted`` for the clean images, which
            keeps an FGSM-trained network from reading the label off the perturbation.
        mode: batch norm during the attack: ``eval`` uses running statistics, ``train`` those of
            the batch; the running ones stay as they are.
    """

    threat_model: ThreatModel = ThreatModel()
    steps: int = Field(7, ge=1)
    step_size: float = Field(EPSILON / 4, ge=0, le=1)
    random_start: bool = False
    labels: Literal["true", "predicted"] = "true"
    mode: Literal["eval", "train"] = "eval"

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, generator: Generator | None = None
    ) -> Tensor:
        """Attack a batch.

        Args:
            model: maps images to logits ``(N, classes)``; modes and gradients are left as found.
            images: float ``(N, 3, H, W)`` in [0, 1].
            labels: int64 ``(N,)``, or float32 ``(N, classes)`` of 0 and 1.
            generator: source of the random start; its device must be that of the images.

        Returns:
            Adversarial images, like ``images``, inside the ball and in [0, 1].

        Raises:
            ValueError: images or labels of the wrong shape, type or range; a random start
                without a generator.
        """
        image_batch(images, labels)
        if self.random_start and generator is None:
            raise ValueError("generator = None: a random start needs one")
        with in_mode(model, self.mode):
            return self.perturb(model, images, labels, generator)

    def perturb(
        self, model: nn.Module, images: Tensor, labels: Tensor, generator: Generator | None = None
    ) -> Tensor:
        """The attack itself, unchecked and in the mode the model is in: for the training loop."""
        images = images.detach()
        if self.labels == "predicted":
            with torch.no_grad():
                labels = predicted(model(images), labels)
        adversarial = images
        if self.random_start:
            noise = torch.empty_like(images).uniform_(-1, 1, generator=generator)
            start = images + self.threat_model.epsilon * noise
            adversarial = self.threat_model.project(start, images)
        for _ in range(self.steps):
            gradient = input_gradient(model, adversarial, labels)
            adversarial = adversarial + self.step_size * gradient.sign()
            adversarial = self.threat_model.project(adversarial, images)
        return adversarial


def fgsm(
    threat_model: ThreatModel | None = None, labels: Literal["true", "predicted"] = "true"
) -> PGD:
    """Fast gradient sign method: PGD with one step of the whole budget (Goodfellow et al. 2015)."""
    threat_model = threat_model or ThreatModel()
    return PGD(threat_model=threat_model, steps=1, step_size=threat_model.epsilon, labels=labels)


def loss_of(logits: Tensor, labels: Tensor, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
    """Cross-entropy of classes; of independent labels the binary one, averaged over the labels.

    Args:
        logits: float ``(N, classes)``.
        labels: int64 ``(N,)``, or float32 ``(N, classes)`` of 0 and 1.
        reduction: over images.

    Returns:
        The loss, a float32 scalar.

    Raises:
        ValueError: ``logits`` are no tensor, but what a network gives that answers otherwise.
    """
    if not isinstance(logits, Tensor):
        kind = type(logits).__name__
        raise ValueError(f"the network answers with a {kind}: allowed is a tensor of logits")
    if labels.ndim == 1:
        return F.cross_entropy(logits.float(), labels, reduction=reduction)
    total = F.binary_cross_entropy_with_logits(logits.float(), labels, reduction=reduction)
    return total if reduction == "mean" else total / labels.shape[1]


def predicted(logits: Tensor, labels: Tensor) -> Tensor:
    """What logits ``(N, classes)`` answer, in the shape and type of the true ``labels``.

    The likeliest class, or every label that is likelier than not.
    """
    return logits.argmax(1) if labels.ndim == 1 else (logits > 0).to(labels.dtype)


def share_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of each image's labels that logits answer correctly, float32 ``(N,)``."""
    return (predicted(logits, labels) == labels).float().view(len(labels), -1).mean(1)


def deepfool(
    model: nn.Module, images: Tensor, labels: Tensor, norm: Literal["l2", "linf"], steps: int = 50
) -> Tensor:
    """Size of the smallest perturbation that changes an answer, as found by foolbox's DeepFool.

    Every step goes to the nearest boundary of the linearised model, among the ten likeliest
    classes, and 2 % beyond (Moosavi-Dezfooli et al. 2016, algorithm 2).

    Args:
        model: maps images to logits ``(N, classes)``; modes and gradients are left as found.
        images: float ``(N, 3, H, W)`` in [0, 1].
        labels: int64 ``(N,)``.
        norm: in which perturbations are measured, and are to be small.
        steps: number of steps at most, at least 1.

    Returns:
        Norm of the perturbation on the [0, 1] scale, float ``(N,)``: 0 where the answer is wrong
        already, infinite where no perturbation was found.

    Raises:
        ValueError: images or labels of the wrong shape, type or range; independent labels, which
            have no single boundary; an unknown norm; no step.
    """
    image_batch(images, labels)
    if labels.ndim > 1:
        raise ValueError(f"labels have shape {tuple(labels.shape)}: DeepFool needs (N,), a class")
    order = {"l2": 2, "linf": torch.inf}[one_of("norm", norm, ("l2", "linf"))]
    if steps < 1:
        raise ValueError(f"steps = {steps}: allowed is 1 or more")
    import foolbox  # here, because without a git command it cannot be imported at all

    attacks = {"l2": foolbox.attacks.L2DeepFoolAttack, "linf": foolbox.attacks.LinfDeepFoolAttack}
    images, labels = _outside_inference(images.detach()), _outside_inference(labels)
    with in_mode(model, "eval"), constant(model), torch.inference_mode(False), torch.enable_grad():
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=images.device)
        adversarial, _, found = attacks[norm](steps=steps)(wrapped, images, labels, epsilons=None)
    size = torch.linalg.vector_norm(adversarial - images, order, dim=(1, 2, 3))
    return size.where(found, torch.inf)


def input_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Gradient of the summed loss with respect to ``images``, of their shape.

    The loss is summed, not averaged, so that small gradients do not underflow in low precision.
    """
    with torch.inference_mode(False), torch.enable_grad():
        images = _outside_inference(images.detach()).requires_grad_(True)
        labels = _outside_inference(labels)
        return torch.autograd.grad(loss_of(model(images), labels, reduction="sum"), images)[0]


def _outside_inference(tensor: Tensor) -> Tensor:
    """The same tensor, or a copy of one made in ``torch.inference_mode``, which has no gradient."""
    with torch.inference_mode(False):
        return tensor.clone() if tensor.is_inference() else tensor


@contextmanager
def in_mode(model: nn.Module, mode: Literal["eval", "train"]) -> Iterator[None]:
    """Put a model in a mode; afterwards modes and running statistics are as they were."""
    modes = [(module, module.training) for module in model.modules()]
    statistics = [(buffer, buffer.clone()) for buffer in model.buffers() if mode == "train"]
    model.train(mode == "train")
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for buffer, before in statistics:
            buffer.copy_(before)


@contextmanager
def constant(model: nn.Module) -> Iterator[None]:
    """Keep gradients away from a model's weights; afterwards they ask for them as before."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


def image_batch(images: Tensor, labels: Tensor) -> None:
    """Raise ValueError unless images are float ``(N, 3, H, W)`` in [0, 1] with labels to match.

    Labels are int64 ``(N,)``, or float32 ``(N, classes)`` of 0 and 1.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images have shape {tuple(images.shape)}: allowed is (N, 3, H, W)")
    if not images.is_floating_point():
        raise ValueError(f"images are {images.dtype}: allowed is floating point in [0, 1]")
    shape, count = tuple(labels.shape), len(images)
    if labels.ndim == 2 and labels.dtype == torch.float32:
        if len(labels) != count:
            raise ValueError(f"labels have shape {shape}: allowed is ({count}, classes)")
        if (wrong := labels[(labels != 0) & (labels != 1)]).numel():
            raise ValueError(f"labels hold {wrong[0]:.3g}: allowed are 0 and 1")
    elif shape != (count,):
        raise ValueError(f"labels have shape {shape}: allowed is ({count},)")
    elif labels.dtype != torch.int64:
        raise ValueError(f"labels are {labels.dtype}: allowed is torch.int64")
    elif labels.numel() and (lowest := labels.min().item()) < 0:
        raise ValueError(f"labels hold {lowest}: allowed are classes from 0")
    low, high = (images.min().item(), images.max().item()) if images.numel() else (0.0, 1.0)
    if not (low >= 0 and high <= 1):
        raise ValueError(f"images lie in [{low:.3g}, {high:.3g}]: allowed is [0, 1]")
