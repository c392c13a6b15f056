"""Table 1 as data: ours and the paper's, with the tables on what was trained."""

import html
from itertools import product

import numpy as np
import pandas as pd

from robust_transfer import paths
from robust_transfer.data.registry import DATASETS
from robust_transfer.davchev2019 import experiment
from robust_transfer.davchev2019.experiment import Network, Profile
from robust_transfer.davchev2019.runs import Run
from robust_transfer.evaluation.accuracies import COLUMNS, NAMES, STRONG
from robust_transfer.evaluation.budgets import HOPELESS
from robust_transfer.networks.registry import build
from robust_transfer.networks.transfer import STRATEGIES, trainable_weights, transplant
from robust_transfer.presentation.tables import (
    describe_attack,
    network_minutes,
    percent,
    percent_interval,
)
from robust_transfer.records.store import Record

FIRST, LAST = "pgd_7", "margin_5"
"""The paper's PGD, which comes first, and the last attack, whose outcomes are those of all."""
DEFENCES = {"nat": "natural", "fgsm": "FGSM", "fgsm_no_ll": "FGSM, true labels", "pgd": "PGD"}
RETRAINED = {"head": "head", "stage3": "last stage", "all": "everything"}
"""Trainings and strategies for readers."""
STAGES = {"fgsm": "FGSM", FIRST: "PGD-7", "pgd_50": "then PGD-50"}
STAGES |= {"margin": "then its margin", LAST: "then five margins"}
"""Outcomes under strong attacks for readers."""


def trainings(networks: list[Network], records: list[Record]) -> pd.DataFrame:
    """What was trained and how it went, a row per network, from the run records."""
    table = {}
    for network, record in zip(networks, records, strict=True):
        config, validation = network.config, record.validation
        table[network.label] = {
            "data": config.dataset,
            "trained against": describe_attack(config.attack),
            "epochs": config.epochs,
            "selected": record.selected_epoch + 1,
            "natural": percent(validation["natural"]),
            "adversarial": percent(validation["adversarial"]),
            "minutes": f"{record.seconds / 60:.1f}",
            "on": record.provenance["device"].split(",")[0],
        }
    return pd.DataFrame(table.values(), index=pd.Index(table, name="network"))


def departures(profile: Profile) -> pd.DataFrame:
    """Fields in which a profile differs from the paper's protocol, with both values.

    Further seeds add to the protocol, and are no departure.
    """
    names = [name for name in Profile.model_fields if name not in ("profile", "further_seeds")]
    both = {name: (getattr(profile, name), getattr(Profile(), name)) for name in names}
    differ = {name: pair for name, pair in both.items() if pair[0] != pair[1]}
    return pd.DataFrame.from_dict(differ, "index", columns=["here", "paper"], dtype=str)


def strategies(profile: Profile) -> pd.DataFrame:
    """Trained weights per strategy, counted on the profile's network."""
    table = {}
    for strategy, layers in experiment.PAPER_LAYERS.items():
        model = build(profile.network, DATASETS[profile.target_dataset].classes, 0)
        transplant(model, model.state_dict(), strategy)
        trained, total = trainable_weights(model), sum(p.numel() for p in model.parameters())
        shares = {"trained weights": f"{trained:,}", "share": f"{percent(trained / total)} %"}
        table[strategy] = {"the paper's label": str(layers)} | shares
    return pd.DataFrame(table.values(), index=pd.Index(table, name="strategy"))


def results(runs: list[Run]) -> pd.DataFrame:
    """Accuracies of the evaluated networks.

    Returns:
        One row a network, indexed by its id: ``label``, marked where its numbers are doubted,
        ``source``, ``target``, ``strategy``, ``n`` and, for every column of Table 1, the accuracy
        in [0, 1] and its interval ``…_low``, ``…_high``; likewise what is left after strong attacks
        in ``strong``, where that was measured, on fewer images.
    """
    table = []
    for run in runs:
        if evaluation := run.evaluation:
            row = _identity(run.network) | {"label": run.label, "n": evaluation.content["n"]}
            columns = [(column, column, evaluation) for column in COLUMNS]
            columns += [(STRONG, LAST, run.strong)] if run.strong else []
            for name, column, found in columns:
                row[name] = found.accuracy(column)
                row[f"{name}_low"], row[f"{name}_high"] = found.interval(column)
            table.append(row)
    return pd.DataFrame(table).set_index("id")


def paper() -> pd.DataFrame:
    """The paper's Table 1 in the same form, a row for each of its 25 networks."""
    path = paths.REFERENCE / "davchev2019_table1.csv"
    printed = pd.read_csv(path, dtype={"unfrozen_layers": str}, keep_default_na=False)
    printed.index = (printed["network"] + " " + printed["unfrozen_layers"]).str.strip()
    networks = experiment.rows(experiment.grid(Profile()))
    shares = printed.loc[[network.paper_key for network in networks], list(COLUMNS)] / 100
    identities = pd.DataFrame([_identity(network) for network in networks]).set_index("id")
    return identities.join(shares.set_axis(identities.index))


def heatmap_blocks(figure: str, theirs: pd.DataFrame) -> list[list[str]]:
    """Rows of one of the paper's heatmaps, in the blocks that its red lines separate.

    Args:
        figure: ``2`` (defences transferred to natural targets), ``3`` (for every training routine
            the strategy with the paper's highest mean under attack), ``4`` (all 25), ``5 fgsm`` or
            ``5 pgd`` (one family of defences).
        theirs: the paper's table.
    """
    scratch, to_nat = theirs["strategy"].isna(), theirs["target"] == "nat"
    if figure == "3":
        transfers, from_nat = theirs[~scratch], theirs["source"] == "nat"
        attacked = transfers[list(COLUMNS[1:])].mean(axis=1)
        best = attacked.groupby([transfers["source"], transfers["target"]]).idxmax()
        chosen = scratch | theirs.index.isin(best)
        kinds = product((to_nat, ~to_nat), (from_nat, ~from_nat))
        parts = [target & source & ~scratch for target, source in kinds]
    else:
        family = figure.removeprefix("5 ")
        chosen = {
            "2": ~scratch & to_nat | theirs.index.isin(["nat", "fgsm", "pgd"]),
            "4": theirs["target"].notna(),
        }.get(figure, (theirs["source"] == family) | theirs["target"].str.startswith(family))
        parts = [theirs["strategy"] == strategy for strategy in STRATEGIES]
    return [list(theirs.index[chosen & part]) for part in (scratch, *parts)]


def measured(ours: pd.DataFrame) -> list[str]:
    """The columns of ``NAMES`` that results have: ``strong`` is not measured everywhere."""
    return [column for column in NAMES if column in ours]


def with_intervals(ours: pd.DataFrame) -> pd.DataFrame:
    """Accuracies with their 95 % intervals for readers, in percent."""
    shown = {}
    for column in measured(ours):
        ends = ours[[column, f"{column}_low", f"{column}_high"]].to_numpy()
        shown[NAMES[column]] = ["" if np.isnan(of[0]) else percent_interval(*of) for of in ends]
    return pd.DataFrame(shown, index=ours["label"])


def withstood(runs: list[Run]) -> pd.DataFrame:
    """What every attack in turn leaves of the same test images, in percent, a row per network.

    Which attack finds an error is chance to some degree, so a column counts what withstands its
    attack and all those before it; FGSM stands apart.
    """
    table = {}
    for run in runs:
        if found := run.strong:
            row = table[run.label] = {c: percent(found.accuracy(c)) for c in found.outcomes}
            row[LAST] = percent_interval(found.accuracy(LAST), *found.interval(LAST))
    return pd.DataFrame.from_dict(table, "index").rename(columns=STAGES)


def held_against(runs: list[Run], epsilon: float) -> pd.DataFrame:
    """What attacks of a budget are held against, in percent, a row per network."""
    table = {}
    for run in runs:
        if found := run.budgets:
            control = found.controls[epsilon]
            shares = {"natural": found.accuracy(), "noise": control["noise"]}
            shares |= {name: found.accuracy(name.lower(), epsilon) for name in ("FGSM", "PGD")}
            shares[f"PGD, ε = {HOPELESS}"] = found.accuracy("pgd", HOPELESS)
            row = {name: percent(share) for name, share in shares.items()}
            table[run.label] = row | {"alignment": f"{round(control['alignment'], 2) + 0:.2f}"}
    return pd.DataFrame.from_dict(table, "index")


def along_the_budget(runs: list[Run]) -> pd.DataFrame:
    """Accuracy under PGD in [0, 1], a column per network, by ε in 1/256; 0 is without attack."""
    curves = {}
    for run in runs:
        if found := run.budgets:
            tried = [epsilon for epsilon in found.controls if epsilon < HOPELESS]
            left = {256 * epsilon: found.accuracy("pgd", epsilon) for epsilon in tried}
            curves[run.label] = {0: found.accuracy()} | left
    return pd.DataFrame(curves)


def data_line(profile: Profile, runs: list[Run]) -> str:
    """One sentence on scale, data, seeds and hardware of a table."""
    records = [run.record for run in runs]
    versions = {html.escape(record.provenance["torch"]) for record in records}
    sizes = {run.evaluation.content["n"] for run in runs if run.evaluation}
    seeds = f"trained from seed {profile.seed}"
    if profile.further_seeds:
        further = ", ".join(map(str, profile.further_seeds))
        seeds += f", the rows behind the headline from {further} too"
    times = profile.source_factor
    of_sources = f" ({times * profile.epochs} of sources)" if times > 1 else ""
    return (
        f"Profile {profile.profile}: {profile.network}, {profile.source_dataset} to "
        f"{profile.target_dataset} with {profile.train_size:,} training images each, "
        f"{profile.epochs} epochs from scratch{of_sources} and {profile.transfer_epochs} after a "
        "transfer, "
        f"{' and '.join(f'{n:,}' for n in sorted(sizes))} test images, {seeds}; "
        f"{network_minutes(records, digits=1)}, torch {', '.join(sorted(versions))}."
    )


def _identity(network: Network) -> dict[str, object]:
    names = ("id", "label", "source", "target", "strategy")
    return {name: getattr(network, name) for name in names}
