"""The base of every configuration, frozen, validated, hashed, read from YAML; of command lines too.

Errors are one line each; they name the parameter, its value and what is allowed.
"""

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, NoReturn

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

MOST = 10_000_000
"""More images, epochs or steps than that are a slip."""
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What the generators of NumPy and PyTorch take."""
Side = Annotated[int, Field(ge=0, le=4096)]
"""Of images, in pixels; 0 is the data set's own."""


class Config(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Base of every configuration: frozen, typed, no unknown fields, one-line errors."""

    @model_validator(mode="before")
    @classmethod
    def _no_yes_for_a_number(cls, given: object) -> object:
        for name, value in given.items() if isinstance(given, dict) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field and field.annotation is not bool:
                raise ValueError(f"{name} = {value}: allowed is no yes or no")
        return given

    def __init__(self, **fields) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise ValueError(one_line(type(self), error)) from None

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that stand for all fields, those of fields included.

        Fields at their default stay out, so that a field added later leaves old records valid.
        """
        fields = self.model_dump(mode="json", exclude_defaults=True)
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def one_line(config: type[BaseModel], error: ValidationError) -> str:
    """What is wrong with which field, in one line."""
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
            said = message.partition(given)[2] or message
            whole = problem["type"] == "value_error" and isinstance(problem["input"], dict)
            shown = ": " if whole else given  # of a whole, the message names the field
            message = f"{name}{shown}{said}"
            if problem["type"] == "less_than_equal" and "epsilon" in name:
                levels = float(problem["input"])
                message += f" on the [0, 1] scale; {levels:g} of 256 levels is {levels / 256:g}"
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
        given = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict):
        raise ValueError(f"{path}: a {type(given).__name__}; allowed are lines of name: value")
    if others := [key for key in given if not isinstance(key, str)]:
        raise ValueError(f"{path}: {others[0]!r} is no name; allowed are lines of name: value")
    try:
        config, name = kind(**given), kind.__name__.lower()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if name not in given:  # the default's would stand under numbers of another scale
        raise ValueError(f"{path}: a {name} gives its name; {name} is missing")
    return config


class _Loader(yaml.SafeLoader):
    """Reads YAML, in which no name may stand twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [key.value for key, _ in node.value]
        if twice := [name for name in names if names.count(name) > 1]:
            raise yaml.YAMLError(f"{twice[0]} stands twice")
        return super().construct_mapping(node, deep)


def _decimal(loader: _Loader, node: yaml.ScalarNode) -> int:
    """A whole number; YAML would read 010 as eight, and 1:30 as ninety."""
    if re.match(r"[-+]?0[0-9_]|.*:", node.value):
        raise yaml.YAMLError(f"{node.value}: numbers are written as decimals")
    return loader.construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _decimal)


class Parser(argparse.ArgumentParser):
    """A command line that names what it refuses in one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def say(error: Exception | str, code: int) -> int:
    """Print an error in one line; returns the exit code that is given."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return code
