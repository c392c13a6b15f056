import json
import re

import pandas as pd
import pytest

from robust_transfer.davchev2019 import charts, tables
from robust_transfer.evaluation.accuracies import COLUMNS
from robust_transfer.presentation.charts import Interactive, accuracy_curves

THEIRS = tables.paper()
BLOCKS = tables.heatmap_blocks("4", THEIRS)


@pytest.fixture
def ours() -> pd.DataFrame:
    table = THEIRS.assign(n=2000)
    for column in COLUMNS:
        table[column] += 0.011
        table[f"{column}_low"], table[f"{column}_high"] = table[column] - 0.02, table[column] + 0.03
    return table


def island(chart: Interactive) -> dict:
    return json.loads(re.search(r"json\">(.*)</script>", chart._repr_html_())[1])


@pytest.mark.filterwarnings("error")
def test_heatmap_says_everything_of_every_cell_on_both_sides(ours):
    chart = charts.heatmaps({"ours": ours, "paper": THEIRS}, BLOCKS, "Two heatmaps.")
    spec = island(chart)
    cells = [table for table in spec["datasets"].values() if len(table) == 125]
    assert len(cells) == len(spec["concat"]) == 2
    for panel in cells:
        cell = next(c for c in panel if c["run"].endswith("#pgd-pgd-all") and c["share"] == 1)
        assert cell["accuracy"] == "white-box PGD" and cell["network"] == "R pgd→pgd 56"
        assert (cell["ours"], cell["paper"]) == ("42.4 %", "41.3 %")
        assert cell["interval"] == "40.4 to 45.4 %, n = 2,000"
        assert cell["difference"] == "+1.1 points"
    assert {c["column"].split()[-2] for p in cells for c in p} > {"92.6", "93.7"}  # of each column


def test_chart_has_a_name_and_a_twin_for_readers_without_scripts(ours):
    chart = charts.heatmaps({"ours": ours, "paper": THEIRS}, BLOCKS, 'Two "heatmaps".')
    assert island(chart)["description"] == 'Two "heatmaps".'
    page = chart._repr_html_()
    assert '<svg role="img" aria-label="Two &quot;heatmaps&quot;."' in page


def test_curves_have_wilson_intervals_and_name_their_record():
    curves = pd.DataFrame({"R<sub>pgd→nat</sub> 18": [0.9, 0.5]}, index=[0, 8])
    runs = {"R<sub>pgd→nat</sub> 18": "pgd-nat-stage3-s0-abc</script>"}
    chart = accuracy_curves(curves, "ε", 100, runs, "Curves.")
    (points,) = island(chart)["datasets"].values()
    assert [point["network"] for point in points] == ["R pgd→nat 18"] * 2
    assert points[1]["interval"] == "40.4 to 59.6 %, n = 100"
    assert points[1]["record"] == "pgd-nat-stage3-s0-abc</script>"
    assert chart._repr_html_().count("</script>") == 1
