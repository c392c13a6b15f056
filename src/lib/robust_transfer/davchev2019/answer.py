"""The book's question, answered in words: from the records, whatever they say."""

from collections.abc import Mapping

import pandas as pd

from robust_transfer.claims import quantities
from robust_transfer.claims.quantities import Accuracy
from robust_transfer.claims.reproduction import Reproduction
from robust_transfer.davchev2019 import catalogue, comparison, experiment, runs, tables
from robust_transfer.davchev2019.experiment import COMPARED, Profile
from robust_transfer.davchev2019.runs import Run
from robust_transfer.evaluation import intervals
from robust_transfer.evaluation.accuracies import NAMES, STRONG
from robust_transfer.networks.transfer import STRATEGIES
from robust_transfer.presentation.tables import percent
from robust_transfer.runner import count_batches
from robust_transfer.training.loop import TrainingConfig

DEGREES = {0.0005: "nothing", 0.05: "almost nothing", 0.2: "a little", 0.29: "about a quarter"}
DEGREES |= {0.42: "about a third", 0.6: "about half", 0.8: "a good part", 0.95: "most"}
"""A share of robustness kept, up to so much → how it is called; from there on it is all."""
ALIKE = 0.03
"""Accuracies that differ by less are said to be alike."""
RETRAINED = {"head": "with a new head alone", "stage3": "with the last stage retrained too"}
RETRAINED |= {"all": "with every layer retrained"}
"""What a strategy trains on the target, for readers."""


def kept(accuracies: Mapping[str, float]) -> dict[str, float]:
    """Per strategy, the share that a robust source keeps once it is retrained naturally.

    Of what training against PGD on the target itself gives: 1 is as robust as that; where that
    gives nothing, nothing is kept of it.

    Args:
        accuracies: under white-box PGD, in one unit, by the network's id.
    """
    whole = accuracies["pgd"]
    left = {strategy: accuracies[f"pgd-nat-{strategy}"] for strategy in STRATEGIES}
    return {strategy: float(share / whole) if whole else 0.0 for strategy, share in left.items()}


def degree(share: float) -> str:
    """How a share of robustness kept is called."""
    return next((name for most, name in DEGREES.items() if share < most), "all")


def short(ours: pd.DataFrame) -> tuple[str, str]:
    """The answer for the front page: in one sentence, and the numbers that it is made from.

    Args:
        ours: accuracies as made by ``tables.results``, of one seed.
    """
    shares = kept(ours["wb_pgd"])
    named = ("pgd-pgd-all", "nat-pgd-all", "pgd", *(f"pgd-nat-{s}" for s in STRATEGIES))
    left = {name: f"{percent(ours.loc[name, 'wb_pgd'])} %" for name in named}
    found = ", ".join(
        f"{left[f'pgd-nat-{s}']} {RETRAINED[s]} ({100 * shares[s]:.0f} % of that)"
        for s in STRATEGIES
    )
    first, last = degree(shares["head"]), degree(shares["all"])
    more = f", and {last} once every layer is retrained" if first != last else ""
    robust, natural = ours.loc[["pgd-pgd-all", "nat-pgd-all"], "wb_pgd"]
    alike = abs(robust - natural) < ALIKE
    matters = "it matters little where the network comes from" if alike else "the source matters"
    return (
        f"If the new task is learnt without attacks, {first} survives where only a new head is "
        f"trained{more}.",
        f"A network that is trained against the attack (PGD) on the new task alone gets "
        f"{left['pgd']} of the attacked images right. A robust source that is retrained without "
        f"attacks gets {found}. If every layer is retrained against the attack, {matters}: "
        f"{left['pgd-pgd-all']} after a robust source, {left['nat-pgd-all']} after a natural one.",
    )


def scales(own: list[Run], again: list[Run], shown: Profile) -> dict[str, Reproduction]:
    """What the headline is asked of, this run first, and then every other scale."""
    here = comparison.reproduction(own + again)
    return {f"{shown.profile} (this run)": here} | elsewhere(shown)


def sure(places: dict[str, Reproduction]) -> pd.DataFrame:
    """How sure the answer is: the headline at all ``scales`` and in the paper, in points."""
    headline, _, initialisation = COMPARED
    table = {}
    for name, of in places.items():
        table[name] = {
            "seeds": of.size(*(Accuracy(network, "wb_pgd") for network in headline))["seeds"],
            "with − without robust source": comparison.difference(of, *headline),
            "robust − natural source": comparison.difference(of, *initialisation),
            "kept (%): head, last stage, all": _listed(_kept(of)),
        } | comparison.under_strong_attacks(of, *headline)
    theirs = 100 * next(iter(places.values())).paper["wb_pgd"]
    gaps = [intervals.signed(theirs[a] - theirs[b]) for a, b in (headline, initialisation)]
    row = [1, *gaps, _listed([*kept(theirs).values()])]
    table["the paper"] = dict(zip(table[name], row, strict=False))
    return pd.DataFrame.from_dict(table, "index").fillna("")


def settled(places: dict[str, Reproduction]) -> str:
    """Whether the headline is found at all ``scales``, in words: its size, and its sign."""
    pair = [Accuracy(name, "wb_pgd") for name in COMPARED[0]]
    gaps = [of.gap(*pair) for of in places.values()]
    claimed = quantities.gap(pair, next(iter(places.values())).printed(*pair))
    below = sum(gap.high < claimed for gap in gaps)
    size = f"{below} of {len(gaps)} intervals of the headline lie below the paper's "
    size += f"{claimed:.1f} points"
    if all(gap.low > 0 for gap in gaps) or all(gap.high < 0 for gap in gaps):
        return f"{size}. They have one sign, and none includes zero."
    within = sum(gap.low <= 0 <= gap.high for gap in gaps)
    text = f"{size}. Whether there is a smaller gain they do not settle: {within} include zero."
    once = [n.split()[0] for n, of in places.items() if _is_of_images_alone(of, pair)]
    if not once:
        return text
    return (
        f"{text} That of {' and '.join(once)} comes from one training of each network; another "
        "may give more or less than it says."
    )


def _is_of_images_alone(of: Reproduction, pair: list[Accuracy]) -> bool:
    """Whether an interval says nothing of seeds."""
    return of.size(*pair)["seeds"] == 1 and not of.borrows(*pair)


def _listed(shares: list[float]) -> str:
    return ", ".join(f"{100 * share:.0f}" for share in shares)


def _kept(of: Reproduction) -> list[float]:
    """What ``kept`` finds, over all seeds; nothing where a network is not evaluated."""
    rows = ["pgd", *(f"pgd-nat-{strategy}" for strategy in STRATEGIES)]
    if not {*rows} <= of.evaluations.keys():
        return []
    means = of.means(*(Accuracy(row, "wb_pgd") for row in rows))
    return [*kept({part.network: mean for part, mean in means.items()}).values()]


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
        row["own epochs"] = config.epochs
        row["its source's"] = config.source.epochs if config.source else 0
        row["training cost, R_pgd = 1"] = f"{_passes(config) / whole:.2f}"
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
