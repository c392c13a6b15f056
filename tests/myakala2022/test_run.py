"""A study is trained and measured, published without its many weights, and found again."""

import shutil
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import alter
from made import EMBEDDED

from robust_transfer import paths
from robust_transfer.book import pipeline
from robust_transfer.data import glyphs
from robust_transfer.data.layouts import DataSet, Found, in_memory
from robust_transfer.data.registry import DATASETS, load
from robust_transfer.myakala2022 import tables
from robust_transfer.myakala2022.experiment import Study, cells
from robust_transfer.myakala2022.measured import measure, of_networks
from robust_transfer.records.store import RECORD, WEIGHTS, Store, folder_name
from robust_transfer.runner import Runner
from scripts import away

TARGET = {"train_size": 64, "validation_size": 16, "test_size": 20, "epochs": 1}
TINY = {
    "study": "tiny",
    "tasks": {"glyphs10/resnet8": "architecture"},
    "targets": {"glyphs10": TARGET},
    "epsilons": (0.02,),
    "shown": (0.02,),
} | EMBEDDED


@pytest.fixture(scope="module")
def study() -> Study:
    return Study(**TINY)


@pytest.fixture(scope="module")
def run(study, tmp_path_factory):
    """The results of a study, and what was measured."""
    folder = tmp_path_factory.mktemp("study")
    return folder, measure(runner(folder), cells(study))


@pytest.fixture
def published(study, run, tmp_path, monkeypatch):
    """The study published to a folder of its own."""
    monkeypatch.setattr(paths, "PUBLISHED", tmp_path / "published")
    monkeypatch.setattr(pipeline, "check_known", lambda *_: None)
    target = paths.PUBLISHED / study.folder
    assert pipeline.publish_study(study, Store(run[0], target)) == []
    return target


def runner(results, published="") -> Runner:
    return Runner(results_dir=str(results), published_dir=str(published), device="cpu", workers=1)


def test_every_repeat_is_measured_from_one_source(study, run):
    folder, measured = run
    ((first, second),) = (cell.repeats for cell in measured)
    assert [set(repeat.budgets.outputs) for repeat in (first, second)] == [
        {("natural", 0.0), ("fgsm", 0.02), ("pgd", 0.02)}
    ] * 2
    assert len(list(folder.glob("*/record.json"))) == 3
    assert first.budgets.content["weights"] != second.budgets.content["weights"]
    assert (first.seed, second.seed) == (0, 1) and [r.config.seed for r in second.records] == [1]


def test_published_without_weights_it_is_found_and_nothing_is_trained(
    study, run, published, tmp_path, capsys
):
    with_weights = [path.parent.name for path in published.glob(f"*/{WEIGHTS}")]
    assert len(with_weights) == 1 and with_weights[0].startswith("glyphs20-resnet8-nat")
    found = measure(runner(tmp_path / "mine", published), cells(study))
    there, here = ([r.budgets.content for r in cell.repeats] for cell in (found[0], run[1][0]))
    assert there == here
    assert not (tmp_path / "mine").exists() and capsys.readouterr().out == ""
    table = pd.read_csv(published / "study.csv")
    assert len(table) == 2 * 3 and set(table["seed"]) == {0, 1}


def test_what_lacks_weights_is_trained_anew_where_they_are_needed(study, published, tmp_path):
    other = study.model_copy(update={"epsilons": (0.04,)})
    config = cells(other)[0].configs[0]
    mine = runner(tmp_path / "mine", published)
    assert mine.store.find(config) is not None and mine.store.find(config, weights=True) is None
    with pytest.raises(FileNotFoundError, match=r"no finished record of .* with weights"):
        mine.store.state(config)
    found = measure(mine, cells(other))
    assert ("pgd", 0.04) in found[0].repeats[0].budgets.outputs
    trained = {path.parent.name for path in (tmp_path / "mine").glob(f"*/{WEIGHTS}")}
    assert len(trained) == 2 and all("glyphs10" in name for name in trained)


def test_repeats_on_different_test_images_are_refused(study, run, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / "copy")
    alter(next(folder.glob("*/budgets-*.json")), data=64 * "0")
    with pytest.raises(ValueError, match=r"different test images, with fingerprints 000000000000"):
        measure(runner(folder), cells(study))


def test_unfinished_repeats_are_named_and_there_is_no_table(study, run, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PUBLISHED", tmp_path / "published")
    monkeypatch.setattr(pipeline, "check_known", lambda *_: None)
    more = study.model_copy(update={"repeats": 3})
    missing = pipeline.publish_study(more, Store(run[0], tmp_path / "published" / "study-tiny"))
    assert missing == ["glyphs10-resnet8-full_finetuning, seed 2"]
    assert not (tmp_path / "published" / "study-tiny" / "study.csv").exists()


def test_of_a_borrowed_machine_comes_what_is_measured_without_weights(
    study, run, published, tmp_path, monkeypatch
):
    networks = {folder_name(config) for config in cells(study)[0].configs}
    bare = away.measured(study, Store(run[0]))
    assert bare == networks
    assert away.pack(run[0], tmp_path / "packs", bare=bare) == []
    expected = {p.relative_to(published): p.read_bytes() for p in published.rglob("*.*")}
    monkeypatch.setattr(paths, "PUBLISHED", tmp_path / "filed")
    target = paths.PUBLISHED / study.folder
    for _ in range(2):  # again nothing is left to do
        assert away.file_study(study, tmp_path / "packs", runner(tmp_path / "home", target)) == []
        assert {p.relative_to(target): p.read_bytes() for p in target.rglob("*.*")} == expected
        (source,) = (path.parent for path in (tmp_path / "home").glob(f"*/{WEIGHTS}"))
        assert source.name.startswith("glyphs20-") and source.name not in networks


def test_weights_come_where_something_is_left_to_measure(study, run, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PUBLISHED", tmp_path / "published")
    monkeypatch.setattr(pipeline, "check_known", lambda *_: None)
    there, target = shutil.copytree(run[0], tmp_path / "there"), paths.PUBLISHED / study.folder
    first, second = (folder_name(config) for config in cells(study)[0].configs)
    next((there / second).glob("budgets-*.json")).unlink()
    bare = away.measured(study, Store(there))
    assert bare == {first}
    away.pack(there, tmp_path / "packs", bare=bare)
    home = runner(tmp_path / "home", target)
    missing = ["glyphs10-resnet8-full_finetuning, seed 1"]
    assert away.file_study(study, tmp_path / "packs", home) == missing
    assert (tmp_path / "home" / second / WEIGHTS).exists()
    assert (target / first / RECORD).exists() and not (tmp_path / "home" / first / WEIGHTS).exists()
    assert not (target / "study.csv").exists()


def test_the_strongest_attacks_too_are_to_be_measured_before_weights_can_stay(study, run):
    targets = {"glyphs10": TARGET | {"strong_images": 4}}
    more = Study(**TINY | {"targets": targets})
    assert away.measured(more, Store(run[0])) == {folder_name(cells(study)[0].configs[1])}


def test_what_the_strongest_attacks_leave_stands_beside_pgd_on_the_same_images(
    run, tmp_path, monkeypatch
):
    folder = shutil.copytree(run[0], tmp_path / "copy")
    more = Study(**TINY | {"targets": {"glyphs10": TARGET | {"strong_images": 12}}})
    (cell,) = measure(runner(folder), cells(more))
    assert tables.harder([cell], Store(folder)).empty
    ((config, how),) = cell.strong_wishes
    (strong,) = runner(folder).measure(cell.strong_wishes)
    found = tables.harder([cell], Store(folder))
    budgets = cell.repeats[0].budgets
    right = (budgets.predicted("pgd", 0.02) == budgets.labels)[:12]
    left = strong.outcomes["margin_5"]
    assert len(left) == 12 and config.seed == 0 and how.test_size == 12
    expected = [cell, 0.02, 12, 100 * right.mean(), 100 * left.mean()]
    assert found.iloc[0].to_list() == expected
    shown = tables.withstood(found).iloc[0].to_dict()
    ours = {"PGD, 0.02": f"{expected[3]:.1f}", "strongest, 0.02": f"{expected[4]:.1f}"}
    assert shown == {"images": 12} | ours
    monkeypatch.setattr(paths, "PUBLISHED", tmp_path / "published")
    monkeypatch.setattr(pipeline, "check_known", lambda *_: None)
    there = paths.PUBLISHED / more.folder / folder_name(config)
    budgets_file = folder / there.name / cell.budgets.file_name
    budgets_file.rename(tmp_path / "away")
    pipeline.publish_study(more, Store(folder))
    assert not there.exists()  # of a network nothing goes without its budgets
    (tmp_path / "away").rename(budgets_file)
    assert pipeline.publish_study(more, Store(folder)) == [] and (there / how.file_name).exists()


@dataclass(frozen=True, kw_only=True)
class Half(DataSet):
    """Of the embedded images every second round of the ten classes, from the first or second on."""

    fold: int

    def find(self, split: str, count: int, data_dir: str) -> Found:
        rounds, place = np.divmod(np.arange(count), 10)
        chosen = 10 * (2 * rounds + self.fold) + place
        pixels, labels = glyphs.draw("glyphs10", split, chosen.max() + 1)
        return in_memory(pixels[chosen].transpose(0, 2, 3, 1)), labels[chosen]


@pytest.fixture
def divided(monkeypatch) -> Study:
    """The study on two folds of its data set, which only this process knows."""
    for fold in range(2):
        of = DATASETS["glyphs10"]
        half = Half(
            name=f"glyphs10_fold{fold}", class_names=of.class_names, side=of.side, fold=fold
        )
        monkeypatch.setitem(DATASETS, half.name, half)
    return Study(**TINY | {"targets": {"glyphs10": TARGET | {"folds": 2}}})


def test_folds_are_measured_apart_and_published_as_one(divided, run, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PUBLISHED", tmp_path / "published")
    monkeypatch.setattr(pipeline, "check_known", lambda *_: None)
    target, cpu = paths.PUBLISHED / divided.folder, torch.device("cpu")
    store = Store(shutil.copytree(run[0], tmp_path / "mine"), target)  # the source is there
    (cell,) = cells(divided)
    assert len(cell.configs) == 2 * 2
    for config, how in cell.wishes[:3]:
        store.get_or_train(config, "", cpu)
        how.get_or_measure(store, config, "", cpu)
    last = cell.wishes[3]
    assert pipeline.publish_study(divided, store) == [f"{last[0].name}, seed 1"]
    assert not (target / "study.csv").exists()
    store.get_or_train(last[0], "", cpu)
    last[1].get_or_measure(store, last[0], "", cpu)
    assert pipeline.publish_study(divided, store) == []

    there = Store(tmp_path / "none", target)
    found = [how.find(there, config) for config, how in cell.wishes]
    whole = of_networks(cell, [there.find(config) for config in cell.configs], iter(found))
    assert [repeat.seed for repeat in whole.repeats] == [0, 1] and whole.id == cell.id
    for seed, repeat in enumerate(whole.repeats):
        assert [record.config.dataset for record in repeat.records] == [
            "glyphs10_fold0", "glyphs10_fold1",
        ]  # fmt: skip
        assert {record.config.seed for record in repeat.records} == {seed}
        parts = found[2 * seed : 2 * seed + 2]
        assert len({part.content["data"] for part in parts}) == 2  # each its own images
        labels = [load(f"glyphs10_fold{fold}", "test", 20).labels for fold in range(2)]
        assert np.array_equal(repeat.budgets.labels, np.concatenate(labels))
        for at, answers in repeat.budgets.outputs.items():
            assert np.array_equal(answers, np.concatenate([part.outputs[at] for part in parts]))
        assert repeat.budgets.standard == pytest.approx(repeat.budgets.accuracy())
    table = pd.read_csv(target / "study.csv")
    assert len(table) == 2 * 3 and set(table["n"]) == {2 * 20}
    assert set(table["dataset"]) == {"glyphs10"} and set(table["cell"]) == {cell.id}
    expected = 100 * table[table["attack"] == "pgd"].set_index("seed")["accuracy"]
    assert whole.by_seed("pgd", 0.02).to_dict() == pytest.approx(expected.to_dict())
