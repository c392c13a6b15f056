"""The whole way, for real: networks trained, notebooks executed, book built, and killed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from conftest import descendants, finish, reweigh, start

from robust_transfer import paths
from robust_transfer.__main__ import main
from robust_transfer.book import pipeline
from robust_transfer.davchev2019 import experiment
from robust_transfer.records.store import Store

TINY = {"profile": "tiny", "train_size": 64, "validation_size": 32, "test_size": 40, "epochs": 2}
TINY |= {"transfer_epochs": 1, "training_steps": 2, "evaluation_steps": 2, "batch_size": 32}


def weights(results: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in results.glob("*/weights.safetensors")}


def accuracies(results: Path) -> dict[str, str]:
    found = {}
    for path in results.glob("*/evaluation-*.json"):
        outcomes = re.search(r'"outcomes": \{.*?\}', path.read_text(), re.S)[0]
        found[f"{path.parent.name}/{path.name}"] = outcomes
    return found


class Markup(HTMLParser):
    """Collects what a page loads, links to and shows."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads, self.links, self.images = [], [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag == "img":
            self.images.append(found)
        if tag in ("script", "img", "iframe") and found.get("src"):
            self.loads.append(found["src"])
        if tag == "link" and found.get("rel") in ("stylesheet", "preload", "icon"):
            self.loads.append(found["href"])
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])


def test_smoke_trains_and_evaluates_both_papers(smoke):
    assert len(accuracies(smoke / "fresh")) == 25 + len(experiment.STRONGER)
    measured = list((smoke / "fresh").glob("*/budgets-*.json"))
    assert len(measured) == 5 * 3  # cells by repeats
    assert len(weights(smoke / "fresh")) == 29 + len(measured) + 2  # from two sources


def test_smoke_shows_the_phenomenon(smoke):
    finish(start(smoke, "publish", "--profile", "smoke", "--results-dir", "fresh"))
    table = pd.read_csv(smoke / "book/results/smoke/table1.csv").set_index("id")
    robust, natural = table["wb_pgd"], table["natural"]
    assert natural["nat"] > 0.9 and robust["nat"] < 0.25
    assert robust["pgd"] > 0.5 * natural["pgd"]
    assert robust["pgd-pgd-all"] > robust["nat"] + 0.3
    assert robust["nat"] - 0.05 < robust["pgd-nat-head"] < robust["pgd-pgd-all"]


def test_book_pages_are_whole(smoke):
    html = smoke / "_build/html"
    pages = sorted((html / "book").rglob("*.html"))
    assert {page.stem for page in pages} >= {
        "intro", "methods", "protocol", "bibliography", "00_threat_models", "01_source",
        "02_transfer", "03_evaluation", "04_figures", "09_explore", "05_verdicts", "models",
        "data", "reproducibility", "extend", "glossary", "changelog", "attacks",
        "08_seeing", "10_browser", "06_study", "07_forensics",
    }  # fmt: skip
    for path in pages:
        page = Markup(path)
        for target in page.loads:
            assert not re.match(r"(https?:)?//", target), f"{path.name} loads {target}"
        for target in page.loads + page.links:
            local = target.split("#")[0].split("?")[0]
            if local and not re.match(r"[a-z]+:", target):
                assert (path.parent / local).exists(), f"{path.name}: {target}"
        for image in page.images:
            assert image.get("alt"), f"{path.name}: {image['src']} has no alt text"
        assert str(smoke) not in path.read_text(), f"{path.name} shows a path of this machine"


def test_book_says_what_made_its_numbers(smoke):
    text = (smoke / "_build/html/book/_executed/04_figures.html").read_text()
    assert "Profile smoke: resnet8, glyphs20 to glyphs10 with 1,400 training images" in text
    assert "Profile smoke" in (smoke / "_build/html/book/intro.html").read_text()


def test_every_network_has_a_card_with_its_source_and_accuracies(smoke):
    text = (smoke / "_build/html/book/models.html").read_text()
    cards = dict(re.findall(r'<details class="network" id="(.*?)">(.*?)</details>', text, re.S))
    assert len(cards) == 29
    assert 'href="#glyphs20-pgd"' in cards["pgd-nat-head"] and "glyphs20-pgd" in cards
    assert "of 500 images" in cards["pgd-nat-head"] and "all but the head" in cards["pgd-nat-head"]
    assert "wb_pgd" not in cards["surrogate"]


def test_reproducibility_page_names_every_run(smoke):
    text = (smoke / "_build/html/book/reproducibility.html").read_text()
    record = json.loads(next((smoke / "fresh").glob("pgd-s*/record.json")).read_text())
    assert record["hash"][:12] in text and record["provenance"]["torch"] in text
    data = (smoke / "_build/html/book/data.html").read_text()
    assert record["data"]["training"][:12] in data


def test_book_shows_only_the_last_state_of_a_progress_bar(smoke):
    notebook = nbformat.read(smoke / "book/_executed/02_transfer.ipynb", 4)
    streams = [o.text for c in notebook.cells for o in c.get("outputs", []) if "text" in o]
    assert len(re.findall("epoch/s|s/epoch", "".join(streams))) == 1  # fast or slow
    assert "100%" in "".join(streams)


def test_killed_pipeline_continues_to_the_same_numbers(checkout):
    profile = yaml.safe_load((checkout / "notebooks/profiles/smoke.yaml").read_text()) | TINY
    (checkout / "tiny.yaml").write_text(yaml.safe_dump(profile))
    arguments = ("run", "--profile", "tiny.yaml", "--published", "--results-dir")
    process = start(checkout, *arguments, "killed")
    records = []
    while len(records) < 12 and process.poll() is None:  # in the middle of the transfers
        time.sleep(0.2)
        records = sorted((checkout / "killed").glob("*/record.json"))
    for child in reversed(descendants(process.pid)):
        with suppress(ProcessLookupError):  # it ended by itself since it was listed
            os.kill(child, signal.SIGKILL)
    process.wait()
    assert 12 <= len(records) < 29
    before = {path: path.stat().st_mtime_ns for path in records}
    run(checkout, NOTEBOOKS)
    assert {path: path.stat().st_mtime_ns for path in records} == before
    run(checkout, WITHOUT)
    assert weights(checkout / "killed") == weights(checkout / "whole")
    assert accuracies(checkout / "killed") == accuracies(checkout / "whole")


NOTEBOOKS = """
from robust_transfer.book import pipeline

parameters = {"profile": "tiny.yaml", "published_dir": "", "results_dir": "killed"}
for name in ("01_source", "02_transfer", "03_evaluation"):
    pipeline.execute(name, parameters)
"""
"""Train and evaluate in notebooks, without the rest of the book."""

WITHOUT = """
from robust_transfer.davchev2019 import experiment
from robust_transfer.runner import Runner

profile, runner = experiment.read_profile("tiny.yaml"), Runner(results_dir="whole")
table = experiment.grid(profile)
runner.train([network.config for network in table])
targets = experiment.rows(table)
runner.evaluate([network.config for network in targets], experiment.evaluation(profile))
targets = experiment.to_attack_harder(targets)
runner.evaluate([network.config for network in targets], experiment.stronger(profile))
"""
"""The same without a notebook, and without a break."""


def run(checkout: Path, code: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(checkout / "src/lib")}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=checkout, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    finish(process)


def test_published_records_rebuild_the_book_without_training(checkout):
    output = finish(start(checkout, "run", "--published"))
    assert "training" not in output
    assert not list((checkout / "results").glob("*/record.json"))
    text = (checkout / "_build/html/book/intro.html").read_text()
    profile = experiment.read_profile(paths.PROFILES / f"{experiment.published_profile()}.yaml")
    assert f"Profile {profile.profile}: {profile.network}, cifar100 to cifar10" in text


def test_unknown_profile_is_named(checkout):
    process = start(checkout, "run", "--profile", "huge")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    known = ", ".join(sorted(path.stem for path in paths.PROFILES.glob("*.yaml")))
    assert output.strip() == f"error: profile = 'huge': allowed are {known}, or a file"


def test_missing_data_is_named_before_any_training(checkout):
    process = start(checkout, "run", "--profile", "laptop", "--results-dir", "none")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "data_dir = '': cifar100 needs the folder of its images" in output.splitlines()[0]
    assert not (checkout / "none").exists()


def test_table_1_is_published_once_nothing_is_missing(tmp_path, monkeypatch):
    store = Store(shutil.copytree(paths.PUBLISHED / "smoke", tmp_path / "results"))
    monkeypatch.setattr(paths, "PUBLISHED", tmp_path / "published")
    profile = experiment.read_profile(paths.PROFILES / "smoke.yaml")
    table = paths.PUBLISHED / "smoke" / experiment.TABLE
    missing = pipeline.publish(profile.model_copy(update={"further_seeds": (2,)}), store)
    assert {"glyphs20-pgd, seed 2", "pgd, seed 2", "evaluation of pgd, seed 2"} < {*missing}
    assert all("seed 2" in name for name in missing) and not table.exists()
    name = f"pgd-s1-*/evaluation-{experiment.stronger(profile).hash}.json"
    (own,), (published,) = store.root.glob(name), table.parent.glob(name)
    published.unlink()
    away = own.rename(tmp_path / own.name)
    assert pipeline.publish(profile, store) == ["stronger attack on pgd"] and not table.exists()
    away.rename(own)
    assert pipeline.publish(profile, store) == [] and table.exists()


def test_a_source_trained_anew_does_not_take_the_place_of_what_transfers_started_from(
    tmp_path, monkeypatch
):
    target = shutil.copytree(paths.PUBLISHED / "smoke", tmp_path / "published" / "smoke")
    monkeypatch.setattr(paths, "PUBLISHED", tmp_path / "published")
    profile = experiment.read_profile(paths.PROFILES / "smoke.yaml")
    store = Store(tmp_path / "mine", target)
    (source,) = [n.config for n in experiment.grid(profile) if n.id == "glyphs20-pgd"]
    shutil.copytree(store.find(source).folder, store.folder(source))
    reweigh(store, source)
    assert pipeline.publish(profile, store) == []
    assert Store(tmp_path / "none", target).find(source).checksum != store.find(source).checksum


@pytest.mark.parametrize(
    ("arguments", "study"),
    [(["--published"], "laptop"), (["--published", "--profile", "paper"], "paper"), ([], "smoke"),
     (["--profile", "fast"], "laptop")],
)  # fmt: skip
def test_only_a_study_asked_for_is_trained(arguments, study, monkeypatch):
    chosen = []
    monkeypatch.setattr(pipeline, "run", lambda profile, study, where: chosen.append(study.stem))
    monkeypatch.setattr(experiment, "published_profile", lambda: "paper")
    assert main(["run", *arguments]) == 0 and chosen == [study]


def test_tidy_keeps_no_path_nor_time_of_this_machine_and_folds_what_was_set():
    text = f"wrote {paths.ROOT}/results/a\n"
    question = nbformat.v4.new_markdown_cell("# What?")
    default = nbformat.v4.new_code_cell(
        "# Parameters of this page\nseed = None  # a\nimage = 3  # b\nwidth = None",
        metadata={"tags": ["parameters"]},
    )
    given = nbformat.v4.new_code_cell(
        "# Parameters\nseed = 1\nimage = None\n", metadata={"tags": ["injected-parameters"]}
    )
    cell = nbformat.v4.new_code_cell(
        "protocol, runner = settings(globals())",
        metadata={"papermill": {"duration": 1}, "execution": {}},
        outputs=[nbformat.v4.new_output("stream", name="stdout", text=text)],
    )
    notebook = nbformat.v4.new_notebook(
        cells=[question, default, given, cell], metadata={"papermill": {"path": "/x"}}
    )
    pipeline.tidy(notebook)
    assert notebook.metadata == {}
    assert notebook.cells == [question, given, cell]
    assert given.source == "# Parameters\nseed = 1"
    assert [c.metadata["tags"] for c in (given, cell)] == [["hide-input"]] * 2
    assert given.metadata["mystnb"] != cell.metadata["mystnb"]  # two boxes, told apart
    assert cell.outputs[0].text == "wrote results/a\n"
