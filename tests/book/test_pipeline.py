"""The whole way, for real: networks trained, notebooks executed, book built, and killed."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import whole_way
from conftest import reweigh
from processes import start

from robust_transfer import paths
from robust_transfer.__main__ import main
from robust_transfer.book import pipeline
from robust_transfer.davchev2019 import experiment
from robust_transfer.evaluation import accuracies
from robust_transfer.myakala2022.experiment import cells
from robust_transfer.records.store import Store, folder_name
from robust_transfer.runner import Runner

TRANSFER, FIGURES = (
    next(paths.NOTEBOOKS.glob(f"[0-9][0-9]_{subject}.ipynb")).stem
    for subject in ("transfer", "figures")
)


def weights(results: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in results.glob("*/weights.safetensors")}


def outcomes(results: Path) -> dict[str, str]:
    found = {}
    for path in results.glob("*/evaluation-*.json"):
        said = re.search(r'"outcomes": \{.*?\}', path.read_text(), re.S)[0]
        found[f"{path.parent.name}/{path.name}"] = said
    return found


class Markup(HTMLParser):
    """Collects what a page loads, links to and shows."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads, self.links, self.images = [], [], []
        self.feed(path.read_text(encoding="utf-8"))

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


def test_both_papers_are_trained_and_evaluated(made):
    grid = {folder_name(network.config) for network in experiment.grid(made.profile)}
    evaluated = [path for path in outcomes(made.results) if path.split("/")[0] in grid]
    assert len(grid) == 29 and len(evaluated) == 25
    strong = {path.parent.name for path in made.results.glob("*/strong-*.json")}
    assert len(strong & grid) == 28  # all but the surrogate
    configs = [config for cell in cells(made.study) for config in cell.configs]
    sources = {folder_name(config.source) for config in configs if config.source}
    budgets = [path.parent.name for path in made.results.glob("*/budgets-*.json")]
    assert len({*budgets} & grid) == 25
    measured = [name for name in budgets if name not in grid]
    assert len(measured) == 5 * made.study.repeats and len(sources) == 2  # cells by repeats
    trained = {*weights(made.results)}
    assert trained >= grid | {*measured} | sources
    if made.name == "smoke":  # elsewhere notebooks that demonstrate train more, at its sizes
        assert len(trained) == 29 + len(measured) + 2


def test_two_trainings_show_the_phenomenon(reduced):
    """At the sizes of smoke; notebooks that demonstrate have trained these two."""
    profile = experiment.read_profile(paths.PROFILES / "smoke.yaml")
    networks, how = experiment.grid(profile), experiment.evaluation(profile)
    runner = Runner(results_dir=str(reduced.results))
    images, found = accuracies.test_images(how, ""), {}
    for network in experiment.select(networks, ["nat", "pgd"]):
        runner.train([network.config])
        model = runner.store.model(network.config)
        hits = accuracies.outcomes(model, images, {"pgd": how.attacks["pgd"]}, {})
        found[network.id] = {column: hit.mean() for column, hit in hits.items()}
    assert found["nat"]["natural"] > 0.9 and found["nat"]["wb_pgd"] < 0.25
    assert found["pgd"]["wb_pgd"] > 0.5 * found["pgd"]["natural"]


@pytest.mark.slow
def test_smoke_shows_the_phenomenon(smoke):
    table = pd.read_csv(smoke.root / "book/results/smoke/table1.csv").set_index("id")
    robust, natural = table["wb_pgd"], table["natural"]
    assert natural["nat"] > 0.9 and robust["nat"] < 0.25
    assert robust["pgd"] > 0.5 * natural["pgd"]
    assert robust["pgd-pgd-all"] > robust["nat"] + 0.3
    assert robust["nat"] - 0.05 < robust["pgd-nat-head"] < robust["pgd-pgd-all"]


def test_book_pages_are_whole(made):
    pages = sorted((made.html / "book").rglob("*.html"))
    found = {page.relative_to(made.html).with_suffix("").as_posix() for page in pages}
    assert found >= {f"book/_executed/{path.stem}" for path in paths.NOTEBOOKS.glob("*.ipynb")}
    prose = subprocess.run(
        ["git", "ls-files", "book/*.md"], cwd=paths.ROOT, capture_output=True, text=True
    ).stdout.split()
    assert len(prose) > 20 and found >= {name.removesuffix(".md") for name in prose}
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
        assert str(made.root) not in path.read_text(), f"{path.name} shows a path of this machine"
        assert not re.search(r"at 0x[0-9a-f]{8}", path.read_text()), f"{path.name}: an address"


def test_book_says_what_made_its_numbers(made):
    text = (made.html / f"book/_executed/{FIGURES}.html").read_text()
    said = f"Profile {made.name}: resnet8, glyphs20 to glyphs10 with {made.profile.train_size:,} "
    assert f"{said}training images" in text
    assert f"Profile {made.name}" in (made.html / "book/intro.html").read_text()


def test_every_network_has_a_card_with_its_source_and_accuracies(made):
    text = (made.html / "book/models.html").read_text()
    cards = dict(re.findall(r'<details class="network" id="(.*?)">(.*?)</details>', text, re.S))
    assert len(cards) == 29
    assert 'href="#glyphs20-pgd"' in cards["pgd-nat-head"] and "glyphs20-pgd" in cards
    assert f"of {made.profile.test_size} images" in cards["pgd-nat-head"]
    assert "all but the head" in cards["pgd-nat-head"]
    assert "white-box PGD" in cards["pgd"] and "white-box PGD" not in cards["surrogate"]


def test_reproducibility_page_names_every_run(made):
    text = (made.html / "book/reproducibility.html").read_text()
    (pgd,) = experiment.select(experiment.grid(made.profile), ["pgd"])
    record = json.loads((made.results / folder_name(pgd.config) / "record.json").read_text())
    assert record["hash"][:12] in text and record["provenance"]["torch"] in text
    data = (made.html / "book/data.html").read_text()
    assert record["data"]["training"][:12] in data


def test_book_shows_only_the_last_state_of_a_progress_bar(made):
    notebook = nbformat.read(made.root / f"book/_executed/{TRANSFER}.ipynb", 4)
    streams = [o.text for c in notebook.cells for o in c.get("outputs", []) if "text" in o]
    assert len(re.findall("epoch/s|s/epoch", "".join(streams))) == 1  # fast or slow
    assert "100%" in "".join(streams)


def test_killed_pipeline_continues_to_the_same_numbers(reduced):
    written = json.loads((reduced.root / whole_way.KILLED).read_text())
    assert 12 <= len(written) < 29
    assert {path: Path(path).stat().st_mtime_ns for path in written} == written
    for read in (weights, outcomes):
        unbroken, found = read(reduced.root / whole_way.UNBROKEN), read(reduced.results)
        assert len(unbroken) >= 25
        assert {name: found.get(name) for name in unbroken} == unbroken


@pytest.mark.slow
def test_published_records_rebuild_the_book_without_training(published):
    assert "training" not in published.output
    assert not list(published.results.glob("*/record.json"))
    text = (published.html / "book/intro.html").read_text()
    profile = experiment.read_profile(paths.PROFILES / f"{experiment.published_profile()}.yaml")
    assert f"Profile {profile.profile}: {profile.network}, cifar100 to cifar10" in text


def test_unknown_profile_is_named():
    process = start(paths.ROOT, "run", "--profile", "huge")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    known = ", ".join(sorted(path.stem for path in paths.PROFILES.glob("*.yaml")))
    assert output.strip() == f"error: profile = 'huge': allowed are {known}, or a file"


def test_missing_data_is_named_before_any_training(tmp_path, capsys):
    assert main(["run", "--profile", "laptop", "--results-dir", str(tmp_path / "none")]) == 1
    said = capsys.readouterr()
    expected = "error: data_dir = '': cifar100 needs the folder of its images"
    assert expected in (said.out + said.err).splitlines()[0]
    assert not (tmp_path / "none").exists()


def test_table_1_is_published_once_nothing_is_missing(tmp_path, monkeypatch):
    store = Store(shutil.copytree(paths.PUBLISHED / "smoke", tmp_path / "results"))
    monkeypatch.setattr(paths, "PUBLISHED", tmp_path / "published")
    profile = experiment.read_profile(paths.PROFILES / "smoke.yaml")
    table = paths.PUBLISHED / "smoke" / experiment.TABLE
    monkeypatch.setattr(pipeline, "check_known", lambda *_: None)
    missing = pipeline.publish(profile.model_copy(update={"further_seeds": (2,)}), store)
    assert {"glyphs20-pgd, seed 2", "pgd, seed 2", "evaluation of pgd, seed 2"} < {*missing}
    assert all("seed 2" in name for name in missing) and not table.exists()
    name = "pgd-s1-*/strong-*.json"
    (own,), (published,) = store.root.glob(name), table.parent.glob(name)
    published.unlink()
    away = own.rename(tmp_path / own.name)
    assert pipeline.publish(profile, store) == ["strong of pgd"] and not table.exists()
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
    [(["--published"], "imagenet"), (["--published", "--profile", "paper"], "paper"), ([], "smoke"),
     (["--profile", "fast"], "imagenet")],
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
        "# Parameters\nseed = 1\nimage = None\ndata_dir = '/home/me/images'\n"
        f"results_dir = '{paths.ROOT}/results'\n",
        metadata={"tags": ["injected-parameters"]},
    )
    cell = nbformat.v4.new_code_cell(
        "protocol, runner = settings(globals())",
        metadata={"papermill": {"duration": 1}, "execution": {}},
        outputs=[
            nbformat.v4.new_output("stream", name="stdout", text=text),
            nbformat.v4.new_output("execute_result", {"text/html": "<p>/home/me/images/a.png</p>"}),
        ],
    )
    notebook = nbformat.v4.new_notebook(
        cells=[question, default, given, cell], metadata={"papermill": {"path": "/x"}}
    )
    pipeline.tidy(notebook)
    assert notebook.metadata == {}
    assert notebook.cells == [question, given, cell]
    assert given.source == "# Parameters\nseed = 1\ndata_dir = 'DIR'\nresults_dir = 'results'"
    assert [c.metadata["tags"] for c in (given, cell)] == [["hide-input"]] * 2
    assert given.metadata["mystnb"] != cell.metadata["mystnb"]  # two boxes, told apart
    assert cell.outputs[0].text == "wrote results/a\n"
    assert cell.outputs[1].data["text/html"] == "<p>DIR/a.png</p>"
