"""The base of every configuration: frozen, validated, hashed, read from YAML.

Errors are one line each; they name the parameter, its value and what is allowed.
"""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path

import yaml
from pydantic import BaseModel, ValidationError


class Config(BaseModel, frozen=True, extra="forbid"):
    """Base of every configuration: frozen, typed, no unknown fields, one-line errors."""

    def __init__(self, **fields) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise ValueError(_one_line(type(self), error)) from None

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that stand for all fields, those of fields included.

        Fields at their default stay out, so that a field added later leaves old records valid.
        """
        fields = self.model_dump(mode="json", exclude_defaults=True)
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def _one_line(config: type[Config], error: ValidationError) -> str:
    complaints = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = f"unknown parameter {name}; known: {', '.join(sorted(config.model_fields))}"
        elif problem["type"] == "missing":
            message = f"{name} is required"
        elif name:  # else the message names it; where it does too, the field's own name counts
            given = f" = {problem['input']!r}: "
            message = f"{name}{given}{message.partition(given)[2] or message}"
            if problem["type"] == "less_than_equal" and "epsilon" in name:
                message += f" on the [0, 1] scale; {problem['input']:g} of 256 levels is "
                message += f"{problem['input'] / 256:g}"
        complaints.append(message)
    return "; ".join(complaints)


def one_of(parameter: str, value: str, allowed: Collection[str]) -> str:
    """Return ``value``; raise ValueError unless it is one of the ``allowed`` words."""
    if value not in allowed:
        raise ValueError(f"{parameter} = {value!r}: allowed are {', '.join(sorted(allowed))}")
    return value


def read(kind: type[Config], path: Path | str) -> Config:
    """Read a configuration from a file of its name and of what differs from the defaults.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a mapping in YAML, no name, an unknown parameter, or a value that is not
            allowed.
    """
    try:
        given = yaml.safe_load(Path(path).read_text()) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict):
        raise ValueError(f"{path}: a {type(given).__name__}; allowed are lines of name: value")
    config, name = kind(**given), kind.__name__.lower()
    if name not in given:  # the default's would stand under numbers of another scale
        raise ValueError(f"{path}: a {name} gives its name; {name} is missing")
    return config
