"""Sphinx extension for captions: of tables made from records, and of what notebooks' cells show.

Where a cell has a caption, MyST-NB makes a figure of whatever it shows. The command that makes it
again stands below.
"""

import ast
import json
from html import escape
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective
from sphinx.writers.html5 import HTML5Translator

GIVEN = ("profile", "study", "data_dir")
"""Parameters with which a page's command names what was run."""


END = nodes.raw("", "</figcaption>", format="html")
"""After a table's caption: docutils ends that last of all."""


class Table(nodes.figure):
    """A captioned table."""


class OfRecords(SphinxDirective):
    """A table or figure that ``book/pages.py`` has made; its caption is the directive's content."""

    required_arguments = 1  # its name
    has_content = True
    option_spec: ClassVar = {"name": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        file = Path(self.env.srcdir, "book", "_static", "generated", f"{self.arguments[0]}.html")
        self.env.note_dependency(str(file))
        said, _ = self.state.inline_text("\n".join(self.content), self.lineno)
        shown = nodes.raw("", file.read_text(encoding="utf-8"), format="html")
        caption = nodes.caption("", "", *said)
        if self.options["name"].startswith("tab-"):
            made = Table("", caption, END.deepcopy(), shown)
        else:
            made = nodes.figure("", shown, caption)
        self.add_name(made)
        return [made]


class TablesOfCells(SphinxTransform):
    """Turn figures named ``tab-…`` into tables, with the caption above."""

    default_priority = 400  # before labels are collected

    def apply(self) -> None:
        for figure in list(self.document.findall(nodes.figure)):
            if any(name.startswith("tab-") for name in figure["names"]):
                caption = figure.next_node(nodes.caption)
                figure.remove(caption)
                table = Table("", caption, END.deepcopy(), *figure.children, **figure.attributes)
                figure.replace_self(table)
                self.document.ids |= dict.fromkeys(table["ids"], table)


class Commands(SphinxTransform):
    """Say below every figure and table of a notebook how it is made again."""

    default_priority = TablesOfCells.default_priority + 1

    def apply(self) -> None:
        notebook = Path(self.document["source"])
        if notebook.suffix == ".ipynb":
            command = command_of(json.loads(notebook.read_text(encoding="utf-8")), notebook.name)
            shown = f"<summary>make it again</summary><code>{escape(command)}</code>"
            for figure in self.document.findall(nodes.figure):  # tables are figures, too
                below = f'<details class="again">{shown}</details>'
                figure.append(nodes.raw("", below, format="html"))


def command_of(notebook: dict, name: str) -> str:
    """The papermill command that executes a notebook as it was executed for the book."""
    sources = ("".join(cell["source"]) for cell in notebook["cells"])
    parameters = next((s for s in sources if s.startswith("# Parameters")), "")
    said = {s.targets[0].id: ast.literal_eval(s.value) for s in ast.parse(parameters).body}
    given = [f"-p {key} {Path(said[key]).stem}" for key in GIVEN if said.get(key)]
    return " ".join([f"papermill notebooks/{name} out.ipynb", *given])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the node, the directive and the transforms."""
    app.add_directive("of-records", OfRecords)
    app.add_enumerable_node(Table, "table", html=(visit, depart))
    app.add_transform(TablesOfCells)
    app.add_transform(Commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def visit(page: HTML5Translator, node: Table) -> None:
    """Begin a figure, as which HTML knows a table with a caption of its own."""
    page.body.append(page.starttag(node, "figure"))


def depart(page: HTML5Translator, node: Table) -> None:
    """End it."""
    page.body.append("</figure>\n")
