"""Table 1 as data: ours, the paper's, and how far they agree."""

import pandas as pd
from IPython.display import HTML

from robust_transfer import paths
from robust_transfer.data.registry import DATASETS
from robust_transfer.davchev2019 import comparison, experiment
from robust_transfer.davchev2019.experiment import Network, Profile
from robust_transfer.evaluation.accuracies import COLUMNS, Evaluation
from robust_transfer.evaluation.accuracies import doubts as evaluation_doubts
from robust_transfer.networks.registry import build
from robust_transfer.networks.transfer import STRATEGIES, trainable_weights, transplant
from robust_transfer.presentation.tables import describe_attack, percent, show
from robust_transfer.records.store import Record


def trainings(networks: list[Network], found: list[Record]) -> pd.DataFrame:
    """What was trained and how it went, a row per network, from the run records."""
    table = []
    for network, record in zip(networks, found, strict=True):
        config, validation = network.config, record.validation
        table.append(
            {
                "network": network.label,
                "data": config.dataset,
                "inner attack": describe_attack(config.attack),
                "epochs": config.epochs,
                "selected": record.selected_epoch + 1,
                "natural": percent(validation["natural"]),
                "adversarial": percent(validation["adversarial"]),
                "minutes": f"{record.seconds / 60:.1f}",
            }
        )
    return pd.DataFrame(table).set_index("network")


def departures(profile: Profile) -> pd.DataFrame:
    """Fields in which a profile differs from the paper's protocol, with both values."""
    found = experiment.departures(profile)
    return pd.DataFrame.from_dict(found, "index", columns=["here", "paper"], dtype=str)


def strategies(profile: Profile) -> pd.DataFrame:
    """Trained weights per strategy, counted on the profile's network."""
    table = []
    for network in experiment.rows(experiment.grid(profile)):
        if (network.source, network.target) == ("nat", "nat"):
            model = build(profile.network, DATASETS[profile.target_dataset].classes, 0)
            transplant(model, model.state_dict(), network.strategy)
            trained, total = trainable_weights(model), sum(p.numel() for p in model.parameters())
            row = {"strategy": network.strategy, "the paper's label": network.label.split()[-1]}
            share = percent(trained / total) + " %"
            table.append(row | {"trained weights": f"{trained:,}", "share": share})
    return pd.DataFrame(table).set_index("strategy")


def results(networks: list[Network], evaluations: list[Evaluation]) -> pd.DataFrame:
    """Accuracies of the evaluated networks.

    Returns:
        One row a network, indexed by its id: ``label``, ``source``, ``target``, ``strategy``, ``n``
        and, for every column of Table 1, the accuracy in [0, 1] and its interval ``…_low``,
        ``…_high``.
    """
    table = []
    for network, evaluation in zip(networks, evaluations, strict=True):
        row = _identity(network) | {"n": evaluation.content["n"]}
        for column in COLUMNS:
            row[column] = evaluation.accuracy(column)
            row[f"{column}_low"], row[f"{column}_high"] = evaluation.interval(column)
        table.append(row)
    return pd.DataFrame(table).set_index("id")


def paper(networks: list[Network]) -> pd.DataFrame:
    """The paper's Table 1 for the same networks, in the same form, accuracies in [0, 1]."""
    path = paths.REFERENCE / "davchev2019_table1.csv"
    printed = pd.read_csv(path, dtype={"unfrozen_layers": str}, keep_default_na=False)
    printed.index = (printed["network"] + " " + printed["unfrozen_layers"]).str.strip()
    keys = [network.paper_key for network in networks]
    accuracies = printed.loc[keys, list(COLUMNS)] / 100
    identities = pd.DataFrame([_identity(network) for network in networks]).set_index("id")
    return identities.join(accuracies.set_axis(identities.index))


def heatmap_blocks(figure: str, theirs: pd.DataFrame) -> list[list[str]]:
    """Rows of one of the paper's heatmaps, in the blocks that its red lines separate.

    Args:
        figure: ``2`` (defences transferred to natural targets), ``3`` (for every training routine
            the strategy with the paper's highest mean under attack), ``4`` (all 25), ``5 fgsm`` or
            ``5 pgd`` (one family of defences).
        theirs: the paper's table.
    """
    scratch = theirs["strategy"].isna()
    strategies = [theirs["strategy"] == strategy for strategy in STRATEGIES]

    def ids(chosen: pd.Series) -> list[str]:
        return list(theirs.index[chosen])

    if figure == "2":
        natural = [ids(strategy & (theirs["target"] == "nat")) for strategy in strategies]
        return [["nat", "fgsm", "pgd"], *natural]
    if figure == "3":
        transfers = theirs[~scratch]
        attacked = transfers[[column for column in COLUMNS if column != "natural"]].mean(axis=1)
        best = attacked.groupby([transfers["source"], transfers["target"]]).idxmax()
        from_nat, to_nat = theirs["source"] == "nat", theirs["target"] == "nat"
        best = theirs.index.isin(best)
        routines = (from_nat & to_nat, ~from_nat & to_nat, from_nat & ~to_nat, ~from_nat & ~to_nat)
        return [ids(scratch), *(ids(best & ~scratch & routine) for routine in routines)]
    if figure == "4":
        return [ids(scratch), *(ids(strategy) for strategy in strategies)]
    family = figure.removeprefix("5 ")
    member = (theirs["source"] == family) | theirs["target"].str.startswith(family)
    return [ids(member & scratch), *(ids(member & strategy) for strategy in strategies)]


def table1(ours: pd.DataFrame, theirs: pd.DataFrame, name: str) -> HTML:
    """Table 1 as a page has room for it, without the differences; its file holds them too."""
    both = comparison.side_by_side(ours, theirs)
    return show(both.drop(columns="difference", level=1), name, both)


def accuracies(ours: pd.DataFrame) -> pd.DataFrame:
    """Accuracies with their 95 % intervals for readers, in percent."""
    shown = {}
    for column in COLUMNS:
        low, high = 100 * ours[f"{column}_low"], 100 * ours[f"{column}_high"]
        cells = zip(100 * ours[column], low, high, strict=True)
        shown[column] = [
            f"{value:.1f} [{a:.1f},\N{NO-BREAK SPACE}{b:.1f}]" for value, a, b in cells
        ]
    return pd.DataFrame(shown, index=ours["label"])


def stronger(
    networks: list[Network], first: list[Evaluation], then: list[Evaluation]
) -> pd.DataFrame:
    """What the paper's white-box PGD, a longer one, and either of them leave, in percent.

    Which attack finds an error is chance to some degree; robust is at most what withstands both.

    Args:
        networks: a row each.
        first: their evaluations by the paper's attack.
        then: the same by the stronger one, on the first of the same test images.
    """
    table = {}
    for network, before, after in zip(networks, first, then, strict=True):
        count, how = after.content["n"], after.content["config"]
        hits = before.outcomes["wb_pgd"][:count], after.outcomes["wb_pgd"]
        table[network.label] = {
            f"PGD-{before.content['config']['steps']}": percent(hits[0].mean()),
            f"PGD-{how['steps']}": percent(hits[1].mean()),
            "both": percent((hits[0] & hits[1]).mean()),
        }
    return pd.DataFrame.from_dict(table, "index")


def doubts(networks: list[Network], evaluations: list[Evaluation]) -> pd.DataFrame:
    """Signs of masked gradients, a row per network that raises any."""
    raised = {
        network.label: "; ".join(found)
        for network, evaluation in zip(networks, evaluations, strict=True)
        if (found := evaluation_doubts(evaluation))
    }
    return pd.DataFrame({"doubt": raised or {"none raised": ""}})


def provenance(profile: Profile, found: list[Record], evaluations: list[Evaluation]) -> str:
    """One sentence on scale, data, seeds and hardware of a table."""
    devices = {record.provenance["device"] for record in found}
    versions = {record.provenance["torch"] for record in found}
    sizes = {evaluation.content["n"] for evaluation in evaluations}
    minutes = sum(record.seconds for record in found) / 60
    return (
        f"Profile {profile.profile}: {profile.network}, {profile.source_dataset} to "
        f"{profile.target_dataset} with {profile.train_size:,} training images each, "
        f"{' and '.join(f'{n:,}' for n in sorted(sizes))} test images, {_trained_from(profile)}; "
        f"{len(found)} networks in {minutes:.1f} network-minutes on {'; '.join(sorted(devices))}, "
        f"torch {', '.join(sorted(versions))}."
    )


def _trained_from(profile: Profile) -> str:
    further = ", ".join(map(str, profile.further_seeds))
    return f"seed {profile.seed}" + bool(further) * f", the rows behind the headline also {further}"


def _identity(network: Network) -> dict[str, object]:
    return {
        "id": network.id,
        "label": network.label,
        "source": network.source,
        "target": network.target,
        "strategy": network.strategy,
    }
