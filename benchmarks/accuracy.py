"""Whether speed costs robust accuracy: adversarial images judged by the plain fp32 network."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.contestants import Work, our_attack, textbook_attack
from benchmarks.settings import ATTACKS, Bench
from robust_transfer import paths
from robust_transfer.attacks import PGD
from robust_transfer.davchev2019 import experiment
from robust_transfer.training.engine import DTYPES
from robust_transfer.training.loop import TrainingConfig

DEFENCES = ("nat", "fgsm", "pgd")
"""Published networks that are attacked."""
ROUNDING = 1e-6
"""How far an adversarial image may lie outside its ball."""


def judge(
    bench: Bench, name: str, attack: PGD, found: list[Tensor], textbook: list[Tensor]
) -> dict:
    """How many of a contestant's adversarial images the network still classifies correctly.

    Args:
        bench: the images and the network that judges.
        name: of the contestant, for the error.
        attack: what it was asked to do.
        found: its adversarial images of every round.
        textbook: those of the textbook loop.

    Returns:
        Counts: ``n`` images, ``robust`` ones, and those ``gained`` and ``lost`` against the
        textbook: correct for one and wrong for the other.

    Raises:
        RuntimeError: an image outside the ball, so it was another attack.
    """
    model = bench.network()
    outcomes = []
    for number, (ours, theirs) in enumerate(zip(found, textbook, strict=True)):
        images, labels = bench.batch(number)
        beyond = (ours - images).abs().max().item() - attack.threat_model.epsilon
        if not beyond <= ROUNDING or ours.min() < 0 or ours.max() > 1:
            raise RuntimeError(f"{name} left the ball by {beyond:.2g}: it ran another attack")
        outcomes.append((correct(model, ours, labels), correct(model, theirs, labels)))
    ours, theirs = (torch.cat(part) for part in zip(*outcomes, strict=True))
    return count(ours, theirs)


def precision(bench: Bench) -> dict:
    """Robust accuracy of trained networks where the attack ran plain, folded, and folded in bf16.

    The networks are the published baselines of the profile, and the benchmark's own.
    """
    rows = []
    for label, config, model in tqdm(list(subjects(bench)), desc="precision", ncols=88):
        images = bench.test_images(config.dataset)
        batches = [(x.contiguous(), y) for x, y in images.batches(bench.settings.batch_size)]
        identity = {"network": label, "architecture": config.network, "dataset": config.dataset}
        identity["natural"] = hits(model, batches).sum().item()
        for title, attack in ATTACKS.items():
            runs = {"plain fp32": textbook_attack(model, attack)}
            runs |= {f"folded {name}": our_attack(model, attack, name) for name in DTYPES}
            robust = {name: hits(model, batches, run) for name, run in runs.items()}
            for name, found in robust.items():
                counts = count(found, robust["plain fp32"])
                rows.append(identity | {"work": title, "name": name} | counts)
    return {"rows": rows}


def subjects(bench: Bench) -> Iterator[tuple[str, TrainingConfig, nn.Module]]:
    """Label, training and plain network of the published baselines and of the benchmark's own."""
    profile = experiment.read_profile(paths.PROFILES / f"{bench.settings.profile}.yaml")
    for network in experiment.grid(profile):
        if network.id in DEFENCES:
            model = bench.store.model(network.config, bench.device)
            plain = model.to(memory_format=torch.contiguous_format)
            yield network.label, network.config, plain
    yield "the benchmark's", bench.config, bench.network()


def hits(model: nn.Module, batches: list[tuple[Tensor, Tensor]], run: Work | None = None) -> Tensor:
    """Which images a network classifies correctly, as they are or after an attack."""
    answers = [correct(model, run(x, y) if run else x, y) for x, y in batches]
    return torch.cat(answers)


@torch.no_grad()
def correct(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Which images of a batch a network classifies correctly."""
    return model(images).argmax(1) == labels


def count(ours: Tensor, theirs: Tensor) -> dict[str, int]:
    """Counts of correct images, and of those where two attacks differ in outcome."""
    return {
        "n": len(ours),
        "robust": ours.sum().item(),
        "gained": (ours & ~theirs).sum().item(),
        "lost": (~ours & theirs).sum().item(),
    }
