"""Sphinx extension for pages that load nothing from elsewhere and leave the console clean.

Formulas become MathML when the book is built, which browsers draw themselves, so no MathJax is
fetched. Scripts that extensions register twice are written once: declared a second time, a
JavaScript constant is an error.
"""

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the formula renderer ``mathml`` and the clearing of script files."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    app.connect("html-page-context", write_scripts_once, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def visit_inline(page: HTML5Translator, node: nodes.math) -> None:
    """Write a formula in a line of text."""
    page.body.append(convert(node.astext()))
    raise nodes.SkipNode


def visit_block(page: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula on lines of its own, with its number where it has one."""
    scrolls = "pst-scrollable-table-container"  # the theme's box, which a keyboard can reach
    page.body.append(page.starttag(node, "div", CLASS=f"math {scrolls}"))
    page.body.append(convert(node.astext(), display="block"))
    if node["number"]:
        number = get_node_equation_number(page, node)
        page.body.append(f'<span class="eqno">({number})')
        page.add_permalink_ref(node, "Link to this equation")
        page.body.append("</span>")
    page.body.append("</div>\n")
    raise nodes.SkipNode


def write_scripts_once(
    app: Sphinx, pagename: str, templatename: str, context: dict, doctree: nodes.document | None
) -> None:
    """Drop a page's repeated scripts; one without a file of its own is known by its body."""
    scripts = context["script_files"]
    once = {(script.filename or "", script.attributes.get("body")): script for script in scripts}
    context["script_files"] = list(once.values())
