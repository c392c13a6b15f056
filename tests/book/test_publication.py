"""What ``_config.yml`` promises once the repository has an address, on a book of two pages."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

from robust_transfer import paths

REPOSITORY = "https://github.com/someone/robust-transfer"
NAME = "01_source"
NOTEBOOK = f"{NAME}.ipynb"


def build(folder: Path, url: str) -> str:
    """Build a book with the real configuration and one notebook; return the notebook's page."""
    for name in ("_ext", "_static"):
        shutil.copytree(
            paths.BOOK / name, folder / "book" / name, ignore=shutil.ignore_patterns("generated")
        )
    (folder / "book" / "references.bib").touch()
    config = (paths.ROOT / "_config.yml").read_text()
    assert config.count('url: ""') == 1
    (folder / "_config.yml").write_text(config.replace('url: ""', f'url: "{url}"'))
    chapters = [{"file": f"book/_executed/{NOTEBOOK}"}]
    toc = {"format": "jb-book", "root": "book/intro", "chapters": chapters}
    (folder / "_toc.yml").write_text(json.dumps(toc))
    (folder / "book" / "intro.md").write_text('# Book\n\nA first "paragraph" & more.\n')
    cells = [nbformat.v4.new_markdown_cell("# Evaluation\n\nWhat it is.")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    (folder / "book" / "_executed").mkdir()
    nbformat.write(notebook, folder / "book" / "_executed" / NOTEBOOK)
    builder = Path(sys.executable).with_name("jupyter-book")
    command = [str(builder), "build", "-W", "-n", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return (folder / f"_build/html/book/_executed/{NAME}.html").read_text()


def buttons(page: str) -> list[str]:
    return re.findall(r'href="(https://(?:mybinder|colab)[^"]*)"', page)


def test_buttons_open_the_source_notebook_once_there_is_a_repository(tmp_path):
    page = build(tmp_path, REPOSITORY)
    binder, colab = buttons(page)
    assert binder == (
        "https://mybinder.org/v2/gh/someone/robust-transfer/main"
        f"?urlpath=lab/tree/notebooks/{NOTEBOOK}"
    )
    assert colab == (
        "https://colab.research.google.com/github/someone/robust-transfer/blob/main"
        f"/notebooks/{NOTEBOOK}"
    )
    assert (paths.NOTEBOOKS / NOTEBOOK).exists()
    assert '<meta name="description" content="What it is." />' in page


def test_without_a_repository_there_is_no_button(tmp_path):
    page = build(tmp_path, "")
    assert buttons(page) == [] and "launch-buttons" not in page
    first = (tmp_path / "_build/html/book/intro.html").read_text()
    assert '<meta name="description" content="A first “paragraph” &amp; more." />' in first
