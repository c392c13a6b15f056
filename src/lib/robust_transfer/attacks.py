"""Threat model and attacks: FGSM, PGD and stronger ones in an l∞ ball, DeepFool; images in [0, 1].

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
"""What every attack is, from model, images and labels to adversarial images like the images."""

EPSILON = 8 / 256
"""Paper A's budget, 0.0625 on its [-1, 1] scale and 0.03125 = 8/256 on [0, 1]."""


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

    def start(self, images: Tensor, generator: Generator | None) -> Tensor:
        """Uniform points of the ball around images, those outside [0, 1] moved to its edge."""
        noise = torch.empty_like(images).uniform_(-1, 1, generator=generator)
        return self.project(images + self.epsilon * noise, images)


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

    @property
    def name(self) -> str:
        """A name for columns."""
        return f"pgd_{self.steps}"

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
            adversarial = self.threat_model.start(images, generator)
        for _ in range(self.steps if self.threat_model.epsilon else 0):
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


class MarginPGD(Config):
    """PGD on the margin by which another class leads the true one, from random points of the ball.

    The gradient is that of ``z_t − z_y``, logits of class t and of the true one, after Carlini and
    Wagner (2017): other than that of the cross-entropy it does not vanish where a network is sure.
    t is the likeliest other class of the moment, or, after Gowal et al. (2019), the likeliest
    other ones of the clean image in turn. Steps get shorter, and an image is left alone at the
    first iterate that fools the network.

    Attributes:
        threat_model: the allowed perturbations.
        steps: gradient steps from each start.
        step_size: length of the first step on the [0, 1] scale; the last one tends to zero.
        targets: how many classes take their turn as t; 0 is the likeliest of the moment.
        restarts: random starts, for every target.
    """

    threat_model: ThreatModel = ThreatModel()
    steps: int = Field(30, ge=1)
    step_size: float = Field(EPSILON / 2, ge=0, le=1)
    targets: int = Field(0, ge=0)
    restarts: int = Field(1, ge=1)

    @property
    def name(self) -> str:
        """A name for columns."""
        return f"margin_{self.targets}" if self.targets else "margin"

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, generator: Generator | None = None
    ) -> Tensor:
        """Attack a batch.

        Args:
            model: maps images to logits ``(N, classes)``; modes and gradients are left as found.
            images: float ``(N, 3, H, W)`` in [0, 1].
            labels: int64 ``(N,)``.
            generator: of the starts, on the images' device; None draws the same ones every time.

        Returns:
            Adversarial images, like ``images``: what fooled the network, or else the last iterate.

        Raises:
            ValueError: images or labels of the wrong shape, type or range; independent labels.
        """
        image_batch(images, labels)
        one_class_each(labels)
        generator = generator or Generator(images.device).manual_seed(0)
        images, found = images.detach(), images.detach().clone()
        with in_mode(model, "eval"):
            with torch.no_grad():
                clean = model(images)
            others = clean.float().scatter(1, labels[:, None], -torch.inf)
            targets = others.topk(min(self.targets, clean.shape[1] - 1)).indices.T
            left = torch.arange(len(images), device=images.device)
            for target in self.restarts * (list(targets) or [None]):
                start = self.threat_model.start(images, generator)
                aims = None if target is None else target[left]
                tried, fooled = self._climb(model, images[left], labels[left], aims, start[left])
                found[left] = tried
                left = left[~fooled]
                if not len(left):
                    break
        return found

    def _climb(
        self, model: nn.Module, images: Tensor, labels: Tensor, aims: Tensor | None, start: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The first iterates that fool the network, or the last ones, and where they do."""
        adversarial, left = start, torch.arange(len(images), device=images.device)
        for step in range(self.steps + 1):
            size = self.step_size * (1 - step / self.steps)
            moving, true = adversarial[left], labels[left]
            aim = None if aims is None else aims[left]
            logits, gradient = margin_gradient(model, moving, true, aim)
            moved = self.threat_model.project(moving + size * gradient.sign(), images[left])
            fools = logits.argmax(1) != true
            adversarial[left] = torch.where(fools[:, None, None, None], moving, moved)
            left = left[~fools]
            if not len(left):
                break
        fooled = torch.ones(len(images), dtype=torch.bool, device=images.device)
        fooled[left] = False
        return adversarial, fooled


class InTurn(Config):
    """Attacks one after the other, each on the images that withstood those before.

    Attributes:
        attacks: from the cheapest on.
    """

    attacks: tuple[PGD | MarginPGD, ...] = Field(min_length=1)

    @property
    def named(self) -> dict[str, PGD | MarginPGD]:
        """The attacks by name, of their kind with its steps or its targets."""
        return {attack.name: attack for attack in self.attacks}

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Attack a batch; see ``MarginPGD`` for arguments and errors.

        Returns:
            Adversarial images: of the first attack that fooled the network, or else of the last.
        """
        found = images.detach().clone()
        for _, left, tried in self.rounds(model, images, labels):
            found[left] = tried
        return found

    def rounds(
        self, model: nn.Module, images: Tensor, labels: Tensor
    ) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield the name of every attack, the indices of the images that it met, and its images."""
        image_batch(images, labels)
        one_class_each(labels)
        left = torch.arange(len(images), device=images.device)
        for name, attack in self.named.items():
            if not len(left):
                return
            tried = attack(model, images[left], labels[left])
            yield name, left, tried
            with in_mode(model, "eval"), torch.no_grad():
                left = left[model(tried).argmax(1) == labels[left]]


def strongest(threat_model: ThreatModel | None = None) -> InTurn:
    """What an accuracy should withstand before it is called robust: four attacks in turn.

    PGD of 7 and of 50 steps, then the margin's, against the likeliest other class and against five
    of them. It leaves what AutoAttack (Croce and Hein 2020) leaves, to a point or so.
    """
    ball = threat_model or ThreatModel()
    shared = {"threat_model": ball, "step_size": ball.epsilon / 2}
    short = PGD(threat_model=ball, steps=7, step_size=ball.epsilon / 4)
    long = PGD(threat_model=ball, steps=50, step_size=ball.epsilon / 10)
    return InTurn(attacks=(short, long, MarginPGD(**shared), MarginPGD(**shared, targets=5)))


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
        classes_there(logits, labels)
        return F.cross_entropy(logits.float(), labels, reduction=reduction)
    total = F.binary_cross_entropy_with_logits(logits.float(), labels, reduction=reduction)
    return total if reduction == "mean" else total / labels.shape[1]


def classes_there(logits: Tensor, labels: Tensor) -> None:
    """Raise ValueError if there are labels beyond the logits; a GPU, which would wait, says it."""
    if labels.device.type == "cpu" and labels.numel() and labels.max() >= logits.shape[1]:
        allowed = f"allowed are 0 to {logits.shape[1] - 1}, as there are logits"
        raise ValueError(f"labels hold {labels.max().item()}: {allowed}")


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
    one_class_each(labels)
    order = {"l2": 2, "linf": torch.inf}[one_of("norm", norm, ("l2", "linf"))]
    if steps < 1:
        raise ValueError(f"steps = {steps}: allowed is 1 or more")
    import foolbox  # here, because without a git command it cannot be imported at all

    attacks = {"l2": foolbox.attacks.L2DeepFoolAttack, "linf": foolbox.attacks.LinfDeepFoolAttack}
    images, labels = _outside_inference(images.detach()), _outside_inference(labels)
    with in_mode(model, "eval"), constant(model), torch.inference_mode(False), torch.enable_grad():
        if len(images):
            classes_there(model(images[:1]), labels)
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
        return _slope(loss_of(model(images), labels, reduction="sum"), images)


def margin_gradient(
    model: nn.Module, images: Tensor, labels: Tensor, aims: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient with respect to ``images`` of how far another class leads.

    Args:
        model: maps images to logits ``(N, classes)``.
        images: float ``(N, 3, H, W)``.
        labels: int64 ``(N,)``.
        aims: the other classes, int64 ``(N,)``; None is the likeliest other one of each image.
    """
    with torch.inference_mode(False), torch.enable_grad():
        images = _outside_inference(images.detach()).requires_grad_(True)
        true = _outside_inference(labels)[:, None]
        logits = model(images).float()
        if aims is None:
            lead = logits.scatter(1, true, -torch.inf).amax(1)
        else:
            lead = logits.gather(1, _outside_inference(aims)[:, None])[:, 0]
        margin = (lead - logits.gather(1, true)[:, 0]).sum()
        return logits.detach(), _slope(margin, images)


def _slope(value: Tensor, images: Tensor) -> Tensor:
    """Gradient of a value with respect to images."""
    asks = value.requires_grad
    found = torch.autograd.grad(value, images, allow_unused=True)[0] if asks else None
    if found is None:
        said = "the network's answers have no gradient with respect to its images"
        raise ValueError(f"{said}: allowed is a network that can be differentiated")
    return found


def _outside_inference(tensor: Tensor) -> Tensor:
    """The same tensor, or a copy of one made in ``torch.inference_mode``, which has no gradient."""
    with torch.inference_mode(False):
        return tensor.clone() if tensor.is_inference() else tensor


@contextmanager
def in_mode(model: nn.Module, mode: Literal["eval", "train"]) -> Iterator[None]:
    """Put a model in a mode; afterwards modes and running statistics are as they were."""
    modes = [(module, module.training) for module in model.modules()]
    statistics = [
        (module, name, buffer, buffer.clone())
        for module in (model.modules() if mode == "train" else ())
        for name, buffer in module.named_buffers(recurse=False)
    ]
    model.train(mode == "train")
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for module, name, buffer, before in statistics:
            buffer.copy_(before)
            setattr(module, name, buffer)  # which a forward pass may have put another for


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


def one_class_each(labels: Tensor) -> None:
    """Raise ValueError for independent labels, where no class leads another."""
    if labels.ndim > 1:
        raise ValueError(f"labels have shape {tuple(labels.shape)}: allowed is (N,), a class each")


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
