"""What a reader types: all published networks as a table, one of them in a line."""

import subprocess
import sys

import pytest
import torch

import robust_transfer as rt
from robust_transfer import paths
from robust_transfer.book import cards
from robust_transfer.davchev2019 import experiment
from robust_transfer.records.store import Store


@pytest.fixture(scope="module")
def table():
    return rt.published()


def test_the_table_has_every_published_network_with_its_record(table):
    folders = [
        paths.PUBLISHED / p / r for p, r in zip(table["profile"], table["record"], strict=True)
    ]
    assert {*folders} == {
        record.parent
        for profile in (*experiment.SCALES, "smoke")
        for record in (paths.PUBLISHED / profile).glob("*/record.json")
    }
    assert list(table["weights"]) == [(f / "weights.safetensors").exists() for f in folders]


def test_the_table_says_what_table_1_says(table):
    rows = table[table["profile"].eq("smoke") & table["n"].notna()].set_index("id")
    assert len(rows) == 25 and set(rows["n"]) == {500}
    assert rows.loc["pgd", "natural"] > rows.loc["pgd", "wb_pgd"] > rows.loc["nat", "wb_pgd"]
    assert rows.loc["pgd-nat-head", "label"] == "R<sub>pgd→nat</sub> 1"


def test_a_line_gives_the_network_that_its_row_describes(table):
    row = table[table["profile"].eq("smoke") & table["id"].eq("pgd-pgd-all")].iloc[0]
    model = rt.load("pgd-pgd-all", profile="smoke", seed=int(row["seed"]))
    assert not model.training and {p.dtype for p in model.parameters()} == {torch.float32}
    assert model(torch.rand(2, 3, 16, 16)).shape == (2, 10)


def test_without_a_profile_it_is_the_one_that_the_book_shows():
    ours, named = rt.load("pgd"), rt.load("pgd", profile=experiment.published_profile())
    assert all(
        torch.equal(a, b) for a, b in zip(ours.parameters(), named.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"name": "pdg"}, r"^name = 'pdg': allowed are .*, pgd, pgd-nat-all"),
        ({"name": "pgd", "profile": "huge"}, r"^profile = 'huge': allowed are fast, fifth, laptop"),
        ({"name": "pgd", "profile": "smoke", "seed": 9}, r"^seed = '9': allowed are 1$"),
        ({"name": "pgd", "profile": "paper"}, r"^pgd: not published \(profile paper, seed 0\)$"),
        (
            {"name": "pgd", "profile": "laptop", "seed": 1},
            r"^pgd: published without weights, .*1\)$",
        ),
    ],
)
def test_what_cannot_be_loaded_is_told_in_one_line(asked, message):
    with pytest.raises(ValueError, match=message) as caught:
        rt.load(**asked)
    assert "\n" not in str(caught.value)


def test_to_import_the_library_imports_no_torch():
    code = "import sys, robust_transfer.paths as p; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert {"load", "published"} <= {*dir(rt)} and not hasattr(rt, "unpublished")


@pytest.mark.parametrize(("name", "loads"), [("overnight", True), ("laptop", False)])
def test_a_card_says_the_line_that_loads_its_network_where_there_are_weights(name, loads):
    profile = experiment.read_profile(paths.PROFILES / f"{name}.yaml")
    store = Store("none", paths.PUBLISHED / name)
    records = {network: store.find(network.config) for network in experiment.grid(profile)}
    said = {network.id: cards._training(network, record) for network, record in records.items()}
    line = f'<code>rt.load("pgd", profile="{name}")</code>'
    assert said["pgd"].get("load it") == (line if loads else None)
    files = [cards._files(record.folder) for record in records.values()]
    assert {"without weights" in said for said in files} == {not loads}
