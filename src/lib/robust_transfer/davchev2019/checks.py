"""Facts that claims of paper A rest on: computed from the library, or from both whole tables."""

from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from robust_transfer.attacks import PGD, ThreatModel, fgsm, input_gradient
from robust_transfer.claims.quantities import Accuracy
from robust_transfer.claims.reproduction import Reproduction
from robust_transfer.claims.rules import Check, Fact
from robust_transfer.data.registry import DATASETS
from robust_transfer.davchev2019 import comparison, experiment, tables
from robust_transfer.davchev2019.experiment import Profile
from robust_transfer.evaluation.accuracies import COLUMNS, NAMES
from robust_transfer.evaluation.intervals import signed
from robust_transfer.networks.registry import build
from robust_transfer.networks.transfer import transplant
from robust_transfer.training.loop import selection_score

PAPER = Profile()
"""Paper A's own protocol."""
CLASSES = DATASETS[PAPER.target_dataset].classes


def operations(strategy: str) -> int:
    """Floating-point operations of a training step against PGD, per image.

    Two training passes, clean and attacked, and a forward pass with its input gradient for each
    step of the attack.
    """

    def count(model: torch.nn.Module, images: torch.Tensor) -> int:
        with FlopCounterMode(display=False) as counter:
            model(images).sum().backward()
        return counter.get_total_flops()

    image, model = torch.zeros(1, 3, 32, 32), build(PAPER.network, CLASSES, 0)
    transplant(model, model.state_dict(), strategy)
    training = count(model, image)
    attack = count(model.requires_grad_(False), image.requires_grad_())
    return 2 * training + PAPER.training_steps * attack


def saving(_: Reproduction) -> Fact:
    """D19: what retraining the last stage saves of retraining everything."""
    saved = 100 * (1 - operations("stage3") / operations("all"))
    return Fact(saved >= 30, f"{saved:.0f} % of the operations")


def weight_counts(_: Reproduction) -> Fact:
    """D31: the three strategies train as many weights as the public code does."""
    counts = tables.strategies(PAPER)["trained weights"].to_list()
    return Fact(counts == ["650", "648,074", "853,018"], ", ".join(counts))


def _tiny() -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """A fresh small network in eval mode, and random images, a black and a white one among them."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(8, 3, 32, 32, generator=generator)
    images[0], images[1] = 0, 1
    return build("resnet8", CLASSES, 0).eval(), images, torch.arange(8) % CLASSES


def budget(_: Reproduction) -> Fact:
    """D29: the budget on both scales, kept by the attacks together with the range of images."""
    model, images, labels = _tiny()
    moved = [attack(model, images, labels) for attack in (fgsm(), PGD())]
    epsilon = ThreatModel().epsilon
    shift = (model.normalise(images[:1] + epsilon) - model.normalise(images[:1])).max().item()
    kept = all(
        x.min() >= 0 and x.max() <= 1 and (x - images).abs().max() <= epsilon + 1e-6 for x in moved
    )
    text = f"{epsilon:g} on [0, 1], {shift:g} on [−1, 1]; " + ("kept" if kept else "not kept")
    return Fact(kept and abs(shift - 0.0625) < 1e-6, text, "0.0625, 8/256 of pixel intensity")


def gradient(_: Reproduction) -> Fact:
    """D39: PGD takes the gradient at the current iterate; taken at the clean image it is FGSM."""
    model, images, labels = _tiny()
    project, step = partial(ThreatModel().project, images=images), PGD().step_size
    iterate = PGD(steps=1)(model, images, labels)
    second = project(iterate + step * input_gradient(model, iterate, labels).sign())
    current = torch.equal(PGD(steps=2)(model, images, labels), second)
    clean = input_gradient(model, images, labels).sign()
    printed = images
    for _ in range(PGD().steps):
        printed = project(printed + step * clean)
    same = torch.allclose(printed, fgsm()(model, images, labels), atol=1e-6)
    text = f"current iterate: {'yes' if current else 'no'}; printed formula is FGSM: "
    return Fact(current and same, text + ("yes" if same else "no"))


def rank_correlation(column: str) -> Check:
    """D35: Spearman's rank correlation of a column with the paper's, over all networks."""

    def compute(reproduction: Reproduction) -> Fact:
        agrees = comparison.agreement(reproduction.ours, reproduction.paper)
        value = agrees.loc[column, "rank correlation"]
        basis = tuple(Accuracy(network, column) for network in reproduction.paper.index)
        return Fact(bool(value >= 0.9), f"{value:.2f}", basis=basis)

    return Check(f"rank correlation with the paper at least 0.9 in {NAMES[column]}", compute)


def cells_within(reproduction: Reproduction) -> Fact:
    """D35: share of the cells with a tolerance that lie inside it."""
    agrees = comparison.agreement(reproduction.ours, reproduction.paper)
    inside, judged = agrees[["cells within tolerance", "cells with a tolerance"]].sum()
    basis = tuple(Accuracy(network, c) for network in reproduction.paper.index for c in COLUMNS)
    return Fact(bool(inside >= 0.8 * judged), f"{inside} of {judged}", basis=basis)


def unmasked(reproduction: Reproduction) -> Fact:
    """D27: no row raises a doubt, noise and hopeless budgets included (``evaluation.doubts``)."""
    found = reproduction.doubts
    raised = [reproduction.labels[name] for name, doubts in found.items() if doubts]
    text = f"{len(raised)} of {len(found)}" + (f": {', '.join(raised)}" if raised else "")
    return Fact(not raised, text) if found else Fact(None, "not measured")


def selection(reproduction: Reproduction) -> Fact:
    """D38: the headline's difference on validation images, by three ways to choose the epoch."""
    first, second = (reproduction.histories.get(name) for name in ("pgd-pgd-all", "pgd"))
    if first is None or second is None:
        return Fact(None, "not recorded")
    (network,), gaps = experiment.select(experiment.grid(PAPER), ["pgd"]), {}
    epochs = set()
    for rule in ("mean", "adversarial", "last"):
        config = network.config.model_copy(update={"selection": rule})
        chosen = [
            max(history.to_dict("records"), key=partial(selection_score, config))
            for history in (first, second)
        ]
        epochs.add(tuple(row["epoch"] for row in chosen))
        gaps[rule] = 100 * (chosen[0]["adversarial"] - chosen[1]["adversarial"])
    if len(epochs) == 1:
        return Fact(None, "all three choose the same epochs")
    text = ", ".join(f"{signed(gap)} by {rule}" for rule, gap in gaps.items())
    return Fact(bool(min(gaps.values()) > 0 or max(gaps.values()) < 0), text)
