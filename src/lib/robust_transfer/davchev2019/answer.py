"""The book's question, answered in words: from the records, whatever they say."""

import pandas as pd

from robust_transfer.claims.quantities import Accuracy
from robust_transfer.claims.reproduction import Reproduction
from robust_transfer.davchev2019 import catalogue, comparison, experiment, runs, tables
from robust_transfer.davchev2019.experiment import COMPARED, Profile
from robust_transfer.davchev2019.runs import Run
from robust_transfer.evaluation.accuracies import NAMES, STRONG
from robust_transfer.networks.transfer import STRATEGIES
from robust_transfer.presentation.tables import percent
from robust_transfer.runner import count_batches
from robust_transfer.training.loop import TrainingConfig

DEGREES = {0.05: "almost nothing", 0.4: "a little", 0.7: "a good part", 0.95: "most"}
"""A share of robustness kept, up to so much → how it is called; from there on it is all."""
RETRAINED = {"head": "a new head alone", "stage3": "the last stage too", "all": "every layer"}
"""What a strategy trains on the target, for readers."""


def kept(ours: pd.DataFrame) -> dict[str, float]:
    """Per strategy, the share that a robust source keeps once it is retrained naturally.

    Of what training against PGD on the target itself gives: 1 is as robust as that; where that
    gives nothing, nothing is kept of it.
    """
    whole = ours.loc["pgd", "wb_pgd"]
    left = {s: ours.loc[f"pgd-nat-{s}", "wb_pgd"] for s in STRATEGIES}
    return {strategy: float(share / whole) if whole else 0.0 for strategy, share in left.items()}


def degree(share: float) -> str:
    """How a share of robustness kept is called."""
    return next((name for most, name in DEGREES.items() if share < most), "all")


def short(ours: pd.DataFrame) -> tuple[str, str]:
    """The answer for the front page: in one sentence, and the numbers that it is made from.

    Args:
        ours: accuracies as made by ``tables.results``, of one seed.
    """
    shares = kept(ours)
    found = ", ".join(f"{100 * shares[s]:.0f} % with {RETRAINED[s]}" for s in STRATEGIES)
    first, last = degree(shares["head"]), degree(shares["all"])
    more = f", and {last} once all of it has moved" if first != last else ""
    robust, natural, scratch = (
        f"{percent(ours.loc[name, 'wb_pgd'])} %" for name in ("pgd-pgd-all", "nat-pgd-all", "pgd")
    )
    return (
        f"If the new task is learnt without attacks, {first} survives while the old network stays "
        f"as it was{more}.",
        f"Of the robustness that training against the attack (PGD) on the new task gives, a robust "
        f"source keeps {found}. If the new task is learnt against the attack in every layer, "
        f"{robust} of the images withstand it after a robust source, {natural} after a natural one "
        f"and {scratch} without a source.",
    )


def sure(own: list[Run], again: list[Run], shown: Profile) -> str:
    """How sure the difference in the headline is: here, under strong attacks, at other scales."""
    headline = COMPARED[0]
    here = comparison.reproduction(own + again)
    labels = [here.labels[name] for name in headline]
    hard = _difference(here, *headline, STRONG)
    others = elsewhere(shown)
    there = {name: _difference(of, *headline) for name, of in others.items()}
    pair = [Accuracy(name, "wb_pgd") for name in headline]
    gaps = [of.gap(*pair) for of in (here, *others.values())]
    settled = all(gap.low > 0 for gap in gaps) or all(gap.high < 0 for gap in gaps)
    verdict = "It has one sign at all of them" if settled else "Its sign is not settled by them"
    return (
        f"The paper's headline is the difference {labels[0]} − {labels[1]}, in points of accuracy "
        f"under PGD. It is {_difference(here, *headline)} here, {hard} under stronger attacks"
        + "".join(f", {gap} at the scale <code>{name}</code>" for name, gap in there.items())
        + (f". {verdict}." if others else ".")
    )


def cost(own: list[Run]) -> pd.DataFrame:
    """What the networks in the headline were trained for, source included, and what came of it.

    Passes are forward and backward ones of the training images, as ``runner.count_batches`` counts
    them; all of these networks have the same weights, all of them trained. 1 is ``pgd``'s.
    """
    table, by_id = {}, {run.network.id: run for run in own}
    whole = _passes(by_id["pgd"].network.config)
    for name in dict.fromkeys(name for pair in COMPARED for name in pair):
        run = by_id[name]
        config, row = run.network.config, {}
        row["epochs"] = config.epochs
        row["of its source"] = config.source.epochs if config.source else 0
        row["passes, R_pgd = 1"] = f"{_passes(config) / whole:.2f}"
        row[NAMES["natural"]] = percent(run.evaluation.accuracy("natural"))
        row[NAMES["wb_pgd"]] = percent(run.evaluation.accuracy("wb_pgd"))
        row[NAMES[STRONG]] = percent(run.strong.accuracy(tables.LAST)) if run.strong else ""
        table[run.label] = row
    return pd.DataFrame.from_dict(table, "index")


def _passes(config: TrainingConfig) -> float:
    """Passes of the training images that a network has cost, those of its source included."""
    before = _passes(config.source) if config.source else 0.0
    return before + count_batches(config, config.train_size, 0) * config.batch_size


def elsewhere(shown: Profile) -> dict[str, Reproduction]:
    """What is published at other scales, of those whose networks in the headline are evaluated."""
    found = {}
    for name in (name for name in experiment.SCALES if name != shown.profile):
        profile, store = catalogue.read(name)
        networks = experiment.grid(profile) + experiment.again(profile)
        measured = [run for run in runs.find(networks, store, profile) if run.evaluation]
        if {n for pair in COMPARED for n in pair} <= {run.network.id for run in measured}:
            found[name] = comparison.reproduction(measured)
    return found


def _difference(of: Reproduction, first: str, second: str, column: str = "wb_pgd") -> str:
    """A difference with its interval, and from how many seeds if from several."""
    if not (words := comparison.difference(of, first, second, column)):
        return "not measured"
    seeds = of.size(Accuracy(first, column), Accuracy(second, column))["seeds"]
    return f"{words} over {seeds} seeds" if seeds > 1 else words
