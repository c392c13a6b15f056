"""The answer in words follows from the records, whatever they say."""

import re

import pytest

from robust_transfer import paths
from robust_transfer.davchev2019 import answer, catalogue, experiment, runs, tables


def ours(**wb_pgd):
    """The paper's table with some accuracies under PGD changed, ``_`` for ``-``."""
    table = tables.paper()
    for name, value in wb_pgd.items():
        table.loc[name.replace("_", "-"), "wb_pgd"] = value
    return table


def test_shares_are_of_what_training_against_pgd_on_the_target_gives():
    shown = ours(pgd=0.4, pgd_nat_head=0.3, pgd_nat_stage3=0.2, pgd_nat_all=0.0)
    kept = answer.kept(shown["wb_pgd"])
    assert kept == pytest.approx({"head": 0.75, "stage3": 0.5, "all": 0.0})


def test_a_tiny_run_has_an_answer_too():
    assert set(answer.kept(ours(pgd=0.0, pgd_nat_head=0.1)["wb_pgd"]).values()) == {0.0}
    assert answer.degree(3.0) == "all"


def test_words_follow_the_numbers():
    little, found = answer.short(
        ours(pgd=0.4, pgd_nat_head=0.1, pgd_nat_stage3=0.05, pgd_nat_all=0.0)
    )
    assert "about a quarter survives where only" in little and ", and nothing once every" in little
    assert "10.0 % with a new head alone (25 % of that), 5.0 % with the last stage ret" in found
    most, _ = answer.short(ours(pgd=0.4, pgd_nat_head=0.36, pgd_nat_stage3=0.39, pgd_nat_all=0.37))
    assert most.endswith(", most survives where only a new head is trained.")
    _, robust = answer.short(ours(pgd=0.4, pgd_pgd_all=0.444, nat_pgd_all=0.412))
    assert "the source matters: 44.4 % after a robust source, 41.2 % after a natural one" in robust
    _, alike = answer.short(ours(pgd=0.4, pgd_pgd_all=0.414, nat_pgd_all=0.412))
    assert "it matters little where the network comes from: 41.4 %" in alike
    assert answer.degree(1.1) == "all" and answer.degree(0.03) == "almost nothing"
    assert answer.degree(0.0) == "nothing"


def test_how_sure_the_headline_is_names_every_other_scale_that_is_published():
    profile, store = catalogue.read("overnight")
    own = runs.find(experiment.grid(profile), store, profile)
    table = answer.sure(answer.scales(own, [], profile))
    published = {name for name in experiment.SCALES if (paths.PUBLISHED / name).exists()}
    whole = {name for name in published if (paths.PUBLISHED / name / experiment.TABLE).exists()}
    others = whole - {"overnight", "fifth"}
    assert {*table.index} == {"overnight (this run)", *others, "the paper"}
    shares = table["kept (%): head, last stage, all"]
    assert all(re.fullmatch(r"\d+, \d+, \d+", share) for share in shares)
    printed = table.loc["the paper"]
    assert (printed["seeds"], *printed[1:4]) == (1, "+5.2", "+2.1", "33, 35, 0")
    same = table.loc["overnight (this run)", ["strong attacks met", "PGD there"]]
    assert [*same] == ["1,000 images, one seed", "+1.8 [+0.0,\N{NO-BREAK SPACE}+3.6]"]


def test_a_headline_is_settled_where_no_interval_includes_zero(monkeypatch):
    profile, store = catalogue.read("overnight")
    own = runs.find(experiment.grid(profile), store, profile)
    places = answer.scales(own, [], profile)
    several = answer.settled(places)
    count = len(places)
    assert several.startswith(
        f"{count} of {count} intervals of the headline lie below the paper's "
    )
    assert "Whether there is a smaller gain they do not settle" in several
    assert "That of overnight comes from one training" in several
    monkeypatch.setattr(answer, "elsewhere", lambda shown: {})
    alone = answer.settled(answer.scales(own, [], profile))
    assert alone.endswith("They have one sign, and none includes zero.")
