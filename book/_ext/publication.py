"""Sphinx extension for what a published page has besides its text: buttons, first words, names.

Binder and Colab open a notebook's source in ``notebooks/``; the theme would send them to the
executed copy, which is in no repository. As long as ``_config.yml`` names no repository there is
nothing to open, and no button.
"""

import json
from html import escape
from pathlib import Path
from textwrap import shorten

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

EXECUTED, SOURCE = "book/_executed/", "notebooks/"
DESCRIPTION = '<meta name="description" content="{}" />'
"""What a page's head says of it, and the search reads again."""
LONG = 80
"""Letters up to which a field's default is shown."""


def setup(app: Sphinx) -> dict[str, bool]:
    """Register what is done to every page."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-signature", show_defaults)
    app.connect("config-inited", remove_buttons)
    app.connect("html-page-context", open_source, priority=900)
    app.connect("html-page-context", describe, priority=900)
    app.connect("html-page-context", load_excerpts)
    app.connect("html-page-context", drop_roles, priority=900)
    app.connect("html-page-context", name_toggles, priority=900)
    app.connect("build-finished", write_excerpts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def remove_buttons(app: Sphinx, config: Config) -> None:
    """Take the launch buttons out of a book without a repository."""
    if not config.html_theme_options.get("repository_url"):
        config.html_theme_options.pop("launch_buttons", None)


def show_defaults(
    app: Sphinx, what: str, name: str, shown: object, options: object, signature: str, result: str
) -> tuple[str, None] | None:
    """Give a configuration's fields with their defaults; pydantic's types are no reading matter."""
    if what != "class" or not hasattr(shown, "model_fields"):
        return None
    fields = shown.model_fields.items()
    said = [
        n if field.is_required() else f"{n}={_short(field.get_default())}" for n, field in fields
    ]
    return f"({', '.join(said)})", None


def _short(default: object) -> str:
    """A default, or of one that fills lines only what it is."""
    said = repr(default)
    return said if len(said) <= LONG else f"{type(default).__name__}(…)"


def open_source(
    app: Sphinx, pagename: str, templatename: str, context: dict, doctree: nodes.document | None
) -> None:
    """Lead launch buttons from the executed notebook to its source."""
    for group in context.get("header_buttons", []):
        if group.get("label") == "launch-buttons":
            for button in group["buttons"]:
                button["url"] = button["url"].replace(EXECUTED, SOURCE)


def describe(
    app: Sphinx, pagename: str, templatename: str, context: dict, doctree: nodes.document | None
) -> None:
    """Describe a page by its first paragraph, for search engines and previews of links."""
    paragraph = next(doctree.findall(nodes.paragraph), None) if doctree else None
    text = paragraph.astext() if paragraph else f"Part of the book {app.config.html_title}"
    content = escape(shorten(text, 160, placeholder=" …"))
    context["metatags"] = context.get("metatags", "") + DESCRIPTION.format(content)


def load_excerpts(
    app: Sphinx, pagename: str, templatename: str, context: dict, doctree: nodes.document | None
) -> None:
    """Give the search the descriptions of pages, which it cannot fetch from disk."""
    if pagename == "search":
        app.add_js_file("excerpts.js")


def write_excerpts(app: Sphinx, exception: Exception | None) -> None:
    """Write the descriptions of all pages into one script."""
    if exception is None:
        start, end = DESCRIPTION.split("{}")
        said = {}
        for page in app.env.found_docs:
            written = Path(app.outdir, f"{page}.html").read_text(encoding="utf-8")
            said[page] = written.partition(start)[2].partition(end)[0]
        script = Path(app.outdir, "_static", "excerpts.js")
        script.write_text(f"window.EXCERPTS = {json.dumps(said)};\n", encoding="utf-8")


def drop_roles(
    app: Sphinx, pagename: str, templatename: str, context: dict, doctree: nodes.document | None
) -> None:
    """Drop the roles of the bibliography, a list without list items to those who hear the page."""
    for role in (' role="list"', ' role="doc-biblioentry"'):
        context["body"] = context.get("body", "").replace(role, "")


def name_toggles(
    app: Sphinx, pagename: str, templatename: str, context: dict, doctree: nodes.document | None
) -> None:
    """Name the arrows that unfold a chapter in the sidebar for those who hear the page."""
    if generate := context.get("generate_toctree_html"):

        def generate_named(*arguments, **options) -> str:
            tree = str(generate(*arguments, **options))
            return tree.replace("<summary>", '<summary aria-label="pages of this chapter">')

        context["generate_toctree_html"] = generate_named
