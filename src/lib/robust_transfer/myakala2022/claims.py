"""The claims of paper B: settled by its printed tables, or tested on the cells of a study."""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, pairwise, permutations, product

import numpy as np
import pandas as pd
from scipy import stats

from robust_transfer.claims.outcome import ALPHA
from robust_transfer.claims.quantities import Accuracy, Percentages
from robust_transfer.claims.rules import Check, Claim, Difference, Fact, Order, Rule
from robust_transfer.evaluation.budgets import NATURAL
from robust_transfer.evaluation.intervals import signed, with_interval
from robust_transfer.myakala2022 import confusion, forensics, printed, repeats, tables
from robust_transfer.myakala2022.experiment import FINE_TUNINGS, ROBUST, by_task
from robust_transfer.myakala2022.measured import (
    HIGH,
    LEAST,
    TESTED,
    MeasuredCell,
    MeasuredStudy,
    column,
    matched,
    most_left,
)
from robust_transfer.presentation.tables import epsilon_words

Key = tuple[str, str]
"""Strategy and techniques, joined by ``+``, as in ``printed.tables``."""

READ = Check("settled by reading", Fact(False, "not so, as the evidence says"))
TOO_LITTLE = "no task of this study tests it with enough left under attack to be compared"
NO_NORMS = "input-gradient norms were not measured"
PGD_ALONE = "judged under PGD alone, not by what stronger attacks leave"
ONE_SOURCE = "one source of each kind: what others would give is in no interval"


def largest_gain(first: Key, others: Sequence[Key], claimed: float) -> Fact:
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
    gaps = table["layer_freezing", ""] - table["full_finetuning", ""]
    spread = gaps * np.sqrt(runs) / stats.t.ppf(1 - ALPHA / 2, runs - 1)
    largest = spread.sort_values(ascending=False).items()
    text = ", ".join(f"{name} {value:.2f}" for name, value in largest)
    return Fact(None, f"standard deviation at most {text} points")


def groups(measured: MeasuredStudy) -> dict[str, dict[str, Claim]]:
    """All claims of paper B by group; those that a study's tasks do not reach say so."""
    return {
        "Strategies": _strategies(measured),
        "Techniques": _techniques(measured),
        "Networks and data": _data(measured),
        "Attacks and errors": _attacks(measured),
        "Text": {f"M{i:02}": Claim(READ) for i in (21, 22, 23)},
    }


def _claim(
    rules: list[Rule], lacking: str = "", without: str = "no task of this study tests it"
) -> Claim:
    """A claim with the rules that there are, or else with why there are none."""
    return Claim(*rules, lacking=lacking if rules else without)


def _each(subjects: dict, epsilons: Iterable[float], facts: dict[str, Callable]) -> list[Check]:
    """What each fact, by name, says of each named subject at each budget; None says nothing."""
    return [
        Check(f"{name}, ε = {epsilon_words(epsilon)}: {words}", found)
        for (name, of), epsilon, (words, fact) in product(subjects.items(), epsilons, facts.items())
        if (found := fact(of, epsilon))
    ]


def _under_pgd(cells: Iterable[MeasuredCell], epsilon: float) -> tuple[Accuracy, ...]:
    return tuple(Accuracy(cell.id, column("pgd", epsilon)) for cell in cells)


def _strategies(measured: MeasuredStudy) -> dict[str, Claim]:
    pairs = tables.strategy_pairs(measured.cells)
    reached = largest_gain(("layer_freezing", ""), [("full_finetuning", "")], 5.2)
    tests = [
        Check(f"p < 0.05 in every task, ε = {epsilon_words(e)}", _significant(pairs, e))
        for e in measured.tested
        if pairs
    ]
    freezes = {"best cell freezes layers, with a technique": _best}
    usual = ("layer_freezing", "full_finetuning", "feature_extraction")
    words = "source: freezing > full > extraction at every ε"
    natural = _orders(measured, [(s,) for s in usual], ("fgsm", "pgd"), f", natural {words}")
    sources = [(s, "pretraining") for s in usual]
    robust = _orders(measured, sources, ("fgsm", "pgd"), f", robust {words}")
    clean = ": full > freezing > extraction, natural"
    chance = "which of many cells is best is chance where they differ little"
    return {
        "M01": _claim(sorted(natural + robust, key=lambda order: order.words)),
        "M02": Claim(Check("gain under PGD in the printed table reaches 5.2 %", reached)),
        "M11": Claim(Check("what p < 0.05 in three runs implies", power()), *tests),
        "M13": _claim(_orders(measured, [(s,) for s in FINE_TUNINGS], ["natural"], clean)),
        "M15": _claim(_each(by_task(measured.cells), measured.tested, freezes), lacking=chance),
    }


def _orders(
    measured: MeasuredStudy, treatments: list[tuple[str, ...]], attacks: Sequence[str], words: str
) -> list[Order]:
    """M01, M13: treatments in order of accuracy, under attacks, for every task that has all."""
    orders = []
    for cells in matched(measured.cells, *treatments):
        conditions = [at for at in (NATURAL, *cells[0].budgets.attacks) if at[0] in attacks]
        columns = [column(*at) for at in conditions]
        pairs = tuple(
            (Accuracy(first.id, at), Accuracy(second.id, at))
            for at, (first, second) in product(columns, pairwise(cells))
        )
        orders.append(Order(pairs, f"{cells[0].task}{words}"))
    return sorted(orders, key=lambda order: order.words)


def _significant(pairs: list[repeats.CellPair], epsilon: float) -> Fact:
    """M11: whether layer freezing is above full fine-tuning in every task, by paired t-tests."""
    tests = repeats.compare([(pair, epsilon) for pair in pairs], "pgd")
    positive = (tests["adjusted"] < ALPHA) & (tests["difference"] > 0)
    text = ", ".join(
        f"{first.task} {with_interval(row.difference, row.low, row.high)} "
        f"(p: {repeats.p_words(row.adjusted)})"
        for (first, _), row in zip(pairs, tests.itertuples(), strict=True)
    )
    basis = _under_pgd(chain(*zip(*pairs, strict=True)), epsilon)
    return Fact(bool(positive.all()), text, "p < 0.05", basis)


def _best(cells: list[MeasuredCell], epsilon: float) -> Fact | None:
    """M15: whether the best cell freezes layers, with a technique; None of few cells."""
    claimed = [c for c in cells if c.strategy == "layer_freezing" and c.techniques & {*ROBUST}]
    others = [cell for cell in cells if cell not in claimed]
    few = len(cells) < 3 * len(FINE_TUNINGS) or not _enough(cells, epsilon)
    if few or not claimed:
        return None
    means = {cell: cell.by_seed("pgd", epsilon).mean() for cell in cells}
    first, second = (max(group, key=means.get) for group in (claimed, others))
    gap = repeats.compare([((first, second), epsilon)], "pgd").iloc[0]
    ends = with_interval(*gap[["difference", "low", "high"]])
    apart = gap["low"] > 0 or gap["high"] < 0
    text = f"{first.label} {means[first]:.1f} %, {second.label} {means[second]:.1f} %: {ends}"
    return Fact(bool(gap["low"] > 0) if apart else None, text, basis=_under_pgd(cells, epsilon))


def _techniques(measured: MeasuredStudy) -> dict[str, Claim]:
    at, freezing = measured.tested, "layer_freezing"
    base, robust, augmented = (freezing,), (freezing, "pretraining"), (freezing, "augmentation")
    alone = [pair for pair in _pairs(measured, "pretraining") if len(pair[0].techniques) == 1]
    frozen = _pairs(measured, "batch_norm")
    without = [pair for pair in frozen if "augmentation" not in pair[0].techniques]
    helped = matched(measured.cells, augmented, base)
    better = matched(measured.cells, robust, augmented)
    cost = matched(measured.on("CIFAR-10").cells, robust, base)
    small = [Difference(b.id, a.id, "natural", 1.2, cost=True) for a, b in cost]
    gain = largest_gain((freezing, "pretraining"), [(s, "") for s in FINE_TUNINGS], 25)
    reached = Check("gain under PGD in the printed tables reaches 25 %", gain)
    return {
        "M04": Claim(reached, *_above(alone, at), lacking=ONE_SOURCE),
        "M05": _claim(_above(better, at), ONE_SOURCE, TOO_LITTLE),
        "M06": _claim(_above(helped, at, 4.0), PGD_ALONE, TOO_LITTLE),
        "M07": _claim(_above(without, at, 0.0), NO_NORMS, TOO_LITTLE),
        "M08": _claim(
            _spread([p for p in frozen if HIGH in at and _enough(p, HIGH)]), "", TOO_LITTLE
        ),
        "M12": _claim(small + _above(cost, at, 6.7), ONE_SOURCE),
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


def _above(
    pairs: list[repeats.CellPair], at: Iterable[float], expected: float | None = None
) -> list[Difference]:
    """Differences under PGD at some budgets, wherever enough is left to be compared."""
    return [
        Difference(a.id, b.id, column("pgd", epsilon), expected)
        for (a, b), epsilon in product(pairs, at)
        if _enough((a, b), epsilon)
    ]


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
    others = "the data sets differ in network, classes and image size too"
    unsure = f"{others}; how sure their order is, was not tested"
    unsaid = "the paper does not say what its accuracy counts"
    transformers = [  # a ViT above every CNN fine-tuned on the same data
        Difference(vit.id, cnn.id, column("pgd", e), 0.0)
        for (vit, cnn), e in product(permutations(measured.plain.values(), 2), measured.tested)
        if "vit" in vit.network and "vit" not in cnn.network and vit.dataset == cnn.dataset
        if _enough((vit, cnn), e)
    ]
    return {
        "M09": _claim(transformers, lacking=ONE_SOURCE, without=TOO_LITTLE),
        "M10": _claim(_medical(measured), lacking=unsure),
        "M19": Claim(lacking="needs a backbone pre-trained without the target's classes"),
        "M20": _claim(_multilabel(measured), lacking=unsaid),
    }


def _medical(measured: MeasuredStudy) -> list[Check]:
    """M10: chest X-rays against the other data sets, by three measures."""
    plain, chest = measured.plain, measured.on("ChestX-ray").plain
    if not chest or chest == plain:
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
            lowest = ours[measure].idxmin() in chest if _enough(plain.values(), epsilon) else None
            fact = Fact(lowest, *texts, basis)
            words = f"ε = {epsilon_words(epsilon)}: chest X-rays have the {measure}"
            checks.append(Check(words, fact))
    return checks


def _enough(cells: Iterable[MeasuredCell], epsilon: float) -> bool:
    """Whether enough is left of one of the cells, and nothing says that attacks failed on any."""
    known = [*cells]
    return most_left(known, "pgd", epsilon) >= LEAST and not any(cell.doubts for cell in known)


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
    for task, cell in measured.on("ChestX-ray").plain.items():
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


def _attacks(measured: MeasuredStudy) -> dict[str, Claim]:
    half = {"PGD accuracy at least 50 %": _keeps_half}
    gaps = {"FGSM − PGD between 10 and 16 points, in every task": _attack_gaps}
    similar = {
        "new errors on the pairs of classes confused without attack, in every cell": _same_pairs,
        "cat and dog more often than other pairs, in every cell": _cats_and_dogs,
    }
    stated = [epsilon for epsilon in measured.tested if epsilon > min(TESTED)]
    plain = [*measured.plain.values()]
    return {
        "M03": _claim(_each(measured.plain, stated, half)),
        "M14": _claim(_each({"full fine-tuning": plain} if plain else {}, stated, gaps)),
        "M16": _claim(_each(by_task(measured.on("CIFAR-10").cells), measured.tested, similar)),
        "M17": Claim(lacking="the paper prints no DeepFool number; ours are on the study's page"),
        "M18": _claim(_budget(measured), lacking="the paper gives no ε with its tables"),
    }


def _keeps_half(cell: MeasuredCell, epsilon: float) -> Fact:
    natural, mean = cell.by_seed().mean(), cell.by_seed("pgd", epsilon).mean()
    text = f"{mean:.1f} % of {natural:.1f} % without attack"
    holds = bool(mean >= 50) if natural >= 50 else None  # else there is no half to keep
    return Fact(holds, text, basis=_under_pgd([cell], epsilon))


def _attack_gaps(cells: list[MeasuredCell], epsilon: float) -> Fact:
    """M14: the gap between attacks in every task whose network knows enough to have one."""
    able = [cell for cell in cells if cell.by_seed().mean() >= 50]
    gaps = {c.task: (c.by_seed("fgsm", epsilon) - c.by_seed("pgd", epsilon)).mean() for c in able}
    text = ", ".join(f"{task} {signed(gap)}" for task, gap in gaps.items()) + " points"
    columns = [column(attack, epsilon) for attack in ("fgsm", "pgd")]
    basis = tuple(Accuracy(cell.id, at) for cell, at in product(able, columns))
    inside = all(10 <= gap <= 16 for gap in gaps.values())
    return Fact(inside, text, basis=basis) if able else Fact(None, "none knows enough")


def _same_pairs(cells: list[MeasuredCell], epsilon: float) -> Fact:
    """M16: errors under attack fall on the pairs of classes that are confused without it."""
    found = {}
    for cell in cells:
        attacked = confusion.confusion(cell, "pgd", epsilon)
        found[cell] = confusion.same_pairs(confusion.confusion(cell), attacked)
    text = "correlation {:.2f} (p: {})".format
    said = {cell: text(value, repeats.p_words(p)) for cell, (value, p) in found.items()}
    return _in_every({cell: p < ALPHA for cell, (_, p) in found.items()}, said, epsilon)


def _cats_and_dogs(cells: list[MeasuredCell], epsilon: float) -> Fact:
    """M16: the paper's own example of similar classes."""
    above, said = {}, {}
    for cell in cells:
        attacked = confusion.confusion(cell, "pgd", epsilon)
        pair, even = confusion.between(attacked, "cat", "dog"), confusion.evenly(attacked)
        said[cell] = f"{100 * pair:.1f} % of errors, {100 * even:.1f} % if spread evenly"
        above[cell] = pair > even
    return _in_every(above, said, epsilon)


def _in_every(holds: dict[MeasuredCell, bool], said: dict[MeasuredCell, str], at: float) -> Fact:
    """Whether something holds in every cell; in words those in which it does not."""
    text = f"{sum(holds.values())} of {len(holds)}"
    if broken := [f"{cell.label} ({said[cell]})" for cell, held in holds.items() if not held]:
        text += f"; not after {', '.join(broken)}"
    return Fact(all(holds.values()), text, basis=_under_pgd(holds, at))


def _budget(measured: MeasuredStudy) -> list[Check]:
    """M18: which epsilon would give the share of accuracy that the paper's tables print."""
    table = forensics.needed_epsilons(measured.cells)
    if table.empty:
        return []
    text = "; ".join(f"{name}: {row.iloc[-1]}" for name, row in table.iterrows())
    fact = Fact(None, f"ε · 255 for PGD: {text}")
    return [Check("which ε keeps the share of accuracy that the paper prints", fact)]
