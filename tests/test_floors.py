"""The house: what stands on what. Imports run downwards, and neither wing knows the other."""

import ast
import re
from pathlib import Path

import pytest

import robust_transfer
from robust_transfer import paths

ROOT = Path(robust_transfer.__file__).parent
WINGS = ("davchev2019", "myakala2022")
FLOORS = (
    ("config", "paths", "files", "workers"),
    ("attacks",),
    ("data",),
    ("networks",),
    ("training",),
    ("records",),
    ("evaluation",),
    ("runner",),
    ("presentation",),
    ("claims",),
    WINGS,
    ("book",),
    ("__init__", "__main__"),
)
"""From the ground up; a room may use those below it, and others of its own package."""
LABEL = r'y="(\d+)" font-weight="bold" font-size="15">(\w+)<'
"""A room's name in the picture, and how far from the top it stands."""
HEIGHT = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
BELOW_THE_WINGS = [
    path for path in MODULES if HEIGHT[path.parts[0].removesuffix(".py")] < HEIGHT[WINGS[0]]
]


def room(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def imported(source: str) -> set[str]:
    """Full names of all that is imported, anywhere in a module."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms(source: str) -> set[str]:
    """Rooms of this house that a module asks for something."""
    names = (name.split(".") for name in imported(source))
    return {parts[1] for parts in names if parts[0] == "robust_transfer" and len(parts) > 1}


def breaches(path: Path, source: str) -> list[str]:
    """What in a module breaks the rules of the house."""
    own = room(path)
    found = [
        f"imports {other}"
        for other in rooms(source) - {own}
        if (HEIGHT[other] >= HEIGHT[own] and HEIGHT[own] > 0) or HEIGHT[own] == 0
    ]
    if {name.split(".")[0] for name in imported(source)} & {"papermill", "nbformat"}:
        found += ["papermill"] * (HEIGHT[own] < HEIGHT["book"])
    if HEIGHT[own] < HEIGHT[WINGS[0]]:
        found += [f"names {word}" for word in named(source)]
    return found


def named(source: str) -> set[str]:
    """Papers in names and texts of a module; docstrings and comments may cite them."""
    tree = ast.parse(source)
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    words = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words |= {node.value} if id(node) not in docstrings else set()
        words |= {v for k, v in vars(node).items() if k in ("id", "attr", "name", "arg") and v}
    return {w for w in words if re.search(r"davchev|myakala|paper_[ab]\b|paper [AB]\b", str(w))}


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_room_stands_on_those_below(path):
    assert breaches(path, (ROOT / path).read_text()) == []


@pytest.mark.parametrize("package", [p for p in sorted(HEIGHT) if (ROOT / p).is_dir()])
def test_a_package_says_what_it_is_and_nothing_else(package):
    body = ast.parse((ROOT / package / "__init__.py").read_text()).body
    assert len(body) == 1 and isinstance(body[0].value.value, str)


def test_the_books_picture_shows_every_room_above_what_it_stands_on():
    drawn = (paths.BOOK / "_static" / "house.svg").read_text()
    heights = {name: -int(y) for y, name in re.findall(LABEL, drawn)}
    assert heights.keys() == HEIGHT.keys() - {"__init__", "__main__"}
    for path in MODULES:
        own = room(path)
        for other in rooms((ROOT / path).read_text()) & heights.keys() - {own}:
            assert own not in heights or heights[other] < heights[own], (path, other)


def test_every_module_has_its_place_in_the_books_library_part():
    pages = "\n".join(page.read_text() for page in (paths.BOOK / "api").glob("*.md"))
    listed = re.findall(r"automodule:: robust_transfer\.(\S+)", pages)
    names = (".".join(path.with_suffix("").parts) for path in MODULES)
    assert sorted(listed) == sorted(name for name in names if "__" not in name)


@pytest.mark.parametrize(
    ("module", "source", "breach"),
    [
        ("attacks.py", "from robust_transfer.training import loop", "imports training"),
        ("config.py", "from robust_transfer import paths", "imports paths"),
        (
            "evaluation/budgets.py",
            "def f():\n    from robust_transfer import runner",
            "imports runner",
        ),
        (
            "davchev2019/tables.py",
            "from robust_transfer.myakala2022 import tables",
            "imports myakala2022",
        ),
        ("runner.py", "import papermill", "papermill"),
        ("claims/rules.py", "TABLE = 'davchev2019_table1.csv'", "names davchev2019_table1.csv"),
    ],
)
def test_a_breach_is_noticed(module, source, breach):
    assert breaches(Path(module), source) == [breach]
