"""The claims of paper B: settled by its printed tables, or tested on the cells of a study."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pandas as pd
from scipy import stats

from robust_transfer.claims.outcome import ALPHA
from robust_transfer.claims.quantities import Accuracy, Percentages
from robust_transfer.claims.rules import Check, Claim, Difference, Fact, Order, Rule
from robust_transfer.evaluation.intervals import signed, wilson, with_interval
from robust_transfer.myakala2022 import confusion, forensics, printed, repeats, tables
from robust_transfer.myakala2022.experiment import FINE_TUNINGS
from robust_transfer.myakala2022.measured import (
    HIGH,
    MeasuredCell,
    MeasuredStudy,
    column,
    matched,
    named,
)
from robust_transfer.presentation.tables import epsilon_words

READING = "settled by reading, as the evidence says; there is nothing to compute"
ONE_SOURCE = "one source of each kind: what others would give is in no interval"


def largest_gain(first: str, others: Iterable[str], claimed: float) -> Fact:
    """M02, M04: what ``first`` gains over ``others`` in the printed PGD accuracies, at most."""
    table = printed.pgd_by_dataset()
    points = max((table[first] - table[other]).max() for other in others)
    relative = max((100 * (table[first] / table[other] - 1)).max() for other in others)
    text = f"at most {points:.1f} points, {relative:.1f} %"
    return Fact(bool(max(points, relative) >= claimed), text, f"{claimed:g} %")


def power() -> Fact:
    """M11: largest spread of three paired differences that a t-test still calls significant."""
    table = printed.pgd_by_dataset()
    runs = 3
    gaps = (table["layer_freezing"] - table["full_finetuning"]).sort_values(ascending=False)
    spread = gaps * np.sqrt(runs) / stats.t.ppf(1 - ALPHA / 2, runs - 1)
    text = ", ".join(f"{name} {value:.2f}" for name, value in spread.items())
    return Fact(None, f"standard deviation at most {text} points")


def groups(measured: MeasuredStudy) -> dict[str, dict[str, Claim]]:
    """All claims of paper B by group; those that a study's tasks do not reach say so."""
    high = measured if HIGH in measured.tested else replace(measured, cells=())
    return {
        "Strategies": _strategies(measured),
        "Techniques": _techniques(high),
        "Networks and data": _data(measured),
        "Attacks and errors": _attacks(measured, high),
        "Text": {f"M{i:02}": Claim(lacking=READING) for i in (21, 22, 23)},
    }


def _claim(rules: list[Rule], lacking: str = "") -> Claim:
    """A claim with the rules that there are, if there are any."""
    return Claim(*rules, lacking=lacking if rules else "no task of this study tests it")


def _each(
    cells: Iterable[MeasuredCell],
    measured: MeasuredStudy,
    words: str,
    fact: Callable[[MeasuredCell, float], Fact],
) -> list[Check]:
    """A check of every cell at every tested budget."""
    return [
        Check(f"{cell.task}, ε = {epsilon_words(epsilon)}: {words}", fact(cell, epsilon))
        for cell, epsilon in product(cells, measured.tested)
    ]


def _under_pgd(cells: Iterable[MeasuredCell], epsilon: float) -> tuple[Accuracy, ...]:
    return tuple(Accuracy(cell.id, column("pgd", epsilon)) for cell in cells)


def _strategies(measured: MeasuredStudy) -> dict[str, Claim]:
    pairs = tables.strategy_pairs(measured.cells)
    reached = largest_gain("layer_freezing", ["full_finetuning"], 5.2)
    tests = [
        Check(f"p < 0.05 in every task, ε = {epsilon_words(e)}", _significant(pairs, e))
        for e in measured.tested
        if pairs
    ]
    best = [
        Check(
            f"{task}, ε = {epsilon_words(epsilon)}: best cell freezes layers, with a technique",
            fact,
        )
        for task, epsilon in product(measured.tasks, measured.tested)
        if (fact := _best(measured, task, epsilon))
    ]
    standard = ("full_finetuning", "layer_freezing", "feature_extraction")
    usual = ("layer_freezing", "full_finetuning", "feature_extraction")
    attacked = [column(*attack) for attack in product(("fgsm", "pgd"), measured.study.epsilons)]
    words = "source: freezing > full > extraction at every ε"
    natural = _orders(measured, [(s,) for s in usual], attacked, f", natural {words}")
    robust = _orders(measured, [(s, "pretraining") for s in usual], attacked, f", robust {words}")
    clean = ": full > freezing > extraction, natural"
    chance = "which of many cells is best is chance where they differ little"
    return {
        "M01": _claim(sorted(natural + robust, key=lambda order: order.words)),
        "M02": Claim(Check("gain under PGD in the printed table reaches 5.2 %", reached)),
        "M11": Claim(Check("what p < 0.05 in three runs implies", power()), *tests),
        "M13": _claim(_orders(measured, [(s,) for s in standard], ["natural"], clean)),
        "M15": _claim(best, lacking=chance),
    }


def _orders(
    measured: MeasuredStudy, treatments: list[tuple[str, ...]], columns: list[str], words: str
) -> list[Order]:
    """M01, M13: treatments in order of accuracy, in every column, for every task that has all."""
    orders = []
    for cells in matched(measured.cells, *treatments):
        pairs = tuple(
            (Accuracy(first.id, at), Accuracy(second.id, at))
            for at, (first, second) in product(columns, pairwise(cells))
        )
        orders.append(Order(pairs, f"{cells[0].task}{words}"))
    return sorted(orders, key=lambda order: order.words)


def _significant(pairs: list[repeats.CellPair], epsilon: float) -> Fact:
    """M11: whether layer freezing is above full fine-tuning in every task, by paired t-tests."""
    tests = repeats.compare(pairs, "pgd", epsilon)
    positive = (tests["adjusted"] < ALPHA) & (tests["difference"] > 0)
    tests["task"] = [first.task for first, _ in pairs]
    text = ", ".join(
        f"{row.task} {with_interval(row.difference, row.low, row.high)} "
        f"(p: {repeats.p_words(row.adjusted)})"
        for row in tests.itertuples()
    )
    both = [first for first, _ in pairs] + [second for _, second in pairs]
    return Fact(bool(positive.all()), text, "p < 0.05", _under_pgd(both, epsilon))


def _best(measured: MeasuredStudy, task: str, epsilon: float) -> Fact | None:
    """M15: among all strategies and techniques, which cell stands PGD best; None of few cells."""
    cells = [cell for cell in measured.cells if cell.task == task]
    means = {cell: cell.by_seed("pgd", epsilon).mean() for cell in cells}
    added = {"pretraining", "augmentation"}
    claimed = [c for c in cells if c.strategy == "layer_freezing" and added & c.techniques]
    if len(cells) < 3 * len(FINE_TUNINGS) or not claimed:
        return None
    best = max(cells, key=means.get)
    text, undecided = f"{best.label}: {means[best]:.1f} %", False
    if best not in claimed:
        second = max(claimed, key=means.get)
        gap = repeats.compare([(best, second)], "pgd", epsilon).iloc[0]
        above = with_interval(gap["difference"], gap["low"], gap["high"])
        text += f", above the best that does by {above}"
        undecided = gap["low"] <= 0
    return Fact(best in claimed, text, basis=_under_pgd(cells, epsilon), undecided=undecided)


def _techniques(measured: MeasuredStudy) -> dict[str, Claim]:
    """All of them are tested at ``HIGH``."""
    base, robust, augmented = (
        ("layer_freezing", *added) for added in ((), ("pretraining",), ("augmentation",))
    )
    alone = [pair for pair in _pairs(measured, "pretraining") if len(pair[0].techniques) == 1]
    frozen = _pairs(measured, "batch_norm")
    without = [pair for pair in frozen if "augmentation" not in pair[0].techniques]
    cost = matched(measured.on("CIFAR-10").cells, robust, base)
    small = [Difference(b.id, a.id, "natural", 1.2, cost=True) for a, b in cost]
    reached = largest_gain("with_pretraining", FINE_TUNINGS, 25)
    return {
        "M04": Claim(
            Check("gain under PGD in the printed tables reaches 25 %", reached),
            *_above(alone),
            lacking=ONE_SOURCE,
        ),
        "M05": _claim(_above(matched(measured.cells, robust, augmented)), lacking=ONE_SOURCE),
        "M06": _claim(_above(matched(measured.cells, augmented, base), 4.0)),
        "M07": _claim(_above(without, 0.0), lacking="input-gradient norms were not measured"),
        "M08": _claim(_spread(frozen)),
        "M12": _claim(small + _above(cost, 6.7), lacking=ONE_SOURCE),
    }


def _pairs(measured: MeasuredStudy, technique: str) -> list[repeats.CellPair]:
    """Every cell with a technique beside the one that lacks nothing but it."""
    cells = {(cell.task, *cell.treatment): cell for cell in measured.cells}
    pairs = [
        (cell, cells.get((task, strategy, techniques - {technique})))
        for (task, strategy, techniques), cell in cells.items()
        if technique in techniques
    ]
    return [pair for pair in pairs if pair[1]]


def _above(pairs: list[repeats.CellPair], expected: float | None = None) -> list[Difference]:
    return [Difference(a.id, b.id, column("pgd", HIGH), expected) for a, b in pairs]


def _spread(pairs: list[repeats.CellPair]) -> list[Check]:
    """M08: whether frozen batch norm narrows the spread over seeds."""
    if not pairs:
        return []
    values = np.array([[cell.by_seed("pgd", HIGH) for cell in pair] for pair in pairs])
    gaps = values - values.mean(axis=2, keepdims=True)  # (pairs, frozen and adapting, seeds)
    frozen, adapting = gaps.swapaxes(0, 1).reshape(2, -1)
    with np.errstate(invalid="ignore"):  # no spread at all: p is NaN, and nothing is shown
        p = float(stats.levene(adapting, frozen, center="median").pvalue)
    freedom = len(frozen) - len(pairs)
    sds = [float(np.sqrt((part**2).sum() / freedom)) for part in (adapting, frozen)]
    text = f"standard deviation {sds[0]:.2f} adapting, {sds[1]:.2f} frozen (p = {p:.2f})"
    undecided = False
    if min(sds) > 0:
        ratio, reach = (sds[1] / sds[0]) ** 2, stats.f.ppf(1 - ALPHA / 2, freedom, freedom)
        text += f"; ratio of variances {ratio:.2f} [{ratio / reach:.2f}, {ratio * reach:.2f}]"
        undecided = ratio / reach < 1
    basis = _under_pgd([cell for pair in pairs for cell in reversed(pair)], HIGH)
    fact = Fact(sds[1] < sds[0] and p < ALPHA, text, basis=basis, undecided=undecided)
    return [Check("frozen batch norm has the smaller spread over seeds under PGD", fact)]


def _data(measured: MeasuredStudy) -> dict[str, Claim]:
    others = (
        "the data sets differ in network, classes and image size too; how sure their order is, "
    )
    unsaid = "the paper does not say what its accuracy counts"
    plain = named(measured.cells, "full_finetuning")
    transformers = [  # a ViT above every CNN fine-tuned on the same data
        Difference(vit.id, cnn.id, column("pgd", epsilon), 0.0)
        for vit, cnn, epsilon in product(plain.values(), plain.values(), measured.tested)
        if "vit" in vit.network and "vit" not in cnn.network and vit.dataset == cnn.dataset
    ]
    return {
        "M09": _claim(transformers, lacking=ONE_SOURCE),
        "M10": _claim(_medical(measured, plain), lacking=f"{others}was not tested"),
        "M19": Claim(lacking="needs a backbone pre-trained without the target's classes"),
        "M20": _claim(_multilabel(measured), lacking=unsaid),
    }


def _medical(measured: MeasuredStudy, plain: Mapping[str, MeasuredCell]) -> list[Check]:
    """M10: chest X-rays against the other data sets, by three measures."""
    chest = {*measured.on("ChestX-ray").tasks}
    if not plain.keys() & chest or not plain.keys() - chest:
        return []
    checks, reproduction = [], measured.reproduction
    names = [printed.COUNTERPARTS.get(cell.dataset, "") for cell in plain.values()]
    for epsilon in measured.tested:
        columns = ("natural", column("pgd", epsilon))
        basis = tuple(Accuracy(cell.id, at) for cell, at in product(plain.values(), columns))
        ours = _drops(reproduction.means(*basis), [*plain])
        theirs = _drops(reproduction.printed(*basis), names)
        for measure in ours:
            texts = _listed(ours[measure]), _listed(theirs[measure].dropna())
            fact = Fact(ours[measure].idxmin() in chest, *texts, basis)
            words = f"ε = {epsilon_words(epsilon)}: chest X-rays have the {measure}"
            checks.append(Check(words, fact))
    return checks


def _drops(percent: Percentages, names: list[str]) -> pd.DataFrame:
    """A row per task: what an attack leaves of its accuracy, by three measures."""
    table = pd.DataFrame(np.reshape([*percent.values()], (-1, 2)), names)
    natural, attacked = table[0], table[1]
    return pd.DataFrame(
        {
            "lowest PGD accuracy": attacked,
            "largest robustness drop": attacked - natural,
            "lowest share of accuracy kept": attacked / natural,
        }
    )


def _listed(values: pd.Series) -> str:
    texts = (f"{name} {value:.2f}" for name, value in values.items())
    return ", ".join(texts).replace(" -", " −")


def _multilabel(measured: MeasuredStudy) -> list[Check]:
    """M20: accuracy on chest X-rays beside what it hides."""
    checks = []
    for task, cell in named(measured.on("ChestX-ray").cells, "full_finetuning").items():
        means = {
            "accuracy": cell.by_seed().mean(),
            "majority class": forensics.majority(cell.repeats[0].budgets),
            "balanced accuracy": cell.by_seed(measure="balanced_accuracy").mean(),
            "AUROC": cell.by_seed(measure="auroc").mean(),
        }
        text = ", ".join(f"{words} {value:.1f}" for words, value in means.items())
        fact = Fact(None, text, basis=(Accuracy(cell.id, "natural"),))
        checks.append(Check(f"{task}: accuracy beside other measures", fact))
    return checks


def _attacks(measured: MeasuredStudy, high: MeasuredStudy) -> dict[str, Claim]:
    plain = named(measured.cells, "full_finetuning").values()
    gaps = "FGSM − PGD between 10 and 16 points"
    return {
        "M03": _claim(_each(plain, measured, "PGD accuracy at least 50 %", _keeps_half)),
        "M14": _claim(_each(plain, measured, gaps, _attack_gap)),
        "M16": _claim(_similar_classes(high)),
        "M17": Claim(lacking="the paper prints no DeepFool number; ours are on the study's page"),
        "M18": _claim(_budget(measured), lacking="the paper gives no ε with its tables"),
    }


def _keeps_half(cell: MeasuredCell, epsilon: float) -> Fact:
    natural, mean = cell.by_seed().mean(), cell.by_seed("pgd", epsilon).mean()
    text = f"{mean:.1f} % of {natural:.1f} % without attack"
    holds = bool(mean >= 50) if natural >= 50 else None  # else there is no half to keep
    return Fact(holds, text, basis=_under_pgd([cell], epsilon))


def _attack_gap(cell: MeasuredCell, epsilon: float) -> Fact:
    gap = cell.by_seed("fgsm", epsilon).mean() - cell.by_seed("pgd", epsilon).mean()
    basis = tuple(Accuracy(cell.id, column(attack, epsilon)) for attack in ("fgsm", "pgd"))
    return Fact(bool(10 <= gap <= 16), f"{signed(gap)} points", basis=basis)


def _similar_classes(measured: MeasuredStudy) -> list[Check]:
    """M16: errors under attack fall on the pairs confused without it, cat and dog among them."""
    checks = []
    shown = (("full_finetuning", set()), ("layer_freezing", {"pretraining"}))
    for cell in measured.on("CIFAR-10").cells:
        if cell.treatment in shown:
            label = f"{cell.task}: {cell.label}, ε = {epsilon_words(HIGH)}"
            words = f"{label}: new errors on the pairs of classes confused without attack"
            checks.append(Check(words, _same_pairs(cell)))
            words = f"{label}: cat and dog more often than other pairs"
            checks.append(Check(words, _cats_and_dogs(cell)))
    return checks


def _same_pairs(cell: MeasuredCell) -> Fact:
    attacked = confusion.confusion(cell, "pgd", HIGH)
    correlation, p = confusion.same_pairs(confusion.confusion(cell), attacked)
    text = f"correlation {correlation:.2f} (p: {repeats.p_words(p)})"
    return Fact(p < ALPHA, text, basis=_under_pgd([cell], HIGH), undecided=correlation > 0)


def _cats_and_dogs(cell: MeasuredCell) -> Fact:
    attacked = confusion.confusion(cell, "pgd", HIGH)
    pair, even = confusion.between(attacked, "cat", "dog"), confusion.evenly(attacked)
    wrong = confusion.total(attacked)
    high = wilson(pair * wrong, wrong)[1] if wrong else 1.0
    text = f"{100 * pair:.1f} % of {wrong} errors, {100 * even:.1f} % if spread evenly"
    return Fact(pair > even, text, basis=_under_pgd([cell], HIGH), undecided=high > even)


def _budget(measured: MeasuredStudy) -> list[Check]:
    """M18: which epsilon would give the share of accuracy that the paper's tables print."""
    table = forensics.needed_epsilons(measured.cells)
    if table.empty:
        return []
    text = "; ".join(f"{name}: {row.iloc[-1]}" for name, row in table.iterrows())
    fact = Fact(None, f"ε · 255 for PGD: {text}")
    return [Check("which ε keeps the share of accuracy that the paper prints", fact)]
