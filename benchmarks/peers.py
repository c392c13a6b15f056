"""Other libraries behind one signature, with this project's settings and never their defaults.

A function takes a network in eval mode and an attack of ours, and returns what runs the same attack
on a batch of images and labels, or None where the library has no such attack. A library is imported
when it is asked for.
"""

import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from robust_transfer.attacks import PGD

Attack = Callable[[Tensor, Tensor], Tensor]


def foolbox(model: nn.Module, attack: PGD) -> Attack:
    """Foolbox (Rauber et al.); ``run`` spares the check of success that a call would add."""
    from foolbox import PyTorchModel, attacks
    from foolbox.criteria import Misclassification

    device = next(model.parameters()).device
    wrapped = PyTorchModel(model, bounds=(0, 1), device=device)
    chosen = attacks.LinfPGD(
        abs_stepsize=attack.step_size, steps=attack.steps, random_start=attack.random_start
    )
    epsilon = attack.threat_model.epsilon
    return lambda x, y: chosen.run(wrapped, x, Misclassification(y), epsilon=epsilon)


def torchattacks(model: nn.Module, attack: PGD) -> Attack:
    """Torchattacks (Kim)."""
    from torchattacks import FGSM
    from torchattacks import PGD as TheirPGD

    epsilon = attack.threat_model.epsilon
    if attack.steps == 1:
        return FGSM(model, eps=epsilon)
    return TheirPGD(
        model,
        eps=epsilon,
        alpha=attack.step_size,
        steps=attack.steps,
        random_start=attack.random_start,
    )


def art(model: nn.Module, attack: PGD) -> Attack:
    """Adversarial Robustness Toolbox (Nicolae et al.): NumPy arrays in and out."""
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    device = next(model.parameters()).device
    classifier = PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=(3, 32, 32),
        nb_classes=model.head.out_features,
        clip_values=(0, 1),
        device_type="gpu" if device.type == "cuda" else "cpu",
    )
    shared = {"norm": np.inf, "eps": attack.threat_model.epsilon, "eps_step": attack.step_size}

    def run(images: Tensor, labels: Tensor) -> Tensor:
        shared["batch_size"] = len(images)
        if attack.steps == 1:
            chosen = FastGradientMethod(classifier, **shared)
        else:
            chosen = ProjectedGradientDescentPyTorch(
                classifier, max_iter=attack.steps, num_random_init=0, verbose=False, **shared
            )
        found = chosen.generate(images.cpu().numpy(), labels.cpu().numpy())
        return torch.from_numpy(found).to(device)

    return run


def adv_lib(model: nn.Module, attack: PGD) -> Attack | None:
    """Adversarial Library (Rony): the last iterate that fooled the network before the last step.

    After a single step that is always the clean image, so there is no FGSM.
    """
    if attack.steps == 1:
        return None
    sys.modules.setdefault("visdom", ModuleType("visdom"))  # draws curves of attacks, unused here
    from adv_lib.attacks import pgd_linf

    return lambda x, y: pgd_linf(
        model,
        x,
        y,
        attack.threat_model.epsilon,
        steps=attack.steps,
        random_init=attack.random_start,
        restarts=1,
        absolute_step_size=attack.step_size,
    )


PEERS = {
    "foolbox": foolbox,
    "torchattacks": torchattacks,
    "adversarial-robustness-toolbox": art,
    "adv-lib": adv_lib,
}
"""The functions by the name under which pip knows the library."""


def versions(names: tuple[str, ...]) -> dict[str, str]:
    """Installed version of each peer.

    Raises:
        ValueError: one is not installed; names it.
    """
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            raise ValueError(
                f"peers = {name!r}: not installed; `make benchmark` installs it"
            ) from None
    return found
