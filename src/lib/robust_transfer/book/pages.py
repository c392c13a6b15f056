"""The parts of the book's pages that are made of records: model cards, runs, scales.

``write`` puts them beside the pictures of the pages, which include them. What the claims' pages
show of judgements is written by the notebooks that judge.
"""

import html
from pathlib import Path

import pandas as pd
import yaml

from robust_transfer import paths
from robust_transfer.davchev2019 import answer, comparison, experiment, figures, runs, tables
from robust_transfer.davchev2019.experiment import Network, Profile
from robust_transfer.davchev2019.runs import Run
from robust_transfer.davchev2019.tables import LAST
from robust_transfer.evaluation.accuracies import COLUMNS, NAMES, STRONG, Evaluation
from robust_transfer.myakala2022.experiment import Study, cells
from robust_transfer.networks.transfer import STRATEGIES
from robust_transfer.presentation.figures import inline, svg
from robust_transfer.presentation.tables import (
    as_html,
    describe_attack,
    percent,
    percent_interval,
    scrolling,
    show,
)
from robust_transfer.records.store import HISTORY, RECORD, WEIGHTS, Record, Store
from robust_transfer.runner import count_weights

FROZEN = {None: "nothing", "all": "nothing", "head": "all but the head"}
FROZEN |= {"stage3": "all but stage 3 and the head"}
FILES = {"record": RECORD, "epochs": HISTORY, "weights": WEIGHTS, "outcomes": "evaluation-*.json"}
FILES |= {"under strong attacks": "strong-*.json", "along the budget": "budgets-*.json"}
"""What the folder of a record holds, by what it is to readers."""
SHOWN = ("seed", "minutes", "configuration", "weights, SHA-256", "commit")
"""Columns of ``origins`` for which a page has room; the CSV has them all."""
HASH = 12
"""Digits of a hash that are shown; the CSV has them all."""


def write(profile: Profile, store: Store, study: Study, study_store: Store) -> None:
    """Make every generated part, from the finished records of a profile and of a study."""
    networks = experiment.grid(profile)
    own = runs.find(networks, store, profile)
    again = runs.find(experiment.again(profile), store, profile)
    records = [run.record for run in own + again]
    of_study = study_records(study, study_store)
    trained, data, fine_tuned = origins(records), fingerprints(own), origins(of_study)
    ours = tables.results(own)
    parts = {
        "answer": "<p><strong>{}</strong> {}</p>".format(*answer.short(ours)),
        "sure": f"<p>{answer.sure(own, again, profile)}</p>",
        "survival": f'<div class="panels">{"".join(survival(ours))}</div>',
        "cost": show(answer.cost(own), "cost").data,
        "models": cards(own),
        "networks": show(short(trained[list(SHOWN)]), "networks", trained).data,
        "fingerprints": show(short(data), "fingerprints", data).data,
        "environments": show(environments(records + of_study), "environments").data,
        "scales": scales(profile, store),
        "study_networks": show(by_cell(fine_tuned), "study_networks", fine_tuned).data,
    }
    paths.GENERATED.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        (paths.GENERATED / f"{name}.html").write_text(part, encoding="utf-8")
    (paths.GENERATED / "cite.bib").write_text(citations(), encoding="utf-8")
    (paths.GENERATED / "figure1.svg").write_text(svg(figures.scheme(networks)), encoding="utf-8")


def survival(ours: pd.DataFrame) -> list[str]:
    """The figure of the front page, in two parts: this book's networks, and the paper's."""
    shown, parts = {"this book": ours, "the paper": tables.paper()}, []
    top = 105 * max(table["wb_pgd"].max() for table in shown.values())
    for title, table in shown.items():
        kept = ", ".join(percent(table.loc[f"pgd-nat-{s}", "wb_pgd"]) for s in STRATEGIES)
        said = f"Accuracy under PGD against what was retrained, {title}. With a robust source that "
        said += f"is retrained naturally (head, last stage, every layer) it is {kept} percent."
        parts.append(inline(svg(figures.survival(title, table, top)), said))
    return parts


def _read(name: str) -> dict:
    """A YAML file at the root of the repository."""
    return yaml.safe_load((paths.ROOT / name).read_text(encoding="utf-8"))


def citations() -> str:
    """BibTeX entries for the book and the study that it repeats.

    They say what ``CITATION.cff`` says; where the book is found comes from ``_config.yml``.
    """
    book, config = _read("CITATION.cff"), _read("_config.yml")
    found = {"url": config["repository"]["url"], "doi": config["doi"]}
    entries = [("software", "robusttransfer", book | found | {"year": config["copyright"]})]
    entries.append(("misc", "davchev2019", book["references"][0]))
    return "\n".join(_entry(*entry) for entry in entries)


def _entry(kind: str, key: str, said: dict) -> str:
    people = [
        ", ".join(p[part] for part in ("family-names", "given-names") if part in p)
        or f"{{{p['name']}}}"
        for p in said["authors"]
    ]
    fields = {"title": said["title"], "author": " and ".join(people)}
    fields |= {name: said[name] for name in ("version", "year", "url", "doi") if said.get(name)}
    lines = [f"  {name} = {{{value}}},\n" for name, value in fields.items()]
    return f"@{kind}{{{key},\n{''.join(lines)}}}\n"


def cards(own: list[Run]) -> str:
    """A model card for every network, as HTML that unfolds."""
    return "\n".join(_card(run) for run in own)


def _card(run: Run) -> str:
    facts = _training(run.network, run.record)
    measured = {column: _share(run.evaluation, column) for column in COLUMNS if run.evaluation}
    if run.strong:
        measured[STRONG] = f"{_share(run.strong, LAST)} withstand them"
    facts |= {name: measured[column] for column, name in NAMES.items() if column in measured}
    if run.doubts:
        facts["doubts"] = "; ".join(run.doubts)
    shown = pd.Series(facts).map(as_html)
    shown["record"] = _files(run.record.folder)
    table = shown.to_frame().to_html(header=False, escape=False, border=0)
    name = run.network.id
    summary = f"<summary>{run.label} <code>{name}</code></summary>"
    return f'<details class="network" id="{name}">{summary}{scrolling(table)}</details>'


def _share(evaluation: Evaluation, column: str) -> str:
    """An accuracy with its interval, and of how many images."""
    shares = evaluation.accuracy(column), *evaluation.interval(column)
    return f"{percent_interval(*shares)} % of {evaluation.content['n']:,} images"


def _files(folder: Path) -> str:
    """A record's folder and what is in it, as HTML: with links where the repository has an address.

    Records outside the checkout are called by their folder's name alone.
    """
    book = _read("_config.yml")["repository"]
    url, branch = book["url"], book["branch"]
    inside = folder.is_relative_to(paths.ROOT)
    place = html.escape(folder.relative_to(paths.ROOT).as_posix() if inside else folder.name)
    linked = url and folder.is_relative_to(paths.PUBLISHED)
    files = [(kind, path.name) for kind, name in FILES.items() for path in folder.glob(name)]
    if linked:
        listed = [
            f'<a href="{url}/blob/{branch}/{place}/{name}">{kind}</a>' for kind, name in files
        ]
        where = f'<a href="{url}/tree/{branch}/{place}"><code>{place}</code></a>'
    else:
        listed = [f"{kind} <code>{name}</code>" for kind, name in files]
        where = f"<code>{place}</code>"
    kept = "" if (folder / WEIGHTS).exists() else ", published without weights"
    return f"{where}{kept}: {', '.join(listed)}"


def _training(network: Network, record: Record) -> dict[str, str]:
    """What a network is and how it came about."""
    config, validation = network.config, record.validation
    source = config.source.name if config.source else ""
    scale = record.folder.parent
    told = {"load it": f'<code>rt.load("{network.id}", profile="{scale.name}")</code>'}
    if network.in_table:
        words = f"make verify CELL='{network.id} wb_pgd' PROFILE={scale.name} DATA_DIR=DIR"
        told["measure it again"] = f"<code>{words}</code>"
    shares = [f"{percent(validation['natural'])} % without attack"]
    if validation["adversarial"] is not None:
        shares.append(f"{percent(validation['adversarial'])} % under its training attack")
    return {
        "what it is": f"{config.network}, {count_weights(config):,} weights",
        "made for": network.role,
        "images": f"{config.dataset}, {config.train_size:,} to train, "
        f"{config.validation_size:,} to validate",
        "began as": f'<a href="#{source}">{source}</a>, with a new head'
        if source
        else "random weights",
        "frozen": FROZEN[config.strategy],
        "trained against": describe_attack(config.attack),
        "epochs": f"{config.epochs}, of which number {record.selected_epoch + 1} is kept",
        "validation": ", ".join(shares),
    } | (told if scale.parent == paths.PUBLISHED and (record.folder / WEIGHTS).exists() else {})


def study_records(study: Study, store: Store) -> list[Record]:
    """The records of every network of a study, sources first."""
    fine_tuned = [config for cell in cells(study) for config in cell.configs]
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
    own = runs.find(experiment.grid(profile), store, profile)
    again = runs.find(experiment.again(profile), store, profile)
    if any(run.network.in_table and run.evaluation is None for run in again):
        profile, again = profile.model_copy(update={"further_seeds": ()}), []  # wait for all seeds
    done = [run for run in own if run.evaluation]
    trained = [run for run in own + again if run.record]
    head = f'<section id="{profile.profile}"><h2>Profile {profile.profile}</h2>'
    if not done:
        count = f"{len(trained)} of {len(own)} networks are trained, no row is evaluated yet."
        return f"{head}<p>{count}</p></section>" if trained else ""
    ours, name = tables.results(done), f"table1-{profile.profile}"
    parts = [
        f"{head}<p>{tables.data_line(profile, trained)}</p>",
        comparison.main_table(ours, tables.paper().loc[ours.index], name).data,
        _compared(profile.profile, done, again),
    ]
    if missing := [r.network.label for r in own if r.network.in_table and not r.evaluation]:
        parts.append(f"<p>Not finished yet: {', '.join(missing)}.</p>")
    return "".join([*parts, "</section>"])


def _compared(name: str, done: list[Run], again: list[Run]) -> str:
    """The differences in and behind the headline whose networks are finished."""
    pairs = [pair for pair in experiment.COMPARED if {*pair} <= {run.network.id for run in done}]
    if not pairs:
        return ""
    parts = [show(comparison.comparisons(done + again, pairs), f"comparisons-{name}").data]
    if not (table := comparison.over_seeds(done + again)).empty:
        parts.append(show(table, f"seeds-{name}").data)
    return "".join([*parts, f"<p>{comparison.between_seeds(done + again)}</p>"])


def origins(records: list[Record]) -> pd.DataFrame:
    """When, where, how long and from which state of the code each network was trained.

    Returns:
        A row per record, by the network's id.
    """
    rows = [
        {
            "seed": record.config.seed,
            "minutes": record.seconds / 60,
            "configuration": record.hash,
            "weights, SHA-256": record.checksum,
            **{name: record.provenance[name] for name in ("commit", "finished", "device")},
        }
        for record in records
    ]
    return pd.DataFrame(rows, index=[record.config.name for record in records])


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


def environments(records: list[Record]) -> pd.DataFrame:
    """Machines and versions that trained the networks, with what each of them did."""
    names = ["device", "threads", "python", "torch", "torchvision", "numpy"]
    table = pd.DataFrame([record.provenance for record in records])[names]
    table = table.assign(networks=1, minutes=[record.seconds / 60 for record in records])
    table = table.groupby(names, as_index=False).sum()
    return table.set_axis([f"environment {i + 1}" for i in range(len(table))]).T


def fingerprints(own: list[Run]) -> pd.DataFrame:
    """Which images were used for what: their number, and the SHA-256 that identifies them."""
    rows = []
    for run in own:
        config, data = run.network.config, run.record.data
        rows.append((config.dataset, "training", config.train_size, data["training"]))
        rows.append((config.dataset, "validation", config.validation_size, data["validation"]))
    content = own[-1].evaluation.content
    rows.append((config.dataset, "test", content["n"], content["data"]))
    table = pd.DataFrame(rows, columns=["data set", "part", "images", "SHA-256"])
    return table.drop_duplicates("SHA-256").set_index("data set")


def short(table: pd.DataFrame) -> pd.DataFrame:
    """The same table with hashes cut for the eye."""
    return table.replace(rf"^([0-9a-f]{{{HASH}}})[0-9a-f]+$", r"\1", regex=True)
