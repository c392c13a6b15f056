"""The parts of pages that are made of records."""

import re
import shutil

import pytest
import yaml

import robust_transfer
from robust_transfer import paths
from robust_transfer.book import cards, pages
from robust_transfer.davchev2019 import experiment, runs, tables
from robust_transfer.evaluation.accuracies import NAMES
from robust_transfer.records.store import Store

SMOKE = experiment.read_profile(paths.PROFILES / "smoke.yaml")


@pytest.fixture
def scale(tmp_path, monkeypatch):
    """Publish the records of ``smoke`` as those of the one scale there is, ``laptop``."""
    smoke = yaml.safe_load((paths.PROFILES / "smoke.yaml").read_text()) | {"profile": "laptop"}
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "laptop.yaml").write_text(yaml.safe_dump(smoke))
    published = shutil.copytree(paths.PUBLISHED / "smoke", tmp_path / "published" / "laptop")
    monkeypatch.setattr(paths, "PROFILES", tmp_path / "profiles")
    monkeypatch.setattr(paths, "PUBLISHED", tmp_path / "published")
    monkeypatch.setattr(experiment, "SCALES", ("laptop",))
    return published


@pytest.fixture
def scales(tmp_path, monkeypatch):
    """What the page of other scales shows, with its tables in their places."""
    monkeypatch.setattr(paths, "GENERATED", tmp_path / "generated")

    def shown(profile=SMOKE):
        text = pages.scales(profile, Store(tmp_path / "mine"))
        table = r"```\{of-records\} (\S+)\n:name: tab-\1\n.+\n```"
        return re.sub(table, lambda m: (paths.GENERATED / f"{m[1]}.html").read_text(), text)

    return shown


def test_the_book_shows_the_largest_scale_that_is_whole(scale, monkeypatch):
    monkeypatch.setattr(experiment, "SCALES", ("fast", "overnight", "laptop"))
    shutil.copytree(scale, scale.with_name("fast"))
    (scale.with_name("fast") / "table1.csv").unlink()
    assert experiment.published_profile() == "laptop"
    shutil.copytree(scale, scale.with_name("overnight"))
    assert experiment.published_profile() == "overnight"


def test_other_scales_are_shown_as_far_as_they_are_finished(scale, scales):
    shown = scales()
    assert "Profile laptop: resnet8, glyphs20 to glyphs10" in shown
    rows, differences = shown.split("comparisons-laptop")[0].split("table1-laptop.csv</a>")
    assert rows.count("<th>R<sub>") == 25 and "Not finished yet" not in shown
    assert differences.count("R<sub>pgd→pgd</sub> 56 − R<sub>") == 2
    assert "Every row was trained from one seed" in shown
    for path in scale.glob("pgd-*/evaluation-*.json"):
        path.unlink()
    shown = scales()
    assert shown.count("<th>R<sub>") == 18 and "comparisons" not in shown
    assert shown.count("R<sub>pgd→pgd</sub> 56") == 1  # among those that are missing
    for path in scale.glob("*/evaluation-*.json"):
        path.unlink()
    assert scales() == "No other scale has been run.\n"


def test_seeds_of_another_scale_are_compared_once_they_are_whole(scales, monkeypatch, tmp_path):
    shutil.copytree(paths.PUBLISHED / "laptop", tmp_path / "laptop")
    monkeypatch.setattr(paths, "PUBLISHED", tmp_path)
    shown = scales()
    assert "the rows behind the headline from 1 too; 36 networks" in shown
    assert shown.count("<td>2</td>") == 3 + 5  # differences, and rows with several seeds
    assert "seeds-laptop.csv" in shown and "over the 5 rows trained from several" in shown
    next((tmp_path / "laptop").glob("pgd-nat-stage3-s1-*/evaluation-*.json")).unlink()
    shown = scales()
    assert "seed 0; 29 networks" in shown
    assert "<td>2</td>" not in shown and "Every row was trained from one seed" in shown


def test_the_scale_of_the_book_is_not_repeated(scale, scales):
    own = SMOKE.model_copy(update={"profile": "laptop"})
    assert scales(own) == "No other scale has been run.\n"


def test_a_card_says_that_a_network_was_published_without_weights(scale, tmp_path):
    store = Store(tmp_path / "mine", scale)
    networks = experiment.select(experiment.grid(SMOKE), ["nat", "pgd"])
    (store.find(networks[1].config).folder / "weights.safetensors").unlink()
    shown = cards.folded(runs.find(networks, store, SMOKE))
    with_weights, without = shown.split('id="pgd"')
    assert "without weights" in without and "without weights" not in with_weights


def test_the_cover_colours_the_layers_that_are_retrained_and_says_what_is_left(tmp_path):
    store = Store(tmp_path, paths.PUBLISHED / "smoke")
    ours = tables.results(runs.find(experiment.grid(SMOKE), store, SMOKE))
    rows = pages.cover(SMOKE, ours).split("<div><span>")[1:]
    assert [row.count('class="moved"') for row in rows] == [0, 1, 3, 8]  # of ResNet-8
    assert {row.count("<rect") for row in rows} == {8}
    left = [f"<strong>{100 * ours.loc[name, 'wb_pgd']:.1f} %" for name in pages.COVER]
    assert all(share in row for share, row in zip(left, rows, strict=True))


def test_the_demonstration_has_its_sign_at_every_seed_and_is_of_the_published_records(tmp_path):
    shown = pages.demonstration()
    store = Store(tmp_path, paths.PUBLISHED / "smoke")
    of = {run.network.id: run for run in runs.find(experiment.grid(SMOKE), store, SMOKE)}
    for name in experiment.HEADLINE[::4]:
        accuracy = 100 * of[name].evaluation.accuracy("wb_pgd")
        assert shown.loc[SMOKE.seed, of[name].label] == pytest.approx(accuracy)
    gaps = shown[f"{of['pgd-pgd-all'].label} − {of['pgd'].label}"]
    assert len(gaps) == 6 and gaps[SMOKE.seed] == "+17.8"
    assert all(gap.startswith("+") for gap in gaps)


def card(profile, store, network: str) -> str:
    networks = experiment.select(experiment.grid(profile), [network])
    return cards.folded(runs.find(networks, store, profile))


def test_a_card_calls_columns_by_their_names_in_the_order_of_every_table(tmp_path):
    published = Store(tmp_path / "mine", paths.PUBLISHED / "smoke")
    shown = card(SMOKE, published, "pgd-nat-head")
    heads = re.findall("<th>(.*?)</th>", shown)
    assert [head for head in heads if head in NAMES.values()] == [*NAMES.values()]
    assert not re.search("[bw]b_", re.sub("<code>.*?</code>", "", shown))


def test_a_card_says_where_its_record_is_and_links_to_it_once_there_is_an_address(
    tmp_path, monkeypatch
):
    published = Store(tmp_path / "mine", paths.PUBLISHED / "smoke")
    folder = next((paths.PUBLISHED / "smoke").glob("pgd-nat-head-s1-*"))
    place, (outcomes,) = f"book/results/smoke/{folder.name}", folder.glob("evaluation-*.json")
    shown = card(SMOKE, published, "pgd-nat-head")
    assert f"<code>{place}</code>: record <code>record.json</code>" in shown
    assert f"outcomes <code>{outcomes.name}</code>" in shown
    config = yaml.safe_load((paths.ROOT / "_config.yml").read_text())
    config["repository"] |= {"url": "https://example.org/a", "branch": "b"}
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "PUBLISHED", tmp_path / "book" / "results")
    (tmp_path / "_config.yml").write_text(yaml.safe_dump(config))
    shutil.copytree(folder.parent, tmp_path / "book/results/smoke")
    shown = card(SMOKE, Store(tmp_path / "mine", tmp_path / "book/results/smoke"), "pgd-nat-head")
    assert f'<a href="https://example.org/a/tree/b/{place}">' in shown
    for kind, name in (("record", "record.json"), ("outcomes", outcomes.name)):
        assert f'<a href="https://example.org/a/blob/b/{place}/{name}">{kind}</a>' in shown
    own = shutil.copytree(folder.parent, tmp_path / "mine")  # not in the repository
    assert "https://example.org" not in card(SMOKE, Store(own), "pgd-nat-head")


def test_the_book_is_cited_as_in_the_file_that_others_read(tmp_path, monkeypatch):
    cited = yaml.safe_load((paths.ROOT / "CITATION.cff").read_text())
    config = yaml.safe_load((paths.ROOT / "_config.yml").read_text())
    for field, where in (("doi", config["doi"]), ("repository-code", config["repository"]["url"])):
        assert cited.get(field, "") == where  # two files, one address
    assert cited["version"] == robust_transfer.__version__
    said, study, author = pages.citations(), cited["references"][0], cited["authors"][0]["name"]
    for value in (cited["title"], author, cited["version"], study["title"], study["doi"]):
        assert f"{{{value}}}" in said
    assert "doi = {10.1/a}" not in said
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    config |= {"doi": "10.1/a"}
    for name, content in (("CITATION.cff", cited), ("_config.yml", config)):
        (tmp_path / name).write_text(yaml.safe_dump(content))
    assert "  doi = {10.1/a},\n}\n\n@misc" in pages.citations()
