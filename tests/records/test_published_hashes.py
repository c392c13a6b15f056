"""Published records are found by hash: no change of the code may change the hash of any."""

import json

import pytest

from robust_transfer import paths
from robust_transfer.evaluation.accuracies import EvaluationConfig
from robust_transfer.evaluation.budgets import BudgetConfig
from robust_transfer.evaluation.strong import StrongConfig
from robust_transfer.records.store import Store, folder_name
from robust_transfer.training.loop import TrainingConfig

RECORDS = sorted(paths.PUBLISHED.glob("*/*/record.json"))
MEASURED = {"evaluation": EvaluationConfig, "budgets": BudgetConfig, "strong": StrongConfig}


def read(path) -> dict:
    return json.loads(path.read_text())


def test_there_are_published_records():
    assert len(RECORDS) > 150


@pytest.mark.parametrize("scale", sorted({path.parents[1].name for path in RECORDS}))
def test_a_published_record_keeps_its_hash(scale):
    for path in (path for path in RECORDS if path.parents[1].name == scale):
        content = read(path)
        config = TrainingConfig(**content["config"])
        assert config.hash == content["hash"], path
        assert folder_name(config) == path.parent.name


@pytest.mark.parametrize("scale", sorted({path.parents[1].name for path in RECORDS}))
def test_a_published_record_is_found_and_says_what_its_file_says(scale, tmp_path):
    store = Store(tmp_path, paths.PUBLISHED / scale)
    for path in (path for path in RECORDS if path.parents[1].name == scale):
        content = read(path)
        found = store.find(TrainingConfig(**content["config"]))
        assert found is not None and found.folder == path.parent
        for name, value in found.model_dump(mode="json", exclude={"config"}).items():
            assert value == content[name], (path, name)


@pytest.mark.parametrize("kind", MEASURED)
def test_what_was_measured_keeps_the_name_of_its_file(kind):
    found = sorted(paths.PUBLISHED.glob(f"*/*/{kind}-*.json"))
    assert len(found) > 25
    for path in found:
        assert f"{kind}-{MEASURED[kind](**read(path)['config']).hash}.json" == path.name


@pytest.mark.parametrize("kind", MEASURED)
def test_what_was_measured_is_found_and_has_its_fields_in_their_order(kind, tmp_path):
    ties = {"evaluation": ["weights", "surrogate", "n", "accuracies", "outcomes"]}
    ties["budgets"] = ["weights", "n", "labels", "outputs", "deepfool"]
    ties["strong"] = ["weights", "n", "accuracies", "outcomes"]
    later = {"signs", "doubts", "controls", "standard"}  # which the first records do not have
    for path in sorted(paths.PUBLISHED.glob(f"*/*/{kind}-*.json")):
        content = read(path)
        network = TrainingConfig(**read(path.parent / "record.json")["config"])
        store = Store(tmp_path, path.parents[1])
        found = MEASURED[kind](**content["config"]).find(store, network)
        assert found is not None, path
        assert [name for name in found.content if name not in later] == [
            *("config", "network", *ties[kind], "data", "seconds", "provenance")
        ]
        assert found.content == {k: v for k, v in content.items() if k != "seal"}
