"""Paper B's tables beside ours, and the tables that the paper does not have."""

from collections.abc import Collection, Sequence
from itertools import groupby, product

import numpy as np
import pandas as pd
from scipy import stats

from robust_transfer.claims.outcome import ALPHA
from robust_transfer.data.registry import DATASETS
from robust_transfer.evaluation.budgets import NATURAL, Condition
from robust_transfer.evaluation.intervals import pooled, signed, with_interval
from robust_transfer.myakala2022 import printed, repeats
from robust_transfer.myakala2022.experiment import (
    FINE_TUNINGS,
    OVERALL,
    ROBUST,
    TECHNIQUES,
    Cell,
    Study,
    by_task,
    words,
)
from robust_transfer.myakala2022.measured import LEAST, MeasuredCell, matched, most_left
from robust_transfer.presentation.tables import epsilon_words, network_minutes
from robust_transfer.records.store import Store


def designs(study: Study, table: Sequence[Cell]) -> pd.DataFrame:
    """What is run: a row per task."""
    lines = {}
    for task, design in study.tasks.items():
        dataset = task.split("/")[0]
        target = study.targets[dataset]
        own = [cell for cell in table if cell.task == task]
        augmented = any("augmentation" in cell.techniques for cell in own)
        lines[task] = {
            "the paper's": printed.COUNTERPARTS.get(dataset, ""),
            "training images": f"{target.train_size:,}",
            "epochs": target.epochs,
            "test images": f"{(target.folds or 1) * target.test_size:,}"
            + (f", in {target.folds} folds" if target.folds else ""),
            "attacked": f"{(target.folds or 1) * (target.attacked_images or target.test_size):,}",
            "side in pixels": target.image_size or DATASETS[dataset].side,
            "design": f"{design}, {len(own)} cell{'s' * (len(own) > 1)}",
            "augmentation at ε": epsilon_words(study.training_epsilon) if augmented else "",
        }
    return pd.DataFrame.from_dict(lines, "index")


def data_line(study: Study, cells: Sequence[MeasuredCell]) -> str:
    """One sentence on scale, seeds, sources and hardware."""
    records = [record for cell in cells for repeat in cell.repeats for record in repeat.records]
    effort = network_minutes(records, 0)
    sources = {repeat.source for cell in cells for repeat in cell.configs}
    start = "published ImageNet weights" if None in sources else "networks trained here"
    trained = {f"{c.dataset}, {c.train_size:,} images" for c in sources if c}
    start += f" (source data {'; '.join(sorted(trained))})" if trained else ""
    tasks = f"{len(study.tasks)} {'tasks' if len(study.tasks) > 1 else 'task'}"
    return (
        f"Study {study.study}: {study.repeats} repeats of {len(cells)} cells on "
        f"{tasks}, from {start}, {effort}, without measuring."
    )


def table_1(cells: Sequence[MeasuredCell], shown: Sequence[float]) -> pd.DataFrame:
    """Table I: accuracy per task and strategy, ours at some epsilons below the paper's.

    Args:
        cells: of the study.
        shown: which of the measured epsilons.

    Returns:
        A row per task and condition, a column per strategy; without the paper's rows where it has
        no counterpart.
    """
    conditions = {"standard, paper": ("standard", None), "standard, ours": NATURAL}
    for attack in ("fgsm", "pgd"):
        conditions[f"{attack.upper()}, paper, ε unstated"] = (attack, None)
        conditions |= _attacked(f"{attack.upper()}, ours at", attack, shown)
    plain = {cell: words(cell.strategy) for cell in cells if not cell.techniques}
    return _side_by_side(plain, conditions)


def table_2(cells: Sequence[MeasuredCell], shown: Sequence[float]) -> pd.DataFrame:
    """Table II: PGD accuracy with layer freezing and one technique, ours below the paper's.

    Returns:
        A row per task and budget, a column per technique.
    """
    columns = {("layer_freezing", chosen): words(name) for name, chosen in printed.TABLE_2.items()}
    frozen = {cell: columns[cell.treatment] for cell in cells if cell.treatment in columns}
    conditions = {"paper, ε unstated": ("pgd", None)} | _attacked("ours at", "pgd", shown)
    return _side_by_side(frozen, conditions)


def _attacked(name: str, attack: str, shown: Sequence[float]) -> dict[str, Condition]:
    """An attack at every epsilon, by name."""
    return {f"{name} ε = {epsilon_words(epsilon)}": (attack, epsilon) for epsilon in shown}


def _side_by_side(columns: dict[MeasuredCell, str], conditions: dict[str, tuple]) -> pd.DataFrame:
    """Accuracies, a row per task and condition; without an epsilon it is the paper's number."""
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for cell, column in columns.items():
        paper = printed.of(cell)
        for name, (attack, epsilon) in conditions.items():
            ours = epsilon is not None
            if ours or not np.isnan(paper[attack]):
                text = cell.shown(attack, epsilon) if ours else f"{paper[attack]:.1f}"
                lines.setdefault((cell.task, name), {})[column] = text
    return pd.DataFrame.from_dict(lines, "index").fillna("")


def all_cells(cells: Sequence[MeasuredCell], task: str, shown: Sequence[float]) -> pd.DataFrame:
    """Every cell of a task: strategy and techniques, natural and PGD accuracy."""
    conditions = {"natural": NATURAL} | _attacked("PGD,", "pgd", shown)
    lines = [
        {"strategy": words(cell.strategy)}
        | {words(t): "yes" if t in cell.techniques else "" for t in TECHNIQUES}
        | {name: cell.shown(*at) for name, at in conditions.items()}
        for cell in cells
        if cell.task == task
    ]
    return pd.DataFrame(lines).set_index("strategy")


def effects(rows: pd.DataFrame, task: str, attack: str, epsilon: float) -> pd.DataFrame:
    """What each technique adds to accuracy, per strategy and over all strategies.

    A technique's effect is the mean over all matched pairs of cells that differ in it alone. Its
    95 % interval is Student's: how far the seeds of a pair lie apart is pooled over the pairs, as
    in a factorial experiment, for a few seeds of one pair tell it badly.

    Args:
        rows: of ``measured.measurements``.
        task: whose cells.
        attack: ``natural``, ``fgsm`` or ``pgd``.
        epsilon: its budget.

    Returns:
        In percentage points: ``technique``, ``strategy`` (in words, or ``OVERALL``), ``gain``,
        ``low``, ``high`` and the number of matched ``pairs``.
    """
    measured = (rows["attack"] == attack) & np.isclose(rows["epsilon"], epsilon)
    chosen = rows[measured & (rows["task"] == task)]
    lines = []
    for technique in TECHNIQUES:
        others = [other for other in TECHNIQUES if other != technique]
        wide = chosen.pivot_table("accuracy", ["strategy", *others, "seed"], technique)
        if not {False, True} <= set(wide.columns):
            continue
        gains = 100 * (wide[True] - wide[False]).dropna()
        levels = gains.index.get_level_values("strategy")
        for strategy in (*(s for s in FINE_TUNINGS if s in set(levels)), OVERALL):
            part = gains if strategy == OVERALL else gains[levels == strategy]
            pairs = [of.to_numpy() for _, of in part.groupby(["strategy", *others])]
            spread, gain = pooled(pairs), part.mean()
            half = stats.t.ppf(0.975, spread.freedom) * (spread.variance / len(part)) ** 0.5
            ends = (gain - half, gain + half, len(pairs))
            lines.append((words(technique), words(strategy), gain, *ends))
    return pd.DataFrame(lines, columns=["technique", "strategy", "gain", "low", "high", "pairs"])


def compared(
    pairs: Sequence[repeats.CellPair], attack: str, epsilons: Sequence[float]
) -> pd.DataFrame:
    """Paired t-tests of cells of one task at some budgets, for readers; see ``repeats.compare``.

    Beside them stands the difference without an attack. Where an attack leaves next to nothing of
    both cells, they are not compared.
    """
    comparisons = _comparisons(pairs, attack, epsilons)
    tests = repeats.compare(comparisons, attack)
    spread = tests["sd"] > 0
    gaps = tests[["difference", "low", "high"]].to_numpy()
    clean = [signed(a.by_seed().mean() - b.by_seed().mean()) for (a, b), _ in comparisons]
    shown = pd.DataFrame(
        {
            "without attack": clean,
            "difference [95\N{NO-BREAK SPACE}%]": [with_interval(*gap) for gap in gaps],
            "sd": tests["sd"].map("{:.2f}".format),
            "p": tests["p"].map(repeats.p_words).where(spread, "–"),
            "p (Holm)": tests["adjusted"].map(repeats.p_words).where(spread, "–"),
            "detectable": tests["detectable"].map("{:.1f}".format).where(spread, "–"),
        }
    )
    names = [f"{a.task}: {a.marked} − {b.marked}" for (a, b), _ in comparisons]
    return shown.set_axis([names, [f"ε = {epsilon_words(epsilon)}" for _, epsilon in comparisons]])


def _comparisons(
    pairs: Sequence[repeats.CellPair], attack: str, epsilons: Sequence[float]
) -> list[repeats.Comparison]:
    """Each pair at each budget at which one of its cells keeps enough."""
    every = product(pairs, epsilons)
    return [(pair, e) for pair, e in every if most_left(pair, attack, e) >= LEAST]


def settled(pairs: Sequence[repeats.CellPair], attack: str, epsilons: Sequence[float]) -> str:
    """Which comparisons of strategies survive Holm's correction over all of them, in words."""
    if not (comparisons := _comparisons(pairs, attack, epsilons)):
        return "Nothing is left to be compared."
    tests = repeats.compare(comparisons, attack)
    sure: dict[str, list[str]] = {}
    for ((a, b), epsilon), row in zip(comparisons, tests.itertuples(), strict=True):
        if row.adjusted < ALPHA and row.sd > 0:
            text = f"{with_interval(row.difference, row.low, row.high)} at {epsilon_words(epsilon)}"
            sure.setdefault(f"{a.task}: {a.label} − {b.label}", []).append(text)
    count = sum(map(len, sure.values()))
    found = f"{count} of {len(comparisons)} differences between strategies survive the correction"
    told = "; ".join(f"{pair} {', '.join(of)}" for pair, of in sure.items())
    return found + (f", in points at each ε: {told}." if sure else ".")


def harder(cells: Sequence[MeasuredCell], store: Store) -> pd.DataFrame:
    """What PGD leaves and what the strongest attacks leave, on the same images of the first seed.

    Args:
        cells: of the study.
        store: where measurements of their ``strong_wishes`` are, or are not.

    Returns:
        A row per cell and budget with such measurements: ``cell``, ``epsilon``, the number of
        ``images``, and in percent of them ``pgd`` and ``strongest``.
    """
    rows = []
    for cell in cells:
        for how, networks in groupby(cell.strong_wishes, lambda wish: wish[1].attacks):
            left = [strong.find(store, config) for config, strong in networks]
            if None in left:
                continue
            hits = np.concatenate([found.outcomes[how.attacks[-1].name] for found in left])
            epsilon, budgets = how.attacks[0].threat_model.epsilon, cell.repeats[0].budgets
            right = (budgets.predicted("pgd", epsilon) == budgets.labels)[: len(hits)]
            rows.append((cell, epsilon, len(hits), 100 * right.mean(), 100 * hits.mean()))
    return pd.DataFrame(rows, columns=["cell", "epsilon", "images", "pgd", "strongest"])


def withstood(found: pd.DataFrame) -> pd.DataFrame:
    """What ``harder`` found, for readers: a row per cell, two columns per budget."""
    lines = {}
    for row in found.itertuples():
        line = lines.setdefault(f"{row.cell.task}, {row.cell.marked}", {"images": row.images})
        line[f"PGD, {epsilon_words(row.epsilon)}"] = f"{row.pgd:.1f}"
        line[f"strongest, {epsilon_words(row.epsilon)}"] = f"{row.strongest:.1f}"
    return pd.DataFrame.from_dict(lines, "index")


def ranking_withstood(found: pd.DataFrame) -> str:
    """What ``harder`` found of the strategies that ``ranking`` compares, in words, the most first.

    Of budgets at which PGD leaves enough of one of them; empty where fewer than two were attacked.
    """
    said = []
    tasks = found["cell"].map(lambda cell: cell.task)
    for (_, epsilon), rows in found.groupby([tasks, "epsilon"]):
        lines = rows.set_index("cell").sort_values("strongest", ascending=False)
        for way, cells in _ways(lines.index).items():
            if len(cells) < 2 or lines.loc[cells, "pgd"].max() < LEAST:
                continue
            left = ", ".join(
                f"{row.strongest:.1f} % after {words(row.Index.strategy)} (PGD {row.pgd:.1f} %)"
                for row in lines.loc[cells].itertuples()
            )
            text = f"{_place(cells[0])}, of {rows['images'].iloc[0]} images of the first seed, at "
            text += f"ε = {epsilon_words(epsilon)}" + (f" and with {way}" if way else "")
            said.append(f"{text}, the strongest attacks leave {left}.")
    return " ".join(said)


def differ_most(cells: Sequence[MeasuredCell], attack: str) -> dict[str, float]:
    """Task → the measured epsilon at which strategies without techniques lie furthest apart."""
    found = {}
    for task, group in by_task((cell for cell in cells if not cell.techniques), least=2).items():
        curves = pd.DataFrame({c.id: c.by_budget(attack).mean(axis=1) for c in group}).drop(0.0)
        found[task] = float((curves.max(axis=1) - curves.min(axis=1)).idxmax())
    return found


def ranking(cells: Sequence[MeasuredCell], attack: str) -> str:
    """What an attack leaves of every strategy, in words, the most first.

    Said once for strategies without techniques, which treat batch norm in two ways where features
    are kept, and once with frozen batch norm in all of them.
    """
    said = []
    for task, epsilon in differ_most(cells, attack).items():
        ways = _ways([cell for cell in cells if cell.task == task])
        plain = ways.pop("")
        curves = pd.DataFrame({c.label: c.by_budget(attack).mean(axis=1) for c in plain})
        text = f"{_place(plain[0])}, {attack.upper()} tells strategies apart best at "
        text += f"ε = {epsilon_words(epsilon)}, where it leaves {_left(plain, attack, epsilon)}"
        gone = [size for size in curves.index if (curves.loc[size:] < LEAST).all(axis=None)]
        if gone:
            text += f"; from ε = {epsilon_words(gone[0])} on, less than {LEAST:g} % after any"
        for way, frozen in ways.items():
            text += f". With {way} it leaves {_left(frozen, attack, epsilon)}"
        said.append(f"{text}.")
    return " ".join(said)


def _place(cell: MeasuredCell) -> str:
    """Data and network of a cell, as sentences begin."""
    return f"On {printed.COUNTERPARTS.get(cell.dataset, cell.dataset)} ({cell.network})"


def _ways(cells: Collection[MeasuredCell]) -> dict[str, list[MeasuredCell]]:
    """Cells that differ in their strategy alone, without techniques and with frozen batch norm.

    The second only if all strategies have it; features that are kept have it anyway.
    """
    plain = [cell for cell in cells if not cell.techniques]
    fixed = [cell for cell in cells if cell.configs[0].frozen_batch_norm == "freeze_all"]
    frozen = [cell for cell in fixed if cell.techniques <= {"batch_norm"}]
    same = len(frozen) == len(plain)
    return {"": plain} | ({"batch norm frozen in every strategy": frozen} if same else {})


def _left(cells: Sequence[MeasuredCell], attack: str, epsilon: float) -> str:
    """What an attack leaves after every strategy, the most first."""
    left = {words(cell.strategy): cell.by_seed(attack, epsilon).mean() for cell in cells}
    order = sorted(left, key=left.get, reverse=True)
    return ", ".join(f"{left[name]:.1f} % after {name}" for name in order)


def together(cells: Sequence[MeasuredCell], attack: str, epsilon: float) -> pd.DataFrame:
    """What robust source and attacked images leave alone and together, batch norm adapting.

    Returns:
        A row per task and strategy that has all four cells; accuracies in percent.
    """
    combinations = [(), ("pretraining",), ("augmentation",), ROBUST]
    lines = {}
    for strategy in FINE_TUNINGS:
        for found in matched(cells, *((strategy, *names) for names in combinations)):
            columns = ("neither", "pretraining", "augmentation", "both")
            shown = (cell.shown(attack, epsilon) for cell in found)
            lines[f"{found[0].task}, {words(strategy)}"] = dict(zip(columns, shown, strict=True))
    return pd.DataFrame.from_dict(lines, "index")


def technique_pairs(cells: Sequence[MeasuredCell]) -> list[repeats.CellPair]:
    """Every cell with a single technique and the same cell without it."""
    plain = {(cell.task, cell.strategy): cell for cell in cells if not cell.techniques}
    single = [cell for cell in cells if len(cell.techniques) == 1]
    pairs = [(cell, plain.get((cell.task, cell.strategy))) for cell in single]
    return [pair for pair in pairs if pair[1]]


def strategy_pairs(cells: Sequence[MeasuredCell]) -> list[repeats.CellPair]:
    """Layer freezing and full fine-tuning without techniques, for every task that has both."""
    return matched(cells, ("layer_freezing",), ("full_finetuning",))


def medical(cells: Sequence[MeasuredCell], shown: Sequence[float]) -> pd.DataFrame:
    """What accuracy hides, for tasks with two classes or many labels: which errors are made.

    Returns:
        A row per cell and condition, a column per measure.
    """
    conditions = {"natural": NATURAL} | _attacked("PGD,", "pgd", shown)
    measures = {"accuracy": "accuracy", "balanced accuracy": "balanced_accuracy", "AUROC": "auroc"}
    measures |= {"sick found": "sensitivity", "healthy found": "specificity"}
    lines = {
        (f"{cell.task}, {cell.label}", condition): {
            name: cell.shown(*at, measure) for name, measure in measures.items()
        }
        for cell in cells
        if cell.scored
        for condition, at in conditions.items()
    }
    return pd.DataFrame.from_dict(lines, "index")
