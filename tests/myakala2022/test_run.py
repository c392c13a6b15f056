"""A study is trained and measured, published without its many weights, and found again."""

import shutil

import pandas as pd
import pytest
from conftest import alter

from robust_transfer import paths
from robust_transfer.book import pipeline
from robust_transfer.myakala2022.experiment import Study, cells
from robust_transfer.myakala2022.measured import measure
from robust_transfer.records.store import RECORD, WEIGHTS, Store
from robust_transfer.runner import Runner

TARGET = {"train_size": 64, "validation_size": 16, "test_size": 20, "epochs": 1}
TINY = {
    "study": "tiny",
    "tasks": {"glyphs10/resnet8": "architecture"},
    "targets": {"glyphs10": TARGET},
    "repeats": 2,
    "pretrained": False,
    "source_dataset": "glyphs20",
    "source_image_size": 0,
    "source_train_size": 64,
    "source_validation_size": 16,
    "source_epochs": 1,
    "epsilons": (0.02,),
    "shown": (0.02,),
    "steps": 1,
    "deepfool_images": 0,
}


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
    assert (first.seed, second.seed) == (0, 1) and first.record.config.seed == 0


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


def test_weights_that_are_missing_at_home_are_damage(study, run, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / "copy")
    config = cells(study)[0].configs[0]
    store = Store(folder)
    (store.folder(config) / WEIGHTS).unlink()
    assert store.find(config) is None
    assert not (store.folder(config) / RECORD).exists()


def test_unfinished_repeats_are_named_and_there_is_no_table(study, run, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PUBLISHED", tmp_path / "published")
    monkeypatch.setattr(pipeline, "check_known", lambda *_: None)
    more = study.model_copy(update={"repeats": 3})
    missing = pipeline.publish_study(more, Store(run[0], tmp_path / "published" / "study-tiny"))
    assert missing == ["glyphs10-resnet8-full_finetuning, seed 2"]
    assert not (tmp_path / "published" / "study-tiny" / "study.csv").exists()
