import re

import numpy as np
import pytest
from made import measure, study
from matplotlib.colors import to_rgb

from robust_transfer import paths
from robust_transfer.claims import pages, verdicts
from robust_transfer.claims.outcome import FAILS, PARTLY, REPLICATES, UNTESTED, VERDICTS, WENT
from robust_transfer.claims.quantities import Accuracy
from robust_transfer.claims.reproduction import Reproduction
from robust_transfer.claims.rules import Difference, Equivalence, NotBelow
from robust_transfer.davchev2019 import comparison, experiment, runs, tables
from robust_transfer.davchev2019.claims import GROUPS
from robust_transfer.davchev2019.comparison import as_printed as as_printed_by_paper_a
from robust_transfer.davchev2019.comparison import reproduction
from robust_transfer.evaluation.accuracies import COLUMNS, Evaluation
from robust_transfer.evaluation.intervals import with_interval
from robust_transfer.myakala2022 import printed
from robust_transfer.myakala2022.claims import TOO_LITTLE, groups
from robust_transfer.myakala2022.experiment import Study
from robust_transfer.myakala2022.experiment import cells as study_cells
from robust_transfer.myakala2022.measured import MeasuredStudy
from robust_transfer.presentation import figures
from robust_transfer.records.store import Store

ROWS = experiment.rows(experiment.grid(experiment.Profile()))
IDS = {network.paper_key: network.id for network in ROWS}
PAPER = tables.paper()
A = {name: claim for group in GROUPS.values() for name, claim in group.items()}
LAPTOP = experiment.read_profile(paths.PROFILES / "laptop.yaml")
STUDY = study(
    {
        "cifar10/resnet20": "factorial",
        "cifar10/vit6": "architecture",
        "tiny_imagenet100/vit6": "tables",
        "chest_xray8/densenet40": "tables",
    }
)


def runs_of(profile: experiment.Profile) -> list[runs.Run]:
    """What is published of the networks of a profile."""
    store = Store("results", paths.PUBLISHED / "laptop")
    networks = experiment.grid(profile) + experiment.again(profile)
    return runs.find(networks, store, profile)


def as_printed(cell, seed, attack, epsilon):
    """The paper's accuracies at every budget, or such as it has where it prints none."""
    name = "standard" if attack == "natural" else attack
    value = printed.of(cell)[name]
    return ({"standard": 90, "fgsm": 82, "pgd": 70}[name] if np.isnan(value) else value) / 100


def judge_study(accuracy, of: Study = STUDY) -> dict[str, verdicts.Judgement]:
    """The claims of paper B, judged by made-up accuracies."""
    measured = MeasuredStudy(measure(study_cells(of), accuracy, count=1000))
    return verdicts.judge(measured.reproduction, groups(measured))


@pytest.fixture(scope="module")
def of_paper_b() -> dict[str, verdicts.Judgement]:
    """The claims of paper B, judged by its own numbers at every budget."""
    return judge_study(as_printed)


@pytest.fixture(scope="module")
def of_the_paper() -> dict[str, verdicts.Judgement]:
    """The claims of paper A, judged by the paper's own table."""
    return verdicts.judge(as_printed_by_paper_a(), GROUPS)


@pytest.fixture(scope="module")
def of_the_laptop() -> dict[str, verdicts.Judgement]:
    return verdicts.judge(reproduction(runs_of(LAPTOP)), GROUPS)


def test_every_claim_is_a_test_or_says_why_not(of_paper_b):
    words = verdicts.texts()
    second = {name: judged.claim for name, judged in of_paper_b.items()}
    assert sorted(A) == words.index[words["paper"] == "davchev2019"].to_list()
    assert sorted(second) == words.index[words["paper"] == "myakala2022"].to_list()
    for claim in (A | second).values():
        assert claim.rules or claim.lacking
    without = {name for name, claim in second.items() if not claim.rules}
    assert without == {"M17", "M19"}


def test_the_second_papers_own_numbers_give_its_claims_where_they_can(of_paper_b):
    outcomes = {name: judged.verdict for name, judged in of_paper_b.items()}
    for name in ("M03", "M05", "M06", "M13", "M14"):
        assert outcomes[name] == REPLICATES, name
    # its own tables: arithmetic against it, and a drop that is largest for the transformer
    assert outcomes["M02"] == FAILS and outcomes["M10"] == PARTLY
    assert {outcomes[name] for name in ("M21", "M22", "M23")} == {FAILS}  # by reading
    assert of_paper_b["M01"].caveat == "3 of 5 seeds"
    # seeds that do not differ leave nothing to doubt
    assert [found.outcome for found in of_paper_b["M11"].findings][1:] == [REPLICATES] * 2


def test_pretraining_is_judged_in_every_strategy(of_paper_b):
    pairs = {(rule.first, rule.second) for rule in of_paper_b["M04"].claim.rules[1:]}
    strategies = ("full_finetuning", "layer_freezing", "feature_extraction")
    factorial = {(f"cifar10-resnet20-{s}-pretraining", f"cifar10-resnet20-{s}") for s in strategies}
    assert factorial < pairs and len(pairs) == 3 + 2  # the tables freeze layers


def test_a_study_that_lacks_the_cells_says_so():
    judged = judge_study(as_printed, study({"cifar10/resnet20": "architecture"}))
    assert judged["M05"].verdict == UNTESTED
    assert judged["M05"].caveat == TOO_LITTLE
    assert judged["M03"].verdict == REPLICATES


def test_a_budget_close_to_one_that_a_claim_names_is_another():
    close = study({"cifar10/resnet20": "tables"}, epsilons=(0.01, 0.0313725), shown=(0.01,))
    judged = judge_study(as_printed, close)
    assert judged["M03"].verdict == REPLICATES
    tests = " ".join(verdicts.findings(judged, "M06")["statement"])
    assert "0.01" in tests and "0.0313725" not in tests and "8/255" not in tests


def test_what_is_below_half_without_attack_cannot_keep_half():
    def weak(cell, seed, attack, epsilon):
        return 0.4 if attack == "natural" else 0.3

    judged = judge_study(weak)
    assert judged["M03"].verdict == UNTESTED
    assert "30.0 % of 40.0 % without attack" in verdicts.findings(judged, "M03")["ours"][0]
    assert verdicts.ledger(judged).loc["M03", "held"] == "0 of 0"  # tests that can be made


def test_controls_do_not_count_as_seeds(of_the_laptop):
    pairs, control = of_the_laptop["D07"].findings[:2], of_the_laptop["D07"].findings[2]
    assert of_the_laptop["D07"].seeds == min(found.seeds for found in pairs) > control.seeds


def test_opposite_numbers_fail(of_paper_b):
    """Networks that little protects: 6 % under PGD, and the order of strategies turned round."""

    def opposite(cell, seed, attack, epsilon):
        if attack == "pgd":
            return 0.06
        order = {"feature_extraction": 0.9, "layer_freezing": 0.8, "full_finetuning": 0.7}
        return order[cell.strategy] + 0.01 * seed

    outcomes = {name: judged.verdict for name, judged in judge_study(opposite).items()}
    for name in ("M03", "M05", "M06", "M11", "M13"):
        assert outcomes[name] == FAILS, name


NAMED = re.compile(r"R_\w+(?:->\w+)?(?: (?:1|18|56)\b)?")
T_DIFF = re.compile(r"T-diff\(([^,()]+),([^;()]+); ([^;()]+)(?:; ([\d.]+))?\)")
T_NOT_BELOW = re.compile(r"T-not-below\(([^,()]+),([^;()]+); ([^;()]+); margin ([\d.]+)\)")
T_EQUIV = re.compile(r"T-equiv\(([^,()]+),([^;()]+); ([^;()]+); margin ([\d.]+)\)")


def columns(text: str) -> list[str]:
    if "bb columns" in text:
        return ["bb_fgsm", "bb_pgd"]
    return [column for column in COLUMNS if re.search(rf"\b{column}\b", text)]


def rules_of(name: str, kind: type) -> list:
    flat = [inner for rule in A[name].rules for inner in getattr(rule, "rules", (rule,))]
    return [rule for rule in flat if isinstance(rule, kind)]


@pytest.mark.parametrize("name", [n for n in A if A[n].rules])
def test_rules_are_those_of_the_text(name):
    text = verdicts.texts().loc[name, "test"]
    differences = {(r.first, r.second, r.column): r for r in rules_of(name, Difference)}
    for first, second, where, size in T_DIFF.findall(text):
        for column in columns(where):
            rule = differences[IDS[first], IDS[second], column]
            printed = 100 * (PAPER.loc[rule.first, column] - PAPER.loc[rule.second, column])
            stated = printed if rule.expected is None else rule.expected
            assert not size or stated == pytest.approx(float(size), abs=0.01)
    equivalences = {(r.first, r.second, r.column): r for r in rules_of(name, Equivalence)}
    for first, second, where, margin in T_EQUIV.findall(text):
        for column in columns(where):
            assert equivalences[IDS[first], IDS[second], column].margin == float(margin)
    one_sided = {(r.first, r.second, r.column): r for r in rules_of(name, NotBelow)}
    for first, second, where, margin in T_NOT_BELOW.findall(text):
        for column in columns(where):
            assert one_sided[IDS[first], IDS[second], column].margin == float(margin)
    assert bool(one_sided) == ("T-not-below" in text)
    if margin := re.search(r"T-equiv\(margin ([\d.]+)\)", text):
        assert {rule.margin for rule in equivalences.values()} == {float(margin[1])}
    assert bool(differences) == ("T-diff" in text) and bool(equivalences) == ("T-equiv" in text)


@pytest.mark.parametrize("name", [n for n in A if A[n].rules])
def test_networks_and_columns_are_those_of_the_text(name, of_the_paper):
    words = verdicts.texts().loc[name]
    cells = {cell for found in of_the_paper[name].findings for cell in found.basis}
    test = re.sub(r"\(R_\w+ excluded\)", "", words["test"])
    named = {IDS[key] for key in NAMED.findall(test) if key in IDS}
    assert not cells or named <= {cell.network for cell in cells}
    if "T-equiv(margin" in words["test"] or "for both" in words["test"]:  # named beside it
        named = {IDS[key] for key in NAMED.findall(words["evidence"]) if key in IDS}
        assert {cell.network for cell in cells} == named
    if cells and (stated := columns(words["test"]) or columns(words["evidence"])):
        assert set(stated) <= {cell.column for cell in cells}


def test_the_papers_own_table_gives_the_papers_claims(of_the_paper):
    verdicts = {name: claim.verdict for name, claim in of_the_paper.items()}
    assert {name for name, verdict in verdicts.items() if verdict == PARTLY} == {"D27"}
    against = {"D06", "D19"}  # two statements that its numbers, or a count, contradict
    against |= {"D23", "D25"}  # and two orders to which it has exceptions
    assert {name for name, verdict in verdicts.items() if verdict == FAILS} == against
    untested = {name for name, verdict in verdicts.items() if verdict == UNTESTED}
    # a table alone does not say how epochs were chosen (D38)
    assert untested == {name for name, claim in A.items() if not claim.rules} | {"D38"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("D05", "6 of 6"),
        ("D06", "3 of 6"),
        ("D10", "4 of 4"),
        ("D22", "12 of 12"),
        ("D23", "11 of 12"),
        ("D24", "11 of 12"),
        ("D27", "47 of 50"),
        ("D28", "25 of 25"),
    ],
)
def test_counts_in_the_papers_own_table(of_the_paper, name, text):
    found = of_the_paper[name].findings[0]
    assert found.ours.split(";")[0] == found.paper == text


def test_exceptions_in_the_papers_own_table_are_those_known(of_the_paper):
    leaking = of_the_paper["D27"].findings[0].ours
    for label in ("fgsm_no_ll</sub>", "nat→fgsm</sub> 56", "fgsm→fgsm</sub> 56"):
        assert f"R<sub>{label} in black-box FGSM" in leaking
    assert of_the_paper["D19"].findings[0].ours == "13 % of the operations"


def test_ledger_of_the_published_run(of_the_laptop):
    table = verdicts.ledger(of_the_laptop)
    assert table.index.to_list() == sorted(A)
    judged = table[table["networks"] != ""]
    assert (judged["n"] == 1000).all()
    assert set(judged["seeds"]) == {1, 1 + len(LAPTOP.further_seeds)}
    assert judged["caveat"].str.contains("one seed|2 of [35] seeds").all()
    counts = verdicts.numbers(of_the_laptop)
    verdicts_of_claims = ("replicates", "partly", "fails", "untested")
    assert sum(counts[name] for name in verdicts_of_claims) == counts["claims"] == 40 - 3
    assert counts["code"] == 3  # tests of our own code count nothing
    overview = verdicts.overview(of_the_laptop)
    assert "D11" in overview.loc["Headline and initialisation", table.loc["D11", "verdict"]]
    page = pages.sections(of_the_laptop, "Sanity").data
    assert "D35: " in page and "white-box PGD ≤ 1" in page


def test_no_claim_shows_a_columns_name_in_code(of_the_laptop):
    shown = "".join(pages.sections(of_the_laptop, group).data for group in GROUPS)
    assert "share kept in black box" in shown and "white box 78.6/13.5" in shown
    assert not re.search(r"\b[bw]b(_|\b)", shown)


def test_a_claim_shows_what_it_rests_on(of_the_laptop):
    page = pages.sections(of_the_laptop, "Headline and initialisation", {"pgd": "<a>R</a>"}).data
    found = page.partition('id="D11"')[2].partition("</section>")[0]
    seeds = of_the_laptop["D11"].seeds
    size = f"1,000 test images, {seeds} seed{'s' * (seeds > 1)}"
    assert f"{size}: <code>pgd-pgd-all</code>, <a>R</a>" in found
    assert "<em>Evidence:</em> R<sub>pgd→pgd</sub> 56 41.3 minus" in found
    untested = page.partition('id="D12"')[2].partition("</section>")[0]
    assert "Rests on" not in untested and "<em>Reason:</em>" in untested


def test_every_claim_has_its_place_in_the_book(of_the_laptop, of_paper_b):
    toc = (paths.ROOT / "_toc.yml").read_text()
    for judged in (of_the_laptop, of_paper_b):
        links = pages.index(judged).index
        for (name, claim), link in zip(sorted(judged.items()), links, strict=True):
            page = pages.page(claim)
            assert link == f'<a href="../claims/{page}.html#{name}">{name}</a>'
            text = (paths.BOOK / "claims" / f"{page}.md").read_text()
            assert text.startswith(f"# {claim.group}\n")
            assert f"generated/claims/{page}.html" in text and f"file: book/claims/{page}\n" in toc


def test_the_ledger_in_short(of_the_laptop):
    row = pages.index(of_the_laptop).iloc[10]
    headline = verdicts.ledger(of_the_laptop).loc["D11"]
    assert "Headline: robust initialisation" in row["claim"] and row["n"] == "1,000"
    assert row["verdict"] == headline["verdict"]
    assert row["effect"].startswith(f"{headline['effect']:+.1f}".replace("-", "−"))


def test_headline_is_the_difference_of_the_other_pages(of_the_laptop):
    table = comparison.comparisons(runs_of(LAPTOP), experiment.COMPARED)
    headline = verdicts.ledger(of_the_laptop).loc["D11", ["effect", "low", "high"]]
    assert table["ours (points)"].iloc[0] == with_interval(*headline)


def test_missing_evaluation_is_named():
    (nat,) = experiment.select(ROWS, ["nat"])
    with pytest.raises(FileNotFoundError, match=r"^nat, seed 0: no evaluation$"):
        reproduction([runs.Run(nat)])


def test_missing_evaluation_of_a_further_seed_is_named():
    more = LAPTOP.model_copy(update={"further_seeds": (*LAPTOP.further_seeds, 99)})
    with pytest.raises(FileNotFoundError, match=r"^pgd, seed 99: no evaluation$"):
        reproduction(runs_of(more))


def test_means_are_over_the_seeds_that_cells_share():
    few, many = np.zeros(100, bool), np.ones(100, bool)
    found = {
        name: {0: Evaluation(dict.fromkeys(COLUMNS, few), {})} for name in ("pgd", "nat", "fgsm")
    }
    for name in ("pgd", "nat"):
        found[name][1] = Evaluation(dict.fromkeys(COLUMNS, many), {})
    three = Reproduction(found, PAPER.loc[["nat", "fgsm", "pgd"]])
    pgd, nat, fgsm = (Accuracy(name, "wb_pgd") for name in ("pgd", "nat", "fgsm"))
    assert three.means(pgd, nat)[pgd] == 50 and three.size(pgd, nat)["seeds"] == 2
    assert three.means(pgd, fgsm)[pgd] == 0 and three.size(pgd, fgsm)["seeds"] == 1
    assert three.ours["wb_pgd"].to_list() == [0, 0, 0]


def test_arithmetic_on_the_second_papers_tables(of_paper_b):
    texts = {
        name: judged.findings[0].ours for name, judged in of_paper_b.items() if judged.findings
    }
    assert texts["M02"] == "at most 2.5 points, 4.0 %"
    assert texts["M04"].endswith("21.4 %")
    assert re.findall(r"[\d.]+", texts["M11"].replace("-10", "")) == ["1.01", "0.48", "0.36"]


def test_forest_has_a_row_per_difference(of_the_laptop):
    gaps = verdicts.claimed_differences(of_the_laptop)
    figure = figures.forest(gaps)
    assert figures.OUTCOMES.keys() == {WENT[v] for v in VERDICTS if v != UNTESTED}
    red, green, _ = to_rgb(figures.OUTCOMES[WENT[FAILS]][1])
    assert red > 0.8 and green < 0.2  # what fails does not look like what holds
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert len(labels) == len(gaps) == sum(len(rules_of(n, Difference)) for n in A)
    assert (
        labels[0] == r"D11  $R_{\mathrm{pgd{\to}pgd}}$ 56 above $R_{\mathrm{pgd}}$ in white-box PGD"
    )


def test_rules_are_printed_in_words():
    said = [pages.in_words(test) for test in verdicts.texts()["test"]]
    assert not re.search(r"T-\w+|[wb]b_\w+|R_\w+", "; ".join(said))
    assert pages.in_words("T-diff(R_pgd->pgd 56,R_pgd; wb_pgd; 5.2)") == (
        "R<sub>pgd→pgd</sub> 56 above R<sub>pgd</sub> in white-box PGD, by 5.2 points"
    )
