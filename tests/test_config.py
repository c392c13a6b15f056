"""Errors are one line and name the parameter, its value and what is allowed."""

import hashlib
import json
import re
from typing import Literal

import pytest
import torch
from pydantic import Field

from robust_transfer.attacks import image_batch
from robust_transfer.config import Config, one_of


class Inner(Config):
    size: int = Field(3, ge=1)


class Outer(Config):
    name: str
    mode: Literal["a", "b"] = "a"
    rate: float = 0.5
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "name is required"),
        ({"name": "x", "mode": "c"}, "mode = 'c': Input should be 'a' or 'b'"),
        ({"name": "x", "rates": 1}, "unknown parameter rates; known: inner, mode, name, rate"),
        ({"name": "x", "rate": "fast"}, "rate = 'fast': Input should be a valid number"),
        ({"name": "x", "inner": {"size": 0}}, "size = 0: Input should be greater than or equal to"),
        ({"name": "x", "inner": {"sise": 1}}, "unknown parameter sise; known: size"),
        ({"mode": "c"}, "name is required; mode = 'c': "),
    ],
)
def test_a_bad_field_is_named_in_one_line(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        Outer(**fields)
    assert "\n" not in str(caught.value)


def test_a_configuration_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Outer(name="x").rate = 2


def test_the_hash_stands_for_what_is_not_default():
    expected = hashlib.sha256(json.dumps({"inner": {"size": 4}, "name": "x"}).encode())
    assert Outer(name="x", inner={"size": 4}, rate=0.5).hash == expected.hexdigest()[:16]
    different = [Outer(name="x"), Outer(name="y"), Outer(name="x", inner=Inner(size=5))]
    assert len({config.hash for config in different}) == 3


def test_a_field_added_later_leaves_old_hashes_valid():
    class Later(Outer):
        added: int = 0

    assert Later(name="x", rate=2).hash == Outer(name="x", rate=2).hash
    assert Later(name="x", added=1).hash != Later(name="x").hash


def test_a_word_that_is_not_allowed_is_named_with_those_that_are():
    assert one_of("strategy", "head", ("stage3", "head")) == "head"
    with pytest.raises(ValueError, match=r"^strategy = 'hea': allowed are head, stage3$"):
        one_of("strategy", "hea", ("stage3", "head"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_good_batch_passes(count, dtype):
    images = torch.rand(count, 3, 4, 6).to(dtype)
    assert image_batch(images, torch.zeros(count, dtype=torch.int64)) is None


def test_independent_labels_pass():
    images, labels = torch.rand(3, 3, 4, 4), torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    assert image_batch(images, labels) is None
    for wrong in (-1.0, 0.5, 2.0, float("nan")):
        labels[1, 0] = wrong
        with pytest.raises(ValueError, match=rf"^labels hold {wrong:.3g}: allowed are 0 and 1$"):
            image_batch(images, labels)


def test_black_and_white_are_in_range_and_a_hair_beyond_is_not():
    labels = torch.zeros(2, dtype=torch.int64)
    images = torch.zeros(2, 3, 4, 4)
    images[1] = 1
    assert image_batch(images, labels) is None
    for hair in (-1e-6, 1 + 1e-6):
        images[0, 0, 0, 0] = hair
        with pytest.raises(ValueError, match=r"^images lie in \[.*\]: allowed is \[0, 1\]$"):
            image_batch(images, labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32])
def test_labels_of_another_type_are_named(dtype):
    with pytest.raises(ValueError, match="labels are torch"):
        image_batch(torch.rand(2, 3, 4, 4), torch.zeros(2, dtype=dtype))
