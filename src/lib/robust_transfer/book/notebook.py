"""From a notebook's parameters cell to a validated experiment and runner."""

from collections.abc import Mapping
from pathlib import Path

from robust_transfer import paths
from robust_transfer.config import Config, read
from robust_transfer.davchev2019.experiment import Profile
from robust_transfer.myakala2022.experiment import Study, cells, judged
from robust_transfer.myakala2022.measured import MeasuredCell, measure
from robust_transfer.runner import Runner

INJECTED = "# Parameters"
"""The first line of the cell in which papermill puts what it was given; a notebook's own parameters
cell begins with a longer line of the same words."""


def settings(namespace: Mapping[str, object], *own: str) -> tuple[Profile, Runner]:
    """Validate the parameters of a notebook on paper A's experiment.

    What papermill was given stands above what a reader wrote into the parameters cell, which stands
    above the file of the profile. ``None`` leaves a parameter to the file.

    Args:
        namespace: the notebook's ``globals()``.
        own: names of parameters that only this notebook has.

    Returns:
        The experiment to run, and where to run it, with paths made absolute.

    Raises:
        ValueError: a parameter that nobody knows (papermill itself only warns), a profile that is
            none, or a value that is not allowed.
    """
    return assemble(Profile, given(namespace), *own)


def study_settings(namespace: Mapping[str, object], *own: str) -> tuple[Study, Runner]:
    """Validate the parameters of a notebook on paper B's experiment; see ``settings``."""
    return assemble(Study, given(namespace), *own)


def measure_judged(study: Study, runner: Runner) -> list[MeasuredCell]:
    """The measured cells of a study and of what is judged with it, each from its own records."""
    measured = []
    for part in judged(study):
        published = runner.published_dir and str(Path(runner.published_dir).parent / part.folder)
        own = runner.model_copy(update={"published_dir": published})
        measured += measure(own, cells(part))
    return measured


def given(namespace: Mapping[str, object]) -> dict[str, object]:
    """What the parameters cells say, papermill's last; names of later cells do not count."""
    cells = [cell for cell in namespace.get("In", ()) if cell.startswith(INJECTED)]
    latest = {cell.startswith(f"{INJECTED}\n"): cell for cell in cells}  # of a cell run twice
    said: dict[str, object] = {}
    exec(f"{latest.get(False, '')}\n{latest.get(True, '')}", said)
    apart = ("__builtins__", "PAPERMILL_")  # the latter from --inject-paths
    return {name: value for name, value in said.items() if not name.startswith(apart)}


def assemble(kind: type[Config], said: Mapping[str, object], *own: str) -> tuple[Config, Runner]:
    """The experiment of a profile's or a study's file with some fields changed, and its runner.

    Args:
        kind: ``Profile`` or ``Study``.
        said: the file's name or path under ``profile`` or ``study``, and what is changed. A
            whole experiment needs no file.
        own: names of parameters that are neither's.

    Raises:
        ValueError: see ``settings``.
    """
    known = {*kind.model_fields, *Runner.model_fields, *own}
    if unknown := ", ".join(sorted({*said} - known)):
        raise ValueError(f"unknown parameter {unknown}; known: {', '.join(sorted(known))}")
    chosen = {name: value for name, value in said.items() if value is not None}
    fields = {name: chosen[name] for name in kind.model_fields if name in chosen}
    needed = {name for name, field in kind.model_fields.items() if field.default is not None}
    if needed - fields.keys():  # the others are a file's, which also names them
        what = kind.__name__.lower()
        folder = paths.PROFILES if kind is Profile else paths.STUDIES
        file = paths.parameter_file(what, folder, fields.pop(what, ""))
        fields = read(kind, file).model_dump() | fields
    experiment = kind(**fields)
    runner = Runner(**{name: chosen[name] for name in Runner.model_fields if name in chosen})
    published = runner.published_dir and f"{runner.published_dir}/{experiment.folder}"
    folders = {"results_dir": runner.results_dir, "data_dir": runner.data_dir}
    folders = {n: paths.resolve(f) for n, f in (folders | {"published_dir": published}).items()}
    return experiment, runner.model_copy(update=folders)
