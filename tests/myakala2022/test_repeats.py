"""Spread, paired tests and their power agree with what is known of them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made import measure, table
from scipy import stats

from robust_transfer.claims.outcome import ALPHA
from robust_transfer.myakala2022 import repeats
from robust_transfer.myakala2022.measured import MeasuredCell, measurements

TASKS = {"cifar10/resnet20": "tables"}
FULL, FREEZING, EXTRACTION = (
    f"cifar10-resnet20-{name}"
    for name in ("full_finetuning", "layer_freezing", "feature_extraction")
)
NOISE = {FULL: (0.0, 0.04, 0.02), FREEZING: (0.0, 0.03, 0.01), EXTRACTION: (0.01, 0.0, 0.02)}
BASE = {FULL: 0.5, FREEZING: 0.58, EXTRACTION: 0.4}


def accuracy(cell, seed, attack, epsilon):
    return BASE.get(cell.id, 0.6) + NOISE.get(cell.id, (0, 0, 0))[seed] - 4 * epsilon


@pytest.fixture(scope="module")
def cells() -> dict[str, MeasuredCell]:
    return {cell.id: cell for cell in measure(table(TASKS), accuracy)}


def test_every_measurement_is_a_row(cells):
    rows = measurements(list(cells.values()))
    assert len(rows) == 5 * 3 * (1 + 2 * 3)
    one = rows[(rows["cell"] == FULL) & (rows["seed"] == 1) & (rows["attack"] == "natural")]
    assert one["accuracy"].to_list() == [0.54] and one["n"].to_list() == [100]
    assert rows["auroc"].isna().all()
    chosen = rows.drop_duplicates("cell").set_index("cell")
    assert chosen["pretraining"].sum() == chosen["augmentation"].sum() == 1


def test_spread_is_that_of_the_seeds(cells):
    found = cells[FULL].by_budget("pgd").loc[0.0]
    assert found.mean() == pytest.approx(52.0) and len(found) == 3
    assert found.std() == pytest.approx(np.std([50, 54, 52], ddof=1))


def test_paired_tests_are_those_of_scipy_with_holms_correction(cells):
    pairs = [(FREEZING, FULL), (FULL, EXTRACTION)]
    found = repeats.compare([((cells[a], cells[b]), 0.0) for a, b in pairs], "natural")
    ps = []
    for line, (first, second) in zip(found.itertuples(), pairs, strict=True):
        a, b = (100 * (BASE[c] + np.array(NOISE[c])) for c in (first, second))
        expected = stats.ttest_rel(a, b)
        interval = expected.confidence_interval()
        assert (line.first, line.second) == (first, second)
        assert line.difference == pytest.approx((a - b).mean())
        assert line.p == pytest.approx(expected.pvalue)
        assert (line.low, line.high) == pytest.approx(tuple(interval))
        ps.append(expected.pvalue)
    assert found["adjusted"].min() == pytest.approx(2 * min(ps))
    assert found["adjusted"].max() == pytest.approx(max(2 * min(ps), max(ps)))


def test_without_spread_a_difference_is_certain_and_equality_says_nothing():
    even = {c.id: c for c in measure(table(TASKS), lambda cell, *_: BASE.get(cell.id, 0.5))}
    pairs = [(even[FREEZING], even[FULL]), (even[FULL], even[FULL])]
    found = repeats.compare([(pair, 0.0) for pair in pairs], "natural")
    assert found["p"].to_list() == [0.0, 1.0] and found["detectable"].to_list() == [0.0, 0.0]


def test_a_test_needs_two_seeds_of_a_budget_that_was_measured(cells):
    with pytest.raises(ValueError, match=r"^attack = pgd 0.05: measured are natural 0, fgsm 0.01"):
        repeats.compare([((cells[FREEZING], cells[FULL]), 0.05)], "pgd")
    once = replace(cells[FULL], repeats=cells[FULL].repeats[:1])
    with pytest.raises(ValueError, match=rf"^epsilon = 0: {FREEZING} and {FULL} share 1 seeds"):
        repeats.compare([((cells[FREEZING], once), 0.0)], "natural")


def test_detectable_difference_is_found_with_the_stated_power():
    size = repeats.detectable(2.0, repeats=4)
    rng = np.random.default_rng(0)
    samples = rng.normal(size, 2.0, (20_000, 4))
    p = stats.ttest_1samp(samples, 0, axis=1).pvalue
    assert (p < ALPHA).mean() == pytest.approx(repeats.POWER, abs=0.01)
    assert repeats.detectable(2.0, repeats=3) > size


@pytest.mark.parametrize(
    ("accuracy", "expected"), [(0.9, 0.0), (0.7, 0.005), (0.5, 0.01), (0.3, 0.02), (0.1, 0.03)]
)
def test_where_a_curve_meets_an_accuracy(accuracy, expected):
    curve = pd.Series([0.9, 0.5, 0.1], index=[0.0, 0.01, 0.03])
    assert repeats.reached(curve, accuracy) == pytest.approx(expected)


@pytest.mark.parametrize("accuracy", [0.95, 0.05])
def test_a_curve_that_never_meets_an_accuracy_says_so(accuracy):
    curve = pd.Series([0.9, 0.5, 0.1], index=[0.0, 0.01, 0.03])
    assert np.isnan(repeats.reached(curve, accuracy))


def test_a_curve_that_rises_again_is_met_where_it_first_falls():
    curve = pd.Series([0.9, 0.5, 0.7, 0.1], index=[0.0, 0.01, 0.02, 0.03])
    assert repeats.reached(curve, 0.6) == pytest.approx(0.0075)


def test_curve_begins_with_the_natural_accuracy(cells):
    curve = cells[FULL].by_budget("pgd").mean(axis=1)
    assert curve.index.to_list() == pytest.approx([0.0, 0.01, 8 / 255, 0.09])
    assert curve.iloc[0] == pytest.approx(52) and curve.is_monotonic_decreasing


def test_two_classes_have_an_auroc():
    found = measurements(
        measure(table({"chest_xray8/densenet40": "architecture"}), lambda *_: 0.75)
    )
    assert found["auroc"].notna().all()
