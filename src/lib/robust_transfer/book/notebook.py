"""From a notebook's parameter cell to a validated experiment and runner."""

import ast
from collections.abc import Collection, Mapping

from robust_transfer import paths
from robust_transfer.config import Config
from robust_transfer.davchev2019.experiment import Profile
from robust_transfer.myakala2022.experiment import Study
from robust_transfer.runner import Runner

INJECTED = "# Parameters"
"""First line of the cell in which papermill puts the parameters it was given."""


def settings(namespace: Mapping[str, object], *own: str) -> tuple[Profile, Runner]:
    """Validate the parameters of a notebook on paper A's experiment.

    Args:
        namespace: the notebook's ``globals()``.
        own: names of parameters that only this notebook has.

    Returns:
        The experiment to run, and where to run it, with paths made absolute.

    Raises:
        ValueError: a parameter that no cell of the notebook knows (papermill itself only warns),
            or a value that is not allowed.
    """
    return _settings(Profile, namespace, own)


def study_settings(namespace: Mapping[str, object], *own: str) -> tuple[Study, Runner]:
    """Validate the parameters of a notebook on paper B's experiment; see ``settings``."""
    return _settings(Study, namespace, own)


def _settings(
    kind: type[Config], namespace: Mapping[str, object], own: Collection[str]
) -> tuple[Config, Runner]:
    shared = {*kind.model_fields, *Runner.model_fields}
    if unknown := sorted(_injected(namespace) - shared - {*own}):
        known = ", ".join(sorted({*shared, *own}))
        raise ValueError(f"unknown parameter {', '.join(unknown)}; known: {known}")
    experiment = kind(**{name: namespace[name] for name in kind.model_fields})
    where = {name: namespace[name] for name in Runner.model_fields}
    if where["published_dir"]:
        where["published_dir"] = f"{where['published_dir']}/{experiment.folder}"
    for name in ("results_dir", "published_dir", "data_dir"):
        where[name] = paths.resolve(where[name])
    return experiment, Runner(**where)


def _injected(namespace: Mapping[str, object]) -> set[str]:
    """Names that papermill assigned, read from the cells run so far."""
    cells = [cell for cell in namespace.get("In", ()) if cell.startswith(INJECTED)]
    statements = [statement for cell in cells for statement in ast.parse(cell).body]
    return {statement.targets[0].id for statement in statements}
