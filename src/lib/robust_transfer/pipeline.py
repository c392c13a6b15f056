"""The pipeline: execute the notebooks in order with papermill, then build the book from them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import yaml

from robust_transfer import experiments, figures, paths, records, tables
from robust_transfer.evaluation import find
from robust_transfer.notebook import INJECTED, settings
from robust_transfer.runner import Runner
from robust_transfer.training import load_data

EXPERIMENT = (
    "01_source",
    "02_transfer",
    "03_evaluation",
    "04_figures",
    "07_verdicts",
    "09_browser",
)
"""Run at the scale of the profile asked for."""
DEMONSTRATIONS = ("00_threat_models", "05_explore", "06_speed", "08_seeing")
"""Run on the embedded images, which every reader has, or on none."""


def run(profile: Path, where: dict[str, object]) -> Path:
    """Execute all notebooks in order and build the book.

    Args:
        profile: papermill parameter file.
        where: parameters of ``runner.Runner`` for every notebook.

    Returns:
        The book's first page.

    Raises:
        ValueError, FileNotFoundError: a profile that is not valid, or data that is not there,
            before anything runs.
        papermill.PapermillExecutionError: a cell failed; the notebook so far is in
            ``book/_executed``.
        RuntimeError: the book does not build cleanly.
    """
    protocol = experiments.read_profile(profile)
    fields = protocol.model_dump() | Runner().model_dump() | where
    _, runner = settings(fields)
    for config in runner.missing([network.config for network in experiments.grid(protocol)]):
        load_data(config, runner.data_dir)  # now, not after the first notebooks
    for name in sorted(EXPERIMENT + DEMONSTRATIONS):
        chosen = profile if name in EXPERIMENT else paths.PROFILES / "smoke.yaml"
        execute(name, yaml.safe_load(chosen.read_text()) | where)
    return build(protocol)


def execute(name: str, parameters: dict[str, object]) -> None:
    """Execute one notebook into ``book/_executed``."""
    print(f"executing notebooks/{name}.ipynb", flush=True)
    executed = paths.EXECUTED / f"{name}.ipynb"
    executed.parent.mkdir(parents=True, exist_ok=True)
    papermill.execute_notebook(
        paths.NOTEBOOKS / f"{name}.ipynb",
        executed,
        parameters,
        kernel_name="python3",
        cwd=paths.NOTEBOOKS,
        progress_bar=False,
        stdout_file=sys.stdout,
        coalesce_streams=True,  # of a progress bar only the last state stays
    )
    notebook = nbformat.read(executed, nbformat.NO_CONVERT)
    tidy(notebook)
    nbformat.write(notebook, executed)


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Make an executed notebook fit to publish, in place.

    Paths and times of this machine go, and parameters are folded away.
    """
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        tags = cell.metadata.get("tags", [])
        if cell.source.startswith(INJECTED) or "parameters" in tags:
            cell.metadata["tags"] = [*tags, "hide-input"]
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                output.text = output.text.replace(f"{paths.ROOT}/", "")


def build(profile: experiments.Profile) -> Path:
    """Build the HTML book from the executed notebooks, warnings being errors."""
    paths.GENERATED.mkdir(parents=True, exist_ok=True)
    diagram = figures.pipeline(experiments.grid(profile))
    diagram.savefig(paths.GENERATED / "figure1.svg", metadata={"Date": None})
    builder = Path(sys.executable).with_name("jupyter-book")
    command = [str(builder), "build", "-W", "-n", "--keep-going", str(paths.ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        log = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
        problems = [line for line in log.splitlines() if "WARNING" in line or "ERROR" in line]
        raise RuntimeError(
            "the book does not build cleanly: " + "; ".join(problems or [log[-2000:]])
        )
    return paths.ROOT / "_build" / "html" / "index.html"


def publish(profile: experiments.Profile, store: records.Store) -> tuple[Path, list[str]]:
    """Copy the finished records of a profile to ``book/results``.

    Once everything is finished, Table 1 and its heatmap go with them.

    Returns:
        The folder, and what is not finished yet.
    """
    target = paths.PUBLISHED / profile.profile
    grid, how = experiments.grid(profile), experiments.evaluation(profile)
    targets = experiments.rows(grid)
    files: list[Path] = []
    missing = []
    for network in grid:
        if (record := store.find(network.config)) is None:
            missing.append(network.id)
        else:
            files += [record.folder / name for name in (records.RECORD, *record.content["sha256"])]
    evaluations = [find(store, network.config, how) for network in targets]
    for network, evaluation in zip(targets, evaluations, strict=True):
        if evaluation is None:
            missing.append(f"evaluation of {network.id}")
        else:
            files.append(store.folder(network.config) / f"evaluation-{how.hash}.json")
    for file in files:
        folder = target / file.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / file.name)
    if not missing:
        ours, theirs = tables.results(targets, evaluations), tables.paper(targets)
        ours.drop(columns="label").round(6).to_csv(target / "table1.csv")
        blocks = tables.heatmap_blocks("4", theirs)
        figures.heatmaps({profile.profile: ours, "paper": theirs}, blocks).savefig(
            target / "figure4.png", dpi=100
        )
    return target, missing
