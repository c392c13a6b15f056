"""The cells are those of paper B's design, and every cell trains what its name says."""

import json

import pytest
import yaml

from robust_transfer import paths
from robust_transfer.myakala2022.experiment import (
    DESIGNS,
    FINE_TUNINGS,
    Study,
    cells,
    read_study,
    source,
)
from robust_transfer.networks.registry import has_batch_norm

STUDIES = sorted(paths.STUDIES.glob("*.yaml"))
SMALL = {
    "pretrained": False,
    "source_dataset": "cifar100",
    "source_image_size": 0,
    "targets": {"cifar10": {"train_size": 8, "validation_size": 2, "test_size": 4, "epochs": 1}},
}


def small(**changes) -> Study:
    return Study(**SMALL | {"tasks": {"cifar10/resnet20": "factorial"}} | changes)


def test_the_tables_are_the_cells_that_the_paper_prints():
    assert {strategy for strategy, techniques in DESIGNS["tables"] if not techniques} == {
        *FINE_TUNINGS
    }
    assert [set(t) for s, t in DESIGNS["tables"] if t and s == "layer_freezing"] == [
        {"pretraining"},
        {"augmentation"},
    ]
    assert len(DESIGNS["tables"]) == 5


def test_a_factorial_has_every_combination_once():
    table = cells(small())
    assert len({(cell.strategy, cell.techniques) for cell in table}) == len(table) == 3 * 2**3
    assert len({cell.id for cell in table}) == 24
    hashes = {config.hash for cell in table for config in cell.configs}
    assert len(hashes) == 24 * 3


def test_a_network_without_batch_norm_has_half_the_factorial():
    table = cells(small(tasks={"cifar10/vit6": "factorial"}))
    assert len(table) == 12 and not any("batch_norm" in cell.techniques for cell in table)
    assert not has_batch_norm("vit6") and has_batch_norm("densenet40")


def test_strategies_and_techniques_can_be_left_out():
    table = cells(small(strategies=["layer_freezing"], techniques=["batch_norm"]))
    assert [(cell.strategy, set(cell.techniques)) for cell in table] == [
        ("layer_freezing", set()),
        ("layer_freezing", {"batch_norm"}),
    ]


def test_every_cell_trains_what_its_name_says():
    study = small()
    for cell in cells(study):
        for seed, config in enumerate(cell.configs):
            assert config.seed == seed and config.name == cell.id
            assert (config.optimizer, config.learning_rate, config.batch_size) == ("adam", 1e-4, 32)
            assert config.strategy == FINE_TUNINGS[cell.strategy]
            assert (config.attack is not None) == ("augmentation" in cell.techniques)
            frozen = "freeze_all" if "batch_norm" in cell.techniques else "adapt"
            assert config.frozen_batch_norm == frozen
            robust = "pretraining" in cell.techniques
            assert config.source == source(study, "resnet20", robust)
            assert (config.source.attack is not None) == robust
            assert cell.budgets.dataset == "cifar10" and cell.budgets.test_size == 4


def test_published_weights_are_the_source_unless_it_is_to_be_robust():
    for cell in cells(Study()):
        for config in cell.configs:
            robust = "pretraining" in cell.techniques
            assert config.pretrained != robust
            assert (config.source is not None) == robust
            if robust:
                assert config.source.pretrained and config.source.attack is not None


def test_independent_labels_have_no_deepfool():
    asked = {cell.dataset: cell.budgets.deepfool_images for cell in cells(Study())}
    assert asked == {"cifar10": 100, "imagenet_subset": 100, "chestxray14": 0}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_studys_file_gives_its_name_and_what_it_changes(path):
    assert read_study(path).study == path.stem
    said, paper = read_study(path), Study()
    changed = {name for name in Study.model_fields if getattr(said, name) != getattr(paper, name)}
    assert yaml.safe_load(path.read_text()).keys() == {"study"} | changed


@pytest.mark.parametrize("shown", [[0.02], [0.01, 0.02]])
def test_only_what_is_measured_can_be_shown(shown):
    with pytest.raises(ValueError, match=r"^shown = 0.02: allowed are epsilons, 0.00392157, "):
        small(shown=shown)


def test_the_papers_study_is_the_default():
    assert read_study(paths.STUDIES / "paper.yaml") == Study()


def test_a_study_survives_json():
    study = small()
    assert Study(**json.loads(study.model_dump_json())) == study


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": {"cifar11/resnet20": "tables"}}, "data set = 'cifar11': allowed are .*cifar10"),
        ({"tasks": {"cifar10/resnet19": "tables"}}, "network = 'resnet19': allowed are"),
        (
            {"tasks": {"cifar10/resnet20": "all"}},
            "'strategies', 'tables' or 'factorial'",
        ),
        ({"tasks": {"cifar100/resnet20": "tables"}}, "without sizes in targets = 'cifar100'"),
        ({"tasks": {}}, "tasks = {}"),
        ({"repeats": 1}, "repeats = 1"),
        ({"epsilons": [2]}, "epsilons.0 = 2"),
        (
            {"tasks": {"cifar10/resnet20": "architecture"}, "strategies": ["layer_freezing"]},
            "^strategies = layer_freezing: cifar10/resnet20 would have no cell; its",
        ),
        ({"strategies": ["freezing"]}, "strategies.0 = 'freezing'"),
    ],
)
def test_bad_values_are_named_in_one_line(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        small(**change)
    assert "\n" not in str(caught.value)
