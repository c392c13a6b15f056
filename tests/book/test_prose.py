"""No result is typed: numbers of ours reach the text from records, through glue or code.

The rule: a percentage or a number with decimals in the text of a page is

- printed by a paper, so that it stands in ``book/reference``, in a paragraph that names the paper,
- or a constant of the protocol, listed here for that page with what it is.

Whole numbers (sizes, layers, years) are not looked at, nor is code.
"""

import ast
import re
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest

import robust_transfer
from robust_transfer import paths
from robust_transfer.davchev2019 import experiment

NUMBER = re.compile(r"(?<![\d.])(?:\d+(?:\.\d+)?\s?%|\d+\.\d+(?!\.?\d))")
CODE = re.compile(r"^```\w+\n.*?^```|`[^`\n]+`", re.M | re.S)
NOT_PROSE = re.compile(r"^(`{3,}|:{3,})(\{[\w-]+\})?|^:[\w-]+:.*$|\]\([^)]*\)", re.M)
PAPER = re.compile(r"\bpaper|davchev|myakala", re.I)

LEVEL = {"95 %": "level of every interval"}
CONSTANTS = {
    "README": {"1905.02675": "of the paper on arXiv", "0.0157": "4/255, in a command"}
    | dict.fromkeys(("3.11", "3.14"), "version of Python")
    | dict.fromkeys(("3.3", "6.4", "4.1", "2.3"), "GB of installed packages"),
    "intro": LEVEL | {"3.11": "version of Python"},
    "methods": LEVEL
    | {
        "0.0625": "the paper's ε on its scale",
        "0.03125": "ε",
        "7.97": "ε in 1/255",
        "0.9": "momentum",
        "0.1": "learning rate",
        "1.96": "normal quantile of the intervals",
        "0.5": "compression of the DenseNet",
        "76 %": "share of the weights in stage 3 and head",
    },
    "CHANGELOG": dict.fromkeys(("3.11", "3.14"), "version of Python"),
    "protocol": {
        "5 %": "least share of images for a comparison",
        "0.0625": "the paper's ε on its scale",
        "0.9": "momentum",
        "0.1": "learning rate",
        "76 %": "share of the weights in stage 3 and head",
    }
    | {"0.0001": "the second paper's learning rate", "0.5": "ε in 1/255, of a rule"}
    | {"0.01": "the second paper's smallest ε"}
    | dict.fromkeys(("0.03", "0.05", "0.07", "0.09"), "the second paper's ε")
    | dict.fromkeys(("2.0", "3.0", "4.0", "5.0", "6.0", "8.0"), "tolerance"),
    "models": LEVEL,
    "reproducibility": LEVEL,
    "00_threat_models": {"0.0625": "the paper's ε on its scale", "0.03125": "ε"},
    "03_evaluation": LEVEL,
    "04_figures": LEVEL,
    "12_speed": LEVEL,
    "09_seeing": {"10 %": "probability below which a class is not drawn"},
    "11_browser": LEVEL
    | {"90 %": "another level", "1.645": "its normal quantile"}
    | {"99 %": "another level", "2.576": "its normal quantile"},
    "06_study": {
        "0.01": "the paper's smallest ε",
        "2.55": "the same in 1/255",
        "0.5": "of 1/255: what 8 bits round away",
    },
    "07_techniques": LEVEL,
    "08_forensics": {"0.01": "the paper's smallest ε", "2.55": "the same in 1/255"},
    "05_verdicts": LEVEL | {"90 %": "level of the intervals of an equivalence"},
}
PAGES = {
    page.stem: page
    for page in (
        paths.ROOT / "README.md",
        paths.ROOT / "CHANGELOG.md",
        *paths.BOOK.glob("*.md"),
        *paths.NOTEBOOKS.glob("*.ipynb"),
    )
} | {f"{page.parent.name}/{page.stem}": page for page in paths.BOOK.glob("claims/*/*.md")}
REFERENCE = "\n".join(path.read_text() for path in paths.REFERENCE.glob("*.csv"))
PRINTED = set(re.findall(r"\d+\.\d+", REFERENCE))


def text(page) -> str:
    """What a page says: its Markdown and, of a notebook, its captions and alternative texts."""
    if page.suffix == ".md":
        return page.read_text()
    parts = []
    for cell in nbformat.read(page, 4).cells:
        shown = cell.metadata.get("mystnb", {})
        parts.append(cell.source if cell.cell_type == "markdown" else "")
        parts += [shown.get("figure", {}).get("caption", ""), shown.get("image", {}).get("alt", "")]
    return "\n\n".join(parts)


def typed(said: str) -> list[tuple[str, str]]:
    """Numbers typed into a text, each with its paragraph."""
    prose = NOT_PROSE.sub("", CODE.sub("", said))
    paragraphs = re.split(r"\n\s*\n", prose)
    return [
        (" ".join(found[0].split()), paragraph)
        for paragraph in paragraphs
        for found in NUMBER.finditer(paragraph)
    ]


def unexplained(said: str, constants: dict[str, str]) -> list[str]:
    return [
        number
        for number, paragraph in typed(said)
        if number not in constants
        and not (number.rstrip(" %") in PRINTED and PAPER.search(paragraph))
    ]


@pytest.mark.parametrize("name", PAGES)
def test_no_result_is_typed(name):
    assert unexplained(text(PAGES[name]), CONSTANTS.get(name, {})) == []


@pytest.mark.parametrize("name", CONSTANTS)
def test_every_constant_is_still_said(name):
    assert {*CONSTANTS[name]} <= {number for number, _ in typed(text(PAGES[name]))}


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("It keeps 24.6 % of them, the interval is 1.5 to 2.5.", ["24.6 %", "1.5", "2.5"]),
        ("It keeps {glue:text}`04::share:.1f` % and `0.5` of 25 networks.", []),
        ("```{list-table} Rows of 3.5.\n:widths: 10 %\n* - 12.5\n```", ["3.5", "12.5"]),
        ("```python\nx = 0.5\n```\nthen 60%", ["60%"]),
        ("The paper has 41.3.\n\nWe have 41.3.", ["41.3"]),
        ("The paper has 41.35.", ["41.35"]),
        ("[report](https://example.org/1.5), version 1.2.3", []),
    ],
)
def test_what_counts_as_typed(said, found):
    assert unexplained(said, {}) == found


def test_readme_shows_the_scale_of_the_book():
    said, shown = PAGES["README"].read_text(), experiment.published_profile()
    assert {*re.findall(r"book/results/([\w-]+)/(?:figure4|table1)", said)} == {shown}


def first_lines(source: str) -> list[str]:
    """First lines of what is said of a module's or class's values, and of properties."""
    said = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef):
            for value, text in pairwise(node.body):
                if isinstance(value, ast.Assign | ast.AnnAssign) and isinstance(text, ast.Expr):
                    said.append(ast.literal_eval(text.value))
        elif isinstance(node, ast.FunctionDef):
            names = [ast.unparse(decorator) for decorator in node.decorator_list]
            said += [ast.get_docstring(node) or ""] * any("property" in name for name in names)
    return [text.partition("\n")[0] for text in said]


def test_no_value_is_described_by_what_napoleon_takes_for_a_type():
    """It reads ``a: b`` in such a line as type and description."""
    assert first_lines('X = 1\n"""One: a.\n\nb: c"""') == ["One: a."]
    modules = [*Path(robust_transfer.__file__).parent.rglob("*.py")]
    lines = [line for path in modules for line in first_lines(path.read_text(encoding="utf-8"))]
    assert len(lines) > 100 and [line for line in lines if ":" in line] == []
