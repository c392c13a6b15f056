"""Sphinx extension with which pages are read side by side, a core each.

Two extensions that Jupyter Book brings do not say whether they allow it, and Sphinx then does not.
One numbers the table of contents when all pages have been read; the other is for LaTeX alone.
"""

from sphinx.application import Sphinx
from sphinx.config import Config

SILENT = ("sphinx_multitoc_numbering", "sphinx_jupyterbook_latex")


def setup(app: Sphinx) -> dict[str, bool]:
    """Speak for them once they are there."""
    app.connect("config-inited", allow)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def allow(app: Sphinx, config: Config) -> None:
    """Say that they allow it."""
    for name in SILENT:
        app.extensions[name].parallel_read_safe = True
