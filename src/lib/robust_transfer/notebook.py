"""From a notebook's parameter cell to a validated experiment and runner."""

import ast
from collections.abc import Mapping

from robust_transfer import paths
from robust_transfer.experiments import Profile
from robust_transfer.runner import Runner

INJECTED = "# Parameters"
"""First line of the cell in which papermill puts the parameters it was given."""


def settings(namespace: Mapping[str, object], *own: str) -> tuple[Profile, Runner]:
    """Validate the parameters of a notebook.

    Args:
        namespace: the notebook's ``globals()``.
        own: names of parameters that only this notebook has.

    Returns:
        The experiment to run, and where to run it, with paths made absolute.

    Raises:
        ValueError: a parameter that no cell of the notebook knows (papermill itself only warns),
            or a value that is not allowed.
    """
    shared = {*Profile.model_fields, *Runner.model_fields}
    if unknown := sorted(_injected(namespace) - shared - {*own}):
        known = ", ".join(sorted({*shared, *own}))
        raise ValueError(f"unknown parameter {', '.join(unknown)}; known: {known}")
    profile = Profile(**{name: namespace[name] for name in Profile.model_fields})
    where = {name: namespace[name] for name in Runner.model_fields}
    if where["published_dir"]:
        where["published_dir"] = f"{where['published_dir']}/{profile.profile}"
    for name in ("results_dir", "published_dir", "data_dir"):
        where[name] = paths.resolve(where[name])
    return profile, Runner(**where)


def _injected(namespace: Mapping[str, object]) -> set[str]:
    """Names that papermill assigned, read from the cells run so far."""
    cells = [cell for cell in namespace.get("In", ()) if cell.startswith(INJECTED)]
    statements = [statement for cell in cells for statement in ast.parse(cell).body]
    return {statement.targets[0].id for statement in statements}
