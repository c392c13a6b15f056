"""The built book in a browser, as a reader has it: opened from disk, and served below some path."""

import json
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urldefrag

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from robust_transfer.evaluation.intervals import wilson

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium (Debian: apt install chromium)")

DESK, TELEPHONE = 1280, 390
LOOK = """() => ({
    links: [...document.querySelectorAll('a[href]')].map(a => a.href),
    images: [...document.images].map(image => ({
        source: image.src, alt: image.alt, whole: image.naturalWidth > 0})),
    targets: [...document.querySelectorAll('[id]')].map(element => element.id),
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    title: document.title,
    language: document.documentElement.lang,
    description: document.querySelector('meta[name="description"]')?.content,
})"""
WCAG = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}


@pytest.fixture(scope="module")
def book(smoke) -> Path:
    return smoke / "_build" / "html"


@pytest.fixture(scope="module")
def served(book, tmp_path_factory):
    """The book's address on a server of which it is not the root."""
    root = tmp_path_factory.mktemp("server")
    (root / "a").mkdir()
    (root / "a" / "path").symlink_to(book)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=root))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/a/path"
    server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def pages(book: Path) -> list[str]:
    """All pages but the first, which only leads to the second."""
    found = [path.relative_to(book).as_posix() for path in book.rglob("*.html")]
    return sorted(name for name in found if not name.startswith("_static") and name != "index.html")


class Reader:
    """A window on the book at one address, without a network, that notes what is wrong."""

    def __init__(self, browser: Browser, address: str, width: int = DESK) -> None:
        self.address, self.width, self.page_name, self.problems = address, width, "", []
        context = browser.new_context(viewport={"width": width, "height": 800})
        context.route(lambda url: not url.startswith((address, "data:")), self.refuse)
        self.page = context.new_page()
        self.page.on("console", lambda said: said.type == "error" and self.note(said.text))
        self.page.on("pageerror", lambda error: self.note(str(error)))

    def refuse(self, route) -> None:
        self.note(f"asks for {route.request.url}")
        route.abort()

    def note(self, problem: str) -> None:
        self.problems.append(f"{self.page_name}: {problem}")

    def open(self, name: str) -> Page:
        self.page_name = name
        self.page.goto(f"{self.address}/{name}")
        return self.page

    def look(self, name: str) -> dict:
        self.open(name)
        seen = self.page.evaluate(LOOK)
        if seen["overflow"] > 0:
            self.note(f"{seen['overflow']} pixels wider than the window")
        for image in seen["images"]:
            if not image["whole"]:
                self.note(f"{image['source']} is missing")
            if not image["alt"]:
                self.note(f"{image['source']} has no alt text")
        for field in ("title", "language", "description"):
            if not seen[field]:
                self.note(f"no {field}")
        return seen

    def ask_axe(self) -> None:
        """Note what bars readers with a screen reader, a keyboard or weak eyes from this page."""
        options = {"resultTypes": ["violations"], "runOnly": WCAG}
        options["preload"] = False  # it would load imported styles from the wrong place
        for found in Axe().run(self.page, options=options).response["violations"]:
            if found["impact"] in ("serious", "critical"):
                self.note(f"{found['id']}: {[node['html'][:100] for node in found['nodes'][:3]]}")

    def follow(self, seen: dict[str, dict]) -> None:
        """Note links that lead nowhere; ``seen`` is every page by its address."""
        for address, page in seen.items():
            self.page_name = address.removeprefix(f"{self.address}/")
            for link in page["links"]:
                path, target = urldefrag(link)
                if path in seen and target and target not in seen[path]["targets"]:
                    self.note(f"{link}: no such place on that page")
                if path.startswith(self.address) and path not in seen and not self.exists(path):
                    self.note(f"{link}: no such file")

    def exists(self, address: str) -> bool:
        return self.page.request.get(address).ok


@pytest.mark.parametrize("width", [DESK, TELEPHONE])
def test_every_page_is_whole_from_disk(browser, book, width):
    reader = Reader(browser, book.as_uri(), width)
    for name in pages(book):
        reader.look(name)
    assert not reader.problems, "\n".join(reader.problems)


@pytest.mark.parametrize("width", [DESK, TELEPHONE])
def test_every_page_is_whole_and_open_to_all_where_served(browser, book, served, width):
    reader, seen = Reader(browser, served, width), {}
    for name in pages(book):
        seen[f"{served}/{name}"] = reader.look(name)
        if width == DESK:  # it takes seconds a page, and hardly depends on the width
            reader.ask_axe()
    reader.follow(seen)
    assert len(seen) > 20
    assert not reader.problems, "\n".join(reader.problems)


def test_reader_notes_what_is_wrong(browser, tmp_path):
    (tmp_path / "bad.html").write_text(
        "<img src='none.png'><a href='#gone'>x</a><script src='https://example.org/x.js'></script>"
        "<div style='width: 5000px'>wide</div><script>nothing()</script>"
    )
    reader = Reader(browser, tmp_path.as_uri())
    reader.follow({f"{reader.address}/bad.html": reader.look("bad.html")})
    reader.ask_axe()
    for problem in (
        "none.png is missing", "none.png has no alt text", "no such place", "example.org/x.js",
        "wider than the window", "nothing is not defined", "no title", "no language",
        "no description",
        "image-alt", "html-has-lang",
    ):  # fmt: skip
        assert any(problem in noted for noted in reader.problems), problem


def test_first_page_leads_to_the_book(browser, served):
    page = browser.new_page()
    page.goto(f"{served}/index.html")
    page.wait_for_url(f"{served}/book/intro.html")


def test_tables_can_be_had_as_files(browser, book):
    page = Reader(browser, book.as_uri()).open("book/_executed/04_figures.html")
    with page.expect_download() as download:
        page.click("a[download='table1.csv']")
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[0].startswith("label,natural ours,natural paper") and len(lines) == 26
    assert lines[1].startswith("R_nat,")


@pytest.fixture
def reader(browser, book):
    """A window on the book from disk; nothing may have gone wrong in it by the end."""
    reader = Reader(browser, book.as_uri())
    yield reader
    assert not reader.problems, "\n".join(reader.problems)


def natural(smoke: Path, network: str) -> float:
    """Accuracy without attack that the book's own run has found."""
    path = next((smoke / "fresh").glob(f"{network}-s1-*/evaluation-*.json"))
    return json.loads(path.read_text())["accuracies"]["natural"]


def test_a_changed_cell_runs_in_the_page(smoke, reader):
    accuracy = natural(smoke, "nat")
    cell = reader.open("book/_executed/10_browser.html").locator("div.cell.tag_live").first
    editor, output = cell.get_by_role("textbox"), cell.locator(".cell_output")
    built = output.inner_text()
    assert "pgd-pgd-all, wb_pgd" in built
    editor.fill(editor.input_value().replace('"pgd-pgd-all", "wb_pgd"', '"nat", "natural"'))
    editor.press("Control+Enter")
    low, high = wilson(500 * accuracy, 500)
    expect(output).to_contain_text(f"nat, natural: {accuracy:.1%} of 500", timeout=60_000)
    expect(output).to_contain_text(f"{low:.1%} to {high:.1%}; the paper: 92.5 %")
    editor.fill("1\nrecords.paper('nat', 'wb')")
    cell.get_by_role("button", name="Run").click()
    expect(output).to_contain_text("line 2: ValueError: column = 'wb': allowed are natural")
    cell.get_by_role("button", name="Reset").click()
    assert output.inner_text() == built and "pgd-pgd-all" in editor.input_value()


def test_every_live_cell_gives_the_same_in_the_page_as_in_jupyter(reader):
    for cell in reader.open("book/_executed/10_browser.html").locator("div.cell.tag_live").all():
        output = cell.locator(".cell_output")
        built = output.inner_text().split()
        output.evaluate("box => box.textContent = ''")
        cell.get_by_role("button", name="Run").click()  # from here on it is busy
        expect(output).not_to_have_attribute("aria-busy", "true", timeout=60_000)
        assert output.inner_text().split() == built


def test_pointing_at_a_heatmap_tells_and_leads_to_the_network(smoke, reader):
    page = reader.open("book/_executed/04_figures.html")
    expect(page.locator("div.chart img")).to_be_hidden()
    cell = page.locator("div.chart [aria-roledescription='text mark'] >> nth=0")
    cell.hover()
    said = page.locator("#vg-tooltip-element")
    expect(said).to_contain_text("R nat")
    expect(said).to_contain_text(f"{natural(smoke, 'nat'):.1%}".replace("%", " %"))
    expect(said).to_contain_text("92.5 %")  # the paper's
    cell.click()
    page.wait_for_url("**/models.html#nat")
    assert page.locator("#nat").count() == 1
