"""The claims of paper B: settled by its printed tables, or tested on the cells of a study."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy import stats

from robust_transfer.claims.evidence import Evidence
from robust_transfer.claims.outcome import ALPHA
from robust_transfer.claims.quantities import Cell as Accuracy
from robust_transfer.claims.rules import Check, Claim, Difference, Fact, Order
from robust_transfer.evaluation.intervals import signed, wilson, with_interval
from robust_transfer.myakala2022 import confusion, forensics, printed, repeats, tables
from robust_transfer.myakala2022.evidence import HIGH, NATURAL, Gathered, column
from robust_transfer.myakala2022.experiment import STRATEGIES, Cell
from robust_transfer.presentation.tables import epsilon_words

READING = "settled by reading, as the evidence says; there is nothing to compute"
ONE_SOURCE = "one source of each kind: what others would give is in no interval"


def gains(first: pd.Series, second: pd.Series) -> tuple[float, float]:
    """Largest gain of ``first`` over ``second``: in points, and in percent of ``second``."""
    return (first - second).max(), (100 * (first / second - 1)).max()


def freezing(_: Evidence) -> Fact:
    """M02: layer freezing over full fine-tuning, at most."""
    table = printed.pgd_by_dataset()
    points, relative = gains(table["layer_freezing"], table["full_finetuning"])
    text = f"at most {points:.1f} points, {relative:.1f} %"
    return Fact(bool(max(points, relative) >= 5.2), text, "5.2 %")


def pretraining(_: Evidence) -> Fact:
    """M04: adversarial pre-training over any strategy without it, at most."""
    table = printed.pgd_by_dataset()
    pairs = [gains(table["with_pretraining"], table[strategy]) for strategy in STRATEGIES]
    points, relative = np.max(pairs, axis=0)
    text = f"at most {points:.1f} points, {relative:.1f} %"
    return Fact(bool(max(points, relative) >= 25), text, "25 %")


def power(_: Evidence) -> Fact:
    """M11: largest spread of three paired differences that a t-test still calls significant."""
    table = printed.pgd_by_dataset()
    runs = 3
    differences = (table["layer_freezing"] - table["full_finetuning"]).sort_values(ascending=False)
    spread = differences * np.sqrt(runs) / stats.t.ppf(1 - ALPHA / 2, runs - 1)
    text = ", ".join(f"{name} {value:.2f}" for name, value in spread.items())
    return Fact(None, f"standard deviation at most {text} points")


def groups(found: Gathered) -> dict[str, dict[str, Claim]]:
    """All claims of paper B by group; those that a study's tasks do not reach say so."""
    return {
        "Strategies": _strategies(found),
        "Techniques": _techniques(found),
        "Networks and data": _data(found),
        "Attacks and errors": _attacks(found),
        "Text": {f"M{i:02}": Claim(lacking=READING) for i in (21, 22, 23)},
    }


def _claim(*rules, lacking: str = "") -> Claim:
    """A claim with the rules that there are, if there are any."""
    return Claim(*rules, lacking=lacking if rules else "no task of this study tests it")


def _strategies(found: Gathered) -> dict[str, Claim]:
    usual = ("layer_freezing", "full_finetuning", "feature_extraction")
    standard = ("full_finetuning", "layer_freezing", "feature_extraction")
    ordered, natural = [], []
    for techniques, source in (((), "natural"), (("pretraining",), "robust")):
        named = {strategy: found.named(strategy, *techniques) for strategy in STRATEGIES}
        for task in set.intersection(*(set(tasks) for tasks in named.values())):
            conditions = [(a, e) for a in ("fgsm", "pgd") for e in found.study.epsilons]
            pairs = _in_turn([named[s][task] for s in usual], *(column(*at) for at in conditions))
            words = f"{task}, {source} source: freezing > full > extraction at every ε"
            ordered.append(Order(pairs, words))
            if not techniques:
                pairs = _in_turn([named[s][task] for s in standard], NATURAL)
                natural.append(Order(pairs, f"{task}: full > freezing > extraction, natural"))
    pairs = tables.strategy_pairs(found.cells)
    return {
        "M01": _claim(*_sorted(ordered)),
        "M02": Claim(Check("gain under PGD in the printed table reaches 5.2 %", freezing)),
        "M11": _claim(
            Check("what p < 0.05 in three runs implies", power),
            *(Check(f"p < 0.05 in every task, ε = {epsilon_words(e)}", _tested(found, pairs, e))
              for e in found.shown if pairs),
        ),
        "M13": _claim(*_sorted(natural)),
        "M15": _claim(
            *_per_task(found, "best cell freezes layers, with a technique", _best),
            lacking="which of many cells is best is chance where they differ little",
        ),
    }  # fmt: skip


def _in_turn(ids: list[str], *columns: str) -> tuple[tuple[Accuracy, Accuracy], ...]:
    """Each network with the one after it, in every column."""
    return tuple(
        (Accuracy(first, at), Accuracy(second, at))
        for at in columns
        for first, second in pairwise(ids)
    )


def _sorted(rules: list[Order]) -> list[Order]:
    return sorted(rules, key=lambda rule: rule.words)


def _tested(
    found: Gathered, pairs: list[tuple[str, str]], epsilon: float
) -> Callable[[Evidence], Fact]:
    def compute(_: Evidence) -> Fact:
        tests = repeats.compare(found.rows, pairs, "pgd", epsilon)
        positive = (tests["adjusted"] < ALPHA) & (tests["difference"] > 0)
        task_of = {cell.id: cell.task for cell in found.cells}
        text = ", ".join(
            f"{task_of[row.first]} {with_interval(row.difference, row.low, row.high)} "
            f"(p: {repeats.p_words(row.adjusted)})"
            for row in tests.itertuples()
        )
        both = [*tests["first"], *tests["second"]]
        return Fact(bool(positive.all()), text, "p < 0.05", _cells(both, "pgd", epsilon))

    return compute


def _cells(ids: Sequence[str], attack: str, epsilon: float) -> tuple[Accuracy, ...]:
    return tuple(Accuracy(name, column(attack, epsilon)) for name in ids)


Judge = Callable[[Gathered, str, float], Fact | None]
"""From a task and an epsilon to what they say of a claim; None if the task lacks the cells."""


def _per_task(found: Gathered, words: str, judge: Judge) -> list[Check]:
    """One check per task and budget that can say something."""
    checks = []
    for task in dict.fromkeys(cell.task for cell in found.cells):
        for epsilon in found.shown:
            if (fact := judge(found, task, epsilon)) is not None:
                text = f"{task}, ε = {epsilon_words(epsilon)}: {words}"
                checks.append(Check(text, lambda _, fact=fact: fact))
    return checks


def _best(found: Gathered, task: str, epsilon: float) -> Fact | None:
    """M15: among all strategies and techniques, which cell stands PGD best."""
    of_task = [cell for cell in found.cells if cell.task == task]
    if len(of_task) < 3 * len(STRATEGIES):
        return None
    means = {
        cell.id: repeats.accuracies(found.rows, cell.id, "pgd", epsilon).mean() for cell in of_task
    }
    claimed = {
        cell.id
        for cell in of_task
        if cell.strategy == "layer_freezing" and {"pretraining", "augmentation"} & cell.techniques
    }
    if not claimed:
        return None
    best = max(of_task, key=lambda cell: means[cell.id])
    text, undecided = f"{best.label}: {means[best.id]:.1f} %", False
    if best.id not in claimed:
        second = max(claimed, key=means.get)
        gap = repeats.compare(found.rows, [(best.id, second)], "pgd", epsilon).iloc[0]
        above = with_interval(gap["difference"], gap["low"], gap["high"])
        text += f", above the best that does by {above}"
        undecided = gap["low"] <= 0
    cells = _cells(list(means), "pgd", epsilon)
    return Fact(best.id in claimed, text, cells=cells, undecided=undecided)


def _techniques(found: Gathered) -> dict[str, Claim]:
    base = found.named("layer_freezing")
    robust = found.named("layer_freezing", "pretraining")
    augmented = found.named("layer_freezing", "augmentation")
    high = column("pgd", HIGH)
    at_high = HIGH in found.shown
    both = [task for task in robust if task in augmented and at_high]
    cost = [task for task in found.on("CIFAR-10") if task in robust and task in base and at_high]
    pretrained = [
        (cell.id, plain)
        for cell, plain in _with_and_without(found, "pretraining")
        if cell.techniques == {"pretraining"}
    ]
    frozen = [
        (cell.id, plain)
        for cell, plain in _with_and_without(found, "batch_norm")
        if "augmentation" not in cell.techniques
    ]
    return {
        "M04": Claim(
            Check("gain under PGD in the printed tables reaches 25 %", pretraining),
            *(Difference(*pair, high) for pair in pretrained if at_high),
            lacking=ONE_SOURCE,
        ),
        "M05": _claim(
            *(Difference(robust[task], augmented[task], high) for task in both), lacking=ONE_SOURCE
        ),
        "M06": _claim(
            *(Difference(augmented[t], base[t], high, 4.0) for t in augmented if at_high)
        ),
        "M07": _claim(
            *(Difference(*pair, high, 0.0) for pair in frozen if at_high),
            lacking="input-gradient norms were not measured",
        ),
        "M08": _claim(*_spread(found)),
        "M12": _claim(
            *(Difference(base[task], robust[task], NATURAL, 1.2, cost=True) for task in cost),
            *(Difference(robust[task], base[task], high, 6.7) for task in cost),
            lacking=ONE_SOURCE,
        ),
    }


def _with_and_without(found: Gathered, technique: str) -> list[tuple[Cell, str]]:
    """Every cell with a technique, and the id of the one that lacks nothing but it."""
    return [
        (cell, plain)
        for cell in found.cells
        if technique in cell.techniques
        and (plain := found.named(cell.strategy, *cell.techniques - {technique}).get(cell.task))
    ]


def _spread(found: Gathered) -> list[Check]:
    """M08: whether frozen batch norm narrows the spread over seeds."""
    pairs = [(plain, cell.id) for cell, plain in _with_and_without(found, "batch_norm")]
    if not pairs or HIGH not in found.shown:
        return []

    def residuals(ids: list[str]) -> np.ndarray:
        values = [repeats.accuracies(found.rows, i, "pgd", HIGH).to_numpy() for i in ids]
        return np.concatenate([seeds - seeds.mean() for seeds in values])

    def compute(_: Evidence) -> Fact:
        adapting, frozen = (residuals([pair[k] for pair in pairs]) for k in (0, 1))
        with np.errstate(invalid="ignore"):  # no spread at all: p is NaN, and nothing is shown
            p = float(stats.levene(adapting, frozen, center="median").pvalue)
        freedom = len(pairs) * (found.study.repeats - 1)
        sds = [float(np.sqrt((part**2).sum() / freedom)) for part in (adapting, frozen)]
        text = f"standard deviation {sds[0]:.2f} adapting, {sds[1]:.2f} frozen (p = {p:.2f})"
        undecided = False
        if min(sds) > 0:
            ratio, reach = (sds[1] / sds[0]) ** 2, stats.f.ppf(1 - ALPHA / 2, freedom, freedom)
            text += f"; ratio of variances {ratio:.2f} [{ratio / reach:.2f}, {ratio * reach:.2f}]"
            undecided = ratio / reach < 1
        cells = _cells([name for pair in pairs for name in pair], "pgd", HIGH)
        return Fact(sds[1] < sds[0] and p < ALPHA, text, cells=cells, undecided=undecided)

    return [Check("frozen batch norm has the smaller spread over seeds under PGD", compute)]


def _data(found: Gathered) -> dict[str, Claim]:
    plain = found.named("full_finetuning")
    return {
        "M09": _claim(*_transformers(plain, found.shown), lacking=ONE_SOURCE),
        "M10": _claim(
            *_medical(found, plain),
            lacking="the data sets differ in network, classes and image size too; how sure their "
            "order is, was not tested",
        ),
        "M19": Claim(lacking="needs a backbone pre-trained without the target's classes"),
        "M20": _claim(
            *_multilabel(found, plain), lacking="the paper does not say what its accuracy counts"
        ),
    }


def _transformers(plain: dict[str, str], shown: list[float]) -> list[Difference]:
    """M09: a ViT above every CNN fine-tuned on the same data."""
    rules = []
    for task, vit in plain.items():
        dataset, _, network = task.partition("/")
        if "vit" not in network:
            continue
        rules += [
            Difference(vit, cnn, column("pgd", epsilon), 0.0)
            for other, cnn in plain.items()
            if other.split("/")[0] == dataset and "vit" not in other
            for epsilon in shown
        ]
    return rules


def _medical(found: Gathered, plain: dict[str, str]) -> list[Check]:
    """M10: chest X-rays against the other data sets, by three measures."""
    chest = [task for task in found.on("ChestX-ray") if task in plain]
    others = [task for task in plain if task not in found.on("ChestX-ray")]
    if not chest or not others:
        return []
    measures = {
        "lowest PGD accuracy": lambda natural, attacked: attacked,
        "largest robustness drop": lambda natural, attacked: attacked - natural,
        "lowest share of accuracy kept": lambda natural, attacked: attacked / natural,
    }
    checks = []
    for epsilon in found.shown:
        for words, measure in measures.items():

            def compute(evidence: Evidence, epsilon=epsilon, measure=measure) -> Fact:
                at = column("pgd", epsilon)
                cells = {t: (Accuracy(plain[t], NATURAL), Accuracy(plain[t], at)) for t in plain}
                values = {
                    task: measure(*map(evidence.means(*pair), pair)) for task, pair in cells.items()
                }
                theirs = {t: measure(*map(evidence.printed, pair)) for t, pair in cells.items()}
                worst = min(values, key=values.get)
                theirs = {
                    printed.COUNTERPARTS[task.split("/")[0]]: value
                    for task, value in theirs.items()
                    if not np.isnan(value)
                }
                ours, paper = (
                    ", ".join(f"{name} {v:.2f}".replace(" -", " −") for name, v in found.items())
                    for found in (values, theirs)
                )
                return Fact(worst in chest, ours, paper, sum(cells.values(), start=()))

            text = f"ε = {epsilon_words(epsilon)}: chest X-rays have the {words}"
            checks.append(Check(text, compute))
    return checks


def _multilabel(found: Gathered, plain: dict[str, str]) -> list[Check]:
    """M20: accuracy on chest X-rays beside what it hides."""
    checks = []
    for task in found.on("ChestX-ray"):
        if task not in plain:
            continue

        def compute(_: Evidence, name=plain[task]) -> Fact:
            repeated = found.measured[name]
            means = {
                "accuracy": np.mean([100 * b.accuracy() for b in repeated]),
                "majority class": forensics.majority(repeated[0]),
                "balanced accuracy": np.mean([100 * b.balanced_accuracy() for b in repeated]),
                "AUROC": np.mean([100 * b.auroc() for b in repeated]),
            }
            text = ", ".join(f"{words} {value:.1f}" for words, value in means.items())
            return Fact(None, text, cells=(Accuracy(name, NATURAL),))

        checks.append(Check(f"{task}: accuracy beside other measures", compute))
    return checks


def _attacks(found: Gathered) -> dict[str, Claim]:
    return {
        "M03": _claim(*_per_task(found, "PGD accuracy at least 50 %", _keeps_half)),
        "M14": _claim(*_per_task(found, "FGSM − PGD between 10 and 16 points", _attack_gap)),
        "M16": _claim(*_similar_classes(found)),
        "M17": Claim(lacking="the paper prints no DeepFool number; ours are on the study's page"),
        "M18": _claim(*_budget(found), lacking="the paper gives no ε with its tables"),
    }


def _keeps_half(found: Gathered, task: str, epsilon: float) -> Fact | None:
    name = found.named("full_finetuning").get(task)
    if name is None:
        return None
    natural = repeats.accuracies(found.rows, name, NATURAL, 0.0).mean()
    mean = repeats.accuracies(found.rows, name, "pgd", epsilon).mean()
    text = f"{mean:.1f} % of {natural:.1f} % without attack"
    holds = bool(mean >= 50) if natural >= 50 else None  # else there is no half to keep
    return Fact(holds, text, cells=_cells([name], "pgd", epsilon))


def _attack_gap(found: Gathered, task: str, epsilon: float) -> Fact | None:
    name = found.named("full_finetuning").get(task)
    if name is None:
        return None
    fgsm, pgd = (
        repeats.accuracies(found.rows, name, attack, epsilon).mean() for attack in ("fgsm", "pgd")
    )
    cells = _cells([name], "fgsm", epsilon) + _cells([name], "pgd", epsilon)
    return Fact(bool(10 <= fgsm - pgd <= 16), f"{signed(fgsm - pgd)} points", cells=cells)


def _similar_classes(found: Gathered) -> list[Check]:
    """M16: errors under attack fall on the pairs confused without it, cat and dog among them."""
    checks = []
    for task in found.on("CIFAR-10"):
        for strategy, techniques in (("full_finetuning", ()), ("layer_freezing", ("pretraining",))):
            name = found.named(strategy, *techniques).get(task)
            if name is None or HIGH not in found.shown:
                continue
            clean = confusion.confusion(found.measured[name], NATURAL, 0.0)
            attacked = confusion.confusion(found.measured[name], "pgd", HIGH)
            cells = _cells([name], "pgd", HIGH)
            correlation, p = confusion.same_pairs(clean, attacked)
            text = f"correlation {correlation:.2f} (p: {repeats.p_words(p)})"
            similar = Fact(p < ALPHA, text, cells=cells, undecided=correlation > 0)
            pair, even = confusion.between(attacked, "cat", "dog"), confusion.evenly(attacked)
            wrong = confusion.total(attacked)
            high = wilson(pair * wrong, wrong)[1] if wrong else 1.0
            text = f"{100 * pair:.1f} % of {wrong} errors, {100 * even:.1f} % if spread evenly"
            cats = Fact(pair > even, text, cells=cells, undecided=high > even)
            label = f"{found.evidence.label(name)}, ε = {epsilon_words(HIGH)}"
            for words, fact in (
                (f"{label}: new errors on the pairs of classes confused without attack", similar),
                (f"{label}: cat and dog more often than other pairs", cats),
            ):
                checks.append(Check(words, lambda _, fact=fact: fact))
    return checks


def _budget(found: Gathered) -> list[Check]:
    """M18: which epsilon would give the share of accuracy that the paper's tables print."""
    table = forensics.needed_epsilons(found.rows, found.cells)
    if table.empty:
        return []
    text = "; ".join(f"{name}: {row.iloc[-1]}" for name, row in table.iterrows())
    fact = Fact(None, f"ε · 255 for PGD: {text}")
    return [Check("which ε keeps the share of accuracy that the paper prints", lambda _: fact)]
