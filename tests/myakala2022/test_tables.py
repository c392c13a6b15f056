"""Paper B's numbers stand where it prints them, ours are what was measured, never mixed."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made import EPSILONS, measure, study, table
from matplotlib.figure import Figure
from scipy import stats

from robust_transfer.claims import verdicts
from robust_transfer.data.registry import DATASETS
from robust_transfer.myakala2022 import (
    claims,
    experiment,
    figures,
    forensics,
    measured,
    printed,
    tables,
)
from robust_transfer.presentation.tables import epsilon_words, show

TASKS = {
    "cifar10/resnet20": "factorial",
    "tiny_imagenet100/vit6": "tables",
    "chest_xray8/densenet40": "tables",
}
SHOWN = EPSILONS[:2]
GAIN = {"pretraining": 0.10, "batch_norm": -0.02, "augmentation": 0.20}
SEEDS = (0.0, 0.01, 0.02)


def pm(mean: float, sd: float) -> str:
    return f"{mean:.1f}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{sd:.1f}"


def accuracy(cell, seed, attack, epsilon):
    """Natural 80 %, 10 points less per 0.01; techniques add up, seeds differ by a point."""
    return 0.4 + SEEDS[seed] + sum(GAIN[t] for t in cell.techniques) - 4 * epsilon


@pytest.fixture(scope="module")
def cells():
    return measure(table(TASKS), accuracy)


@pytest.fixture(scope="module")
def rows(cells):
    return measured.measurements(cells)


def test_the_papers_cells_are_all_there():
    found = printed.tables()
    assert found["pgd"].notna().sum() == 15 and found["standard"].notna().sum() == 9
    assert found.loc[("ImageNet", "layer_freezing", "pretraining"), "pgd"] == 64.7
    assert found.loc[("ChestX-ray", "feature_extraction", ""), "fgsm"] == 60.3


def test_table_1_has_ours_beside_the_papers(cells):
    found = tables.table_1(cells, SHOWN)
    assert found.shape == (3 * (4 + 2 * len(SHOWN)), 3)
    tuned = found.loc["cifar10/resnet20", "full fine-tuning"]
    assert tuned["standard, ours"] == pm(41.0, 1.0) and tuned["standard, paper"] == "91.3"
    assert tuned["PGD, ours at ε = 0.01"] == pm(37.0, 1.0)
    assert tuned["PGD, paper, ε unstated"] == "63.2"
    chest = found.loc["chest_xray8/densenet40", "feature extraction"]
    assert chest["FGSM, paper, ε unstated"] == "60.3"


def test_table_2_keeps_ours_and_the_papers_in_rows_of_their_own(cells):
    found = tables.table_2(cells, SHOWN)
    assert len(found) == 3 * 3
    assert found.loc["cifar10/resnet20", "paper, ε unstated"].to_list() == ["65.7", "72.4", "70.2"]
    ours = found.loc["cifar10/resnet20", "ours at ε = 0.01"]
    assert ours["with pretraining"] == pm(47.0, 1.0) and ours["with augmentation"] == pm(57.0, 1.0)


def test_a_task_without_counterpart_has_no_number_of_the_paper():
    cells = table(
        {"glyphs10/resnet8": "tables"},
        targets={"glyphs10": {"train_size": 8, "validation_size": 2, "test_size": 40, "epochs": 1}},
    )
    cells = measure(cells, accuracy)
    found = tables.table_1(cells, SHOWN)
    conditions = found.index.get_level_values(1)
    assert "standard, ours" in conditions and not conditions.str.contains("paper").any()
    assert forensics.needed_epsilons(cells).empty
    assert tables.medical(cells, SHOWN).empty
    assert "nothing to show" in show(tables.medical(cells, SHOWN)).data


def test_effects_are_the_gains_that_were_put_in(rows):
    found = tables.effects(rows, "cifar10/resnet20", "pgd", 0.01)
    for line in found.itertuples():
        name = {"frozen batch norm": "batch_norm"}.get(line.technique, line.technique)
        assert line.gain == pytest.approx(100 * GAIN[name])
        assert (line.low, line.high) == pytest.approx((line.gain, line.gain))  # seeds agree
        assert line.pairs == (12 if line.strategy == experiment.OVERALL else 4)
    assert len(found) == 3 * 4


def test_an_effects_interval_pools_what_the_seeds_of_its_pairs_differ(rows):
    one = (rows["task"] == "cifar10/resnet20") & (rows["strategy"] == "layer_freezing")
    uneven = rows[one & rows["seed"].isin([0, 1])].copy()
    first = uneven["augmentation"] & (uneven["seed"] == 0)
    uneven.loc[first & ~uneven["batch_norm"], "accuracy"] += 0.02  # in two of its four pairs
    found = tables.effects(uneven, "cifar10/resnet20", "pgd", 0.01).set_index("technique")
    line = found.loc["augmentation"].iloc[0]
    assert line["gain"] == pytest.approx(100 * GAIN["augmentation"] + 0.5)
    # two pairs whose seeds are 2 points apart, variance 2, and two whose are not, of eight gains
    half = stats.t.ppf(0.975, 4) * (1 / 8) ** 0.5
    assert line["high"] - line["gain"] == pytest.approx(half) == line["gain"] - line["low"]


def test_effects_of_the_printed_tables_are_those_of_layer_freezing(rows):
    found = tables.effects(rows, "tiny_imagenet100/vit6", "pgd", 0.01)
    assert set(found["strategy"]) == {"layer freezing", experiment.OVERALL}
    assert set(found["technique"]) == {"pretraining", "augmentation"}


def test_every_cell_of_a_task_is_listed(cells):
    found = tables.all_cells(cells, "cifar10/resnet20", SHOWN)
    assert len(found) == 24 and (found["augmentation"] == "yes").sum() == 12


def test_medical_measures_stand_beside_accuracy(cells):
    found = tables.medical(cells, SHOWN)
    assert len(found) == 5 * 3 and all("chest" in name for name, _ in found.index)
    assert found.index[0][1] == "natural"
    assert found.iloc[0]["accuracy"] == found.iloc[0]["AUROC"] == pm(41.0, 1.0)
    chest = next(cell for cell in cells if cell.dataset == "chest_xray8")
    assert forensics.majority(chest.repeats[0].budgets) == 50.0


def test_epsilons_that_keep_what_the_paper_keeps(cells):
    found = forensics.needed_epsilons(cells)
    line = found.loc["cifar10/resnet20, full fine-tuning"]
    assert line["PGD keeps in the paper"] == "69 %"  # 63.2 of 91.3
    tuned = next(cell for cell in cells if cell.id == "cifar10-resnet20-full_finetuning")
    curve = tuned.by_budget("pgd").mean(axis=1)
    reached = float(line.iloc[-1]) / 255
    kept = np.interp(reached, curve.index, curve / curve.iloc[0])
    assert kept == pytest.approx(63.2 / 91.3, abs=0.001)


def test_another_kind_of_network_has_no_number_of_the_paper():
    cells = table({"cifar10/vit6": "architecture", "cifar10/resnet20": "architecture"})
    assert printed.of(cells[0]).isna().all()
    assert printed.of(cells[1])["pgd"] == 63.2


def test_of_an_epsilon_below_the_measured_ones_only_that_is_said():
    cells = table(TASKS)
    steep = measure(cells, lambda cell, seed, attack, e: 0.8 - 60 * e * (e < 0.013))
    found = forensics.needed_epsilons(steep)
    assert found.iloc[0, -1] == "below 2.55"  # 0.01


def test_mistakes_scale_the_budget(cells):
    found = forensics.mistakes(cells[0], [0.01, 0.09])
    curve = cells[0].by_budget("pgd").mean(axis=1)
    assert found.loc["as stated", "ε = 0.01"] == pytest.approx(100 * curve[0.01] / curve[0.0])
    assert (np.diff(found["ε = 0.09"]) > 0).all()  # from the largest radius to the smallest
    halved = np.interp(0.045, curve.index, curve / curve.iloc[0])
    assert found.loc["added on the [−1, 1] scale", "ε = 0.09"] == pytest.approx(100 * halved)


def test_an_l2_radius_is_judged_by_deepfool(cells):
    sizes = {"l2": np.array([0.0, 0.02, 0.05, np.inf]), "linf": np.ones(4)}  # 0: wrong already
    repeats = tuple(
        replace(r, budgets=replace(r.budgets, deepfool=sizes)) for r in cells[0].repeats
    )
    cell = replace(cells[0], repeats=repeats)
    found = forensics.mistakes(cell, [0.03])
    row = found.loc["taken as an l2 radius (DeepFool)"]
    assert row["ε = 0.03"] == pytest.approx(100 * 2 / 3)
    shown = forensics.smallest_steps([cell])
    assert shown.loc["cifar10/resnet20, full fine-tuning", "images"] == 9
    assert "median l2" not in shown  # of fewer than ten


@pytest.mark.parametrize(("epsilon", "words"), [(8 / 255, "8/255"), (0.01, "0.01"), (0.05, "0.05")])
def test_epsilons_are_written_as_they_are_known(epsilon, words):
    assert epsilon_words(epsilon) == words


def test_designs_say_what_is_run(cells):
    found = tables.designs(study(TASKS), cells)
    assert found["design"].to_list() == ["factorial, 24 cells", *2 * ["tables, 5 cells"]]
    assert found["the paper's"].to_list() == ["CIFAR-10", "ImageNet", "ChestX-ray"]


def test_differences_that_survive_the_correction_are_told():
    def lower_if_frozen(cell, seed, attack, epsilon):
        jitter, frozen = (0.001, -0.001, 0.0)[seed], cell.strategy == "layer_freezing"
        return accuracy(cell, seed, attack, epsilon) + (-0.1 if frozen else jitter)

    pairs = tables.strategy_pairs(measure(table(TASKS), lower_if_frozen))
    said = tables.settled(pairs, "pgd", SHOWN)
    assert said.startswith("6 of 6 differences between strategies survive")
    pair = "cifar10/resnet20: layer freezing − full fine-tuning −10.0"
    both = [said.index(f" at {epsilon_words(epsilon)}", said.index(pair)) for epsilon in SHOWN]
    assert said.count(pair) == 1 and both[0] < both[1] < said.index("; ")
    same = tables.settled(tables.strategy_pairs(measure(table(TASKS), accuracy)), "pgd", SHOWN)
    assert same.startswith("0 of 6 differences") and "points" not in same


def test_the_order_of_strategies_is_told_with_batch_norm_as_it_is_and_frozen_in_all():
    left = {"full_finetuning": 0.6, "layer_freezing": 0.3, "feature_extraction": 0.5}

    def kept(cell, seed, attack, epsilon):
        gain = 0.3 if "batch_norm" in cell.techniques and attack == "pgd" else 0.0
        return left[cell.strategy] + gain - epsilon

    of_study = table({"cifar10/resnet20": "factorial"}, features="kept")
    said = tables.ranking(measure(of_study, kept), "pgd")
    as_it_is, frozen = said.split("With batch norm frozen in every strategy it leaves ")
    order = ["full fine-tuning", "feature extraction", "layer freezing"]
    assert sorted(order, key=as_it_is.index) == order
    assert sorted(order, key=frozen.index) == [order[0], order[2], order[1]]


def test_what_withstands_the_strongest_attacks_is_ranked_by_what_these_leave():
    cells = measure(table({"cifar10/resnet20": "single"}, features="kept"), accuracy)
    of = {cell.id.removeprefix("cifar10-resnet20-"): cell for cell in cells}
    at = {("full_finetuning", 0.01): (40, 20.0), ("layer_freezing", 0.01): (30, 25.5)}
    at |= {("full_finetuning-batch_norm", 0.01): (45, 30.0), ("full_finetuning", 8 / 255): (4, 3)}
    at |= {("layer_freezing", 8 / 255): (4.9, 4)}

    def said() -> str:
        rows = [(of[name], epsilon, 200, *left) for (name, epsilon), left in at.items()]
        names = ["cell", "epsilon", "images", "pgd", "strongest"]
        return tables.ranking_withstood(pd.DataFrame(rows, columns=names))

    place = "On CIFAR-10 (resnet20), of 200 images of the first seed, at ε = 0.01"
    plain = f"{place}, the strongest attacks leave 25.5 % "
    plain += "after layer freezing (PGD 30.0 %), 20.0 % after full fine-tuning (PGD 40.0 %)."
    assert said() == plain  # of frozen batch norm, one strategy is not there
    at[("layer_freezing-batch_norm", 0.01)] = (40, 31.0)
    frozen = f"{place} and with batch norm frozen in every "
    frozen += "strategy, the strongest attacks leave 31.0 % after layer freezing (PGD 40.0 %), "
    assert said() == f"{plain} {frozen}30.0 % after full fine-tuning (PGD 45.0 %)."


def test_two_techniques_stand_alone_and_together(cells):
    found = tables.together(cells, "pgd", 0.01)
    row = found.loc["cifar10/resnet20, full fine-tuning"].str.extract(r"^([\d.]+)")[0].astype(float)
    gains = row - row["neither"]
    assert gains["pretraining"] == pytest.approx(100 * GAIN["pretraining"], abs=0.11)
    both = GAIN["pretraining"] + GAIN["augmentation"]
    assert gains["both"] == pytest.approx(100 * both, abs=0.11)


def test_compared_names_the_cells(cells):
    pairs = tables.strategy_pairs(cells)
    assert len(pairs) == 3 and all(first.strategy == "layer_freezing" for first, _ in pairs)
    found = tables.compared(pairs, "pgd", SHOWN)
    name = "cifar10/resnet20: layer freezing − full fine-tuning"
    assert [*found.index[:2]] == [(name, f"ε = {epsilon_words(epsilon)}") for epsilon in SHOWN]


def test_where_nothing_is_left_nothing_is_compared():
    cells = measure(table(TASKS), lambda cell, seed, attack, epsilon: 0.5 * (attack == "natural"))
    pairs = tables.strategy_pairs(cells)
    assert tables.compared(pairs, "pgd", SHOWN).empty
    assert tables.settled(pairs, "pgd", SHOWN) == "Nothing is left to be compared."


def test_of_all_test_images_is_the_accuracy_without_attack_and_of_attacked_ones_the_curve(cells):
    repeats = tuple(
        replace(r, budgets=replace(r.budgets, content=r.budgets.content | {"standard": 0.9}))
        for r in cells[0].repeats
    )
    cell = replace(cells[0], repeats=repeats)
    assert cell.by_seed().to_list() == [90, 90, 90] != cells[0].by_seed().to_list()
    assert cell.by_budget("pgd").equals(cells[0].by_budget("pgd"))


def test_figures_are_drawn_of_what_there_is(rows, cells):
    first = figures.figure_1(cells, SHOWN)
    heights = [bar.get_height() for bar in first.axes[0].patches]
    assert sorted(heights) == sorted(printed.tables()["pgd"].xs("", level="techniques"))
    assert [bar.get_height() for bar in first.axes[1].patches][:1] == [pytest.approx(37.0)]
    curves = figures.budget_curves(cells, "pgd")
    assert len(curves.axes) == 4 and len(curves.axes[0].lines) == 3 * (1 + 3)
    effects = tables.effects(rows, "cifar10/resnet20", "pgd", 0.01)
    flow = pd.DataFrame({"gradient": [1.0, 2.0], "moved": [0.1, 0.2]}, index=["stem", "head"])
    for figure in (
        figures.figure_2(cells, 0.01),
        figures.gains(effects),
        figures.flows({"a": flow}),
        figures.confusions({"clean": cells[0].repeats[0].budgets.confusion()}),
    ):
        assert isinstance(figure, Figure) and figure.axes
    assert DATASETS["cifar10"].class_names[3] == "cat"


@pytest.mark.parametrize(
    ("tasks", "changes"),
    [
        ({"cifar10/resnet20": "strategies"}, {}),
        ({"cifar10/vit6": "architecture"}, {}),
        ({"cifar10/resnet20": "tables"}, {"techniques": []}),
        ({"cifar10/resnet20": "factorial"}, {"strategies": ["full_finetuning"]}),
        (
            {"cifar10/resnet20": "factorial"},
            {"strategies": ["full_finetuning", "feature_extraction"]},
        ),
    ],
    ids=str,
)
def test_a_study_of_any_design_is_shown_and_judged(tasks, changes):
    cells = measure(table(tasks, **changes), accuracy)
    rows = measured.measurements(cells)
    effects = tables.effects(rows, cells[0].task, "pgd", SHOWN[-1])
    several = {t for cell in cells for t in cell.techniques}
    assert {*effects.set_index("technique").index} == {experiment.words(t) for t in several}
    pairs = tables.strategy_pairs(cells)
    assert len(tables.compared(pairs, "pgd", SHOWN)) == len(SHOWN) * len(pairs)
    tables.table_1(cells, SHOWN), tables.table_2(cells, SHOWN)
    drawn = [figures.figure_2(cells, SHOWN[-1]), figures.gains(effects)]
    drawn.append(figures.figure_1(cells, SHOWN))
    assert all(isinstance(figure, Figure) for figure in drawn)
    of_study = measured.MeasuredStudy(cells)
    judged = verdicts.judge(of_study.reproduction, claims.groups(of_study))
    assert verdicts.numbers(judged)["claims"] == len(judged)
    assert len(verdicts.claimed_differences(judged)) == verdicts.numbers(judged)["differences"]
