"""A published cell can be measured again by anyone, image by image."""

import json
import os

import numpy as np
import pytest
import torch
from torch.nn import functional

import robust_transfer as rt
from robust_transfer import paths
from robust_transfer.__main__ import main
from robust_transfer.davchev2019 import experiment
from robust_transfer.davchev2019.verification import Verification
from robust_transfer.evaluation.measurement import test_images as images_of
from robust_transfer.records.store import Store


@pytest.mark.parametrize("column", ["natural", "wb_fgsm", "wb_pgd", "bb_pgd", "strong"])
def test_a_published_cell_is_found_again(column):
    found = rt.verify("pgd", column, profile="smoke", images=100)
    assert len(found.again) == 100 and found.differ <= 2
    (path,) = (paths.PUBLISHED / "smoke").glob(
        f"pgd-s1-*/{'strong' if column == 'strong' else 'evaluation'}-*.json"
    )
    content = json.loads(path.read_text(encoding="utf-8"))
    assert abs(found.recorded.mean() - content["accuracies"].get(column, 0.5)) < 0.5
    assert str(found).startswith(f"pgd {column}: {found.differ} of 100 outcomes differ")


DATA_DIR = os.environ.get("DATA_DIR", "")
"""A folder with CIFAR, where there is one."""
AT_HAND = [name for name in experiment.SCALES if DATA_DIR and (paths.PUBLISHED / name).is_dir()]


def few_lines_of_pgd(model, images, labels, steps=7, epsilon=8 / 256):
    adversarial = images.clone()
    for _ in range(steps):
        adversarial.requires_grad_()
        functional.cross_entropy(model(adversarial), labels).backward()
        moved = adversarial.detach() + epsilon / 4 * adversarial.grad.sign()
        adversarial = (images + (moved - images).clamp(-epsilon, epsilon)).clamp(0, 1)
    return adversarial


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["smoke", *AT_HAND])
def test_an_independent_attack_finds_what_the_records_say(scale):
    profile = experiment.read_profile(paths.PROFILES / f"{scale}.yaml")
    how, folder = experiment.evaluation(profile), paths.PUBLISHED / scale
    store = Store(folder / "none", folder)
    images = images_of(how, DATA_DIR).first(300)
    rows = experiment.select(
        experiment.grid(profile), ["pgd", "pgd-nat-head", "nat-pgd-all", "nat"]
    )
    found = [n for n in rows if how.find(store, n.config) and store.find(n.config, weights=True)]
    assert found or scale != "smoke"
    for network in found:
        pixels, labels = next(images.batches(300))
        model = store.model(network.config)
        seen = few_lines_of_pgd(model, pixels, labels, how.steps, how.threat_model.epsilon)
        with torch.no_grad():
            right = (model(seen).argmax(1) == labels).numpy()
        recorded = how.find(store, network.config).outcomes["wb_pgd"][:300]
        assert (right != recorded).sum() <= 1, network.id


def test_it_says_how_many_differ():
    found = Verification(
        "pgd", "wb_pgd", np.array([1, 1, 0, 0], bool), np.array([1, 0, 0, 0], bool)
    )
    assert str(found) == (
        "pgd wb_pgd: 1 of 4 outcomes differ from the record, 25.0 % now and 50.0 % then"
    )


@pytest.mark.parametrize(
    ("cell", "line"),
    [
        ("pgd", "column = '': allowed are bb_fgsm, bb_pgd, natural, strong, wb_fgsm, wb_pgd"),
        ("pdg wb_pgd", "name = 'pdg': allowed are "),
        ("surrogate wb_pgd", "surrogate wb_pgd: not measured (profile smoke)"),
    ],
)
def test_a_cell_that_is_none_is_named(cell, line, capfd):
    assert main(["verify", "--profile", "smoke", "--cell", cell]) == 1
    assert capfd.readouterr().err.startswith(f"error: {line}")


def test_other_images_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="data_dir = ''"):
        rt.verify("pgd", "wb_pgd", profile="overnight")
