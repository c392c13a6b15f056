"""The cells are those of paper B's design, and every cell trains what its name says."""

import json

import pytest
import yaml

from robust_transfer import paths
from robust_transfer.davchev2019 import experiment as paper_a
from robust_transfer.myakala2022.experiment import (
    DESIGNS,
    FINE_TUNINGS,
    TECHNIQUES,
    Cell,
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
    "features": "computed",
    "targets": {"cifar10": {"train_size": 8, "validation_size": 2, "test_size": 4, "epochs": 1}},
}
CHEST = {"train_size": 8, "validation_size": 2, "test_size": 4, "epochs": 1, "folds": 5}


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
            assert config.frozen_batch_norm == frozen and config.features == "computed"
            robust = "pretraining" in cell.techniques
            assert config.source == source(study, "resnet20", robust)
            assert (config.source.attack is not None) == robust
            assert cell.budgets.dataset == "cifar10" and cell.budgets.test_size == 4


def test_kept_features_are_those_of_a_network_whose_batch_norm_is_frozen():
    table = cells(small(features="kept"))
    of_heads = [cell for cell in table if cell.strategy == "feature_extraction"]
    assert len(table) == 8 + 8 + 4 and len(of_heads) == 4
    assert not any("batch_norm" in cell.techniques for cell in of_heads)
    for cell in table:
        adversarial, head = "augmentation" in cell.techniques, cell in of_heads
        for config in cell.configs:
            assert config.features == ("kept" if head and not adversarial else "computed")
            fixed = head or "batch_norm" in cell.techniques
            assert config.frozen_batch_norm == ("freeze_all" if fixed else "adapt")
            assert (config.attack is not None) == adversarial
            assert config.source.features == "computed"
    assert {cell.id for cell in table} < {cell.id for cell in cells(small())}


def test_single_techniques_come_by_themselves_where_more_than_the_head_is_trained():
    table = cells(small(tasks={"cifar10/resnet20": "single"}))
    assert [cell.strategy for cell in table if not cell.techniques] == [*FINE_TUNINGS]
    others = {(cell.strategy, *cell.techniques) for cell in table if cell.techniques}
    assert others == {(s, t) for s in ("full_finetuning", "layer_freezing") for t in TECHNIQUES}
    assert len(table) == len({cell.id for cell in table}) == 3 + 2 * 3
    # on a transformer, of which no batch norm can be frozen
    assert len(cells(small(tasks={"cifar10/vit6": "single"}))) == 3 + 2 * 2


def divided(**changes) -> Cell:
    """The cell of chest X-rays in five folds, from three seeds."""
    (cell,) = cells(
        small(
            tasks={"chest_xray8/resnet20": "architecture"},
            targets={"chest_xray8": CHEST | changes},
            shown=(0.01, 8 / 255),
        )
    )
    return cell


def test_every_seed_of_a_divided_data_set_trains_on_every_fold():
    cell = divided()
    assert (cell.dataset, cell.task) == ("chest_xray8", "chest_xray8/resnet20")
    assert cell.id == "chest_xray8-resnet20-full_finetuning"
    datasets = [f"chest_xray8_fold{fold}" for fold in range(5)]
    assert [(c.seed, c.dataset) for c in cell.configs] == [
        (s, d) for s in range(3) for d in datasets
    ]
    assert {config.name for config in cell.configs} == {
        f"{name}-resnet20-full_finetuning" for name in datasets
    }
    assert len({config.hash for config in cell.configs}) == 15
    whole = divided(folds=0)
    assert whole.id == cell.id and {c.dataset for c in whole.configs} == {"chest_xray8"}


def test_every_network_is_measured_on_the_images_that_its_fold_left_out():
    cell = divided(strong_images=4)
    assert [config for config, _ in cell.wishes] == [*cell.configs]
    first = cell.configs[:5]
    assert [config for config, _ in cell.strong_wishes] == [*first, *first]  # at two budgets
    for wishes in (cell.wishes, cell.strong_wishes):
        for config, how in wishes:
            assert how.dataset == config.dataset and how.test_size == 4
    assert cell.budgets.dataset == "chest_xray8"
    fields = cell.budgets.model_dump(exclude={"dataset"})
    assert all(how.model_dump(exclude={"dataset"}) == fields for _, how in cell.wishes)


def test_the_strongest_attacks_meet_the_first_seed_at_the_shown_budgets():
    asked = SMALL["targets"]["cifar10"] | {"test_size": 9, "strong_images": 7}
    for cell in cells(small(targets={"cifar10": asked})):
        assert [config for config, _ in cell.strong_wishes] == [cell.configs[0]] * 2
        assert {config.seed for config, _ in cell.wishes} == {0, 1, 2}
        radii = []
        for _, how in cell.strong_wishes:
            assert (how.dataset, how.test_size) == ("cifar10", 7)
            (radius,) = {attack.threat_model.epsilon for attack in how.attacks.attacks}
            radii.append(radius)
        assert radii == [0.01, 8 / 255]
    fewer = small(targets={"cifar10": asked | {"strong_images": 100}})
    assert cells(fewer)[0].strong[0].test_size == 9
    assert cells(small())[0].strong_wishes == []


def test_independent_labels_have_no_strongest_attacks():
    shared = {"train_size": 8, "validation_size": 2, "test_size": 4, "epochs": 1}
    targets = {"chestxray14": shared | {"strong_images": 4, "image_size": 32}}
    (cell,) = cells(small(tasks={"chestxray14/resnet20": "architecture"}, targets=targets))
    assert cell.strong_wishes == [] and len(cell.wishes) == 3


def test_the_factorials_sources_are_those_that_overnight_published():
    study = read_study(paths.STUDIES / "factorial.yaml")
    networks = paper_a.grid(paper_a.read_profile(paths.PROFILES / "overnight.yaml"))
    known = {network.id: network.config for network in networks}
    for robust, name in ((False, "cifar100-nat"), (True, "cifar100-pgd")):
        assert source(study, "resnet20", robust).hash == known[name].hash
    used = {config.source.hash for cell in cells(study) for config in cell.configs}
    assert used == {known["cifar100-nat"].hash, known["cifar100-pgd"].hash}


def test_sources_that_are_given_take_the_place_of_trained_ones():
    given = small().model_dump()
    given["sources"] = {"natural": {"network": "resnet20", "dataset": "glyphs20", "name": "mine"}}
    study = Study(**given | {"techniques": ["batch_norm"]})
    assert {config.source.name for cell in cells(study) for config in cell.configs} == {"mine"}
    assert Study(**json.loads(study.model_dump_json())) == study


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
            "'strategies', 'single', 'tables' or 'factorial'",
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
        ({"features": "stored"}, "^features = 'stored': Input should be 'computed' or 'kept'"),
        (
            {"sources": {"natural": {"network": "resnet8"}}},
            "^tasks: network, as sources have it, = 'resnet20': allowed are resnet8$",
        ),
        ({"sources": {"strong": {}}}, "'natural' or 'robust'"),
        (
            {
                "tasks": {"chest_xray8/resnet20": "architecture"},
                "targets": {"chest_xray8": CHEST | {"folds": 6}},
            },
            "^targets: chest_xray8.folds = 6: allowed is 0, or 5, all of them$",
        ),
        (
            {"targets": {"chest_xray8": CHEST | {"strong_images": 3}}},
            "strong_images = 3: allowed are 0 and test_size, 4, where there are folds",
        ),
        (
            {"targets": {"cifar10": SMALL["targets"]["cifar10"] | {"folds": 2}}},
            "^targets: cifar10.folds = 2: allowed is 0$",
        ),
    ],
)
def test_bad_values_are_named_in_one_line(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        small(**change)
    assert "\n" not in str(caught.value)
