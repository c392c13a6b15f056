"""The parts of the book's pages that are made of records: model cards, runs, claims.

``write`` puts them beside the pictures of the pages, which include them.
"""

from html import escape

import pandas as pd

from robust_transfer import paths
from robust_transfer.claims import pages, verdicts
from robust_transfer.davchev2019 import comparison, experiment, figures, tables
from robust_transfer.davchev2019.claims import GROUPS, gather
from robust_transfer.davchev2019.experiment import Network, Profile
from robust_transfer.evaluation.accuracies import COLUMNS, Evaluation
from robust_transfer.myakala2022.claims import groups
from robust_transfer.myakala2022.evidence import Gathered
from robust_transfer.myakala2022.experiment import Cell, Study, cells
from robust_transfer.presentation.tables import describe_attack, percent, scrolling, show
from robust_transfer.records.store import WEIGHTS, Record, Store, folder_name
from robust_transfer.runner import weights

FROZEN = {None: "nothing", "all": "nothing", "head": "all but the head"}
FROZEN |= {"stage3": "all but stage 3 and the head"}
SHOWN = ("seed", "minutes", "configuration", "weights, SHA-256", "commit")
"""Columns of ``trainings`` for which a page has room; the CSV has them all."""
HASH = 12
"""Digits of a hash that are shown; the CSV has them all."""


def write(profile: Profile, store: Store, study: Study, study_store: Store) -> None:
    """Make every generated part, from the finished records of a profile and of a study."""
    networks = experiment.grid(profile)
    targets, how = experiment.rows(networks), experiment.evaluation(profile)
    found = [store.find(network.config) for network in networks]
    evaluated = {network.id: how.find(store, network.config) for network in targets}
    ours = tables.results(targets, list(evaluated.values()))
    further = [store.find(network.config) for network in experiment.again(profile)]
    runs = trainings(found + further)
    data = fingerprints(networks, found, evaluated["nat"])
    table = cells(study)
    also = study_records(table, study_store)
    study_runs = trainings(also)
    parts = {
        "models": cards(networks, found, evaluated),
        "networks": show(short(runs[list(SHOWN)]), "networks", runs).data,
        "fingerprints": show(short(data), "fingerprints", data).data,
        "environments": show(environments(found + further + also), "environments").data,
        "scales": scales(profile, store),
        "study_networks": show(by_cell(study_runs), "study_networks", study_runs).data,
    }
    named = {n.id: f'<a href="../../models.html#{n.id}">{n.label}</a>' for n in networks}
    parts |= _claims(verdicts.judge(gather(profile, store), GROUPS), named)
    named = {c.id: f'<a href="../../reproducibility.html#{c.id}">{c.id}</a>' for c in table}
    parts |= _claims(_second(study, table, study_store), named)
    for name, part in parts.items():
        path = paths.GENERATED / f"{name}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(part)
    drawings = {
        "figure1": figures.pipeline(networks),
        "survival": figures.survival({"this run": ours, "paper": tables.paper(targets)}),
    }
    for name, drawing in drawings.items():
        drawing.savefig(paths.GENERATED / f"{name}.svg", metadata={"Date": None})


def cards(networks: list[Network], found: list[Record], evaluated: dict[str, Evaluation]) -> str:
    """A model card for every network, as HTML that unfolds."""
    return "\n".join(
        _card(network, record, evaluated.get(network.id))
        for network, record in zip(networks, found, strict=True)
    )


def _card(network: Network, record: Record, evaluation: Evaluation | None) -> str:
    facts = _training(network, record) | (_accuracies(evaluation) if evaluation else {})
    table = pd.Series(facts).to_frame().to_html(header=False, escape=False, border=0)
    summary = f"{network.label} <code>{network.id}</code>"
    return (
        f'<details class="network" id="{network.id}"><summary>{summary}</summary>'
        f"{scrolling(table)}</details>"
    )


def _training(network: Network, record: Record) -> dict[str, str]:
    """What a network is and how it came about."""
    config, validation = network.config, record.validation
    source = config.source.name if config.source else ""
    scale = record.folder.parent
    line = f'<code>rt.load("{network.id}", profile="{scale.name}")</code>'
    kept = "" if (record.folder / WEIGHTS).exists() else ", published without weights"
    shares = [f"{percent(validation['natural'])} % without attack"]
    if validation["adversarial"] is not None:
        shares.append(f"{percent(validation['adversarial'])} % under its training attack")
    return {
        "what it is": f"{config.network}, {weights(config):,} weights",
        "made for": network.role,
        "images": f"{config.dataset}, {config.train_size:,} to train, "
        f"{config.validation_size:,} to validate",
        "began as": f'<a href="#{source}">{source}</a>, with a new head' if source else "noise",
        "frozen": FROZEN[config.strategy],
        "trained against": describe_attack(config.attack),
        "epochs": f"{config.epochs}, of which number {record.selected_epoch + 1} is kept",
        "validation": ", ".join(shares),
        "record": f"<code>{escape(folder_name(config))}</code>{kept}",
    } | ({"load it": line} if scale.parent == paths.PUBLISHED and not kept else {})


def _accuracies(evaluation: Evaluation) -> dict[str, str]:
    """The five accuracies of a network, with their intervals."""
    n = evaluation.content["n"]
    shown = {}
    for column in COLUMNS:
        low, high = (100 * end for end in evaluation.interval(column))
        shown[column] = (
            f"{100 * evaluation.accuracy(column):.1f} % [{low:.1f}, {high:.1f}] of {n:,} images"
        )
    return shown


def _second(study: Study, table: list[Cell], store: Store) -> dict[str, verdicts.Judgement]:
    """The claims of paper B, judged by a study."""
    measured = [[cell.budgets.find(store, c) for c in cell.configs] for cell in table]
    found = Gathered(study, table, measured)
    return verdicts.judge(found.evidence, groups(found))


def _claims(judged: dict[str, verdicts.Judgement], named: dict[str, str]) -> dict[str, str]:
    """The part of every page of claims."""
    groups = {pages.page(claim): claim.group for claim in judged.values()}
    return {
        f"claims/{name}": pages.sections(judged, group, named).data
        for name, group in groups.items()
    }


def study_records(table: list[Cell], store: Store) -> list[Record]:
    """The records of every network of a study, sources first."""
    fine_tuned = [config for cell in table for config in cell.configs]
    sources = {config.source.hash: config.source for config in fine_tuned if config.source}
    return [store.find(config) for config in [*sources.values(), *fine_tuned]]


def scales(shown: Profile, store: Store) -> str:
    """Table 1 at every scale but the one shown, as far as it is finished."""
    sections = []
    for name in experiment.SCALES:
        profile = experiment.read_profile(paths.PROFILES / f"{name}.yaml")
        if profile.profile != shown.profile:
            sections.append(_scale(profile, Store(store.root, paths.PUBLISHED / profile.folder)))
    return "".join(sections) or "<p>No other scale has been run.</p>"


def _scale(profile: Profile, store: Store) -> str:
    """A section with the finished rows of one profile; empty if nothing is trained yet."""
    how = experiment.evaluation(profile)

    def evaluated(networks: list[Network]) -> dict[Network, Evaluation]:
        found = {network: how.find(store, network.config) for network in networks}
        return {network: evaluation for network, evaluation in found.items() if evaluation}

    networks, further = experiment.grid(profile), experiment.again(profile)
    targets = experiment.rows(networks)
    done, repeats = evaluated(targets), evaluated(experiment.rows(further))
    if len(repeats) < len(experiment.rows(further)):  # seeds are compared once they are whole
        profile, further, repeats = profile.model_copy(update={"further_seeds": ()}), [], {}
    trained = [r for network in networks + further if (r := store.find(network.config))]
    head = f'<section id="{profile.profile}"><h2>Profile {profile.profile}</h2>'
    if not done:
        count = f"{len(trained)} of {len(networks)} networks are trained, no row is evaluated yet."
        return f"{head}<p>{count}</p></section>" if trained else ""
    ours, theirs = tables.results([*done], [*done.values()]), tables.paper([*done])
    every = {**done, **repeats}
    missing = [network.label for network in targets if network not in done]
    return (
        f"{head}<p>{tables.provenance(profile, trained, [*every.values()])}</p>"
        f"{tables.table1(ours, theirs, f'table1-{profile.profile}').data}"
        f"{_compared(profile, [*done], comparison.by_id([*every], [*every.values()]))}"
        + bool(missing) * f"<p>Not finished yet: {', '.join(missing)}.</p>"
        + "</section>"
    )


def _compared(
    profile: Profile, done: list[Network], named: dict[str, tuple[Evaluation, ...]]
) -> str:
    """The differences in and behind the headline whose networks are finished."""
    finished = {network.id for network in done}
    pairs = [pair for pair in experiment.COMPARED if {*pair} <= finished]
    if not pairs:
        return ""
    table = comparison.comparisons(done, named, pairs)
    return (
        show(table, f"comparisons-{profile.profile}").data
        + comparison.seeds(done, named, f"seeds-{profile.profile}").data
    )


def trainings(found: list[Record]) -> pd.DataFrame:
    """When, where, how long and from which state of the code each network was trained.

    Returns:
        A row per record, by the network's id.
    """
    rows, names = [], []
    for record in found:
        names.append(record.config.name)
        row = {"seed": record.config.seed, "minutes": record.seconds / 60}
        row |= {"configuration": record.hash, "weights, SHA-256": record.checksum}
        of = record.provenance
        rows.append(row | {name: of[name] for name in ("commit", "finished", "device")})
    return pd.DataFrame(rows, index=names)


def by_cell(runs: pd.DataFrame) -> pd.DataFrame:
    """A study's networks as a row per cell, which a link to the cell's id finds."""
    shown = {
        f'<span id="{name}" class="words">{name.replace("-", " ")}</span>': {
            "minutes": repeats["minutes"].sum(),
            "configurations": ", ".join(repeats["configuration"].str[:HASH]),
            "commit": ", ".join(dict.fromkeys(repeats["commit"])),
        }
        for name, repeats in runs.groupby(level=0, sort=False)
    }
    return pd.DataFrame.from_dict(shown, "index")


def environments(found: list[Record]) -> pd.DataFrame:
    """Machines and versions that trained the networks, with what each of them did."""
    names = ("device", "threads", "python", "torch", "torchvision", "numpy")
    rows = [
        {name: record.provenance[name] for name in names}
        | {"networks": 1, "minutes": record.seconds / 60}
        for record in found
    ]
    table = pd.DataFrame(rows).groupby(list(names), as_index=False).sum()
    return table.set_axis([f"environment {i + 1}" for i in range(len(table))]).T


def fingerprints(
    networks: list[Network], found: list[Record], evaluation: Evaluation
) -> pd.DataFrame:
    """Which images were used for what: their number, and the SHA-256 that identifies them."""
    table = {}
    for network, record in zip(networks, found, strict=True):
        config, data = network.config, record.data
        sizes = {"training": config.train_size, "validation": config.validation_size}
        for part, size in sizes.items():
            row = {"data set": config.dataset, "part": part, "images": size, "SHA-256": data[part]}
            table[data[part]] = row
    content = evaluation.content
    row = {"data set": networks[-1].config.dataset, "part": "test", "images": content["n"]}
    table[content["data"]] = row | {"SHA-256": content["data"]}
    return pd.DataFrame(table.values()).set_index("data set")


def short(table: pd.DataFrame) -> pd.DataFrame:
    """The same table with hashes cut for the eye."""
    return table.map(lambda cell: cell[:HASH] if _is_hash(cell) else cell)


def _is_hash(cell: object) -> bool:
    return isinstance(cell, str) and len(cell) > HASH and not set(cell) - set("0123456789abcdef")
