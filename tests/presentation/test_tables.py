"""What a table says is shown as text, whoever said it."""

import pandas as pd

from robust_transfer.presentation.tables import as_html, show

SCRIPT = "<script>alert(1)</script>"
KEPT = (
    "R<sub>pgd→nat</sub> 18",
    '<code>nat</code>, <a href="#nat">nat</a> <a href="../claims/a.html#D1">D1</a>',
    '<span id="a-b" class="words">a<wbr>b</span>',
)
SHOWN = (
    SCRIPT,
    '<a href="javascript:alert(1)">',
    '<a href="//elsewhere">',
    '<span onclick="alert(1)">',
    '<sup class="doubt" title="" onclick="">',
    "<img src=x onerror=alert(1)>",
)


def test_our_own_markup_is_markup_and_nothing_else():
    for text in KEPT:
        assert as_html(text) == text
    for text in SHOWN:
        assert "<" not in as_html(text).replace("</a>", "")
    assert as_html(3.5) == 3.5


def test_a_long_label_may_break_within_a_name_but_not_within_our_markup():
    label = 'cifar10/imagenet_net: a − b<sup class="doubt" title="see a/b_c">?</sup>'
    shown = show(pd.DataFrame({"p": [1.0]}, index=[label])).data
    assert "cifar10/<wbr>imagenet_<wbr>net: a − b<sup" in shown and 'title="see a/b_c"' in shown


def test_a_table_shows_what_others_wrote_as_text():
    shown = show(pd.DataFrame({SCRIPT: [SCRIPT]}, index=[SCRIPT])).data
    assert "<script" not in shown and shown.count("&lt;script&gt;") == 3
