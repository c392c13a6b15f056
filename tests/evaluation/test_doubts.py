"""An attack that could not work says so: in the record, and beside every number of it."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from robust_transfer.attacks import PGD
from robust_transfer.data.images import Images
from robust_transfer.data.registry import load
from robust_transfer.davchev2019.experiment import Profile, grid
from robust_transfer.davchev2019.runs import Run
from robust_transfer.evaluation import accuracies, doubts
from robust_transfer.evaluation.budgets import BudgetConfig, Budgets
from robust_transfer.networks.registry import build
from robust_transfer.presentation.charts import spaced
from robust_transfer.presentation.figures import mathtext
from robust_transfer.presentation.tables import doubted, plain, show

CPU = torch.device("cpu")


class Around(nn.Module):
    """A sound network, with something done to its images or its logits."""

    def __init__(self, before=lambda images: images, after=lambda logits: logits) -> None:
        super().__init__()
        self.network, self.before, self.after = build("resnet8", 10, 1), before, after

    def forward(self, images):
        return self.after(self.network(self.before(images)))


def with_broken_weight() -> nn.Module:
    network = Around()
    with torch.no_grad():
        network.network.head.bias[3] = torch.nan
    return network


def sure(logits):
    """Far apart, and right on every second image."""
    true = load("glyphs10", "test", 60).labels
    wrong = torch.where(torch.arange(60) % 2 == 0, true, (true + 1) % 10)
    return 0 * logits + 1000.0 * nn.functional.one_hot(wrong, 10)


MASKED = {
    "sound": (Around(), {}),
    "rounds its images": (Around(lambda x: (8 * x).round() / 8), {"no_gradient": 1.0}),
    "breaks the gradient": (
        Around(after=lambda y: y + (0 * y).abs().sqrt()), {"broken_gradient": 1.0}
    ),
    "answers by chance": (
        Around(lambda x: (x + 0.1 * torch.randn_like(x)).clamp(0, 1)), {"changing": 1.0}
    ),
    "is too sure": (Around(after=sure), {"saturated": 0.5, "no_gradient": 1.0}),
    "has a broken weight": (
        with_broken_weight(), {"weights": 1 / 75_290, "logits": 1.0, "broken_gradient": 1.0}
    ),
}  # fmt: skip


@pytest.mark.parametrize(("network", "shown"), MASKED.values(), ids=MASKED)
def test_signs_are_those_of_the_network(network, shown):
    found = doubts.signs(network.train(), load("glyphs10", "test", 60))
    weights = found.pop("weights")
    assert (weights > 0) == ("weights" in shown)
    assert {name: share for name, share in found.items() if share} == {
        name: share for name, share in shown.items() if name != "weights"
    }
    assert len(doubts.in_words(found | {"weights": weights})) == len(shown)
    assert all(module.training for module in network.modules())


def test_a_sweep_warns_of_what_no_attack_can_work_on():
    images = load("glyphs10", "test", 60)
    networks = {"sound": Around(), "sure": Around(after=sure)}
    with pytest.warns(UserWarning) as told:
        accuracies.sweep(networks, images, {8.0: PGD(steps=1)})
    assert [str(warning.message).split(":")[0] for warning in told] == ["sure", "sure"]
    assert "so far apart that their loss has no slope" in str(told[0].message)


def test_signs_of_independent_labels():
    drawn = load("glyphs10", "test", 60)
    images = Images.of(drawn.pixels, (torch.arange(60)[:, None] % 2 == 0).float().expand(60, 10))
    network = Around(after=lambda y: 0 * y + 1000.0)  # right on every second image
    assert doubts.signs(network, images)["saturated"] == 0.5


def test_doubts_stand_in_the_record(store, family, how):
    config = family["baseline"]
    content = how.get_or_measure(store, config, "", CPU).content
    assert content["signs"].keys() == doubts.WORDS.keys()
    assert content["doubts"] == how.find(store, config).doubts
    still = how.model_copy(update={"step_size": 0.0})  # of PGD; FGSM moves by all of epsilon
    assert (
        "white-box PGD is weaker than FGSM"
        in still.get_or_measure(store, config, "", CPU).content["doubts"][0]
    )


def test_a_surrogate_without_gradient_is_told(store, family, how, monkeypatch):
    images = load("glyphs10", "test", how.test_size)
    clean = next(images.batches(how.test_size))[0]
    monkeypatch.setattr(type(how), "prepare", lambda *_: {"fgsm": clean, "pgd": clean})
    content = how.get_or_measure(store, family["baseline"], "", CPU).content
    assert "black-box attacks left 100 % of the images as they were" in content["doubts"]


def answered(**right):
    """Budgets of 200 images of class 0, of which so many are answered rightly."""
    outputs = {
        (name.split("_")[0], 0.0 if name == "natural" else 0.1): np.repeat([0, 1], [n, 200 - n])
        for name, n in right.items()
    }
    labels = np.zeros(200, int)
    return Budgets("cifar10", labels, outputs, {}, {})


@pytest.mark.parametrize(
    ("right", "said"),
    [
        ({"natural": 160, "fgsm": 80, "pgd": 60}, []),
        ({"natural": 160, "fgsm": 80, "pgd": 82}, []),
        (
            {"natural": 160, "fgsm": 80, "pgd": 90},
            ["PGD is weaker than FGSM at ε = 25.5/255 by 5.0"],
        ),
        (
            {"natural": 60, "fgsm": 80, "pgd": 40},
            ["FGSM images at ε = 25.5/255 are classified better"],
        ),
    ],
)
def test_budgets_doubt_an_order_that_no_working_attack_leaves(right, said):
    found = answered(**right).doubts
    assert len(found) == len(said)
    assert all(sentence.startswith(part) for sentence, part in zip(found, said, strict=True))


@pytest.mark.parametrize(
    ("left", "noise", "said"),
    [
        ({0.1: 80, 0.2: 40, 0.5: 0}, 90, []),
        ({0.1: 80, 0.2: 40, 0.5: 2}, 90, []),
        ({0.1: 80, 0.2: 40, 0.5: 4}, 90, ["PGD at ε = 127.5/255, which nothing can withstand, is"]),
        (
            {0.1: 80, 0.2: 90, 0.5: 0},
            90,
            ["PGD leaves more at ε = 51/255 than at the next smaller ε by 5.0 p"],
        ),
        (
            {0.1: 80, 0.2: 40, 0.5: 0},
            60,
            ["PGD is weaker than noise at ε = 25.5/255 by 10.0 points"],
        ),
    ],
)
def test_no_working_attack_leaves_more_than_noise_or_than_less_budget(left, noise, said):
    outputs = {("natural", 0.0): np.repeat([0, 1], [160, 40])}
    for epsilon, n in left.items():
        answers = np.repeat([0, 1], [n, 200 - n])
        outputs |= {("fgsm", epsilon): answers, ("pgd", epsilon): answers}
    controls = [{"epsilon": 0.1, "noise": noise / 200, "alignment": 0.8}]
    found = Budgets("cifar10", np.zeros(200, int), outputs, {}, {"controls": controls}).doubts
    assert len(found) == len(said)
    assert all(sentence.startswith(part) for sentence, part in zip(found, said, strict=True))


def test_budgets_keep_their_signs(store, family):
    few = BudgetConfig(dataset="glyphs10", test_size=60, epsilons=(0.1,), steps=2)
    content = few.get_or_measure(store, family["baseline"], "", CPU).content
    assert content["signs"]["no_gradient"] == 0
    assert "PGD is weaker than FGSM at ε = 25.5/255" in content["doubts"][0]  # it goes half the way
    many = few.model_copy(update={"steps": 10})
    assert many.get_or_measure(store, family["baseline"], "", CPU).content["doubts"] == []


def test_a_doubted_row_is_marked_in_tables_files_and_figures(store, family, how):
    network = next(n for n in grid(Profile()) if n.id == "pgd")
    evaluation = how.get_or_measure(store, family["baseline"], "", CPU)
    evaluation.content["signs"]["changing"] = 0.4
    label = Run(network, None, evaluation).label
    told = "; ".join(evaluation.doubts)
    assert told.startswith("the logits of 40 % of the images are others when asked again")
    shown = show(pd.DataFrame({"natural": [80.0]}, index=[label])).data
    assert f'R<sub>pgd</sub><sup class="doubt" title="{told}">?</sup>' in shown
    assert f'<p class="doubts">? R<sub>pgd</sub>: {told}.</p>' in shown
    assert plain(pd.DataFrame({"a": [1.0]}, index=[label])).index[0] == "R_pgd ?"
    assert spaced(label) == "R pgd ?" and mathtext(label).endswith("$ ?")
    assert doubted("80.0", []) == "80.0"
