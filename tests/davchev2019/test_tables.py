import base64
import io
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from robust_transfer.claims.quantities import Accuracy
from robust_transfer.claims.reproduction import Reproduction
from robust_transfer.davchev2019 import catalogue, comparison, experiment, figures, tables
from robust_transfer.davchev2019.runs import Run, find
from robust_transfer.evaluation import intervals
from robust_transfer.evaluation.accuracies import COLUMNS, NAMES, Evaluation
from robust_transfer.evaluation.intervals import Interval
from robust_transfer.presentation.figures import mathtext
from robust_transfer.presentation.tables import doubted, show

ROWS = experiment.rows(experiment.grid(experiment.Profile()))


@pytest.fixture
def paper() -> pd.DataFrame:
    return tables.paper()


def evaluation(hits: list[int]) -> Evaluation:
    outcomes = {column: np.array(hits, dtype=bool) for column in COLUMNS}
    return Evaluation(outcomes, {"n": len(hits)})


def test_paper_table_is_found_by_network(paper):
    assert paper.loc["pgd-pgd-all", "wb_pgd"] == pytest.approx(0.413)
    assert paper.loc["fgsm_no_ll", "wb_fgsm"] == pytest.approx(0.885)
    assert paper.loc["pgd-nat-stage3", "natural"] == pytest.approx(0.846)
    assert paper[list(COLUMNS)].notna().all(axis=None)


def test_tolerances_are_those_of_the_protocol(paper):
    agrees = comparison.within_tolerance(paper, paper)
    assert agrees.notna().sum().to_dict() == {
        "natural": 25, "bb_fgsm": 25, "bb_pgd": 25, "wb_fgsm": 17, "wb_pgd": 22,
    }  # fmt: skip
    assert agrees.stack().dropna().all()


@pytest.mark.parametrize(
    ("row", "column", "shift", "agrees"),
    [
        ("nat", "natural", 0.019, True),
        ("nat", "natural", 0.021, False),
        ("pgd", "wb_pgd", 0.029, True),
        ("pgd", "wb_pgd", -0.031, False),
        ("nat", "wb_pgd", 0.049, True),
        ("nat", "wb_pgd", 0.051, False),
        ("nat", "bb_pgd", 0.079, True),
        ("pgd", "bb_pgd", 0.041, False),
        ("nat", "wb_fgsm", 0.059, True),
        ("pgd", "wb_fgsm", 0.031, False),
    ],
)
def test_cell_outside_its_tolerance_is_told(paper, row, column, shift, agrees):
    ours = paper.copy()
    ours.loc[row, column] += shift
    assert comparison.within_tolerance(ours, paper).loc[row, column] == agrees


def test_agreement_of_a_reversed_table_is_negative(paper):
    ours = paper.copy()
    ours[list(COLUMNS)] = 1 - ours[list(COLUMNS)]
    assert comparison.agreement(paper, paper)["rank correlation"].to_list() == pytest.approx(
        [1] * 5
    )
    assert comparison.agreement(ours, paper)["rank correlation"].to_list() == pytest.approx(
        [-1] * 5
    )


def gap(first: list[Evaluation], second: list[Evaluation]) -> Interval:
    """The difference of two networks, an evaluation per seed."""
    evaluations = {"a": dict(enumerate(first)), "b": dict(enumerate(second))}
    return Reproduction(evaluations, None).gap(Accuracy("a", "wb_pgd"), Accuracy("b", "wb_pgd"))


def test_paired_difference_knows_that_images_are_the_same():
    first, second = evaluation([1, 1, 1, 0] * 25), evaluation([1, 1, 0, 0] * 25)
    half = 100 * 1.959964 * np.std([0, 0, 1, 0] * 25, ddof=1) / 10
    assert gap([first], [second])[:3] == pytest.approx((25, 25 - half, 25 + half))


def test_several_seeds_widen_the_interval_and_show_their_spread():
    alike, better = evaluation([1, 0, 0, 0] * 25), evaluation([1, 1, 1, 0] * 25)
    once, twice = gap([better], [alike]), gap([better, alike], [alike, alike])
    assert twice.mean == pytest.approx(25)
    assert twice.high - twice.low > once.high - once.low
    nat, pgd = experiment.select(ROWS, ["pgd", "nat"])
    reseeded = replace(pgd, config=pgd.config.model_copy(update={"seed": 1}))
    runs = [Run(nat, None, alike), Run(pgd, None, alike), Run(reseeded, None, better)]
    shown = comparison.over_seeds(runs)
    assert shown.index.to_list() == ["R<sub>pgd</sub>"]
    assert shown["white-box PGD"].to_list() == ["25.0 and 75.0"]
    assert shown["white-box PGD, paper"].to_list() == pytest.approx([36.1])
    spread = comparison.between_seeds(runs)
    assert "over the 1 rows" in spread
    assert "35.4 in black-box PGD. Of the variance in white-box PGD 100 %" in spread
    assert "one seed" in comparison.between_seeds(runs[:1])
    assert "one seed" in comparison.between_seeds(runs[:2])
    assert comparison.over_seeds(runs[:2]).empty
    assert comparison.comparisons(runs, [("pgd", "pgd")])["seeds"].to_list() == [2]


def test_what_strong_attacks_leave_stands_in_its_own_table_and_beside_table_1(paper):
    outcomes = {
        "natural": [1, 1, 1, 1], "fgsm": [1, 1, 1, 0], "pgd_7": [1, 1, 0, 0],
        "pgd_50": [1, 1, 0, 0], "margin": [1, 0, 0, 0], "margin_5": [0, 0, 0, 0],
    }  # fmt: skip
    strong = Evaluation({k: np.array(v, bool) for k, v in outcomes.items()}, {"n": 4})
    nat, pgd = experiment.select(ROWS, ["nat", "pgd"])
    runs = [Run(nat, None, evaluation([1, 1, 1, 0])), Run(pgd, None, evaluation([1] * 4), strong)]
    shown = tables.withstood(runs)
    assert shown.loc["R<sub>pgd</sub>"].to_list() == [
        "100.0", "75.0", "50.0", "50.0", "25.0", "0.0 [0.0,\N{NO-BREAK SPACE}49.0]",
    ]  # fmt: skip
    ours = tables.results(runs)
    assert ours["strong"].isna().to_list() == [True, False] and ours.loc["pgd", "strong"] == 0
    both = comparison.side_by_side(ours, paper.loc[["nat", "pgd"]])
    assert both["strong", "ours"].iloc[1] == 0 and ("strong", "paper") not in both
    told = tables.with_intervals(ours)["strong attacks"].to_list()
    assert told == ["", "0.0 [0.0,\N{NO-BREAK SPACE}49.0]"]


@pytest.mark.parametrize(
    ("figure", "sizes"),
    [
        ("2", [3, 3, 3, 3]),
        ("3", [4, 1, 2, 2, 2]),
        ("4", [4, 7, 7, 7]),
        ("5 fgsm", [2, 3, 3, 3]),
        ("5 pgd", [1, 3, 3, 3]),
    ],
)
def test_heatmap_blocks_are_the_papers(paper, figure, sizes):
    blocks = tables.heatmap_blocks(figure, paper)
    assert [len(block) for block in blocks] == sizes
    assert len({row for block in blocks for row in block}) == sum(sizes)


def test_heatmap_is_normalised_per_column_over_the_rows_shown(paper):
    shown = paper.loc[["nat", "pgd", "fgsm"]]
    values = figures.normalised(shown)
    assert values.min().to_list() == [0] * 5 and values.max().to_list() == [1] * 5
    assert values.loc["fgsm", "natural"] == pytest.approx((87.1 - 83.9) / (92.5 - 83.9))
    assert figures.normalised(shown.iloc[:1]).to_numpy().tolist() == [[1] * 5]


def test_heatmap_has_a_panel_per_table_and_a_red_line_between_blocks(paper):
    blocks = tables.heatmap_blocks("2", paper)
    figure = figures.heatmaps({"ours": paper, "paper": paper}, blocks)
    assert [axis.get_title() for axis in figure.axes] == ["ours", "paper"]
    lines = [segment for c in figure.axes[0].collections[1:] for segment in c.get_segments()]
    assert len(lines) == 3 + 2
    assert len(figure.axes[0].texts) == 12 * 5


def test_changed_parameters_are_held_against_the_published_networks():
    known, published = catalogue.read("smoke")
    networks = experiment.select(experiment.grid(known), ["nat", "pgd"])
    own = find(networks, published, known)
    assert comparison.with_published(own, known).empty
    wrong = ~own[1].evaluation.outcomes["wb_pgd"]
    outcomes = own[1].evaluation.outcomes | {"wb_pgd": wrong}
    worse = Evaluation(outcomes, own[1].evaluation.content | {"steps": 8})
    runs = [own[0], replace(own[1], evaluation=worse)]
    changed = known.model_copy(update={"evaluation_steps": 8})
    shown = comparison.with_published(runs, changed)
    assert [*shown.index] == ["R<sub>pgd</sub>"]  # the other is the published one
    row, before = shown.iloc[0], own[1].evaluation.accuracy("wb_pgd")
    assert row["white-box PGD"] == f"{100 * (1 - before):.1f} (published {100 * before:.1f})"
    assert row["white-box PGD, difference"].startswith(intervals.signed(100 * (1 - 2 * before)))
    assert row["natural, difference"] == "+0.0 [+0.0,\N{NO-BREAK SPACE}+0.0]"
    assert "published" in row["minutes"] and "published" in row["validation, adversarial"]
    named = changed.model_copy(update={"profile": "mine"})
    assert comparison.with_published(runs, named).empty


def test_labels_are_the_papers_names():
    labels = {row.id: row.label for row in ROWS}
    assert labels["pgd-nat-stage3"] == "R<sub>pgd→nat</sub> 18"
    assert labels["fgsm_no_ll"] == "R<sub>fgsm_no_ll</sub>"
    assert mathtext(labels["pgd-nat-stage3"]) == r"$R_{\mathrm{pgd{\to}nat}}$ 18"


def test_trained_weights_are_the_papers():
    table = tables.strategies(experiment.Profile())
    assert table["trained weights"].to_list() == ["650", "648,074", "853,018"]


def file(shown) -> pd.DataFrame:
    """The file that a shown table offers."""
    content = re.search(r'href="data:text/csv;base64,(.*?)" download="\w+.csv"', shown.data)[1]
    return pd.read_csv(io.BytesIO(base64.b64decode(content)), index_col=0)


@pytest.fixture
def ours(paper) -> pd.DataFrame:
    """As if measured: a point above the paper's, and strong attacks on one network."""
    table = paper.assign(n=100, strong=np.nan)
    table.loc["pgd-pgd-all", "strong"] = 0.25
    for column in (*COLUMNS, "strong"):
        table[column] += 0.01
        table[f"{column}_low"], table[f"{column}_high"] = table[column] - 0.02, table[column] + 0.03
    return table


def cells(shown, row: str) -> list[str]:
    """A row of a shown table: its label, then its cells."""
    line = re.search(rf"<tr>\s*<th>({re.escape(row)})</th>(.*?)</tr>", shown.data, re.S)
    return [line[1], *re.findall("<td>(.*?)</td>", line[2])]


def test_main_table_says_ours_the_papers_the_difference_and_the_interval(ours, paper):
    shown = comparison.main_table(ours, paper, "table1", "../models.html")
    heads = re.findall("<th>(.*?)</th>", shown.data.partition("<tbody>")[0])
    assert heads == ["network", "training", *NAMES.values()]
    label = '<a href="../models.html#pgd-pgd-all">R<sub>pgd→pgd</sub> 56</a>'
    row = cells(shown, label)
    assert re.sub("<.*?>", "", row[1]) == "PGD → PGD, everything"
    assert re.sub("<.*?>", "", row[4]) == "42.3 [40.3, 45.3], paper 41.3 +1.0"
    assert 'title="95 % interval: 40.3 to 45.3"' in row[4]
    assert re.sub("<.*?>", "", row[5]) == "26.0 [24.0, 29.0]"  # the paper has none
    other = cells(shown, '<a href="../models.html#fgsm_no_ll">R<sub>fgsm_no_ll</sub></a>')
    assert re.sub("<.*?>", "", other[1]) == "random weights → FGSM, true labels, from scratch"
    assert other[5] == ""


def test_main_table_marks_doubts_and_its_file_has_all_numbers(ours, paper):
    ours["label"] = [
        doubted(label, ["masked"] * (i == "pgd")) for i, label in ours["label"].items()
    ]
    shown = comparison.main_table(ours, paper, "table1")
    assert shown.data.count('<sup class="doubt" title="masked">?</sup>') == 1
    assert "? R<sub>pgd</sub>: masked." in shown.data and "<a href=" not in shown.data
    row = file(shown).loc["R_pgd→pgd 56"]
    parts = [row[f"wb_pgd {part}"] for part in ("ours", "paper", "difference", "low", "high")]
    assert parts == pytest.approx([42.3, 41.3, 1.0, 40.3, 45.3])
    assert "strong paper" not in row and row["strong ours"] == pytest.approx(26)


def test_no_table_or_figure_shows_a_columns_name_in_code(ours, paper):
    said = [
        comparison.main_table(ours, paper, "table1").data,
        show(tables.with_intervals(ours), "accuracies", ours).data,
        figures.heatmaps({"ours": ours, "paper": paper}, [["nat"], ["pgd"]]),
        figures.deviations(ours, paper, [["nat"], ["pgd"]]),
        figures.scatter(ours, paper),
        figures.survival("paper", paper, 50),
    ]
    for shown in said:
        text = shown if isinstance(shown, str) else " ".join(words(shown))
        text = re.sub('href="data:[^"]*"', "", text)
        assert "PGD" in text or "pgd" in text
        assert not re.search(r"[bw]b[_\s](fgsm|pgd)", text, re.I), text


def words(figure) -> list[str]:
    """All that is written in a figure."""
    return [text.get_text() for text in figure.findobj(Text)]


def test_only_labels_that_are_long_to_read_may_break():
    link, name = '<a href="../claims/davchev2019/sanity.html#D35">D35</a>', "full fine-tuning " * 2
    shown = show(pd.DataFrame({"x": [1, 2]}, index=[link, name])).data
    assert f"<th>{link}</th>" in shown
    assert f'<th><span class="words">{name}</span></th>' in shown


def test_file_may_hold_what_the_table_says_in_words(paper):
    words = pd.DataFrame({"seeds": ["many"]}, index=["a"])
    shown = show(words, "table", paper)
    assert "many" in shown.data
    assert file(shown)["wb_pgd"].to_list() == pytest.approx(paper["wb_pgd"].to_list())
    two_levels = pd.DataFrame({"x": [1]}, index=pd.MultiIndex.from_tuples([("a", "b")]))
    assert file(show(two_levels)).index.to_list() == ["a"]


def test_a_network_stands_beside_the_recipes_that_trained_it_and_the_papers():
    shown = comparison.recipes("fgsm_no_ll")
    assert {"<code>fifth</code>", "<code>fast</code>", "<code>overnight</code>"} < {*shown.index}
    fifth, theirs = shown.loc["<code>fifth</code>"], shown.loc["the paper"]
    same = ["network", "batch", "learning rate", "weight decay"]
    assert (fifth[same] == theirs[same]).all() and 5 * fifth["epochs"] == theirs["epochs"] == 200
    assert [*theirs[["natural", "FGSM", "PGD-7", "strong attacks"]]] == ["87.4", "88.5", "0.2", ""]
    published = catalogue.published().set_index(["profile", "id"])
    left = published.loc[("fifth", "fgsm_no_ll"), "strong"]
    assert fifth["strong attacks"] == f"{100 * left:.1f}"
