"""The built book in a real browser, from files, with the network cut. `make test-book` runs it.

What is timed is marked `alone`: `make test-long` runs it in one process, each load in a context of
its own. Elsewhere pages are tabs of one window: a new one costs more than most pages do.

Needs Chromium (on the PATH, or named by CHROMIUM) and a built book; skipped otherwise. A page is
opened once, cold, and all that does not need another load is looked at there: `-n 2 --dist
loadgroup` gives each page to one worker.
"""

import functools
import io
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import CHROMIUM, SLOW, one_worker_each
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
HTML = Path(os.environ.get("BOOK_HTML", ROOT / "_build" / "html")).resolve()
PAGES = sorted((HTML / "book").glob("*.html"))
VENDORED = (HTML / "_static" / "vendor" / "widgets" / "embed.js").exists()
if not CHROMIUM:
    pytest.skip("no Chromium", allow_module_level=True)
if not PAGES:
    pytest.skip("the book is not built: make book", allow_module_level=True)
if not VENDORED:
    pytest.skip("no browser files: the pages need a network", allow_module_level=True)

USABLE = 4.0  # seconds of a cold load until the last figure is there; the best of five loads
ANSWER = 100  # milliseconds from a key to the changed picture; the best of six keys
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
# the theme's search button, its sidebars, and docutils' bibliography list
THEIRS = {
    "region", "landmark-unique", "label-content-name-mismatch", "aria-allowed-role",
    "aria-required-children", "aria-required-parent", "aria-deprecated-role",
}  # fmt: skip
WIDGETS = 'script[type="application/vnd.jupyter.widget-view+json"]'
PICTURES = ".setr-sheet, :not(.setr-sheet > *) > img"  # what a widget shows: one, or a sheet

# When the last key went down, and when the page last changed.
CLOCK = """
    window.setrClock = { down: 0, changed: 0 };
    addEventListener("keydown", () => { setrClock.down = performance.now(); }, true);
    addEventListener("DOMContentLoaded", () => new MutationObserver(
      () => { setrClock.changed = performance.now(); }
    ).observe(document.body, { subtree: true, attributes: true, childList: true }));
"""


# --- a page that is open ------------------------------------------------------------------------


@pytest.fixture(scope="session")
def window(browser):
    """A context with a window that stays open, and one for readers without scripts."""

    @functools.cache
    def opened(scripts=True):
        context = browser.new_context(java_script_enabled=scripts, viewport=DESKTOP)
        context.new_page()  # with its last tab the window would go
        return context

    return opened


def open_page(context, path, scripts=True):
    """A page file in a tab of its own; drawn to the last figure.

    Whatever it asks of a network, or complains of, lands in ``.problems``; ``.seconds`` is how
    long it took from the call to the last figure.
    """
    page = context.new_page()
    page.set_default_timeout(SLOW)
    page.add_init_script(CLOCK)
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
    began = time.monotonic()
    page.goto(path.as_uri())
    if scripts:
        settle(page)
    page.seconds = time.monotonic() - began
    if scripts:
        # The theme scrolls smoothly: every click and key would wait a second for it.
        page.add_style_tag(content=":root { scroll-behavior: auto !important }")
        wake(page)
    page.at_first = list(problems)
    return page


def close(page):
    """And what it has kept for the next visit, which another page would find."""
    page.evaluate("localStorage.clear(), sessionStorage.clear()")
    page.close()


def settle(page):
    """Wait until formulas, widgets and explorers are drawn."""
    page.wait_for_function(f"""
        (!document.querySelector(".math") || document.querySelector("mjx-container")) &&
        [...document.querySelectorAll('{WIDGETS}')].every(one =>
          one.parentElement.querySelector(".widget-subarea :is(.noUi-handle, select)")) &&
        document.querySelectorAll(".setr-explorer .setr-heat canvas").length ===
          document.querySelectorAll(".setr-explorer").length
    """)


def wake(page):
    """Bring each live figure into view, which starts it, and wait for its answer."""
    for figure in page.locator(".setr-live").all():
        figure.scroll_into_view_if_needed()
        figure.and_(page.locator("[data-state=ready]")).wait_for()


@pytest.fixture(scope="module", params=one_worker_each(PAGES))
def path(request):
    return request.param


@pytest.fixture(scope="module")
def shared(window, path):
    page = open_page(window(), path)
    yield page
    close(page)


@pytest.fixture
def page(shared):
    """The open page at rest: on a desktop, in the light, at its top, no mouse on anything."""
    if shared.viewport_size != DESKTOP:  # both lay the page out again
        shared.set_viewport_size(DESKTOP)
    if shared.evaluate("matchMedia('(prefers-color-scheme: dark)').matches"):
        shared.emulate_media(color_scheme="light")
    shared.evaluate("scrollTo(0, 0)")
    shared.mouse.move(0, 0)
    shared.problems.clear()
    return shared


def eventually(page, condition, seconds=20):
    """Whether the condition comes true within so many seconds."""
    for _ in range(50 * seconds):
        if condition():
            return True
        page.wait_for_timeout(20)
    return False


def photo(locator):
    """The pixels that a reader sees of an element, (H, W, 3)."""
    png = locator.screenshot(animations="disabled")
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def differ(a, b):
    return a.shape != b.shape or bool((a != b).any())


# --- the load -----------------------------------------------------------------------------------


def test_page_is_quiet_and_complete(page):
    assert page.at_first == []
    # the stills have given way to the widgets
    assert page.locator("img.setr-still").count() == 0
    assert page.locator(".widget-subarea").count() == page.locator(WIDGETS).count()


MOVING = [path for path in PAGES if re.search("widget-view\\+json|setr-figure", path.read_text())]


@pytest.mark.alone
@pytest.mark.parametrize("path", MOVING, ids=lambda path: path.stem)
def test_figures_are_usable_soon(browser, path):
    best = float("inf")
    for _ in range(5):
        context = browser.new_context(viewport=DESKTOP)  # with an empty cache
        best = min(best, open_page(context, path).seconds)
        context.close()
        if best <= USABLE:
            break
    assert best <= USABLE


@pytest.mark.slow
def test_figures_show_at_once_and_without_scripts(window, path):
    if not re.search(r"widget-view\+json|setr-heat|setr-compare", path.read_text("utf-8")):
        pytest.skip("no figure on this page")
    page = open_page(window(scripts=False), path, scripts=False)
    figures = page.locator("img.setr-still, .setr-heat > img, .setr-compare > img").all()
    wanted = page.locator(f"{WIDGETS}, .setr-heat, .setr-compare").count()
    assert len(figures) >= wanted
    for figure in figures:
        box = figure.bounding_box()
        assert figure.is_visible()
        assert box["width"] > 50
        assert box["height"] > 20
    page.close()


# --- figures that move --------------------------------------------------------------------------


def key(page, handle):
    """A key that moves the handle on: to the right, or back from the end."""
    at_end = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
    page.keyboard.press("ArrowLeft" if at_end else "ArrowRight")


def picture(area):
    """The one picture, or sheet of pictures, that a widget shows now."""
    shown = area.locator(PICTURES).filter(visible=True)
    assert shown.count() == 1
    return shown.first


def test_sliders_change_the_picture(page):
    for area in page.locator(".widget-subarea").all():
        handles = area.locator(".noUi-handle").all()
        assert handles or area.locator("select").count()
        names = []
        for handle in handles:
            names.append(handle.get_attribute("aria-label"))
            said, before = handle.get_attribute("aria-valuetext"), photo(picture(area))
            handle.focus()
            for _ in range(3):  # two neighbouring frames may be alike
                key(page, handle)
                assert eventually(
                    page, lambda h=handle, s=said: h.get_attribute("aria-valuetext") != s)
                if differ(before, photo(picture(area))):
                    break
            else:
                pytest.fail(f"{names[-1]!r} moves no pixel")
        assert all(names)
        assert len(set(names)) == len(names)
    assert page.problems == []


@pytest.mark.slow
def test_sliders_answer_at_once(page):
    shown = f"""area => [...area.querySelectorAll('{PICTURES}')]
        .filter(e => e.checkVisibility()).map(e => e.outerHTML).join()"""
    for area in page.locator(".widget-subarea", has=page.locator(".noUi-handle")).all():
        handle, best = area.locator(".noUi-handle").last, 1e9
        handle.focus()
        for _ in range(6):
            before = area.evaluate(shown)
            key(page, handle)
            assert eventually(page, lambda a=area, b=before: a.evaluate(shown) != b)
            best = min(best, page.evaluate("setrClock.changed - setrClock.down"))
            if 0 < best <= ANSWER:
                break
        assert 0 < best <= ANSWER, f"{handle.get_attribute('aria-label')}: {best:.0f} ms"


def test_menus_change_the_picture(page):
    areas = page.locator(".widget-subarea", has=page.locator(".widget-dropdown")).all()
    if not areas:
        pytest.skip("no menu on this page")
    for area in areas:
        for menu in area.locator(".widget-dropdown select").all():
            before = photo(picture(area))
            chosen = menu.evaluate("menu => menu.selectedIndex")
            menu.select_option(index=1 if chosen == 0 else 0)
            assert eventually(page, lambda a=area, b=before: differ(b, photo(picture(a))))
    assert page.problems == []


@pytest.mark.slow
def test_play_buttons_play(page):
    players = page.locator(".widget-play")
    if not players.count():
        pytest.skip("no Play button on this page")
    for area in page.locator(".widget-subarea", has=players).all():
        before = photo(picture(area))
        button = area.locator(".widget-play button").first
        assert button.get_attribute("aria-label")
        button.click()
        assert eventually(page, lambda a=area, b=before: differ(b, photo(picture(a))))
        button.click()
    assert page.problems == []


def test_explorers_answer(page):
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
        assert 0 < page.evaluate("setrClock.changed - setrClock.down") <= ANSWER
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


def test_dials_turn(page):
    figures = page.locator(".setr-dials").all()
    if not figures:
        pytest.skip("no dials on this page")
    for figure in figures:
        bars = set()
        for knob in figure.locator("input").all():
            before = figure.locator("output").all_inner_texts()
            at_end = knob.input_value() == knob.get_attribute("max")
            knob.focus()
            page.keyboard.press("ArrowLeft" if at_end else "ArrowRight")
            assert figure.locator("output").all_inner_texts() != before
            assert knob.get_attribute("aria-valuetext") != ""
            bars.add(figure.locator(".setr-stack").evaluate("e => e.innerHTML"))
        assert len(bars) > 1
    assert page.problems == []


@pytest.mark.slow
def test_dividers_move(page):
    stages = page.locator(".setr-compare").all()
    if not stages:
        pytest.skip("no divider on this page")
    for stage in stages:
        stage.scroll_into_view_if_needed()
        before = photo(stage)
        stage.locator("input").focus()
        page.keyboard.press("ArrowRight")
        assert differ(before, photo(stage))
        box = stage.bounding_box()
        page.mouse.click(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
        assert abs(float(stage.locator("input").input_value()) - 25) <= 2
    assert page.problems == []


# --- widths and themes --------------------------------------------------------------------------


# What does not fit, by the name of the complaint; each is a list.
TOO_WIDE = """() => {  // cut off inside the column
    const column = document.querySelector("article").getBoundingClientRect().right + 1;
    const parts = "article img, article canvas, .setr-figure, .widget-subarea .jupyter-widgets";
    return [...document.querySelectorAll(parts)]
      .map(e => e.closest(".setr-chart") || e)  // which scrolls
      .filter(e => e.checkVisibility() && e.getBoundingClientRect().right > column)
      .map(e => e.outerHTML.slice(0, 120));
}"""
CUT_WORDS = """() => [...document.querySelectorAll(
    ".widget-subarea .widget-label, .widget-subarea .widget-readout")]
  .filter(e => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1)
  .map(e => e.textContent)"""
WORDS_THAT_TOUCH = """() => {
    const found = [];
    for (const area of document.querySelectorAll(".widget-subarea")) {
      const words = [...area.querySelectorAll(".widget-label, .widget-readout")]
        .filter(e => e.checkVisibility() && e.textContent.trim())
        .map(e => {
          const range = document.createRange();
          range.selectNodeContents(e);
          return [e.textContent, range.getBoundingClientRect()];
        });
      for (const [a, one] of words) for (const [b, two] of words)
        if (a !== b && one.left <= two.left && two.left < one.right + 6 &&
            one.top < two.bottom && two.top < one.bottom) found.push([a, b]);
    }
    return found;
}"""
ILLEGIBLE = """() => [...document.querySelectorAll("svg.drawn")]  // outside it, or too small
  .filter(e => e.checkVisibility()).flatMap(svg => {
    const frame = svg.getBoundingClientRect();
    const scale = frame.width / svg.viewBox.baseVal.width;
    return [...svg.querySelectorAll("text")].filter(t => {
      const box = t.getBoundingClientRect();
      return box.left < frame.left - 1 || box.right > frame.right + 1 ||
        parseFloat(getComputedStyle(t).fontSize) * scale < 10;
    }).map(t => t.textContent);
  })"""
LONG_CODE = """() => [...document.querySelectorAll("article pre")]
  .filter(e => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1)
  .map(e => e.textContent.split("\\n").reduce((a, b) => a.length > b.length ? a : b))"""
PRINTED_IS_CUT = """() => [...document.querySelectorAll(".cell_output .highlight")]
  .filter(e => e.checkVisibility() && e.style.getPropertyValue("--columns") <= 64)
  .filter(e => e.firstElementChild.scrollWidth > e.firstElementChild.clientWidth + 1)
  .map(e => e.textContent.slice(0, 120))"""
PRINTED_IS_SMALL = """() => [...document.querySelectorAll(".cell_output .highlight")]
  .filter(e => e.checkVisibility() && e.style.getPropertyValue("--columns") <= 72)
  .filter(e => !e.closest(".admonition") &&
    parseFloat(getComputedStyle(e.firstElementChild).fontSize) < 8.5)
  .map(e => e.textContent.slice(0, 120))"""
SMALL_CHARTS = """() => [...document.querySelectorAll(".setr-chart img")]
  .filter(e => e.checkVisibility() && e.width < Math.min(e.naturalWidth, 540))
  .map(e => e.alt.slice(0, 120))"""
EQUATIONS_ON_THEIR_NUMBERS = """() => [...document.querySelectorAll("div.math")]
  .filter(e => e.querySelector(".eqno") && e.querySelector("mjx-math"))
  .filter(e => {
    const a = e.querySelector(".eqno").getBoundingClientRect();
    const b = e.querySelector("mjx-container").getBoundingClientRect();
    return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  }).map(e => e.textContent.slice(0, 40))"""
EVERYWHERE = {"too wide": TOO_WIDE, "cut": CUT_WORDS, "touch": WORDS_THAT_TOUCH,
              "illegible": ILLEGIBLE}  # fmt: skip


def poor(page, complaints):
    return {name: found for name, ask in complaints.items() if (found := page.evaluate(ask))}


def test_all_fits_on_a_desktop(page):
    assert page.evaluate("document.documentElement.scrollWidth") <= DESKTOP["width"]
    assert poor(page, {**EVERYWHERE, "code scrolls": LONG_CODE}) == {}


def test_all_fits_on_a_phone(page):
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert poor(page, {**EVERYWHERE, "equations": EQUATIONS_ON_THEIR_NUMBERS,
                       "printed": PRINTED_IS_CUT, "printed small": PRINTED_IS_SMALL,
                       "charts": SMALL_CHARTS}) == {}  # fmt: skip


@pytest.mark.xdist_group("search")
def test_the_index_fits_on_a_phone(window):
    page = open_page(window(), HTML / "genindex.html")
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    close(page)


@functools.cache
def axe():
    return pytest.importorskip("axe_playwright_python.sync_playwright").Axe()


@pytest.mark.slow
def test_accessibility(page):
    assert complaints(page) == []


@pytest.mark.slow
def test_the_dark(page):
    """The theme follows the system; words are light on dark; pictures keep their colours,
    charts turn dark with the page, and so does the paper around pictures."""
    picture = page.locator("article img:not(.tag_chart img, .setr-paper img)").filter(visible=True)

    def inside():  # without the rim, which may share its pixels with the page
        return photo(picture.first)[6:-6, 6:-6] if picture.count() else np.zeros(0)

    light = inside()
    papers = page.locator(".setr-paper:not(.tag_chart *)").filter(visible=True)
    on_paper = photo(papers.first) if papers.count() else None
    # colours that change by degrees do so at once
    page.add_style_tag(content="*, ::before, ::after { transition: none !important }")
    page.emulate_media(color_scheme="dark")
    assert eventually(
        page, lambda: page.locator("html").get_attribute("data-theme") == "dark")
    assert brightness(page, "document.body", "backgroundColor") < 60
    assert brightness(page, "document.querySelector('article p')", "color") > 150
    charts = page.locator(".tag_chart img").filter(visible=True)
    if charts.count():  # ink on paper becomes light on dark
        assert photo(charts.first).mean() < 90
    if on_paper is not None:  # the corners are paper
        dark = photo(papers.first)
        corners = dark[[2, 2, -4, -4], [2, -4, 2, -4]]
        assert np.median(corners) < 60
        assert (on_paper == dark).all(-1).mean() > 0.15  # its pictures
    for button in page.locator(".widget-play button").filter(visible=True).all():
        assert photo(button).mean() < 128
    assert not differ(light, inside())
    assert complaints(page, contrast_only=True) == []


def brightness(page, element, property):
    color = page.evaluate(f"getComputedStyle({element}).{property}")
    return sum(map(int, re.findall(r"\d+", color)[:3])) / 3


# One element of each look: its colour, what lies behind it, how large and heavy its words are. Most
# of an audit's time goes into contrast, word by word, of which a page has ten thousand in some
# thirty looks.
LOOKS = """() => {
    const behind = e => {
      const chain = [];
      for (; e; e = e.parentElement) {
        const { backgroundColor, backgroundImage, opacity } = getComputedStyle(e);
        if (opacity !== "1") chain.push(opacity);
        if (backgroundImage !== "none") chain.push(backgroundImage.length);
        if (backgroundColor === "rgba(0, 0, 0, 0)") continue;
        chain.push(backgroundColor);
        if (!/rgba|color\\(/.test(backgroundColor)) break;
      }
      return chain.join();
    };
    const seen = new Set();
    for (const e of document.querySelectorAll("body *:not(mjx-container *)")) {
      const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
      if (!own || !e.checkVisibility()) continue;
      const { color, fill, fontSize, fontWeight } = getComputedStyle(e);
      const around = e.closest("a") && getComputedStyle(e.closest("a").parentElement).color;
      const look = [color, fill, fontSize, fontWeight, behind(e), around].join("|");
      if (!seen.has(look)) e.setAttribute("data-look", "");
      seen.add(look);
    }
    return seen.size;
}"""


# The audit lays a grid over all of a page, seen or not: what holds no such element is taken out
# meanwhile, but for the parts of figures, which lie above each other.
TAKE_OUT = """() => {
    const kept = "[data-look], svg, .setr-figure";
    window.setrOut = [];
    const visit = e => {
      for (const child of [...e.children]) {
        if (child.matches(kept)) continue;
        if (child.querySelector(kept)) { visit(child); continue; }
        const mark = document.createComment("");
        child.replaceWith(mark);
        setrOut.push([mark, child]);
      }
    };
    visit(document.body);
}"""
PUT_BACK = """() => {
    for (const [mark, element] of setrOut) mark.replaceWith(element);
    document.querySelectorAll("[data-look]").forEach(e => e.removeAttribute("data-look"));
}"""
OF_LOOKS = ["color-contrast", "link-in-text-block"]


# Formulas are the same everywhere, and the coloured words of code have no structure: together they
# are two thirds of a page.
FLATTEN = """() => {
    window.setrOut = [];
    for (const e of document.querySelectorAll("mjx-container, pre > *")) {
      const mark = document.createTextNode(e.matches("pre > *") ? e.textContent : "");
      e.replaceWith(mark);
      setrOut.push([mark, e]);
    }
}"""


AUDIT = """async ([context, options]) => {
    options.resultTypes = ["violations"];
    const { violations } = await axe.run(context || document, options);
    return violations.map(v => [v.id, v.nodes.map(n => n.html.slice(0, 160))]);
}"""


def complaints(page, *, contrast_only=False):
    """What axe finds wrong, in the theme that is on."""
    if not page.evaluate("'axe' in window"):  # half a megabyte to compile
        page.evaluate(axe().axe_script)
    found = []
    if not contrast_only:
        rules = {rule: {"enabled": False} for rule in [*OF_LOOKS, *THEIRS]}
        page.evaluate(FLATTEN)
        found += page.evaluate(AUDIT, [None, {"rules": rules}])
        page.evaluate(PUT_BACK)
    assert page.evaluate(LOOKS) > 1
    page.evaluate(TAKE_OUT)
    context = {"include": [["[data-look]"]], "exclude": [["mjx-container"]]}
    found += page.evaluate(AUDIT, [context, {"runOnly": OF_LOOKS}])
    page.evaluate(PUT_BACK)
    return found


@pytest.mark.xdist_group("search")
def test_one_pale_word_is_found(window):
    page = open_page(window(), HTML / "book" / "cite.html")
    assert complaints(page) == []
    page.locator("article p").last.evaluate("""e => {
        const word = document.createElement("span");
        word.textContent = "pale";
        word.style.color = "color-mix(in srgb, currentColor 40%, Canvas)";
        e.append(" ", word);
    }""")
    assert [rule for rule, _ in complaints(page, contrast_only=True)] == ["color-contrast"]
    close(page)


@pytest.mark.slow
def test_solutions_open(page):
    hidden = page.locator("div.solution.dropdown, details.toggle-details").all()
    for part in hidden:
        part.locator("button.toggle-button, summary").first.click()
    assert page.problems == []


# --- drawings and questions ---------------------------------------------------------------------


BY_KEYBOARD = ("01_segmentation", "13_ade20k")  # each has both kinds of question


def test_questions_answer(page, path):
    """Nothing chosen, a wrong answer, the right one: each has its words. On two pages the first of
    each kind by keyboard, the others as fast as scripts can."""
    kinds = set()
    for form in page.locator("form.setr-quiz").all() if path.stem in BY_KEYBOARD else ():
        number = form.locator("input[data-answer]").count() > 0
        if number not in kinds:
            by_keyboard(form)
        kinds.add(number)
    assert len(kinds) == 2 * (path.stem in BY_KEYBOARD)
    for states in page.evaluate(ANSWER_ALL):
        first, *others = states
        assert first[1] == "Choose first." or "number" in first[1]
        assert others == [["wrong", others[0][1]], ["right", "Right."]]
        assert "Not yet" in others[0][1]
    assert page.problems == []


ANSWER_ALL = """() => [...document.querySelectorAll("form.setr-quiz")].map(form => {
    const fields = [...form.querySelectorAll("input")], states = [];
    const answer = fill => {
      for (const field of fields) fill(field);
      form.querySelector("button").click();
      states.push([form.dataset.state || "", form.querySelector("output").textContent]);
    };
    const wrong = fields.find(f => !("right" in f.dataset));
    form.reset();
    answer(() => {});
    answer(f => {
      if ("answer" in f.dataset) f.value = "-1";
      else f.checked = f === wrong;
    });
    answer(f => {
      if ("answer" in f.dataset) f.value = f.dataset.answer;
      else f.checked = "right" in f.dataset;
    });
    return states;
})"""


def by_keyboard(form):
    said, button, fields = form.locator("output"), form.locator("button"), form.locator("input")
    button.press("Enter")
    assert said.text_content() in ("Choose first.",) or "number" in said.text_content()
    for field in fields.all():
        if field.get_attribute("data-answer"):
            field.fill("-1")
        elif field.get_attribute("data-right") is None:
            field.check()
            break
    fields.first.press("Enter")
    assert form.get_attribute("data-state") == "wrong"
    assert "Not yet" in said.text_content()
    for field in fields.all():
        if answer := field.get_attribute("data-answer"):
            field.fill(answer)
        elif field.get_attribute("data-right") is not None:
            field.check()
        elif field.get_attribute("type") == "checkbox":
            field.uncheck()
    button.press("Enter")
    assert form.get_attribute("data-state") == "right"
    assert said.text_content() == "Right."


@pytest.mark.xdist_group("02_patch_embedding")
def test_a_patch_is_chosen_with_the_mouse_and_with_arrow_keys(window):
    page = open_page(window(), HTML / "book" / "02_patch_embedding.html")
    form = page.locator("form.setr-quiz", has=page.locator(".patches"))
    street, said = form.locator(".patches"), form.locator("output")
    form.locator("input[data-answer]").fill("403")
    form.locator("button").click()
    assert said.text_content() == "Choose first."
    box = street.bounding_box()
    side = box["width"] / 12
    assert box["height"] == pytest.approx(6 * side, abs=1)
    street.click(position={"x": 4.5 * side, "y": 1.5 * side})
    form.locator("button").click()
    assert said.text_content() == "Not yet. That is row 1, column 4: token 17."
    chosen = street.locator("input:checked")
    chosen.press("ArrowDown")
    chosen.press("ArrowRight")
    assert chosen.get_attribute("aria-label") == "row 2, column 5"
    form.locator("button").click()
    assert said.text_content() == "Right."
    close(page)


@pytest.mark.xdist_group("04_encoding")
def test_pointing_at_a_number_lights_what_it_is_made_of(window):
    page = open_page(window(), HTML / "book" / "04_encoding.html")
    drawing = page.locator("figure.setr-drawn", has=page.locator("svg[data-steps]"))
    drawing.locator("svg.d-wide [data-of~=p01]").hover()
    lit = drawing.locator("svg.d-wide .d-on")
    assert lit.count() == 5  # three scores, itself, its line of code
    drawing.locator("input[value='2']").check()
    dim = drawing.locator("svg.d-wide [data-step='4']").first
    page.wait_for_timeout(400)
    assert float(dim.evaluate("e => getComputedStyle(e).opacity")) < 0.5
    close(page)


# --- the search ---------------------------------------------------------------------------------


@pytest.mark.xdist_group("search")
def test_search_finds_a_chapter(window):
    page = open_page(window(), HTML / "book" / "intro.html")
    page.locator("button.search-button__button, button.search-button").first.click()
    field = page.locator("input[type=search]").filter(visible=True).first
    field.fill("progressive upsampling")
    field.press("Enter")
    page.wait_for_selector("#search-results li a")
    found = page.locator("#search-results li a").evaluate_all("all => all.map(a => a.href)")
    assert any("06_pup" in url for url in found)
    page.goto((HTML / "search.html").as_uri() + "?q=zzzyyyxxx")
    page.wait_for_function("/did not match|no results|not find/i.test(document.body.innerText)")
    close(page)
