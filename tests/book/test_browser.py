"""The built book in a browser, as a reader has it: opened from disk, and served below some path."""

import json
import re
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urldefrag

import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import Made
from playwright.sync_api import Browser, Page, expect, sync_playwright

from robust_transfer.davchev2019 import experiment
from robust_transfer.evaluation.intervals import wilson
from robust_transfer.records.store import folder_name

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium (Debian: apt install chromium)")

DESK, TELEPHONE = 1280, 390
LOOK = """() => ({
    links: [...document.querySelectorAll('a[href]')].map(a => a.href),
    images: [...document.images].map(image => ({
        source: image.src, alt: image.alt, whole: image.naturalWidth > 0})),
    targets: [...document.querySelectorAll('[id]')].map(element => element.id),
    title: document.title,
    language: document.documentElement.lang,
    description: document.querySelector('meta[name="description"]')?.content,
})"""
OVERFLOW = """async () => {
    for (let frames = 0; frames < 2; frames++) await new Promise(requestAnimationFrame);
    return document.documentElement.scrollWidth - document.documentElement.clientWidth;
}"""
"""How much wider than the window a page is, once what follows the window's size has followed."""
WCAG = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}


@pytest.fixture(scope="module")
def book(made) -> Path:
    return made.html


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


def page_with(book: Path, text: str) -> str:
    """The first page whose source has a text."""
    return next(name for name in pages(book) if text in (book / name).read_text())


LIVE, CHART, TABLE = "tag_live", '<div class="chart', 'download="table1.csv"'
"""What tells pages apart: cells that run in the page, a chart to point at, a table as a file."""
SLIDER = '<div class="slider">'
"""Likewise: a figure to drag."""


def templates(book: Path) -> list[str]:
    """A page of every kind."""
    kinds = ("book/intro.html", "book/methods.html")
    found = [
        next(name for name in pages(book) if f"/{kind}/" in name) for kind in ("api", "claims")
    ]
    return [*kinds, *found, *(page_with(book, text) for text in (TABLE, LIVE, SLIDER))]


class Reader:
    """A window on the book at one address, without a network, that notes what is wrong."""

    def __init__(self, browser: Browser, address: str) -> None:
        self.address, self.page_name, self.problems = address, "", []
        context = browser.new_context(viewport={"width": DESK, "height": 800})
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
        for width in (TELEPHONE, DESK):
            self.page.set_viewport_size({"width": width, "height": 800})
            if (overflow := self.page.evaluate(OVERFLOW)) > 0:
                self.note(f"{overflow} pixels wider than the window of {width}")
        seen = self.page.evaluate(LOOK)
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


def test_every_page_is_whole_from_disk(browser, book):
    reader = Reader(browser, book.as_uri())
    for name in pages(book):
        reader.look(name)
    assert not reader.problems, "\n".join(reader.problems)


def test_every_page_is_whole_where_served(browser, book, served):
    reader = Reader(browser, served)
    seen = {f"{served}/{name}": reader.look(name) for name in pages(book)}
    reader.follow(seen)
    assert len(seen) > 20
    assert not reader.problems, "\n".join(reader.problems)


def test_pages_are_open_to_all(made, browser, served):
    """A page of every kind; all of them where it is slow anyway."""
    reader = Reader(browser, served)  # the window of a desk: what axe finds hardly depends on it
    for name in pages(made.html) if made.name == "smoke" else templates(made.html):
        reader.open(name)
        reader.ask_axe()
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
        "wider than the window of 390", "wider than the window of 1280", "nothing is not defined",
        "no title", "no language", "no description",
        "image-alt", "html-has-lang",
    ):  # fmt: skip
        assert any(problem in noted for noted in reader.problems), problem


def test_first_page_leads_to_the_book(browser, served):
    page = browser.new_page()
    page.goto(f"{served}/index.html")
    page.wait_for_url(f"{served}/book/intro.html")


def test_tables_can_be_had_as_files(browser, book):
    page = Reader(browser, book.as_uri()).open(page_with(book, TABLE))
    with page.expect_download() as download:
        page.click("a[download='table1.csv']")
    lines = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("label,natural ours,natural paper") and len(lines) == 26
    assert lines[1].startswith("R_nat,")


@pytest.fixture
def reader(browser, book):
    """A window on the book from disk; nothing may have gone wrong in it by the end."""
    reader = Reader(browser, book.as_uri())
    yield reader
    assert not reader.problems, "\n".join(reader.problems)


def natural(made: Made, network: str) -> float:
    """Accuracy without attack that the book's own run has found."""
    (found,) = experiment.select(experiment.grid(made.profile), [network])
    path = next((made.results / folder_name(found.config)).glob("evaluation-*.json"))
    return json.loads(path.read_text())["accuracies"]["natural"]


def test_a_changed_cell_runs_in_the_page(made, reader):
    accuracy, count = natural(made, "nat"), made.profile.test_size
    cell = reader.open(page_with(made.html, LIVE)).locator("div.cell.tag_live").first
    editor, output = cell.get_by_role("textbox"), cell.locator(".cell_output")
    built = output.inner_text()
    assert "pgd-pgd-all, wb_pgd" in built
    editor.fill(editor.input_value().replace('"pgd-pgd-all", "wb_pgd"', '"nat", "natural"'))
    editor.press("Control+Enter")
    low, high = (100 * end for end in wilson(count * accuracy, count))
    said = f"nat, natural: {100 * accuracy:.1f} % of {count}"
    expect(output).to_contain_text(said, timeout=60_000)
    expect(output).to_contain_text(f"{low:.1f} to {high:.1f} %; the paper: 92.5 %")
    editor.fill("print(*(one_decimal(100 * (k / 10_000)) for k in range(10_001)))  # ties too")
    assert cell.locator(".live-colours .c1").inner_text() == "# ties too"
    editor.press("Control+Enter")
    expect(output).to_contain_text("100.0", timeout=60_000)
    assert output.inner_text().split() == [f"{100 * (k / 10_000):.1f}" for k in range(10_001)]
    editor.fill("1\nrecords.paper('nat', 'wb')")
    cell.get_by_role("button", name="Run").click()
    expect(output).to_contain_text("line 2: ValueError: column = 'wb': allowed are natural")
    cell.get_by_role("button", name="Reset").click()
    assert output.inner_text() == built and "pgd-pgd-all" in editor.input_value()


def test_every_live_cell_gives_the_same_in_the_page_as_in_jupyter(made, reader):
    for cell in reader.open(page_with(made.html, LIVE)).locator("div.cell.tag_live").all():
        output = cell.locator(".cell_output")
        built = output.inner_text().split()
        output.evaluate("box => box.textContent = ''")
        cell.get_by_role("button", name="Run").click()  # from here on it is busy
        expect(output).not_to_have_attribute("aria-busy", "true", timeout=60_000)
        assert output.inner_text().split() == built


def test_search_finds_pages_before_entries_of_the_library_with_their_first_words(made, reader):
    results = reader.open("search.html?q=evaluation").locator("#search-results ul.search li")
    expect(reader.page.locator("#search-results")).to_contain_text("Search finished")
    library = ["/api/" in place for place in results.locator("a").evaluate_all(HREFS)]
    assert not library[0] and library[-1] and library == sorted(library)
    page = results.filter(has_text="What does each network still get right").first
    expect(page.get_by_role("link")).to_contain_text("Evaluation")


def test_every_figure_of_a_notebook_says_how_it_is_made_again(made):
    page = (made.html / page_with(made.html, TABLE)).read_text()
    command = "papermill notebooks/04_figures.ipynb out.ipynb -p profile"
    assert page.count("<figure") == page.count(f"<code>{command} ") > 5


def test_pointing_at_a_heatmap_tells_and_leads_to_the_network(made, reader):
    page = reader.open(page_with(made.html, TABLE))
    expect(page.locator("div.chart .drawing")).to_have_count(0)
    cell = page.locator("div.chart [aria-roledescription='text mark'] >> nth=0")
    cell.hover()
    said = page.locator("#vg-tooltip-element")
    expect(said).to_contain_text("R nat")
    expect(said).to_contain_text(f"{natural(made, 'nat'):.1%}".replace("%", " %"))
    expect(said).to_contain_text("92.5 %")  # the paper's
    cell.click()
    page.wait_for_url("**/models.html#nat")
    expect(page.locator("#nat")).to_have_attribute("open", "")


HREFS = "links => links.map(link => link.href)"

NETWORKS = "div.main-table tbody th"
"""Labels of the main table's rows."""


def column(page: Page, number: int) -> list[float]:
    """Our accuracies in a column of the main table, counted from 1, of the rows that are seen."""
    cells = page.locator(f"div.main-table tbody tr:visible td:nth-child({number}) span:first-child")
    return [float(text) for text in cells.all_inner_texts()]


def test_the_main_table_is_sorted_by_mouse_and_by_keyboard(made, reader):
    page = reader.open(page_with(made.html, TABLE))
    papers = page.locator(NETWORKS).all_inner_texts()
    head = page.locator("div.main-table th", has_text="white-box PGD")
    button = head.get_by_role("button")
    assert column(page, 5) != sorted(column(page, 5))
    button.click()
    expect(head).to_have_attribute("aria-sort", "descending")
    assert column(page, 5) == sorted(column(page, 5), reverse=True)
    button.press("Enter")
    expect(head).to_have_attribute("aria-sort", "ascending")
    assert column(page, 5) == sorted(column(page, 5))
    button.press("Space")
    expect(head).to_have_attribute("aria-sort", "none")
    assert page.locator(NETWORKS).all_inner_texts() == papers
    page.get_by_role("button", name="network").click()
    by_name = sorted(papers, key=lambda name: name.rstrip("?").casefold())  # the mark of a doubt
    assert page.locator(NETWORKS).all_inner_texts() == by_name
    expect(head).to_have_attribute("aria-sort", "none")


def test_the_main_table_shows_the_rows_that_are_chosen(made, reader):
    page = reader.open(page_with(made.html, TABLE))
    rows = page.locator("div.main-table tbody tr:visible")
    expect(rows).to_have_count(25)
    page.get_by_label("source").select_option("PGD")
    page.get_by_label("target").select_option("natural")
    expect(page.get_by_text("3 of 25 rows")).to_be_visible()
    ids = [link.get_attribute("href") for link in rows.get_by_role("link").all()]
    kept = [f"../models.html#pgd-nat-{strategy}" for strategy in ("head", "stage3", "all")]
    assert ids == kept
    page.get_by_label("retrained").select_option("last stage")
    expect(rows).to_have_count(1)
    for name in ("source", "target", "retrained"):
        page.get_by_label(name).select_option("all")
    expect(rows).to_have_count(25)


def test_a_row_of_the_main_table_leads_to_an_open_card_and_a_card_to_the_next(made, reader):
    page = reader.open(page_with(made.html, TABLE))
    page.locator(f"{NETWORKS} a[href$='#pgd-nat-head']").click()
    page.wait_for_url("**/models.html#pgd-nat-head")
    card, source = page.locator("#pgd-nat-head"), page.locator("#glyphs20-pgd")
    expect(card.get_by_text("all but the head")).to_be_visible()
    assert source.get_attribute("open") is None
    card.get_by_role("link", name="glyphs20-pgd").click()
    expect(source).to_have_attribute("open", "")


def test_without_scripts_the_main_table_is_a_plain_one(made, browser):
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(f"{made.html.as_uri()}/{page_with(made.html, TABLE)}")
    expect(page.locator("div.main-table tbody tr")).to_have_count(25)
    assert page.locator("div.main-table :is(button, select)").count() == 0
    caption = page.locator("figure", has=page.locator("div.main-table")).locator("figcaption")
    expect(caption).to_have_text(
        re.compile(r"^\s*Table \d+\s+The paper.s Table 1: .* points\.#?\s*$")
    )


def test_dragging_epsilon_by_keyboard_shows_the_attacked_image_and_what_networks_answer(
    made, reader
):
    box = reader.open(page_with(made.html, SLIDER)).locator("div.slider")
    data = json.loads(box.locator("script").text_content())
    epsilon, attacked = box.get_by_role("slider", name="ε"), box.locator("canvas").last
    expect(box.locator(".drawing")).to_have_count(0)
    expect(epsilon).not_to_have_attribute("aria-valuetext", data["epsilons"][0])  # something to see
    epsilon.press("Home")
    clean = attacked.evaluate("canvas => canvas.toDataURL()")
    box.get_by_label("made against the network").select_option("trained against PGD")
    epsilon.press("ArrowRight")
    epsilon.press("End")
    assert attacked.evaluate("canvas => canvas.toDataURL()") != clean
    expect(epsilon).to_have_attribute("aria-valuetext", data["epsilons"][-1])
    pgd, robust, first = 1, 1, 0
    told = data["answers"][pgd][robust][-1][first]
    for index, (label, sure) in enumerate(told):
        row, answer = box.locator("tbody tr").nth(index), data["classes"][label]
        expect(row).to_contain_text(answer)
        expect(row).to_contain_text(f"{sure} %")
        expect(row).to_contain_text(data["accuracies"][pgd][index][-1])
        said = f"{data['networks'][index]}: {answer}, {sure} %"
        expect(box.get_by_role("status")).to_contain_text(said)
    epsilon.press("Home")
    assert attacked.evaluate("canvas => canvas.toDataURL()") == clean


def test_without_scripts_the_figure_to_drag_is_a_still_one(made, browser):
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(f"{made.html.as_uri()}/{page_with(made.html, SLIDER)}")
    box = page.locator("div.slider")
    expect(box.locator(".drawing")).to_be_visible()
    assert box.locator("canvas").count() == 0


COLOURS = """row => [getComputedStyle(row).backgroundColor,
    ...[...row.cells].map(cell => getComputedStyle(cell).color)]"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_row_that_is_pointed_at_can_be_read(made, browser, scheme):
    page = browser.new_context(color_scheme=scheme).new_page()
    page.goto(f"{made.html.as_uri()}/{page_with(made.html, TABLE)}")
    row = page.locator("table.dataframe tbody tr").first
    row.hover()
    ground, *letters = (luminance(colour) for colour in row.evaluate(COLOURS))
    for letter in letters:
        low, high = sorted((ground, letter))
        assert (high + 0.05) / (low + 0.05) >= 4.5  # WCAG 2.1, success criterion 1.4.3


def luminance(colour: str) -> float:
    """Relative luminance of a computed colour ``rgb(…)``, as WCAG defines it."""
    shares = (int(part) / 255 for part in re.findall(r"\d+", colour)[:3])
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return sum(w * part for w, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


FIGURES = """() => {
    const found = (root, what) => [...root.querySelectorAll(what)];
    const svgs = found(document, '.bd-article svg').filter(svg => svg.checkVisibility());
    const height = (shape, own) => Math.hypot(shape.getScreenCTM().a, shape.getScreenCTM().b) * own;
    const uses = svgs.flatMap(svg => found(svg, 'use'))
        .filter(use => use.href.baseVal.includes('DejaVu'));
    const glyphs = uses.map(use => height(use, 100));
    const cut = uses.filter(use => {
        const [own, all] = [use, use.ownerSVGElement].map(shape => shape.getBoundingClientRect());
        return own.left < all.left || own.right > all.right;
    }).length;
    const words = svgs.flatMap(svg => found(svg, 'text')).filter(text => text.textContent.trim())
        .map(text => height(text, parseFloat(getComputedStyle(text).fontSize)));
    return {
        glyphs, words, cut, raster: found(document, '.bd-article img').length,
        unnamed: found(document, '.drawing > svg').filter(svg => !svg.ariaLabel).length,
    };
}"""
"""Heights in pixels of what is written in a page's figures: a glyph of Matplotlib's is 100 high."""


@pytest.mark.parametrize("width", [DESK, TELEPHONE])
def test_letters_of_every_figure_can_be_read(made, reader, width):
    reader.page.set_viewport_size({"width": width, "height": 800})
    glyphs = []
    for name in pages(made.html):
        seen = reader.open(name).evaluate(FIGURES)
        glyphs += seen["glyphs"]
        if too_small := [height for height in seen["glyphs"] + seen["words"] if height < 9]:
            reader.note(f"{len(too_small)} letters of {min(too_small):.1f} pixels and more")
        if wrong := {what: seen[what] for what in ("cut", "raster", "unnamed") if seen[what]}:
            reader.note(f"letters that are cut off, images, drawings without a name: {wrong}")
    assert glyphs


INKS = """() => {
    const style = (what, part) => [...document.querySelectorAll(what)]
        .map(shape => getComputedStyle(shape)[part]);
    return {
        inks: [...new Set([
            ...style('.drawing [style*="fill: currentColor"]', 'fill'),
            ...style('.drawing [style*="stroke: currentColor"]', 'stroke'),
            ...style('.vega-embed .role-axis text', 'fill'),
        ])],
        grounds: [...new Set([
            ...style('.drawing > svg > g > g:first-child > path', 'fill'),
            ...style('.vega-embed svg.marks', 'backgroundColor'),
            ...style('.bd-article .cell_output .text_html', 'backgroundColor'),
        ])],
        page: style('body', 'backgroundColor')[0],
    };
}"""
"""Colours of letters and lines in figures and charts, behind them, and behind the page."""


@pytest.mark.parametrize("schemes", [("light", "dark"), ("dark", "light")])
def test_figures_take_ink_and_ground_from_the_theme(made, browser, schemes):
    page = browser.new_context(color_scheme=schemes[0]).new_page()
    page.goto(f"{made.html.as_uri()}/{page_with(made.html, TABLE)}")
    expect(page.locator(".vega-embed svg.marks")).to_be_visible()
    for scheme in schemes:  # the second one as the theme's button sets it
        page.evaluate("scheme => document.documentElement.dataset.theme = scheme", scheme)
        seen = page.evaluate(INKS)
        (ink,), ground = seen["inks"], luminance(seen["page"])  # one for all
        assert {*seen["grounds"]} == {"none", "rgba(0, 0, 0, 0)"}
        low, high = sorted((luminance(ink), ground))
        assert (high + 0.05) / (low + 0.05) >= 4.5 and (ground < 0.5) == (scheme == "dark")
