"""Whether the strong attacks are strong: held against AutoAttack's, image by image."""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.accuracy import correct, count
from benchmarks.settings import Bench
from robust_transfer import paths
from robust_transfer.data.images import Images
from robust_transfer.davchev2019 import experiment
from robust_transfer.davchev2019.tables import LAST
from robust_transfer.evaluation import strong

ROWS = ("pgd", "nat-pgd-stage3", "nat-pgd-all", "pgd-pgd-all")
"""Networks of which most is left after seven steps, and one of which least is."""
IMAGES = 300
STEPS, QUERIES = 100, 1000


def autoattack(model: nn.Module, epsilon: float) -> list[Callable[[Tensor, Tensor], Tensor]]:
    """Torchattacks' APGD on the cross-entropy, APGD on targeted differences of logits, and Square.

    Those are three of the four attacks of AutoAttack (Croce and Hein 2020); FAB is left out, which
    finds what the targeted APGD finds too.
    """
    from torchattacks import APGD, APGDT, Square

    return [
        APGD(model, eps=epsilon, steps=STEPS),
        APGDT(model, eps=epsilon, steps=STEPS),
        Square(model, eps=epsilon, n_queries=QUERIES),
    ]


def strength(bench: Bench) -> dict:
    """What our strong attacks and AutoAttack's leave of the same images, a row per network."""
    profile = experiment.read_profile(paths.PROFILES / f"{bench.settings.profile}.yaml")
    rows = []
    for network in tqdm(experiment.select(experiment.grid(profile), [*ROWS]), ncols=88):
        config = network.config
        model = bench.store.model(config, bench.device)
        images = bench.test_images(config.dataset).to("cpu")  # where a part of them is a set
        some = images.first(min(IMAGES, len(images))).to(bench.device)
        pixels, labels = next(some.batches(IMAGES))
        ours, seconds = timed(lambda m=model, of=some: withstood_ours(m, of, profile))
        theirs, their_seconds = timed(
            lambda m=model, x=pixels, y=labels: withstood_theirs(m, x, y, profile.epsilon)
        )
        rows.append(
            {"network": network.label, "architecture": config.network, "dataset": config.dataset}
            | {"natural": correct(model, pixels, labels).sum().item()}
            | {"theirs": theirs.sum().item(), "seconds": seconds, "their_seconds": their_seconds}
            | count(ours, theirs)
        )
    return {"rows": rows}


def timed(run: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """What a call gives, and the seconds that it takes."""
    started = time.perf_counter()
    return run(), time.perf_counter() - started


def withstood_ours(model: nn.Module, images: Images, profile: experiment.Profile) -> Tensor:
    """Which images are right, and stay so under the strong attacks."""
    attacks = experiment.strong(profile, profile.target_dataset).attacks
    found = strong.withstood(model, images, attacks)
    return torch.from_numpy(found[LAST]).to(images.labels.device)


def withstood_theirs(model: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Which images are right, and stay so under AutoAttack's attacks."""
    left = correct(model, images, labels)
    for attack in autoattack(model, epsilon):
        places = left.nonzero()[:, 0]
        if len(places):
            tried = attack(images[places], labels[places])
            left[places] = correct(model, tried, labels[places])
    return left
