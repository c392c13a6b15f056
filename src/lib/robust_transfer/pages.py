"""The parts of the book's pages that are made of records: model cards, fingerprints, runs.

``write`` puts them beside the pictures of the pages, which include them.
"""

from html import escape

import pandas as pd

from robust_transfer import experiments, figures, paths, records, tables
from robust_transfer.evaluation import COLUMNS, Evaluation, find
from robust_transfer.experiments import Network, Profile
from robust_transfer.records import Record, Store
from robust_transfer.runner import weights

FROZEN = {None: "nothing", "all": "nothing", "head": "all but the head"}
FROZEN |= {"stage3": "all but stage 3 and the head"}
HASH = 12
"""Digits of a hash that are shown; the CSV has them all."""


def write(profile: Profile, store: Store) -> None:
    """Make every generated part, from the finished records of a profile."""
    networks = experiments.grid(profile)
    targets, how = experiments.rows(networks), experiments.evaluation(profile)
    found = [store.find(network.config) for network in networks]
    evaluated = {network.id: find(store, network.config, how) for network in targets}
    ours = tables.results(targets, list(evaluated.values()))
    runs, data = trainings(networks, found), fingerprints(networks, found, evaluated["nat"])
    parts = {
        "models": cards(networks, found, evaluated),
        "networks": tables.html(short(runs), "networks", runs).data,
        "fingerprints": tables.html(short(data), "fingerprints", data).data,
        "environments": tables.html(environments(found), "environments").data,
    }
    paths.GENERATED.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        (paths.GENERATED / f"{name}.html").write_text(part)
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
        f"{tables.scrolling(table)}</details>"
    )


def _training(network: Network, record: Record) -> dict[str, str]:
    """What a network is and how it came about."""
    config, content = network.config, record.content
    source = config.source.name if config.source else ""
    validation = content["validation"]
    shares = [f"{tables.percent(validation['natural'])} % without attack"]
    if validation["adversarial"] is not None:
        shares.append(f"{tables.percent(validation['adversarial'])} % under its training attack")
    return {
        "what it is": f"{config.network}, {weights(config):,} weights",
        "made for": network.role,
        "images": f"{config.dataset}, {config.train_size:,} to train, "
        f"{config.validation_size:,} to validate",
        "began as": f'<a href="#{source}">{source}</a>, with a new head' if source else "noise",
        "frozen": FROZEN[config.strategy],
        "trained against": tables.describe_attack(config.attack),
        "epochs": f"{config.epochs}, of which number {content['selected_epoch'] + 1} is kept",
        "validation": ", ".join(shares),
        "record": f"<code>{escape(records.folder_name(config))}</code>",
    }


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


def trainings(networks: list[Network], found: list[Record]) -> pd.DataFrame:
    """When, where, how long and from which state of the code each network was trained."""
    table = {}
    for network, record in zip(networks, found, strict=True):
        content = record.content
        told = {name: content["provenance"][name] for name in ("commit", "finished", "device")}
        table[network.label] = {
            "minutes": content["seconds"] / 60,
            "configuration": content["hash"],
            "weights, SHA-256": content["sha256"][records.WEIGHTS],
            **told,
        }
    return pd.DataFrame.from_dict(table, "index")


def environments(found: list[Record]) -> pd.DataFrame:
    """Machines and versions that trained the networks, with what each of them did."""
    names = ("device", "threads", "python", "torch", "torchvision", "numpy")
    rows = [
        {name: record.content["provenance"][name] for name in names}
        | {"networks": 1, "minutes": record.content["seconds"] / 60}
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
        config, data = network.config, record.content["data"]
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
