"""Model cards: what each network is, how it came about, and what was found on it."""

import html
from pathlib import Path

import pandas as pd
import yaml

from robust_transfer import paths
from robust_transfer.davchev2019.experiment import Network
from robust_transfer.davchev2019.runs import Run
from robust_transfer.davchev2019.tables import LAST
from robust_transfer.evaluation.accuracies import COLUMNS, NAMES, STRONG, Evaluation
from robust_transfer.presentation.tables import (
    as_html,
    describe_attack,
    percent,
    percent_interval,
    scrolling,
)
from robust_transfer.records.store import HISTORY, RECORD, WEIGHTS, Record
from robust_transfer.runner import count_weights

FROZEN = {None: "nothing", "all": "nothing", "head": "all but the head"}
FROZEN |= {"stage3": "all but stage 3 and the head"}
FILES = {"record": RECORD, "epochs": HISTORY, "weights": WEIGHTS, "outcomes": "evaluation-*.json"}
FILES |= {"under strong attacks": "strong-*.json", "along the budget": "budgets-*.json"}
"""What the folder of a record holds, by what it is to readers."""


def folded(own: list[Run]) -> str:
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
    config = (paths.ROOT / "_config.yml").read_text(encoding="utf-8")
    book = yaml.safe_load(config)["repository"]
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
