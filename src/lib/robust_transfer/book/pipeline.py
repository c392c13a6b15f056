"""The pipeline: execute the notebooks in order with papermill, then build the book from them."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill

from robust_transfer import paths
from robust_transfer.book import pages
from robust_transfer.book.notebook import INJECTED, assemble
from robust_transfer.davchev2019 import experiment, figures, runs, tables
from robust_transfer.evaluation import layers
from robust_transfer.files import write_sealed
from robust_transfer.myakala2022.experiment import STUDY_TABLE, Study, cells
from robust_transfer.myakala2022.measured import MeasuredCell, Repeat, measurements
from robust_transfer.records.store import RECORD, WEIGHTS, Record, Store, folder_name
from robust_transfer.training.loop import load_data

STUDY = ("06_study", "07_forensics")
"""Run at the scale of a study."""
DEMONSTRATIONS = ("00_threat_models", "08_seeing", "09_explore", "11_speed")
"""Run on the embedded images, which every reader has, or on none; all others on the profile's."""


def run(profile: Path, study_file: Path, where: dict[str, object]) -> Path:
    """Execute all notebooks in order and build the book.

    Args:
        profile: file of paper A's experiment.
        study_file: of paper B's; another one than the profile's own only shows published records.
        where: parameters of ``Runner`` for every notebook.

    Returns:
        The book's first page.

    Raises:
        ValueError, FileNotFoundError: a profile that is not valid, or data that is not there,
            before anything runs.
        papermill.PapermillExecutionError: a cell failed; the notebook so far is in
            ``book/_executed``.
        RuntimeError: the book does not build cleanly.
    """
    only_shown = {} if study_file.stem == profile.stem else {"published_dir": "book/results"}
    first = {"profile": os.path.relpath(profile, paths.ROOT)} | where
    second = {"study": os.path.relpath(study_file, paths.ROOT)} | where | only_shown
    protocol, runner = assemble(experiment.Profile, first)
    study, study_runner = assemble(Study, second)
    needed = [n.config for n in experiment.grid(protocol) + experiment.again(protocol)]
    also = [config for cell in cells(study) for config in cell.configs]
    for config in runner.missing(needed) + study_runner.missing(also):
        load_data(config, runner.data_dir)  # now, not after the first notebooks
    special = dict.fromkeys(STUDY, second)
    special |= dict.fromkeys(DEMONSTRATIONS, where | {"profile": "smoke"})
    for path in sorted(paths.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        execute(path.stem, special.get(path.stem, first))
    return build(protocol, runner.store, study, study_runner.store)


def execute(name: str, parameters: dict[str, object]) -> None:
    """Execute one notebook into ``book/_executed``."""
    print(f"executing notebooks/{name}.ipynb", flush=True)
    executed = paths.EXECUTED / f"{name}.ipynb"
    executed.parent.mkdir(parents=True, exist_ok=True)
    notebook = papermill.execute_notebook(
        paths.NOTEBOOKS / f"{name}.ipynb",
        executed,
        parameters,
        kernel_name="python3",
        cwd=paths.NOTEBOOKS,
        progress_bar=False,
        stdout_file=sys.stdout,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],  # it would warn of TCP in every kernel
        coalesce_streams=True,  # of a progress bar only the last state stays
    )
    tidy(notebook)
    nbformat.write(notebook, executed)


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Make an executed notebook fit to publish, in place.

    Paths and times of this machine go. What was set stands in one folded cell, with which the page
    runs again; the cell that reads it is folded too, so that a page opens with its question.
    """
    notebook.metadata.pop("papermill", None)
    tagged = {tag: cell for cell in notebook.cells for tag in cell.metadata.get("tags", [])}
    given = tagged.get("injected-parameters")
    if given and (own := tagged.get("parameters")):
        statements = [s for cell in (own, given) for s in ast.parse(cell.source).body]
        said = {s.targets[0].id: ast.unparse(s) for s in statements}
        lines = [line for name, line in said.items() if line != f"{name} = None"]
        given.source = "\n".join([INJECTED, *lines])
        notebook.cells.remove(own)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if cell is given or "settings(globals()" in cell.source:
            what = "parameters of this run" if cell is given else "imports and settings"
            cell.metadata["mystnb"] = {"code_prompt_show": f"Show {what}"}
            cell.metadata["tags"] = ["hide-input"]
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                output.text = output.text.replace(f"{paths.ROOT}/", "")


def build(profile: experiment.Profile, store: Store, study: Study, study_store: Store) -> Path:
    """Build the HTML book from executed notebooks and finished records, warnings being errors."""
    pages.write(profile, store, study, study_store)
    builder = Path(sys.executable).with_name("jupyter-book")
    command = [str(builder), "build", "-W", "-n", "--keep-going", str(paths.ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        log = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
        problems = [line for line in log.splitlines() if "WARNING" in line or "ERROR" in line]
        why = "; ".join(problems or [log[-2000:]])
        raise RuntimeError(f"the book does not build cleanly: {why}")
    return paths.ROOT / "_build" / "html" / "index.html"


def publish(profile: experiment.Profile, store: Store) -> list[str]:
    """Copy the finished records of a profile to ``book/results``.

    Networks of further seeds, and their sources, go without weights. Table 1 and its heatmap go
    with them once nothing that the book shows is missing.

    Returns:
        What is not finished yet.
    """
    target = paths.PUBLISHED / profile.folder
    there = Store(target / "none", target)  # what is published, by itself
    networks = experiment.grid(profile) + experiment.again(profile)
    for network in sorted(networks, key=lambda network: network.role == "source"):
        if network.role == "source" and there.find(network.config) is not None:
            continue  # what transfers started from; one trained anew since would void them
        _copy(store.lineage(network.config), target, weights=not network.further)
        for name, content in store.beside(network.config, "evaluation-*.json").items():
            write_sealed(target / folder_name(network.config) / name, content)
    published = runs.find(networks, there, experiment.evaluation(profile))
    rows = [run for run in published if run.network.in_table]
    harder = runs.find(experiment.to_attack_harder(networks), there, experiment.stronger(profile))
    missing = [_named(run) for run in published if run.record is None]
    missing += [f"evaluation of {_named(run)}" for run in rows if run.evaluation is None]
    missing += [f"stronger attack on {_named(run)}" for run in harder if run.evaluation is None]
    if not missing:
        theirs = tables.paper()
        ours = tables.results([run for run in rows if not run.network.further])
        ours.drop(columns="label").round(6).to_csv(target / experiment.TABLE)
        shown = {profile.profile: ours, "paper": theirs}
        drawn = figures.heatmaps(shown, tables.heatmap_blocks("4", theirs))
        drawn.savefig(target / "figure4.png", dpi=100)
    return missing


def _named(run: runs.Run) -> str:
    return run.network.id + (f", seed {run.network.config.seed}" if run.network.further else "")


def publish_study(study: Study, store: Store) -> list[str]:
    """Copy the finished records of a study to ``book/results``, and all measurements as a table.

    Fine-tuned networks are many; they go without weights, their sources with them. The table goes
    with them once nothing is missing.

    Returns:
        What is not finished yet.
    """
    target = paths.PUBLISHED / study.folder
    missing, measured = [], []
    for cell in cells(study):
        repeats = []
        for config in cell.configs:
            if (found := cell.budgets.find(store, config)) is None:
                missing.append(f"{config.name}, seed {config.seed}")
                continue
            *sources, own = store.lineage(config)
            repeats.append(Repeat(config.seed, own, found))
            _copy(sources, target, weights=True)
            _copy([own], target, weights=False)
            folder = target / folder_name(config)
            write_sealed(folder / cell.budgets.file_name, found.content)
            if (content := store.read_beside(config, layers.NAME, {})) is not None:
                write_sealed(folder / layers.NAME, content)
        measured.append(MeasuredCell(**vars(cell), repeats=tuple(repeats)))
    if not missing:
        measurements(measured).round(6).to_csv(target / STUDY_TABLE, index=False)
    return missing


def _copy(found: list[Record], target: Path, weights: bool) -> None:
    """Copy records to where others are published, if they are not from there."""
    for record in found:
        if record.folder.parent == target:
            continue
        folder = target / record.folder.name
        folder.mkdir(parents=True, exist_ok=True)
        for name in (RECORD, *record.sha256):
            if weights or name != WEIGHTS:
                shutil.copyfile(record.folder / name, folder / name)
