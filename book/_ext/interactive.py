"""Sphinx extension for scripts: a page loads those that it needs, and no others.

Those of others come from Python packages and are written when the book is built, so the repository
holds none of them and no page fetches anything.
"""

from concurrent.futures import ProcessPoolExecutor
from importlib.resources import files
from pathlib import Path

import vl_convert
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

OWN = {
    'class="chart"': "charts.js",
    'id="live-records"': "live.js",
    'class="main-table"': "tables.js",
    'class="slider"': "slider.js",
    'class="network"': "cards.js",
}
"""Scripts of ours in ``book/_static``, by what they are for."""


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the scripts when a build begins, and name them on the pages that use them."""
    app.connect("builder-inited", write_scripts)
    app.connect("html-page-context", add_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write_scripts(app: Sphinx) -> None:
    """Write Brython into the built book's static folder, and Vega once it is bundled."""
    static = Path(app.outdir) / "_static"
    static.mkdir(parents=True, exist_ok=True)
    pool = ProcessPoolExecutor(1)
    bundle = pool.submit(vl_convert.javascript_bundle)  # takes seconds, beside reading

    def write_vega(app: Sphinx, env: BuildEnvironment) -> None:
        # in a function of its own: its many short names would become the page's
        vega = f"(function () {{{bundle.result()}\n}})();\n"
        (static / "vega.js").write_text(vega, encoding="utf-8")
        pool.shutdown()

    app.connect("env-updated", write_vega)  # pages name its checksum
    for name in ("brython.js", "brython_stdlib.js"):
        (static / name).write_bytes((files("brython") / "data" / name).read_bytes())


def add_scripts(
    app: Sphinx, pagename: str, templatename: str, context: dict, doctree: nodes.document | None
) -> None:
    """Load a page's scripts, after its text; Brython comes when a reader runs a cell."""
    body = context.get("body", "")
    if 'class="chart"' in body:
        app.add_js_file("vega.js", loading_method="defer")
    for mark, script in OWN.items():
        if mark in body:
            app.add_js_file(script, loading_method="defer")
