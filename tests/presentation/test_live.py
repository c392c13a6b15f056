import json
import re

import numpy as np
import pytest

from robust_transfer.davchev2019 import experiment, tables
from robust_transfer.davchev2019.runs import Run
from robust_transfer.evaluation.accuracies import COLUMNS, Evaluation
from robust_transfer.evaluation.packing import pack_bits
from robust_transfer.presentation import live
from robust_transfer.presentation.tables import percent

NETWORKS = [n for n in experiment.grid(experiment.Profile()) if n.id in ("nat", "pgd")]
HITS = {"nat": np.arange(10) < 4, "pgd": np.arange(10) % 2 == 0}


@pytest.fixture
def records() -> live.Records:
    return live.collect([run(n, HITS[n.id]) for n in NETWORKS], tables.paper(), "Profile <tiny>.")


def run(network, hits) -> Run:
    outcomes = dict.fromkeys(COLUMNS, hits)
    content = {"n": len(hits), "outcomes": {k: pack_bits(v) for k, v in outcomes.items()}}
    return Run(network, None, Evaluation(outcomes, content))


def test_records_give_outcomes_accuracies_and_the_papers(records):
    assert records.networks == ["nat", "pgd"] and records.columns == list(COLUMNS)
    assert records.outcomes("pgd", "wb_pgd") == [1, 0] * 5
    assert records.accuracy("nat", "natural") == pytest.approx(40)
    assert records.paper("nat", "natural") == 92.5


def test_an_accuracy_between_two_decimals_reads_as_in_the_tables():
    hits = np.arange(10_000) < 995
    assert f"{100 * hits.sum() / 10_000:.1f}" != percent(hits.mean())  # so it can differ
    records = live.collect([run(NETWORKS[0], hits)], tables.paper(), "")
    assert f"{records.accuracy('nat', 'natural'):.1f}" == percent(hits.mean())


def test_one_decimal_rounds_as_python_does_also_ties_and_below_zero():
    values = [share for k in range(10_001) for share in (k / 100, 100 * (k / 10_000), -k / 40)]
    assert [live.one_decimal(v) for v in values] == [f"{v:.1f}" for v in values]


@pytest.mark.parametrize("wrong", [("natt", "natural"), ("nat", "wb")])
def test_unknown_network_or_column_is_named_with_the_known_ones(records, wrong):
    with pytest.raises(ValueError, match=r"'(natt|wb)': allowed are nat"):
        records.outcomes(*wrong)


def test_page_carries_records_and_library(records):
    page = records._repr_html_()
    assert "Profile &lt;tiny&gt;." in page and page.count("</script>") == 1
    cargo = json.loads(re.search(r'id="live-records">(.*)</script>', page, re.S)[1])
    space: dict = {}
    exec(cargo["library"], space)
    assert space["Records"](cargo["records"]).accuracy("pgd", "natural") == 50


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("print('a<b')", "<pre>a&lt;b\n</pre>"),
        ("x = 2\nx + n", "<pre>5</pre>"),
        ("print(1)\n[n,\n 2]  # two", "<pre>1\n</pre><pre>[3, 2]</pre>"),
        ("x = 1; n;", "<pre>3</pre>"),
        ("Html('<b>')", "<b>"),
        ("n = 4", ""),
        ("# nothing", ""),
    ],
)
def test_cell_shows_what_it_prints_and_its_last_value(source, shown):
    assert live.run(source, {"n": 3, "Html": live.Html}) == shown


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("a = 1\nb = a + c", "line 2: NameError: name &#x27;c&#x27; is not defined"),
        ("def f():\n    return 1 / 0\n\n\nf()", "line 2: ZeroDivisionError: division by zero"),
        ("x = 1\nx = = 2", "line 2: SyntaxError: invalid syntax"),
    ],
)
def test_error_is_told_in_one_line_with_its_place(source, told):
    assert live.run(source, {}) == f'<pre class="error" role="alert">{told}</pre>'


def test_cell_keeps_what_was_printed_before_an_error_and_nothing_after_itself(capsys):
    names = {"n": 3}
    assert live.run("n = 9\nprint(n)\n1 / 0", names).startswith("<pre>9\n</pre><pre class")
    print("back")
    assert names == {"n": 3} and capsys.readouterr().out == "back\n"


def test_table_bars_and_heatmap_show_their_numbers():
    assert live.table([["<a>", 1.25]], ["x", "y"]).text.count("<td>&lt;a&gt;</td><td>1.2</td>") == 1
    bars = live.bars({"nat": 50.0}, marks={"nat": 10.0}).text
    assert 'width="150.0"' in bars and "M160.0 " in bars and "nat 50.0" in bars
    heat = live.heatmap(["a", "b"], ["c"], lambda row, column: 10 if row == "a" else 20).text
    assert heat.index("rgb(0,34,78)") < heat.index(">10.0<") < heat.index("rgb(254,232,56)")
