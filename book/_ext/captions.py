"""Sphinx extension for tables that a cell of a notebook shows: they are numbered as tables.

Where a cell has a caption, MyST-NB makes a figure of whatever it shows.
"""

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.writers.html5 import HTML5Translator


class Table(nodes.figure):
    """A captioned table of a cell."""


class TablesOfCells(SphinxTransform):
    """Turn figures named ``tab-…`` into tables, with the caption above."""

    default_priority = 400  # before labels are collected

    def apply(self) -> None:
        for figure in list(self.document.findall(nodes.figure)):
            if any(name.startswith("tab-") for name in figure["names"]):
                caption = figure.next_node(nodes.caption)
                figure.remove(caption)
                end = nodes.raw("", "</figcaption>", format="html")  # docutils ends it last of all
                table = Table("", caption, end, *figure.children, **figure.attributes)
                figure.replace_self(table)
                self.document.ids |= dict.fromkeys(table["ids"], table)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the node and the transform."""
    app.add_enumerable_node(Table, "table", html=(visit, depart))
    app.add_transform(TablesOfCells)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def visit(page: HTML5Translator, node: Table) -> None:
    """Begin a figure, as which HTML knows a table with a caption of its own."""
    page.body.append(page.starttag(node, "figure"))


def depart(page: HTML5Translator, node: Table) -> None:
    """End it."""
    page.body.append("</figure>\n")
