"""What strong attacks leave is counted on the same images, kept, and found again."""

import numpy as np
import pytest
import torch

from robust_transfer.attacks import ThreatModel, fgsm, strongest
from robust_transfer.data.registry import load
from robust_transfer.evaluation import strong
from robust_transfer.evaluation.strong import StrongConfig

CPU = torch.device("cpu")
BALL = ThreatModel(epsilon=0.05)
STAGES = ["natural", "fgsm", "pgd_7", "pgd_50", "margin", "margin_5"]


@pytest.fixture(scope="module")
def harder():
    return StrongConfig(dataset="glyphs10", test_size=60, attacks=strongest(BALL))


def test_each_attack_counts_what_withstood_those_before(trained, family, harder):
    model, images = trained.model(family["baseline"]), load("glyphs10", "test", 300)
    found = strong.withstood(model.train(), images, harder.attacks)
    assert list(found) == STAGES and all(module.training for module in model.modules())
    assert all(hits.dtype == bool and hits.shape == (300,) for hits in found.values())
    before = found["natural"]
    for name in STAGES[2:]:
        assert not (found[name] & ~before).any()
        before = found[name]
    assert found["margin_5"].sum() < found["pgd_7"].sum() < found["natural"].sum()
    model.eval()
    pixels, labels = next(images.batches(300))
    with torch.no_grad():
        natural = (model(pixels).argmax(1) == labels).numpy()
        single = (model(fgsm(BALL)(model, pixels, labels)).argmax(1) == labels).numpy()
        usual = harder.attacks.named["pgd_7"](model, pixels, labels)
        paper = (model(usual).argmax(1) == labels).numpy()
    assert np.array_equal(found["natural"], natural) and np.array_equal(found["fgsm"], single)
    assert np.array_equal(found["pgd_7"], natural & paper)


def test_a_network_of_which_nothing_is_left_has_all_columns(trained, family):
    everything = strongest(ThreatModel(epsilon=1.0))
    found = strong.withstood(
        trained.model(family["baseline"]), load("glyphs10", "test", 60), everything
    )
    assert list(found) == STAGES and not found["margin_5"].any()


def test_it_is_stored_and_found_again(store, family, harder):
    config = family["baseline"]
    assert harder.find(store, config) is None
    made = harder.get_or_measure(store, config, "", CPU)
    (path,) = store.folder(config).glob("strong-*.json")
    assert path.name == f"strong-{harder.hash}.json"
    again = harder.find(store, config)
    assert again.content == made.content and list(again.outcomes) == STAGES
    for name, hits in made.outcomes.items():
        assert np.array_equal(again.outcomes[name], hits)
        assert again.accuracy(name) == made.content["accuracies"][name]
    other = harder.model_copy(update={"attacks": strongest(ThreatModel(epsilon=0.06))})
    path.rename(path.with_name(other.file_name))  # as another's
    assert harder.find(store, config) is None and other.find(store, config) is None
    anew = other.get_or_measure(store, config, "", CPU).content
    assert StrongConfig(**anew["config"]) == other and other.find(store, config).content == anew
    assert StrongConfig(**harder.model_dump(mode="json")).hash == harder.hash
