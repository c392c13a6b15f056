"""Facts that claims of paper A rest on say what the records say."""

import pandas as pd

from robust_transfer.claims.reproduction import Reproduction
from robust_transfer.davchev2019 import checks, tables

PAPER = tables.paper()


def history(natural, adversarial):
    return pd.DataFrame({"natural": natural, "adversarial": adversarial}).reset_index(names="epoch")


def chosen(first, second):
    histories = {"pgd-pgd-all": first, "pgd": second}
    return checks.selection(Reproduction({}, PAPER, histories=histories))


def test_the_headline_by_three_ways_to_choose_an_epoch():
    source = history([0.6, 0.7, 0.9], [0.30, 0.40, 0.30])
    scratch = history([0.8, 0.5, 0.5], [0.20, 0.35, 0.25])
    found = chosen(source, scratch)  # mean: epochs 2 and 0, adversarial: 1 and 1, last: 2 and 2
    assert found.holds is True
    assert found.ours == "+10.0 by mean, +5.0 by adversarial, +5.0 by last"
    worse = history([0.6, 0.7, 0.9], [0.30, 0.34, 0.30])
    assert chosen(worse, scratch).holds is False  # −1.0 by adversarial
    assert chosen(scratch, source).holds is True  # one sign: the other one


def test_where_all_three_choose_the_same_epochs_nothing_is_tested():
    rising = history([0.6, 0.7, 0.9], [0.30, 0.40, 0.50])
    found = chosen(rising, history([0.5, 0.6, 0.8], [0.20, 0.30, 0.40]))
    assert found == checks.Fact(None, "all three choose the same epochs")


def test_what_has_no_histories_or_was_not_doubted_is_open():
    assert checks.selection(Reproduction({}, PAPER)).holds is None
    assert checks.unmasked(Reproduction({}, PAPER)).holds is None


def test_a_doubted_row_is_named():
    sound = Reproduction({}, PAPER, doubts={"nat": [], "pgd": []})
    assert checks.unmasked(sound) == checks.Fact(True, "0 of 2")
    doubted = Reproduction({}, PAPER, doubts={"nat": ["its gradient is zero"], "pgd": []})
    assert checks.unmasked(doubted) == checks.Fact(False, "1 of 2: R<sub>nat</sub>")
