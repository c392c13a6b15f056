"""The parts of the book's pages that are made of records: the answer, runs, scales.

``write`` puts them beside the pictures of the pages, which include them. What the claims' pages
show of judgements is written by the notebooks that judge.
"""

import json

import pandas as pd
import yaml
from IPython.display import HTML
from torch import nn

from robust_transfer import paths
from robust_transfer.book import cards, cluster
from robust_transfer.data.registry import DATASETS
from robust_transfer.davchev2019 import answer, comparison, experiment, figures, runs, tables
from robust_transfer.davchev2019.experiment import Profile
from robust_transfer.davchev2019.runs import Run
from robust_transfer.evaluation.intervals import signed
from robust_transfer.myakala2022 import tables as fine_tuning
from robust_transfer.myakala2022.experiment import (
    STUDY_SCALES,
    STUDY_TABLE,
    Study,
    cells,
    judged,
    read_study,
)
from robust_transfer.myakala2022.measured import stored
from robust_transfer.networks.registry import build
from robust_transfer.networks.transfer import STRATEGIES, transplant
from robust_transfer.presentation.figures import COLOURS, inline, svg
from robust_transfer.presentation.tables import percent, show
from robust_transfer.records.store import Record, Store

SHOWN = ("seed", "minutes", "configuration", "weights, SHA-256", "commit")
"""Columns of ``origins`` for which a page has room; the CSV has them all."""
COVER = {"pgd": "trained against PGD on the new task", "pgd-nat-head": "robust source, new head"}
COVER |= {"pgd-nat-stage3": "robust source, last stage retrained"}
COVER |= {"pgd-nat-all": "robust source, every layer retrained"}
"""Networks on the cover, for readers."""
FOLD = r"_fold\d+"
"""What the name of a network has, and that of its cell has not, where data are divided."""
HASH = 12
"""Digits of a hash that are shown; the CSV has them all."""


def write(profile: Profile, store: Store, study: Study, study_store: Store) -> None:
    """Make every generated part, from the finished records of a profile and of a study."""
    networks = experiment.grid(profile)
    own = runs.find(networks, store, profile)
    again = runs.find(experiment.again(profile), store, profile)
    records = [run.record for run in own + again]
    studies = [(study, study_store), *beside(study, study_store)]
    of_study = [record for part in studies for record in study_records(*part)]
    trained, data, fine_tuned = origins(records), fingerprints(own), origins(of_study)
    ours, places = tables.results(own), answer.scales(own, again, profile)
    parts = {
        "answer": "<p><strong>{}</strong> {}</p>".format(*answer.short(ours)),
        "sure": show(answer.sure(places), "sure").data,
        "settled": f"<p>{answer.settled(places)}</p>",
        "cover": cover(profile, ours),
        "survival": f'<div class="panels">{"".join(survival(ours))}</div>',
        "cost": show(answer.cost(own), "cost").data,
        "models": cards.folded(own),
        "networks": show(short(trained[list(SHOWN)]), "networks", trained).data,
        "fingerprints": show(short(data), "fingerprints", data).data,
        "environments": show(environments(records + of_study), "environments").data,
        "jobs": show(cluster.scales(), "jobs").data,
        "demonstration": show(demonstration(), "demonstration").data,
        "sides": show(sides(), "sides").data,
        "recipes": show(comparison.recipes("fgsm_no_ll"), "recipes").data,
        "study_networks": show(by_cell(fine_tuned), "study_networks", fine_tuned).data,
    }
    for name, part in parts.items():
        _put(f"{name}.html", part)
    _put("scales.md", scales(profile, store))
    _put("studies.md", other_studies([part.study for part, _ in studies], store))
    _put("cite.bib", citations())
    drawings = {"figure1": figures.scheme(networks), "jobs": cluster.graph(cluster.smoke())}
    for name, drawing in drawings.items():
        _put(f"{name}.svg", svg(drawing))


def _put(name: str, part: str) -> None:
    """Write a part to where pages look for it."""
    paths.GENERATED.mkdir(parents=True, exist_ok=True)
    (paths.GENERATED / name).write_text(part, encoding="utf-8")


def captioned(name: str, table: HTML, caption: str) -> str:
    """Markdown of a table that gets a number, a caption and the name ``tab-…``; it is put apart."""
    _put(f"{name}.html", table.data)
    return f"```{{of-records}} {name}\n:name: tab-{name}\n{caption}\n```\n"


def cover(profile: Profile, ours: pd.DataFrame) -> str:
    """A robust source layer by layer, what of it is retrained naturally, and what that leaves."""
    rows = ""
    for name, words in COVER.items():
        layers = _layers(profile, ours.loc[name, "strategy"])
        widest, bars = max(channels for channels, _ in layers), ""
        for place, (channels, moved) in enumerate(layers):
            kind, trained = ("moved", "nat") if moved else ("robust", "pgd")
            height = 10 * channels / widest
            bars += f'<rect class="{kind}" fill="{COLOURS[trained]}" x="{place + 0.1:.1f}" '
            bars += f'y="{10 - height:.2f}" width="0.8" height="{height:.2f}"/>'
        count = sum(moved for _, moved in layers)
        said = f"{count} of {len(layers)} layers retrained without attacks"
        drawn = f'<svg role="img" aria-label="{said}" viewBox="0 0 {len(layers)} 10" '
        drawn += f'preserveAspectRatio="none">{bars}</svg>'
        left = f"<strong>{percent(ours.loc[name, 'wb_pgd'])} %</strong>"
        rows += f"<div><span>{words}</span>{drawn}{left}</div>"
    return f'<div class="cover">{rows}</div>'


def _layers(profile: Profile, strategy: str | None) -> list[tuple[int, bool]]:
    """Channels of every layer of a profile's network, and whether a transfer retrains it."""
    model = build(profile.network, DATASETS[profile.target_dataset].classes, 0)
    if transferred := strategy in STRATEGIES:
        transplant(model, model.state_dict(), strategy)
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return [(max(w.shape[:2]), transferred and w.requires_grad) for w in weights]


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


def beside(study: Study, store: Store) -> list[tuple[Study, Store]]:
    """The studies that are judged with one, each with its records."""
    others = judged(study)[1:]
    return [(part, Store(store.root, paths.PUBLISHED / part.folder)) for part in others]


def other_studies(shown: list[str], store: Store) -> str:
    """The second paper's tables at every published scale but those shown, as Markdown."""
    sections = []
    for name in STUDY_SCALES:
        published = paths.PUBLISHED / f"study-{name}"
        if name in shown or not (published / STUDY_TABLE).exists():
            continue
        study, there = read_study(paths.STUDIES / f"{name}.yaml"), Store(store.root, published)
        measured = [stored(cell, there) for cell in cells(study)]
        pairs = fine_tuning.strategy_pairs(measured)
        own = {
            "designs": (fine_tuning.designs(study, measured), "What is run"),
            "strategies": (
                fine_tuning.table_1(measured, study.shown),
                "The paper's Table I and ours, accuracy in percent",
            ),
            "techniques": (
                fine_tuning.table_2(measured, study.shown),
                "The paper's Table II and ours, accuracy under PGD in percent",
            ),
        }
        sections += [f"### Study {name}\n", f"<p>{fine_tuning.data_line(study, measured)}</p>\n"]
        for what, (table, said) in own.items():
            file = f"{what}-{name}"
            sections.append(captioned(file, show(table, file), f"{said}: the study `{name}`."))
        sections.append(f"<p>{fine_tuning.settled(pairs, 'pgd', study.shown)}</p>\n")
    return "\n".join(sections) or "No other study has been run.\n"


def study_records(study: Study, store: Store) -> list[Record]:
    """The records of every network of a study, sources first."""
    fine_tuned = [config for cell in cells(study) for config in cell.configs]
    sources = {config.source.hash: config.source for config in fine_tuned if config.source}
    return [store.find(config) for config in [*sources.values(), *fine_tuned]]


def scales(shown: Profile, store: Store) -> str:
    """Table 1 at every scale but the one shown, as far as it is finished, as Markdown."""
    sections = []
    for name in experiment.SCALES:
        profile = experiment.read_profile(paths.PROFILES / f"{name}.yaml")
        if profile.profile != shown.profile:
            sections.append(_scale(profile, Store(store.root, paths.PUBLISHED / profile.folder)))
    return "".join(sections) or "No other scale has been run.\n"


def _scale(profile: Profile, store: Store) -> str:
    """A section with the evaluated rows of one profile; empty if there are none."""
    own = runs.find(experiment.grid(profile), store, profile)
    again = runs.find(experiment.again(profile), store, profile)
    if any(run.network.in_table and run.evaluation is None for run in again):
        profile, again = profile.model_copy(update={"further_seeds": ()}), []  # wait for all seeds
    if not (done := [run for run in own if run.evaluation]):
        return ""
    trained = [run for run in own + again if run.record]
    ours, name = tables.results(done), f"table1-{profile.profile}"
    table = comparison.main_table(ours, tables.paper().loc[ours.index], name)
    what = f"Table 1 by the profile `{profile.profile}`, accuracies in percent, beside the paper's."
    parts = [
        f"## Profile {profile.profile}\n",
        f"<p>{tables.data_line(profile, trained)}</p>\n",
        captioned(name, table, what),
        *_compared(profile.profile, done, again),
    ]
    if missing := [r.network.label for r in own if r.network.in_table and not r.evaluation]:
        parts.append(f"<p>Not finished yet: {', '.join(missing)}.</p>\n")
    return "\n".join([*parts, ""])


def _compared(name: str, done: list[Run], again: list[Run]) -> list[str]:
    """The differences in and behind the headline whose networks are finished."""
    pairs = [pair for pair in experiment.COMPARED if {*pair} <= {run.network.id for run in done}]
    if not pairs:
        return []
    table, file = comparison.comparisons(done + again, pairs), f"comparisons-{name}"
    said = f"The headline and what is behind it by the profile `{name}`: differences in points."
    parts = [captioned(file, show(table, file), said)]
    if not (table := comparison.over_seeds(done + again)).empty:
        file = f"seeds-{name}"
        said = f"Networks of the profile `{name}` over seeds: accuracies in percent."
        parts.append(captioned(file, show(table, file), said))
    return [*parts, f"<p>{comparison.between_seeds(done + again)}</p>\n"]


def demonstration() -> pd.DataFrame:
    """What seeds change in the demonstration on drawn images, as it was measured once."""
    file = paths.BOOK / "benchmarks" / "demonstration.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    smoke = experiment.read_profile(experiment.profile_path("smoke"))
    labels = {network.id: network.label for network in experiment.grid(smoke)}
    table = pd.DataFrame(rows).set_index("seed")
    first, second = experiment.COMPARED[0]
    gaps = (table[first] - table[second]).map(signed)
    table[f"{labels[first]} − {labels[second]}"] = gaps
    return table.rename(columns=labels).rename_axis(index=None, columns="seed")


def sides() -> pd.DataFrame:
    """What EfficientNet-Lite0 gets right at several sizes of its images, as measured once."""
    file = paths.BOOK / "benchmarks" / "sides.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    table = pd.DataFrame(rows).set_index("side")
    return pd.DataFrame({"accuracy": table["natural"].map(percent)}).T.rename_axis(columns="side")


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
        for name, repeats in runs.groupby(runs.index.str.replace(FOLD, "", regex=True), sort=False)
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
