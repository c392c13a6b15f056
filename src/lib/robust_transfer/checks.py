"""Errors in one line: each names the parameter, its value and what is allowed."""

import hashlib
import json
from collections.abc import Collection

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor


class Config(BaseModel):
    """Base of every configuration: frozen, typed, no unknown fields, one-line errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    def __init__(self, **fields) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise ValueError(describe(type(self), error)) from None

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that stand for all fields, those of fields included."""
        return config_hash(self)


def config_hash(config: Config) -> str:
    """Sixteen hexadecimal digits that stand for the fields of a configuration.

    Fields at their default stay out, so that a field added later leaves old records valid.
    """
    fields = config.model_dump(mode="json", exclude_defaults=True)
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def describe(config: type[BaseModel], error: ValidationError) -> str:
    """Put a validation error of ``config`` into one line."""
    complaints = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known = ", ".join(sorted(config.model_fields))
            complaints.append(f"unknown parameter {name}; known: {known}")
        elif problem["type"] == "missing":
            complaints.append(f"{name} is required")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            if name:  # else the message names it; where it does too, the field's own name counts
                given = f" = {problem['input']!r}: "
                message = f"{name}{given}{message.partition(given)[2] or message}"
            complaints.append(message)
    return "; ".join(complaints)


def one_of(parameter: str, value: str, allowed: Collection[str]) -> None:
    """Raise ValueError unless ``value`` is one of the ``allowed`` words."""
    if value not in allowed:
        raise ValueError(f"{parameter} = {value!r}: allowed are {', '.join(sorted(allowed))}")


def image_batch(images: Tensor, labels: Tensor) -> None:
    """Raise ValueError unless images are float ``(N, 3, H, W)`` in [0, 1] with labels to match.

    Labels are int64 ``(N,)``, or float32 ``(N, classes)`` of 0 and 1.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images have shape {tuple(images.shape)}: allowed is (N, 3, H, W)")
    if not images.is_floating_point():
        raise ValueError(f"images are {images.dtype}: allowed is floating point in [0, 1]")
    if labels.ndim == 2 and labels.dtype == torch.float32:
        _independent(labels, len(images))
    elif labels.shape != images.shape[:1]:
        raise ValueError(f"labels have shape {tuple(labels.shape)}: allowed is ({len(images)},)")
    elif labels.dtype != torch.int64:
        raise ValueError(f"labels are {labels.dtype}: allowed is torch.int64")
    elif labels.numel() and (lowest := labels.min().item()) < 0:
        raise ValueError(f"labels hold {lowest}: allowed are classes from 0")
    low, high = (images.min().item(), images.max().item()) if images.numel() else (0.0, 1.0)
    if not (low >= 0 and high <= 1):
        raise ValueError(f"images lie in [{low:.3g}, {high:.3g}]: allowed is [0, 1]")


def _independent(labels: Tensor, count: int) -> None:
    if len(labels) != count:
        raise ValueError(f"labels have shape {tuple(labels.shape)}: allowed is ({count}, classes)")
    wrong = labels[(labels != 0) & (labels != 1)]
    if wrong.numel():
        raise ValueError(f"labels hold {wrong[0]:.3g}: allowed are 0 and 1")
