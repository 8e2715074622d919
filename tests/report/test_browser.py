"""The report page as a browser has it: Chromium without a screen, which Debian packages."""

import shutil

import pytest

from tests.report.reports import make_report
from vqpipe.report import render_report

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDTHS = (360, 1280)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on the PATH (Debian: apt-get install chromium)"
)

SHIFTS = """new Promise(resolve => {
    const seen = [];
    new PerformanceObserver(list => seen.push(...list.getEntries().map(each => each.value)))
        .observe({type: "layout-shift", buffered: true});
    setTimeout(() => resolve(seen), 300);
})"""
OVERLAPS = """() => [...document.querySelectorAll("svg.chart")].flatMap(chart => {
    const boxes = [...chart.querySelectorAll("text")]
        .map(each => [each.textContent, each.getBoundingClientRect()])
        .filter(([, box]) => box.width);
    return boxes.flatMap(([name, a], i) => boxes.slice(i + 1)
        .filter(([, b]) => a.left < b.right && b.left < a.right)
        .filter(([, b]) => a.top < b.bottom && b.top < a.bottom)
        .map(([other]) => `${name} on ${other}`));
})"""


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    text = "<script>document.title = 'taken'</script><img src=x onerror=alert(1)>"
    report = make_report(title=text, identity=[(text, text)])
    path.write_text(render_report(report), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def open_page(browser, file):
    """Opens the page so wide; what it says to the console and asks for stands in its `heard`."""
    pages = []

    def open_one(width=1280, scheme="light", **options):
        page = browser.new_page(
            viewport={"width": width, "height": 800}, color_scheme=scheme, **options
        )
        pages.append(page)
        page.heard = []
        page.on("console", lambda message: page.heard.append(message.text))
        page.on("pageerror", lambda error: page.heard.append(str(error)))
        page.on("dialog", lambda dialog: page.heard.append(dialog.message))
        page.on("request", lambda request: page.heard.append(request.url[:100]))
        page.goto(file)
        return page

    yield open_one
    for page in pages:
        page.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_page_in_chromium_is_silent_and_asks_for_nothing_but_itself(open_page, file, width):
    page = open_page(width)
    asked = [each for each in page.heard if not each.startswith("data:image/jpeg;base64,")]
    assert asked == [file]
    assert page.title().startswith("<script>document.title")


@pytest.mark.parametrize("width", WIDTHS)
def test_page_in_chromium_fits_its_width_and_shows_every_image(open_page, width):
    page = open_page(width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    images = page.evaluate("[...document.images].map(each => [each.naturalWidth, each.width])")
    assert len(images) == 12
    assert all(natural > 0 and shown > 100 for natural, shown in images)


@pytest.mark.parametrize("width", WIDTHS)
def test_page_in_chromium_does_not_shift(open_page, width):
    assert open_page(width).evaluate(SHIFTS) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_page_in_chromium_letters_of_charts_do_not_overlap(open_page, width):
    page = open_page(width)
    assert page.locator("svg.chart text").count() > 20
    assert page.evaluate(OVERLAPS) == []


def test_page_in_chromium_dark_and_light_have_readable_colours_of_their_own(open_page):
    found = {}
    for scheme in ("light", "dark"):
        page = open_page(scheme=scheme)
        style = "(each => [each.backgroundColor, each.color])(getComputedStyle(document.body))"
        found[scheme] = page.evaluate(style)
        ground, ink = (luminance(colour) for colour in found[scheme])
        assert (max(ground, ink) + 0.05) / (min(ground, ink) + 0.05) > 7  # WCAG 2, level AAA
        assert (ground > ink) == (scheme == "light")
    assert set(found["light"]).isdisjoint(found["dark"])


def luminance(colour):
    """Relative luminance of `rgb(r, g, b)`, https://www.w3.org/TR/WCAG22/#dfn-relative-luminance."""
    parts = [int(part) / 255 for part in colour[4:-1].split(",")]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_page_in_chromium_reads_the_same_without_scripts(open_page):
    read = [open_page(java_script_enabled=enabled).inner_text("body") for enabled in (True, False)]
    assert read[0] == read[1]
    assert "Mean PSNR" in read[0]
