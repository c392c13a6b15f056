"""Confusions are counted, shared out and compared as they should be."""

import numpy as np
import pandas as pd
import pytest
from made import measure, table

from robust_transfer.myakala2022 import confusion

NAMES = ["cat", "dog", "ship", "truck", "frog"]


def counts(**pairs: int) -> pd.DataFrame:
    matrix = pd.DataFrame(np.diag([10] * len(NAMES)), NAMES, NAMES)
    for pair, number in pairs.items():
        first, second = pair.split("_")
        matrix.loc[first, second] = number
    return matrix


def test_a_pair_takes_both_ways():
    found = counts(cat_dog=3, dog_cat=2, ship_truck=5)
    assert confusion.between(found, "cat", "dog") == confusion.between(found, "dog", "cat") == 0.5
    assert confusion.evenly(found) == pytest.approx(1 / 10)
    assert confusion.concentration(found) == 0.5
    assert np.isnan(confusion.between(counts(), "cat", "dog"))


def test_the_same_confusions_correlate_and_others_do_not():
    clean = counts(cat_dog=8, ship_truck=6, frog_cat=2, dog_frog=1)
    same = counts(dog_cat=16, truck_ship=12, cat_frog=4, frog_dog=2)
    correlation, p = confusion.same_pairs(clean, same)
    assert correlation == pytest.approx(1) and p < 0.05
    other = counts(cat_ship=9, dog_truck=7, frog_ship=3)
    correlation, p = confusion.same_pairs(clean, other)
    assert correlation < 0 and p > 0.5


def test_the_permutation_test_keeps_its_level():
    """Of unrelated matrices it calls one in twenty related, give or take."""
    rng, found = np.random.default_rng(3), []
    for _ in range(60):
        first, second = (pd.DataFrame(rng.poisson(4, (8, 8))) for _ in range(2))
        found.append(confusion.same_pairs(first, second)[1])
    assert np.mean(np.array(found) < 0.05) < 0.15
    assert 0.3 < np.mean(found) < 0.7


def test_confusions_without_difference_say_nothing():
    correlation, p = confusion.same_pairs(counts(), counts(cat_dog=3))
    assert np.isnan(correlation) and p == 1


def test_summary_adds_up_repeats_and_knows_cats_from_dogs():
    cells = table({"cifar10/resnet20": "architecture", "chest_xray8/densenet40": "architecture"})
    cells = measure(cells, lambda cell, seed, attack, epsilon: 0.9 if attack == "natural" else 0)
    assert confusion.confusion(cells[0]).to_numpy().sum() == 300
    found = confusion.summary(cells, 0.01)
    assert list(found.index) == ["cifar10/resnet20, full fine-tuning"]  # two classes tell nothing
    line = found.iloc[0]
    assert line["errors"] == 270  # of those that were right before
    # every class was taken for the next one, cats for deer, so cats and dogs never met
    assert line["cat and dog, attacked"] == "0.0 %" and line["spread evenly"] == "2.2 %"
