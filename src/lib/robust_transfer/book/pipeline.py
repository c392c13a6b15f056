"""The pipeline: execute the notebooks with papermill, then build the book from them."""

import ast
import gc
import io
import json
import os
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import nbformat
import papermill
from jupyter_client.manager import AsyncKernelManager

from robust_transfer import paths
from robust_transfer.book import pages
from robust_transfer.book.kernels import start_forking
from robust_transfer.book.notebook import INJECTED, assemble
from robust_transfer.config import Config, read
from robust_transfer.davchev2019 import experiment, figures, runs, tables
from robust_transfer.evaluation import layers
from robust_transfer.files import lock, write_atomically, write_sealed
from robust_transfer.myakala2022.experiment import STUDY_TABLE, Study, cells
from robust_transfer.myakala2022.measured import measurements, of_networks
from robust_transfer.records.store import RECORD, WEIGHTS, Record, Store, folder_name
from robust_transfer.training import engine

TRAINING = ("01_source", "02_transfer", "03_evaluation", "06_study")
"""Train and measure what is missing; the others only show what is there."""
STUDY = ("06_study", "07_techniques", "08_forensics")
"""Run at the scale of a study."""
COMBINATIONS = "07_techniques"
"""Of these, the one that is run with the study that has all combinations of techniques."""
DEMONSTRATIONS = ("10_explore", "12_speed")
"""Run on the embedded images, which every reader has, or on none; all others on the profile's."""


def run(profile: Path, study_file: Path, where: dict[str, object]) -> Path:
    """Execute all notebooks and build the book.

    What only shows something is made side by side: all of it, where nothing is missing.

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
    gc.freeze()  # what is imported stays: nothing to look through, again and again
    protocol, runner = assemble(experiment.Profile, first)
    study, study_runner = assemble(Study, second)
    networks = experiment.grid(protocol) + experiment.again(protocol)
    runner.announce([network.config for network in networks])  # now, not after the first notebooks
    study_runner.announce([config for cell in cells(study) for config in cell.configs])
    wanted = [(runner, *wish) for wish in experiment.wishes(networks, protocol)]
    wanted += [(study_runner, *wish) for cell in cells(study) for wish in cell.wishes]
    missing = any(how.find(where.store, config) is None for where, config, how in wanted)
    special = dict.fromkeys(STUDY, second)
    named = study.combinations or second["study"]
    special[COMBINATIONS] = second | {"study": named}
    special |= dict.fromkeys(DEMONSTRATIONS, where | {"profile": "smoke"})
    notebooks = sorted(paths.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    shown = {path.stem: special.get(path.stem, first) for path in notebooks}
    with lock(paths.EXECUTED):  # two pipelines would write the same pages
        with chdir(paths.NOTEBOOKS):  # as Jupyter would
            for name in TRAINING if missing else ():
                execute(name, shown.pop(name))
            of_records = (pages.write, protocol, runner.store, study, study_runner.store)
            os.environ["OMP_NUM_THREADS"] = "1"  # of the kernels to come, which share the cores
            kernels = start_forking()
            side_by_side([of_records, *((execute, *one, kernels) for one in shown.items())])
        return build()


def side_by_side(jobs: list[tuple]) -> None:
    """Do jobs, each a function and its arguments, one to a core; the first error ends them all."""
    with ThreadPoolExecutor(engine.cores()) as pool:
        try:
            for done in [pool.submit(*job) for job in jobs]:
                done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def execute(
    name: str,
    parameters: dict[str, object],
    kernels: type[AsyncKernelManager] = AsyncKernelManager,
) -> None:
    """Execute one notebook into ``book/_executed``, in a kernel that is started by ``kernels``."""
    print(f"executing notebooks/{name}.ipynb", flush=True)
    executed = paths.EXECUTED / f"{name}.ipynb"
    executed.parent.mkdir(parents=True, exist_ok=True)
    notebook = papermill.execute_notebook(
        paths.NOTEBOOKS / f"{name}.ipynb",
        executed,
        parameters,
        kernel_name="python3",
        kernel_manager_class=kernels,
        progress_bar=False,
        stdout_file=sys.stdout,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],  # it would warn of TCP in every kernel
        coalesce_streams=True,  # of a progress bar only the last state stays
    )
    tidy(notebook)
    nbformat.write(notebook, executed)


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Make an executed notebook fit to publish, in place.

    Paths and times of this machine go: paths start at the checkout, a folder elsewhere reads DIR.
    What was set stands in one folded cell, with which the page runs again; the cell that reads it
    is folded too, so that a page opens with its question.
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
    private = {f"{paths.ROOT}/": ""} | dict.fromkeys(_elsewhere(given), "DIR")
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if cell is given or "settings(globals()" in cell.source:
            what = "parameters of this run" if cell is given else "imports and settings"
            cell.metadata["mystnb"] = {"code_prompt_show": f"Show {what}"}
            cell.metadata["tags"] = ["hide-input"]
        for name in {"source", "outputs"} & cell.keys():
            text = json.dumps(cell[name])
            for path, shown in private.items():
                text = text.replace(json.dumps(path)[1:-1], shown)
            cell[name] = nbformat.from_dict(json.loads(text))


def _elsewhere(given: nbformat.NotebookNode | None) -> list[str]:
    """Absolute folders, not in the checkout, that a cell of parameters names."""
    values = [s.value for s in ast.parse(given.source).body] if given else []
    named = [v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)]
    folders = [path for path in named if Path(path).is_absolute() and len(path) > 1]
    return [path for path in folders if not Path(path).is_relative_to(paths.ROOT)]


def build() -> Path:
    """Build the HTML book from executed notebooks and parts of pages, warnings being errors."""
    from jupyter_book.sphinx import build_sphinx  # seconds, which nothing else needs

    html, printed = paths.ROOT / "_build" / "html", io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed), _no_collection():
        failed = build_sphinx(
            paths.ROOT,
            html,
            noconfig=True,
            path_config=paths.ROOT / "_config.yml",
            confoverrides={
                "external_toc_path": "_toc.yml",
                "latex_individualpages": False,
                "nitpicky": True,
            },
            warningiserror=True,
            keep_going=True,
            jobs=2 * engine.cores(),  # more parts, as they are not equally long
        )
    if failed:
        log = re.sub(r"\x1b\[[0-9;]*m", "", printed.getvalue())
        problems = [line for line in log.splitlines() if "WARNING" in line or "ERROR" in line]
        why = "; ".join(problems or [log[-2000:]])
        raise RuntimeError(f"the book does not build cleanly: {why}")
    return html / "index.html"


@contextmanager
def _no_collection() -> Iterator[None]:
    """Look for no garbage in cycles: with all of Sphinx's trees alive, a quarter of its time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def publish(profile: experiment.Profile, store: Store) -> list[str]:
    """Copy the finished records of a profile to ``book/results``.

    Networks of further seeds, and their sources, go without weights. Table 1 and its heatmap go
    with them once nothing that the book shows is missing.

    Returns:
        What is not finished yet.

    Raises:
        ValueError: the profile is not the one of its name in ``notebooks/profiles``.
    """
    check_known(profile, paths.PROFILES, profile.profile)
    target = paths.PUBLISHED / profile.folder
    there = Store(target / "none", target)  # what is published, by itself
    networks = experiment.grid(profile) + experiment.again(profile)
    for network in sorted(networks, key=lambda network: network.role == "source"):
        # what transfers started from stays; a source trained anew since would void them
        if network.role != "source" or there.find(network.config) is None:
            _copy(store.lineage(network.config), target, weights=not network.further)
        for how in experiment.measurements(profile, network).values():
            if (found := how.find(store, network.config)) is not None:
                write_sealed(target / folder_name(network.config) / how.file_name, found.content)
    published = runs.find(networks, there, profile)
    rows = [run for run in published if run.network.in_table]
    missing = [_named(run) for run in published if run.record is None]
    for run in published:
        hows = experiment.measurements(profile, run.network)
        missing += [f"{name} of {_named(run)}" for name in hows if getattr(run, name) is None]
    if not missing:
        theirs = tables.paper()
        ours = tables.results([run for run in rows if not run.network.further])
        table = ours.drop(columns="label").round(6).to_csv()
        shown, picture = {profile.profile: ours, "paper": theirs}, io.BytesIO()
        drawn = figures.heatmaps(shown, tables.heatmap_blocks("4", theirs))
        drawn.savefig(picture)
        write_atomically(target / "figure4.png", picture.getvalue())
        write_atomically(target / experiment.TABLE, table.encode())
    return missing


def check_known(what: Config, folder: Path, name: str) -> None:
    """Raise ValueError unless a profile or study is what the file of its name says.

    Numbers of another scale would come to stand under the name.
    """
    file, kind = folder / f"{name}.yaml", type(what).__name__.lower()
    if not file.exists() or read(type(what), file) != what:
        there = file.relative_to(paths.ROOT) if file.is_relative_to(paths.ROOT) else file
        raise ValueError(f"{kind} = {name!r}: it is not what {there} says; allowed is that one")


def _named(run: runs.Run) -> str:
    return run.network.id + (f", seed {run.network.config.seed}" if run.network.further else "")


def publish_study(study: Study, store: Store) -> list[str]:
    """Copy the finished records of a study to ``book/results``, and all measurements as a table.

    Fine-tuned networks are many; they go without weights, their sources with them, and what the
    strongest attacks found as far as it is there. The table goes with them once nothing is missing.

    Returns:
        What is not finished yet.

    Raises:
        ValueError: the study is not the one of its name in ``notebooks/studies``.
    """
    check_known(study, paths.STUDIES, study.study)
    target = paths.PUBLISHED / study.folder
    missing, measured = [], []
    for cell in cells(study):
        records, budgets = [], []
        for config, how in cell.wishes:
            if (found := how.find(store, config)) is None:
                missing.append(f"{config.name}, seed {config.seed}")
                continue
            *sources, own = store.lineage(config)
            records.append(own)
            budgets.append(found)
            _copy(sources, target, weights=True)
            _copy([own], target, weights=False)
            folder = target / folder_name(config)
            write_sealed(folder / how.file_name, found.content)
            if (content := store.read_beside(config, layers.NAME, {})) is not None:
                write_sealed(folder / layers.NAME, content)
        copied = {record.config for record in records}
        for config, how in cell.strong_wishes:
            if config in copied and (found := how.find(store, config)) is not None:
                write_sealed(target / folder_name(config) / how.file_name, found.content)
        if len(budgets) == len(cell.configs):
            measured.append(of_networks(cell, records, budgets))
    if not missing:
        table = measurements(measured).round(6).to_csv(index=False)
        write_atomically(target / STUDY_TABLE, table.encode())
    return missing


def _copy(found: list[Record], target: Path, weights: bool) -> None:
    """Copy records to where others are published, if they are not from there."""
    for record in found:
        if record.folder.parent == target:
            continue
        for name in (*record.sha256, RECORD):  # which vouches for the others
            if weights or name != WEIGHTS:
                content = (record.folder / name).read_bytes()
                write_atomically(target / record.folder.name / name, content)
