import base64
import json
import re
import zlib

import numpy as np
import pytest
import torch

from robust_transfer.data.registry import DATASETS, one_of_each
from robust_transfer.evaluation import single_image
from robust_transfer.evaluation.budgets import BudgetConfig, Budgets
from robust_transfer.presentation.slider import Slider, slider

EPSILONS = (0.0, 2 / 256, 16 / 256)
NAMES = DATASETS["glyphs10"].class_names
ALT = 'Attacked "images".'


@pytest.fixture(scope="module")
def models(trained, family) -> dict:
    return {f"the {name}": trained.model(family[name]) for name in ("baseline", "surrogate")}


@pytest.fixture(scope="module")
def dragged(models, trained, family) -> Slider:
    images, how = one_of_each("glyphs10"), BudgetConfig(dataset="glyphs10", test_size=60, steps=4)
    attacks = how.model_copy(update={"epsilons": EPSILONS}).attacks
    shown = single_image.shown_to_all(models, images, attacks)
    return slider(shown, images, NAMES, dict.fromkeys(models, budgets()), ALT)


def budgets() -> Budgets:
    """Of four images as many are right at an epsilon as the array says."""
    labels = np.zeros(4, np.uint8)
    right = {("natural", 0.0): 4, ("pgd", 2 / 256): 2, ("pgd", 16 / 256): 1}
    right |= {("fgsm", epsilon): count for (name, epsilon), count in right.items() if epsilon}
    return Budgets(
        "glyphs10",
        labels,
        {at: (np.arange(4) >= n).astype(np.uint8) for at, n in right.items()},
        {},
        {},
    )


def island(figure: Slider) -> dict:
    return json.loads(re.search(r"json\">(.*)</script>", figure._repr_html_(), re.S)[1])


def unpacked(text: str) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)


def test_stored_answers_are_those_of_the_networks_to_the_stored_images(dragged, models):
    data = island(dragged)
    clean = unpacked(data["clean"]).reshape(10, 3, 16, 16)
    changes = unpacked(data["changes"]).reshape(2, 2, 10, 3, 16, 16, len(EPSILONS))
    assert np.array_equal(clean, one_of_each("glyphs10").pixels.numpy())
    for place in np.ndindex(2, 2, len(EPSILONS)):
        attack, attacked, epsilon = place
        pixels = clean + changes[attack, attacked, ..., epsilon]
        told = data["answers"][attack][attacked][epsilon]
        for index, model in enumerate(models.values()):
            label, sure = single_image.answers(model, torch.from_numpy(pixels).float() / 255)
            assert [answer[index][0] for answer in told] == label.tolist()
            assert [answer[index][1] for answer in told] == pytest.approx(
                (100 * sure).tolist(), abs=0.51
            )


def test_stored_images_use_the_budget_and_stay_in_it_but_for_rounding(dragged):
    data = island(dragged)
    shape = 2, 2, 10, 3, 16, 16, len(EPSILONS)
    moved = np.abs(unpacked(data["changes"]).view(np.int8).reshape(shape).astype(int))
    for index, epsilon in enumerate(EPSILONS):
        largest = moved[..., index].max((2, 3, 4, 5))
        assert (largest == round(255 * epsilon)).all()


def test_accuracies_are_those_that_were_measured_at_each_epsilon(dragged):
    assert island(dragged)["accuracies"][1] == [["100.0", "50.0", "25.0"]] * 2
    assert island(dragged)["count"] == 4


def test_page_has_a_static_figure_with_a_name_for_readers_without_scripts(dragged):
    page = dragged._repr_html_()
    assert '<svg role="img" aria-label="Attacked &quot;images&quot;."' in page
    assert page.count("</script>") == 1
    (*axes, _) = dragged.twin.axes
    assert axes[0].get_ylabel() == "the baseline"
    label, sure = island(dragged)["answers"][1][0][0][0][0]
    assert axes[0].get_xlabel().split("\n") == ["ε = 0/256", NAMES[label], f"{sure}%"]
