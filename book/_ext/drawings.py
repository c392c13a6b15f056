"""Sphinx extension for drawings that follow the theme: SVG images become part of their page.

An SVG that a page only refers to is drawn apart from it and knows no theme; see book.css.
"""

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

from robust_transfer.presentation.figures import inline


def setup(app: Sphinx) -> dict[str, bool]:
    """Register what is done to every page."""
    app.add_post_transform(DrawInPage)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class DrawInPage(SphinxPostTransform):
    """Write SVG images of prose and of notebooks into the page, with their alternative text."""

    default_priority = 5  # after myst-nb has chosen among a cell's outputs
    formats = ("html",)

    def run(self, **_: object) -> None:
        """Replace the images of one page."""
        for image in [*self.document.findall(nodes.image)]:
            if image["uri"].endswith(".svg"):
                drawing = Path(self.app.srcdir, image["uri"]).read_text(encoding="utf-8")
                shown = inline(drawing, image["alt"])
                image.replace_self(nodes.raw("", shown, format="html"))
