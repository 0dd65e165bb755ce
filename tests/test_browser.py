"""The built book in a real browser, from files, with the network cut.

Needs Chromium (on the PATH, or named by CHROMIUM) and a built book; skipped otherwise.
"""

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HTML = Path(os.environ.get("BOOK_HTML", ROOT / "_build" / "html")).resolve()
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
PAGES = sorted((HTML / "book").glob("*.html"))
VENDORED = (HTML / "_static" / "vendor" / "widgets" / "embed.js").exists()
if not CHROMIUM:
    pytest.skip("no Chromium", allow_module_level=True)
if not PAGES:
    pytest.skip("the book is not built: make book", allow_module_level=True)
if not VENDORED:
    pytest.skip("no browser files: the pages need a network", allow_module_level=True)

SLOW = 120_000  # milliseconds: a busy machine is no reason to fail
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
# the theme's search button, its sidebars, and docutils' bibliography list
THEIRS = {
    "region", "landmark-unique", "label-content-name-mismatch", "aria-allowed-role",
    "aria-required-children", "aria-required-parent", "aria-deprecated-role",
}  # fmt: skip
WIDGETS = 'script[type="application/vnd.jupyter.widget-view+json"]'


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=flags, timeout=SLOW
        )
        yield browser
        browser.close()


@pytest.fixture(params=PAGES, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def visit(browser):
    """Open a page file; whatever it asks of a network, or complains of, lands in .problems."""
    contexts = []

    def go(path, **options):
        context = browser.new_context(**{"viewport": DESKTOP, **options})
        context.set_default_timeout(SLOW)
        contexts.append(context)
        page = context.new_page()
        page.problems = problems = []

        def gate(route):
            url = route.request.url
            if url.startswith((HTML.as_uri(), "data:", "blob:")):
                return route.continue_()
            problems.append(f"asked for {url[:200]}")
            return route.abort()

        page.route("**/*", gate)
        page.on("pageerror", lambda error: problems.append(f"script error: {error}"))
        page.on("console", lambda m: m.type == "error" and problems.append(f"console: {m.text}"))
        page.goto(path.as_uri())
        settle(page)
        return page

    yield go
    for context in contexts:
        context.close()


def settle(page):
    """Wait until formulas, widgets and explorers are drawn."""
    if page.locator(".math").count():
        page.wait_for_selector("mjx-container")
    widgets = page.locator(WIDGETS).count()
    if widgets:
        page.wait_for_function(
            f"document.querySelectorAll('.widget-subarea .noUi-handle').length >= {widgets}"
        )
    explorers = page.locator(".setr-explorer").count()
    page.wait_for_function(
        f"document.querySelectorAll('.setr-explorer .setr-heat canvas').length === {explorers}"
    )


def test_page_is_quiet_and_complete(visit, path):
    page = visit(path)
    assert page.problems == []
    # the stills have given way to the widgets
    assert page.locator("img.setr-still").count() == 0
    assert page.locator(".widget-subarea").count() == page.locator(WIDGETS).count()


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nothing_is_wider_than_the_screen(visit, path, viewport):
    page = visit(path, viewport=viewport)
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    # and no figure is cut off inside the column
    wide = page.evaluate("""() => {
        const column = document.querySelector("article").getBoundingClientRect().right + 1;
        const parts = "article img, article canvas, .setr-figure, .widget-subarea .jupyter-widgets";
        return [...document.querySelectorAll(parts)]
          .filter(e => e.checkVisibility() && e.getBoundingClientRect().right > column)
          .map(e => e.outerHTML.slice(0, 120));
    }""")
    assert wide == []


def test_sliders_change_the_picture(visit, path):
    page = visit(path)
    for area in page.locator(".widget-subarea").all():
        handles = area.locator(".noUi-handle").all()
        assert handles
        names = []
        for handle in handles:
            before = shown(area)
            assert len(before) == 1
            said = handle.get_attribute("aria-valuetext")
            names.append(handle.get_attribute("aria-label"))
            at_end = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
            handle.focus()
            page.keyboard.press("ArrowLeft" if at_end else "ArrowRight")
            assert eventually(page, lambda a=area, b=before: shown(a) != b)
            assert eventually(
                page, lambda h=handle, s=said: h.get_attribute("aria-valuetext") != s
            )
        assert all(names)
        assert len(set(names)) == len(names)
    assert page.problems == []


def eventually(page, condition, seconds=20):
    """Whether the condition comes true within so many seconds."""
    for _ in range(20 * seconds):
        if condition():
            return True
        page.wait_for_timeout(50)
    return False


def shown(area):
    """What each visible frame shows: a picture, or a sheet of them with words."""
    frames = area.locator(".setr-sheet, :not(.setr-sheet > *) > img").filter(visible=True)
    return frames.evaluate_all("all => all.map(e => e.outerHTML)")


def test_play_buttons_play(visit, path):
    page = visit(path)
    players = page.locator(".widget-play")
    if not players.count():
        pytest.skip("no Play button on this page")
    for area in page.locator(".widget-subarea", has=players).all():
        before = shown(area)
        button = area.locator(".widget-play button").first
        assert button.get_attribute("aria-label")
        button.click()
        assert eventually(page, lambda a=area, b=before: shown(a) != b)
    assert page.problems == []


def test_explorers_answer(visit, path):
    page = visit(path)
    explorers = page.locator(".setr-explorer").all()
    if not explorers:
        pytest.skip("no matrix explorer on this page")
    for figure in explorers:
        pick, readout = figure.locator(".setr-pick"), figure.locator(".setr-readout")

        def state(figure=figure, readout=readout):
            return readout.inner_text(), pixels(figure)

        pick.scroll_into_view_if_needed()
        first = state()
        pick.focus()
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowLeft")
        assert state() != first
        box = pick.bounding_box()
        page.mouse.click(box["x"] + 3, box["y"] + 3)
        clicked = state()
        assert "patch at row 0, column 0" in clicked[0]
        assert pick.get_attribute("aria-valuetext") == "row 0, column 0"
        page.mouse.move(box["x"] + box["width"] - 3, box["y"] + box["height"] - 3)
        assert state() != clicked  # hovering previews
        page.mouse.move(2, 2)
        assert state() == clicked  # and a click stays
        select = figure.locator("select")
        if select.is_visible():
            select.select_option(index=1)
            assert pixels(figure) != clicked[1]
    assert page.problems == []


def pixels(figure):
    return figure.locator(".setr-heat canvas").evaluate("canvas => canvas.toDataURL()")


def test_dividers_move(visit, path):
    page = visit(path)
    stages = page.locator(".setr-compare").all()
    if not stages:
        pytest.skip("no divider on this page")
    for stage in stages:
        stage.scroll_into_view_if_needed()
        before = cut(stage)
        stage.locator("input").focus()
        page.keyboard.press("ArrowRight")
        assert cut(stage) != before
        box = stage.bounding_box()
        page.mouse.click(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
        assert abs(float(stage.locator("input").input_value()) - 25) <= 2
    assert page.problems == []


def cut(stage):
    return stage.locator("img").nth(1).evaluate("e => getComputedStyle(e).clipPath")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_accessibility(visit, path, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = visit(path, color_scheme=theme)
    assert page.locator("html").get_attribute("data-theme") == theme
    found = axe.Axe().run(page).response["violations"]
    ours = [violation for violation in found if violation["id"] not in THEIRS]
    assert [(v["id"], [n["html"][:160] for n in v["nodes"]]) for v in ours] == []


def test_solutions_open(visit, path):
    page = visit(path)
    solutions = page.locator("div.solution.dropdown, details.toggle-details")
    for solution in solutions.all():
        button = solution.locator("button.toggle-button, summary").first
        button.click()
        page.wait_for_timeout(50)
    assert page.problems == []
